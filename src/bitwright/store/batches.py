"""Text -> rows of token numbers, to calibrate and to evaluate a language model on.

Calibration takes short rows from all over a text: row i of n begins at i/n of it, so a long text is sampled evenly and
no token is used twice. Each row opens with the start token if the tokenizer has one, as the model saw it in training.
The last tenth of the rows is held out: no method may fit to it, so it can tell whether a method helped. Evaluation cuts
the whole text into consecutive windows that overlap by one token, so every token but the first is predicted once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

DEFAULT_LENGTH = 2048
HELD_OUT_EVERY = 10  # one row in ten
CHUNK_CHARACTERS, SEAM_CHARACTERS = 1_000_000, 4_000
DOCUMENT_GAP = "\n\n"


class TextError(ValueError):
    """A text, or the rows asked of it, cannot be used."""


@runtime_checkable  # for the type check under pytest
class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def is_fast(self) -> bool: ...

    def __call__(self, text: str, **options: bool) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """``rows``: token numbers, int64 [rows, length]; the last ``held_out`` rows may not be fitted to."""

    rows: Tensor
    held_out: int
    digest: str


def read_batches(
    text: Path, tokenizer: Tokenizer, positions: int | None, rows: int = 128, length: int | None = None
) -> Batches:
    """At most ``rows`` rows of ``length`` tokens, start token included, spaced evenly over ``text``.

    ``text`` is a utf-8 file, a .jsonl file with a "text" field, or a folder of such files. ``positions`` is how many
    tokens the model takes (None: no limit); ``length`` is min(2048, positions) unless given. A short text gives
    fewer rows, at worst a single shorter one. Raises TextError.
    """
    if rows < 1:
        raise TextError(f"rows is {rows}; at least 1 is needed.")
    length = _row_length(positions, length)
    tokens = tokenize(read_text(text), tokenizer)
    if not len(tokens):
        raise TextError(f"{text}: the tokenizer turns it into no tokens; give a text in the model's language.")
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    taken = min(length - len(start), len(tokens))
    count = min(rows, len(tokens) // taken)
    begins = [number * len(tokens) // count for number in range(count)]
    head = torch.tensor(start, dtype=torch.int64)
    table = torch.stack([torch.cat([head, tokens[begin : begin + taken]]) for begin in begins])
    held_out = ceil(count / HELD_OUT_EVERY) if count > 1 else 0
    return Batches(table, held_out, _digest(table, held_out))


def windows(text: str, tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """``text`` as consecutive windows of ``length`` tokens, the last one shorter.

    The first opens with the start token if there is one; every other begins with the last token of the window before,
    so every token but the very first is predicted exactly once.
    """
    if length < 2:
        raise TextError(f"length is {length}; a window needs at least 2 tokens, one to predict the other.")
    tokens = tokenize(text, tokenizer).tolist()
    if tokenizer.bos_token_id is not None:
        tokens = [tokenizer.bos_token_id, *tokens]
    return [tokens[start : start + length] for start in range(0, len(tokens) - 1, length - 1)]


def read_text(path: Path) -> str:
    """The text of a file, or of all files in a folder in the order of their names; documents are a blank line apart."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        if not files:
            raise TextError(f"{path}: an empty folder; put .txt, .md or .jsonl files into it.")
    elif path.is_file():
        files = [path]
    else:
        raise TextError(f"{path}: no such file or folder; give a utf-8 text file, a .jsonl file or a folder of them.")
    text = DOCUMENT_GAP.join(document for file in files for document in _documents(file))
    if not text.strip():
        raise TextError(f"{path}: holds no text; a calibration text should be like what the model will read.")
    return text


def tokenize(text: str, tokenizer: Tokenizer, chunk: int = CHUNK_CHARACTERS, seam: int = SEAM_CHARACTERS) -> Tensor:
    """Token numbers of ``text``, int64 [tokens], without special tokens added.

    A tokenizer needs some hundred bytes per character while it works, so a text of more than 2 * ``chunk`` characters
    is cut at line ends into pieces that overlap. Where two pieces do not agree on their overlap the cut may have
    changed something, and the whole text is tokenized at once instead.
    """
    pieces = _in_pieces(text, tokenizer, chunk, seam) if tokenizer.is_fast and len(text) > 2 * chunk else None
    if pieces is not None:
        return torch.cat(pieces)
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def _row_length(positions: int | None, length: int | None) -> int:
    limit = DEFAULT_LENGTH if positions is None else min(DEFAULT_LENGTH, positions)
    if length is None:
        length = limit
    if positions is not None and length > positions:
        raise TextError(f"length is {length}, but the model takes {positions} positions; use length <= {positions}.")
    if length < 2:
        raise TextError(f"length is {length}; a row needs at least 2 tokens, one to predict the other.")
    return length


def _documents(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{file}: not utf-8 at byte {error.start} ({error.reason}); save it as utf-8 text.") from error
    if file.suffix != ".jsonl":
        yield text
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record(file, number, line)


def _record(file: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{file}, line {number}: not JSON ({error}); each line must be one JSON object.") from error
    document = record.get("text") if isinstance(record, dict) else None
    if not isinstance(document, str):
        raise TextError(f'{file}, line {number}: no "text" string in it; each line must be an object with one.')
    return document


def _in_pieces(text: str, tokenizer: Tokenizer, chunk: int, seam: int) -> list[Tensor] | None:
    """Tokens of ``text`` piece by piece, or None where the pieces disagree. A token belongs where it begins."""
    cuts = _line_ends(text, chunk)
    bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    pieces: list[Tensor] = []
    previous: Tensor | None = None
    for begin, end in bounds:
        first, last = max(begin - seam, 0), min(end + seam, len(text))
        encoded = tokenizer(text[first:last], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        numbers = torch.tensor(encoded["input_ids"], dtype=torch.int64)
        spans = torch.tensor(encoded["offset_mapping"], dtype=torch.int64).reshape(-1, 2) + first
        found = torch.cat([numbers[:, None], spans], dim=1)  # number, first character, last character + 1
        near = seam // 2  # away from both ends of the overlap, where the cuts themselves are felt
        if previous is not None and not torch.equal(_around(previous, begin, near), _around(found, begin, near)):
            return None
        pieces.append(numbers[(spans[:, 0] >= begin) & (spans[:, 0] < end)])
        previous = found
    return pieces


def _around(found: Tensor, cut: int, distance: int) -> Tensor:
    return found[(found[:, 1] >= cut - distance) & (found[:, 1] < cut + distance)]


def _line_ends(text: str, chunk: int) -> list[int]:
    cuts: list[int] = []
    while len(text) - (position := cuts[-1] if cuts else 0) > 2 * chunk:
        cuts.append(text.find("\n", position + chunk) + 1 or len(text))
    return [cut for cut in cuts if cut < len(text)]


def _digest(rows: Tensor, held_out: int) -> str:
    header = f"{tuple(rows.shape)} {held_out} "
    return hashlib.sha256(header.encode() + rows.contiguous().numpy().astype("<i8").tobytes()).hexdigest()
