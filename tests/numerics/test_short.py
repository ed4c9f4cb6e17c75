"""Products of bfloat16 matrices formed in float32."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics import short
from bitwright.numerics.short import long_product


@pytest.mark.parametrize("cols", [1, 7, 300])
@pytest.mark.parametrize("added", [False, True])
def test_a_product_is_that_of_float64_rounded_once(monkeypatch: pytest.MonkeyPatch, cols: int, added: bool) -> None:
    monkeypatch.setattr(short, "_STRIP", 4 * 64 * 50)  # fifty columns at a time
    generator = torch.Generator().manual_seed(0)
    left, right, bias = (torch.randn(*size, generator=generator).bfloat16() for size in ((9, 64), (64, cols), (cols,)))
    found = long_product(left, right, bias if added else None)
    wanted = left.double() @ right.double() + (bias.double() if added else 0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-5)
