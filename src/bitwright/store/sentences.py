"""Text as input of an encoder: every line that is not empty is a sample, tokenized and padded to one length.

The tokenizer makes what the network's inputs are called: `input_ids`, `attention_mask`, `token_type_ids`. Long lines
are cut. The length is the network's where it is fixed, else what the user says, else 128, and never more than the
tokenizer says the model takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from bitwright.graph.network import Value
from bitwright.store.batches import TextError, read_text
from bitwright.store.sample_set import Feed, Samples, SamplesError, describe, gather, pick

DEFAULT_LENGTH = 128


@runtime_checkable  # for the type check under pytest
class PaddingTokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    @property
    def model_max_length(self) -> int: ...

    def __call__(self, text: str, **options: Any) -> Any: ...


def samples_from_text(
    path: Path, inputs: Sequence[Value], wanted: int | None, tokenizer: PaddingTokenizer, length: int | None = None
) -> Samples:
    """The lines of a text file, of a .jsonl file with a "text" field, or of a folder of such files.

    Raises SamplesError for inputs that a tokenizer does not make, TextError for a text that cannot be read.
    """
    length = _length(inputs, length, tokenizer.model_max_length)
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]

    def read(index: int) -> tuple[str, Feed]:
        encoded = tokenizer(
            lines[index],
            padding="max_length",
            truncation=True,
            max_length=length,
            return_attention_mask=True,
            return_token_type_ids=True,
        )
        made = {name: torch.tensor(encoded[name], dtype=torch.int64)[None] for name in encoded}
        label = f"{path}, line {index + 1} of those that are not empty"
        return label, pick(label, made, inputs)

    said = f"{len(lines)} lines of text, tokenized, cut or padded to {length} tokens"
    return gather(inputs, len(lines), wanted, said, read)


def _length(inputs: Sequence[Value], asked: int | None, most: int) -> int:
    fixed = {value.shape[1] for value in inputs if value.shape is not None and len(value.shape) == 2} - {None}
    for value in inputs:
        if value.shape is not None and len(value.shape) != 2:
            raise SamplesError(
                f"{value.name} takes {describe(value.shape)}; text makes inputs [batch, length]; write a --loader"
            )
    if len(fixed) > 1:
        raise SamplesError(f"the inputs have different fixed lengths {sorted(map(str, fixed))}; write a --loader")
    found = next(iter(fixed), None)
    if found is not None and asked is not None and asked != found:
        raise TextError(f"length is {asked}, but the network takes {found} tokens and nothing else; leave it out")
    length = found or asked or min(DEFAULT_LENGTH, most)
    if length > most or length < 1:
        raise TextError(f"length is {length}, but the model takes 1 to {most} tokens; give another")
    return length
