"""Float32 activations on weights in bfloat16: the numbers, and that a watch sees through the casts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.execute.mixed import LongProducts, mixed_products
from bitwright.graph import Watch, WeightView


class Adder(nn.Module):
    """A linear whose output is added to its input."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=bias)
        self.linear.weight.data = self.linear.weight.data.bfloat16()

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return stream + self.linear(stream)


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_that_of_the_rounded_activation_in_float64(bias: bool) -> None:
    torch.manual_seed(0)
    module, x = Adder(bias), torch.randn(2, 3, 8)
    with torch.no_grad(), mixed_products():
        found = module.linear(x)
    wanted = x.bfloat16().double() @ module.linear.weight.double().T
    if bias:
        wanted = wanted + module.linear.bias.bfloat16().double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_a_watch_sees_the_product_and_the_stream_that_its_output_is_added_to(bias: bool) -> None:
    module, x = Adder(bias), torch.randn(2, 3, 8)
    read: list[torch.Tensor] = []
    added: list[torch.Tensor] = []

    def on_product(view: WeightView, value: torch.Tensor) -> None:
        read.append(value)

    def on_add(view: WeightView, other: torch.Tensor) -> None:
        added.append(other)

    with torch.no_grad(), Watch({"linear.weight": module.linear.weight}, on_product, on_add), mixed_products():
        module(x)
    assert len(read) == 1 and torch.equal(read[0], x.reshape(6, 8).bfloat16())
    assert len(added) == 1 and torch.equal(added[0], x)


def test_float32_products_are_left_alone() -> None:
    linear, x = nn.Linear(8, 4), torch.randn(3, 8)
    with torch.no_grad():
        plain = linear(x)
        with mixed_products():
            assert torch.equal(linear(x), plain)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Softmax attention in float64, as it is defined."""
    scores = query.double() @ key.double().mT / query.shape[-1] ** 0.5 + bias.double()
    return scores.softmax(-1) @ value.double()


def some_heads() -> tuple[torch.Tensor, ...]:
    """Queries, keys and values as models have them: heads are cut out of the channels."""
    torch.manual_seed(0)
    return tuple(torch.randn(2, 40, 3, 16).transpose(1, 2) for _ in range(3))


def some_bias(kind: str) -> torch.Tensor:
    """Nothing; later tokens hidden; or a bias that a bfloat16 would not hold, as positions are told by it."""
    later = torch.ones(40, 40, dtype=torch.bool).triu(1)
    far = 100 + torch.arange(40.0) / 64
    return {
        "none": torch.zeros(40, 40),
        "causal": torch.zeros(40, 40).masked_fill(later, -torch.inf),
        "linear": far.expand(40, 40).masked_fill(later, torch.finfo(torch.float32).min),
    }[kind]


@pytest.mark.parametrize("kind", ["none", "causal", "linear"])
def test_attention_is_that_of_the_rounded_factors(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.execute.mixed.has_short_units", lambda: True)
    factors, bias = some_heads(), some_bias(kind)
    mask = None if kind == "none" else bias.expand(2, 1, 40, 40)
    with torch.no_grad(), mixed_products():
        found = nn.functional.scaled_dot_product_attention(*factors, attn_mask=mask)
    query, key, value = (factor.bfloat16() for factor in factors)
    assert found.dtype == torch.float32 and torch.equal(found, found.bfloat16().float())  # rounded it was
    torch.testing.assert_close(found.double(), attention(query, key, value, bias), rtol=0.02, atol=0.02)


def test_attention_is_exact_where_short_products_are_no_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.execute.mixed.has_short_units", lambda: False)
    factors = some_heads()
    with torch.no_grad():
        plain = nn.functional.scaled_dot_product_attention(*factors)
        with mixed_products():
            assert torch.equal(nn.functional.scaled_dot_product_attention(*factors), plain)


@pytest.mark.parametrize("bias", [False, True])
def test_short_factors_are_multiplied_in_float32_and_rounded_once(bias: bool) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(64, 48, bias=bias).bfloat16(), torch.randn(2, 3, 64).bfloat16()
    with torch.no_grad(), LongProducts():
        found = module(x)
    wanted = x.float() @ module.weight.float().T
    if bias:
        wanted = wanted + module.bias.float()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())


def test_stacks_of_short_factors_too() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(3, 5, 16).bfloat16(), torch.randn(3, 16, 7).bfloat16()
    with LongProducts():
        found = left @ right
    torch.testing.assert_close(found, (left.float() @ right.float()).bfloat16())


def test_who_looks_on_sees_the_short_factors() -> None:
    module, x = Adder(False), torch.randn(2, 3, 8)
    read: list[torch.Tensor] = []
    with torch.no_grad(), LongProducts():
        watch = Watch({"linear.weight": module.linear.weight}, lambda view, value: read.append(value))
        with watch, mixed_products():
            module(x)
    assert len(read) == 1 and torch.equal(read[0], x.reshape(6, 8).bfloat16())
