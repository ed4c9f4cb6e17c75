"""Calibration rows for everyone: writes int64 token numbers [rows, length] cut from one text.

Each row is the start token followed by ``length - 1`` tokens of the text. The rows begin at evenly
spaced places, the first at the first token, the last so that it ends at the last token, so that a short
calibration set still sees the whole text and every toolkit under comparison sees the same numbers.

    python benchmarks/rows.py MODEL_DIR TEXT.txt -o ROWS.npy --rows 128 --length 512
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase


def spaced_rows(tokens: list[int], start_token: int, rows: int, length: int) -> np.ndarray:
    """Rows [rows, length] that begin with ``start_token`` and go on at evenly spaced places of ``tokens``."""
    body = length - 1
    room = len(tokens) - body
    if room < 0:
        raise ValueError(f"the text has {len(tokens)} tokens; a row needs {body}: use a longer text")
    starts = [index * room // max(rows - 1, 1) for index in range(rows)]
    return np.array([[start_token, *tokens[start : start + body]] for start in starts], dtype=np.int64)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], int]:
    """The tokens of the text without any special one, and the start token."""
    if tokenizer.bos_token_id is None:
        raise ValueError("the tokenizer has no start token; rows begin with one")
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.bos_token_id


def main() -> None:
    parser = argparse.ArgumentParser(description="Write calibration rows cut from a text.")
    parser.add_argument("model", type=Path, help="folder with the tokenizer")
    parser.add_argument("text", type=Path, help="UTF-8 text file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .npy file to write")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=512, help="tokens a row, the start token included")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokens, start_token = tokenize(tokenizer, arguments.text.read_text(encoding="utf-8"))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out, spaced_rows(tokens, start_token, arguments.rows, arguments.length))
    print(f"{arguments.out}: {arguments.rows} x {arguments.length} of {len(tokens)} tokens")


if __name__ == "__main__":
    main()
