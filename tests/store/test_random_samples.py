"""Random samples fit any inputs of numbers, are the same every time, and share batches where a network allows it."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.network import Value
from bitwright.store.random_samples import FREE, random_samples
from bitwright.store.sample_set import SamplesError


def test_they_have_the_types_and_shapes_of_the_inputs() -> None:
    inputs = [Value("x", (None, 3, None), "float32"), Value("ids", (None, None), "int64"), Value("is", (), "bool")]
    samples = random_samples(inputs, 5)
    batch = samples.first(4)
    assert batch["x"].shape == (4, 3, FREE) and batch["x"].dtype == torch.float32
    assert batch["ids"].shape == (4, FREE) and set(batch["ids"].unique().tolist()) == {0, 1}
    assert batch["is"].shape == () and batch["is"].dtype == torch.bool
    assert samples.count == 5


def test_they_are_seeded() -> None:
    inputs = [Value("x", (None, 3), "float32")]
    one, other = (random_samples(inputs, 3).first(3)["x"] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_a_fixed_batch_is_kept() -> None:
    assert random_samples([Value("x", (4, 3), "float32")], 8).first()["x"].shape == (4, 3)


def test_inputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SamplesError, match="text: no random numbers"):
        random_samples([Value("text", (None,), "string")], 2)
