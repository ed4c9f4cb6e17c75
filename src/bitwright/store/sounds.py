"""Sound files as input of a network that takes the wave itself: one channel of floats from -1 to 1.

Only plain PCM .wav files are read, of one sampling rate, which is not changed. A network with a fixed length gets
exactly that: what is longer is cut at its end, what is shorter is followed by silence. For a network that takes any
length all are cut to the shortest. Features such as spectrograms need a loader.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.sample_set import Feed, Samples, SamplesError, describe, gather, only_input

DAMAGED = (wave.Error, EOFError, OSError)


def samples_from_sounds(paths: Sequence[Path], inputs: Sequence[Value], wanted: int | None) -> Samples:
    """Sounds for a network whose one input is [batch, length] or [batch, 1, length]. Raises SamplesError."""
    value = only_input(inputs, "sounds")
    shape = value.shape or ()
    fits = len(shape) == 2 or (len(shape) == 3 and shape[1] in (1, None))
    if not fits or not value.dtype.startswith(("float", "unknown")):
        raise SamplesError(
            f"{value.name} is {value.dtype} {describe(value.shape)}; sounds load by themselves for floats of shape "
            f"[batch, length] or [batch, 1, length]; write a --loader for this network"
        )
    heads = [_head(path) for path in paths]
    rates = dict(zip([rate for _, rate in heads], paths, strict=True))
    if len(rates) > 1:
        found = ", ".join(f"{rate} Hz in {path.name}" for rate, path in sorted(rates.items()))
        raise SamplesError(f"the sounds have different sampling rates ({found}); resample them to the network's")
    length = shape[-1] or min(frames for frames, _ in heads)
    how = "cut or padded with silence to the network's" if shape[-1] else "cut to the shortest, which has"

    def read(index: int) -> tuple[str, Feed]:
        sound = torch.zeros(length)
        heard = _wave(paths[index])[:length]
        sound[: len(heard)] = heard
        return str(paths[index]), {value.name: sound.reshape(1, *([1] * (len(shape) - 2)), length)}

    said = f"{len(paths)} sounds of {next(iter(rates))} Hz: mean of the channels, -1 to 1, {how} {length} values"
    return gather(inputs, len(paths), wanted, said, read)


def _head(path: Path) -> tuple[int, int]:
    """How many values a sound has in a channel, and at which rate."""
    try:
        with wave.open(str(path), "rb") as file:
            frames, rate = file.getnframes(), file.getframerate()
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    if not frames:
        raise SamplesError(f"{path}: holds no sound; take it away")
    return frames, rate


def _wave(path: Path) -> Float[Tensor, "length"]:
    """The mean of the channels."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, data = file.getnchannels(), file.getsampwidth(), file.readframes(file.getnframes())
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    taken = np.frombuffer(data, dtype=np.uint8)[: len(data) // (channels * width) * channels * width]
    values = _integers(taken.reshape(-1, width)) / float(1 << (8 * width - 1))
    return torch.from_numpy(values.reshape(-1, channels).mean(axis=1).astype(np.float32))


def _integers(table: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Little-endian numbers, one in a row; those of a single byte count from 128, the others have a sign."""
    width = table.shape[1]
    if width == 1:
        return table[:, 0].astype(np.float64) - 128
    made = np.zeros(len(table))
    for place in range(width):
        byte = table[:, place].astype(np.float64)
        made += np.where((place == width - 1) & (byte > 127), byte - 256, byte) * float(1 << (8 * place))
    return made


def _unreadable(path: Path, error: Exception) -> SamplesError:
    return SamplesError(f"{path}: cannot be read as a PCM .wav file ({error}); convert it to 16 bit PCM")
