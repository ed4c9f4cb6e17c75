from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import transformers

from bitwright.evaluate.windows import Batch, Windows, cut
from bitwright.store.batches import TextError


@pytest.fixture(scope="module")
def tokenizer(bookllama: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(bookllama)


@pytest.fixture
def found(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> Windows:
    return cut(text, tokenizer, 64, 48)


def test_every_token_but_the_first_is_predicted_once(
    found: Windows, tokenizer: transformers.PreTrainedTokenizerBase, text: str
) -> None:
    predicted = [row[1 : count + 1].tolist() for row, count in zip(found.rows, found.predicted.tolist(), strict=True)]
    assert [token for row in predicted for token in row] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_shorter_last_window_is_a_batch_of_its_own(found: Windows) -> None:
    count = len(found.rows)
    batches = found.batches(tokens=200)
    assert batches[0] == Batch(0, 4, 48)
    assert batches[-1] == Batch(count - 1, count, found.last) and found.last < 48
    assert [b.start for b in batches[1:]] == [b.stop for b in batches[:-1]]
    assert found.tokens(batches[-1]).shape == (1, found.last)


def test_a_full_last_window_is_like_any_other(found: Windows) -> None:
    whole = Windows(found.rows[:-1], 48, found.digest)
    assert whole.batches(tokens=10_000) == [Batch(0, len(found.rows) - 1, 48)]


def test_the_length_is_the_models_positions_but_at_most_2048(
    tokenizer: transformers.PreTrainedTokenizerBase, text: str
) -> None:
    lengths = [cut(text * 4, tokenizer, positions, None).rows.shape[1] for positions in (64, 100_000, None)]
    assert lengths == [64, 2048, 2048]


def test_the_digest_is_of_the_text(found: Windows, text: str) -> None:
    assert found.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_text_without_two_tokens_is_too_short(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    class WithoutStart:
        bos_token_id = None
        is_fast = True

        def __call__(self, text: str, **options: bool) -> object:
            return {"input_ids": [7]}

    with pytest.raises(TextError, match="too short"):
        cut("a", WithoutStart(), None, None)
