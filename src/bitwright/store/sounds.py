"""Sound files as input of a network that takes the wave itself: one channel of floats from -1 to 1.

Only plain PCM .wav files are read, of one sampling rate, which is not changed. A network with a fixed length gets
exactly that: what is longer is cut at its end, what is shorter is followed by silence. For a network that takes any
length all are cut to the shortest. Features such as spectrograms need a loader, or a Hugging Face folder that brings
what makes them; such a model may also take every sound at its own length.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.sample_set import Feed, Samples, SamplesError, describe, gather, only_input, pick

DAMAGED = (wave.Error, EOFError, OSError)


@runtime_checkable  # for the type check under pytest
class SoundProcessor(Protocol):
    """What is needed of a transformers feature extractor."""

    @property
    def sampling_rate(self) -> int: ...

    def __call__(self, sound: Any, **options: Any) -> Any: ...


def samples_from_sounds(
    paths: Sequence[Path], inputs: Sequence[Value], wanted: int | None, processor: SoundProcessor | None = None
) -> Samples:
    """Sounds for a network whose one input is [batch, length] or [batch, 1, length].

    `processor` makes the inputs of another, by their names. Raises SamplesError.
    """
    if processor is not None:
        return _processed(paths, inputs, wanted, processor)
    value = only_input(inputs, "sounds")
    shape = value.shape or ()
    fits = len(shape) == 2 or (len(shape) == 3 and shape[1] in (1, None))
    if not fits or not value.dtype.startswith(("float", "unknown")):
        raise SamplesError(
            f"{value.name} is {value.dtype} {describe(value.shape)}; sounds load by themselves for floats of shape "
            f"[batch, length] or [batch, 1, length]; write a --loader for this network"
        )
    heads = [_head(path) for path in paths]
    rate = _one_rate(paths, [rate for _, rate in heads])
    length = shape[-1] or min(frames for frames, _ in heads)
    how = "cut or padded with silence to the network's" if shape[-1] else "cut to the shortest, which has"

    def read(index: int) -> tuple[str, Feed]:
        sound = torch.zeros(length)
        heard = _wave(paths[index])[:length]
        sound[: len(heard)] = heard
        return str(paths[index]), {value.name: sound.reshape(1, *([1] * (len(shape) - 2)), length)}

    said = f"{len(paths)} sounds of {rate} Hz: mean of the channels, -1 to 1, {how} {length} values"
    return gather(inputs, len(paths), wanted, said, read)


def _processed(
    paths: Sequence[Path], inputs: Sequence[Value], wanted: int | None, processor: SoundProcessor
) -> Samples:
    rate, needed = _one_rate(paths, [_head(path)[1] for path in paths]), processor.sampling_rate
    if rate != needed:
        raise SamplesError(f"the sounds have {rate} Hz, but the model hears {needed} Hz; resample them")
    fixed = next((value.shape[1] for value in inputs if value.shape is not None and len(value.shape) == 2), None)
    cut = {"padding": "max_length", "max_length": fixed, "truncation": True} if fixed else {}

    def make(index: int) -> tuple[str, Feed]:
        made = processor(_wave(paths[index]).numpy(), sampling_rate=rate, return_tensors="pt", **cut)
        return str(paths[index]), pick(str(paths[index]), made, inputs)

    said = f"{len(paths)} sounds of {rate} Hz, prepared by the folder's {type(processor).__name__}"
    return gather(inputs, len(paths), wanted, said + (f", {fixed} values each" if fixed else ""), make)


def _one_rate(paths: Sequence[Path], rates: Sequence[int]) -> int:
    """The sampling rate of all sounds, or SamplesError."""
    found = dict(zip(rates, paths, strict=True))
    if len(found) > 1:
        said = ", ".join(f"{rate} Hz in {path.name}" for rate, path in sorted(found.items()))
        raise SamplesError(f"the sounds have different sampling rates ({said}); resample them to the network's")
    return next(iter(found))


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
