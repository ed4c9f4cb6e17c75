"""Parts of a Hugging Face folder's model as sources, and what they read about the user's samples."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor, nn

from bitwright.graph.network import Value
from bitwright.store.encoder_decoder import (
    LONGEST,
    DecoderModule,
    Written,
    encoder_of,
    example_of,
    free_axes,
    write,
)
from bitwright.store.files import text_digest
from bitwright.store.folder_part import Part
from bitwright.store.folder_source import export_freest, folder_digest, load_model
from bitwright.store.hf_config import read_config
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.processors import Processors, read_processors
from bitwright.store.sample_set import Feed, Samples, gather, pick
from bitwright.store.samples import holds_arrays, read_samples
from bitwright.store.source_error import SourceError
from bitwright.store.torch_module import CANNOT_TRACE, export_placed

STEPS = 4  # of one text that a decoder writes, each a sample of the decoder with a past


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A folder's model, its encoder, and what makes the encoder's inputs, which have the names in `takes`."""

    model: nn.Module
    notes: tuple[str, ...]
    processors: Processors
    takes: tuple[str, ...]

    def example(self) -> dict[str, Tensor]:
        made = self.processors.example()
        return {name: values for name, values in made.items() if name in self.takes}


def part_source(folder: Path, part: Part, exports: Path) -> OnnxSource:
    """One part of the model in a folder, in float32, exported to `exports`/model.onnx. Raises SourceError."""
    opened = _open(folder)
    name = f"{folder}:{part.value}"
    notes = (*opened.notes, f"exported its {part.value}")
    if part is Part.ENCODER:
        source = export_freest(encoder_of(opened.model, folder), name, opened.processors, exports)
        return replace(source, notes=(*notes, *source.notes), made_from=part_digest(folder, part))
    path = exports / "model.onnx"
    try:
        example = example_of(opened.model, part, opened.example())
        export_placed(DecoderModule(opened.model, tuple(example)).eval(), example, free_axes(example), path)
    except (SourceError, *CANNOT_TRACE) as error:
        raise SourceError(f"{name}: {error}; give it as module:factory, or as an ONNX file of its own") from error
    return replace(OnnxSource.open(path), notes=notes, made_from=part_digest(folder, part))


def part_digest(folder: Path, part: Part) -> str:
    """What identifies a part as a source."""
    return text_digest([folder_digest(folder), part.value])


def part_samples(
    folder: Path, part: Part, inputs: Sequence[Value], path: Path, count: int | None = None, length: int | None = None
) -> Samples:
    """`count` samples for a part with these inputs, made of the text, pictures, sounds or arrays in `path`.

    A decoder's are what it reads while the model writes about them; arrays hold the part's own inputs. Raises
    SamplesError.
    """
    if holds_arrays(path):
        return read_samples(path, inputs, count)
    opened = _open(folder)
    if part is Part.ENCODER:
        return read_samples(path, inputs, count, opened.processors, length)
    has_past = part is Part.WITH_PAST
    free = [Value(name, (None,) * made.dim(), str(made.dtype).split(".")[1]) for name, made in opened.example().items()]
    wanted = -(-count // STEPS) if count is not None and has_past else count
    texts = _Texts(opened.model, read_samples(path, free, wanted, opened.processors, length))
    steps = STEPS if has_past else 1

    def read(index: int) -> tuple[str, Feed]:
        written, step = texts.written(index // steps), index % steps
        token = 1 + step * max(1, written.tokens.shape[1] - 2) // steps
        label = texts.samples.name(index // steps) + (f", token {token}" if has_past else "")
        return label, pick(label, written.feed(opened.model, part, token), inputs)

    said = (
        f"{texts.samples.preprocessing}; what the decoder reads while the model writes at most {LONGEST} tokens on each"
    )
    said += f", {STEPS} steps of them" if has_past else ""
    return gather(inputs, texts.samples.count * steps, count, said, read)


@final
class _Texts:
    """What a model writes about samples: the tokens are kept, what the encoder made of the last sample, too."""

    def __init__(self, model: nn.Module, samples: Samples) -> None:
        self.samples, self._model = samples, model
        self._tokens: dict[int, Tensor] = {}
        self._last: tuple[int, Written] | None = None

    def written(self, index: int) -> Written:
        if self._last is None or self._last[0] != index:
            inputs = self.samples.at([index]).first()
            self._last = index, write(self._model, inputs, self._tokens.get(index))
            self._tokens[index] = self._last[1].tokens
        return self._last[1]


def _open(folder: Path) -> _Opened:
    model, notes = load_model(read_config(folder), folder)
    takes = tuple(inspect.signature(encoder_of(model, folder).forward).parameters)
    return _Opened(model, notes, read_processors(folder, takes), takes)
