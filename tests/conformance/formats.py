"""What every number format has to satisfy. Outsiders: `check(form)` for each `check` in CHECKS, with a format."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.numerics import BINARY, E2M1, NF4, TERNARY, Float8, Float8Kind, Format, Grid, Int, PowerOfTwo
from conformance import references

FORMATS: tuple[Format, ...] = (
    *(Int(bits, signed) for bits in range(1, 9) for signed in (True, False)),
    Float8(Float8Kind.E4M3FN),
    Float8(Float8Kind.E5M2),
    E2M1(),
    PowerOfTwo(),
    NF4,
    TERNARY,
    BINARY,
    Grid((-0.3, 0.1, 0.7, 2.0, 9.0)),
)
WITHOUT_ZERO = (PowerOfTwo(), BINARY, Grid((-0.3, 0.1, 0.7, 2.0, 9.0)))  # declared: these cannot say 0
LOGARITHMIC = (PowerOfTwo(),)  # nearest in the exponent, not in the number


def samples(form: Format) -> Tensor:
    """Numbers inside and outside the range, at and around every half-way point; ascending."""
    values = form.values().double()
    if form in LOGARITHMIC:
        return torch.exp2(torch.linspace(-130, 127.9, 20001, dtype=torch.float64)).float().sort().values
    middles = ((values[1:] + values[:-1]) / 2).float()
    around = [torch.nextafter(middles, middles - 1), middles, torch.nextafter(middles, middles + 1)]
    spread = torch.linspace(form.low * 1.5 - 1, form.high * 1.5 + 1, 5001)
    small = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    return torch.cat([values.float(), *around, spread, small]).sort().values


def every_value_survives(form: Format) -> None:
    values = form.values()
    assert torch.equal(form.decode(form.encode(values)), values)


def rounding_twice_changes_nothing(form: Format) -> None:
    once = form.nearest(samples(form))
    assert torch.equal(form.nearest(once), once)
    assert torch.equal(form.decode(form.encode(samples(form))), once)


def larger_numbers_have_no_smaller_values(form: Format) -> None:
    assert bool((form.nearest(samples(form)).diff() >= 0).all())


def zero_is_exact_or_declared_missing(form: Format) -> None:
    exact = float(form.nearest(torch.zeros(1))) == 0.0
    assert exact == (form not in WITHOUT_ZERO)


def no_value_is_nearer(form: Format) -> None:
    if form in LOGARITHMIC:
        return
    wanted = samples(form)
    values = form.values()
    inside = wanted.double().clamp(float(values.min()), float(values.max()))
    found = (form.nearest(wanted).double() - inside).abs()
    assert torch.equal(found, (references.nearest(values, wanted) - inside).abs())


def error_is_at_most_half_the_largest_gap(form: Format) -> None:
    wanted, values = samples(form), form.values().double()
    inside = wanted[(wanted >= form.low) & (wanted <= form.high)]
    if form in LOGARITHMIC:
        assert float((form.nearest(inside).double() / inside.double()).log2().abs().max()) <= 0.5 + 1e-6
    else:
        assert float((form.nearest(inside).double() - inside).abs().max()) <= float(values.diff().max()) / 2


def what_is_not_finite_saturates(form: Format) -> None:
    found = form.nearest(torch.tensor([-torch.inf, -1e30, 1e30, torch.inf, torch.nan]))
    low, high = float(form.values().min()), float(form.values().max())
    largest = min(high, 1e30) if form not in LOGARITHMIC else 2.0**100
    assert found[:2].tolist() == [low, low]
    assert float(found[2]) == largest and float(found[3]) == high
    assert float(found[4]) == float(form.nearest(torch.zeros(1))) or form in LOGARITHMIC
    assert torch.equal(form.decode(form.encode(torch.tensor([torch.nan]))), found[4:])


def codes_decode_as_written_down(form: Format) -> None:
    codes = form.encode(form.values())
    expected = [references.decode_one(form, code) for code in codes.tolist()]
    assert torch.equal(form.decode(codes), torch.tensor(expected, dtype=torch.float64).float())


def packing_is_undone_by_unpacking(form: Format) -> None:
    values = form.values()
    for count in (0, 1, 3, 7, 8, 9, 13, 64, 1001):
        at = torch.randint(len(values), (count,), generator=torch.Generator().manual_seed(count))
        codes = form.encode(values[at])
        back = form.unpack(form.pack(codes), (count,))
        assert back.dtype == codes.dtype and torch.equal(back, codes)
    codes = form.encode(values[torch.randint(len(values), (5, 3))])
    assert torch.equal(form.unpack(form.pack(codes), (5, 3)), codes)


def bits_are_what_lies_on_disk(form: Format) -> None:
    for count in (0, 1, 5, 8, 1001):
        stored = form.pack(form.encode(torch.zeros(count)))
        assert stored.numel() * stored.element_size() == (count * form.bits + 7) // 8


def low_high_and_tiny_are_values(form: Format) -> None:
    values = form.values()
    assert torch.tensor([form.low, form.high]).tolist() == [float(values.min()), float(values.max())]
    positive = values[values > 0]
    assert not len(positive) or torch.tensor(form.tiny) == positive.min()


CHECKS = (
    every_value_survives,
    rounding_twice_changes_nothing,
    larger_numbers_have_no_smaller_values,
    zero_is_exact_or_declared_missing,
    no_value_is_nearer,
    error_is_at_most_half_the_largest_gap,
    what_is_not_finite_saturates,
    codes_decode_as_written_down,
    packing_is_undone_by_unpacking,
    bits_are_what_lies_on_disk,
    low_high_and_tiny_are_values,
)
