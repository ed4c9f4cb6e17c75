"""Products of bfloat16 matrices formed in float32, and whether the processor would do it itself."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from bitwright.numerics import short
from bitwright.numerics.short import has_short_units, long_product


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


@pytest.mark.skipif(platform.system() != "Linux", reason="it reads what Linux says of the processor")
@pytest.mark.parametrize(
    ("text", "has_units"),
    [
        ("flags\t\t: fpu avx2 fma", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("processor\t: 0", True),  # nothing is known
    ],
)
def test_units_are_found_in_what_the_system_says(tmp_path: Path, text: str, has_units: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text + "\n")
    assert has_short_units(tmp_path / "cpuinfo") is has_units


def test_without_that_text_units_are_taken_for_granted(tmp_path: Path) -> None:
    assert has_short_units(tmp_path / "nothing")
