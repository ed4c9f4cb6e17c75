"""Histograms kept sample by sample."""

from __future__ import annotations

import torch

from bitwright.calib import HeldOut, Histogram
from conformance.ranges import seen, values_of


def same(one: Histogram, other: Histogram) -> bool:
    a, b = one.to_tensors(), other.to_tensors()
    return all(torch.equal(a[name], b[name]) for name in ("counts", "grid"))


def test_each_sample_has_its_own_histogram_in_the_order_of_the_indices() -> None:
    values = values_of("outlier")
    held = HeldOut()
    for index in (6, 7, 0, 1, 2, 3, 4, 5):
        held.add(values[index : index + 1], index)
    assert len(held) == 8
    assert all(same(one, seen(row[None])) for one, row in zip(held, values, strict=True))


def test_parts_of_a_sample_and_of_workers_come_together() -> None:
    values = values_of("outlier")
    one, other = HeldOut(), HeldOut()
    one.add(values[:, :900], 0)
    other.add(values[:, 900:], 0)
    one.merge(other)
    assert len(one) == 8 and all(same(held, seen(row[None])) for held, row in zip(one, values, strict=True))


def test_the_whole_is_the_histogram_of_all_samples() -> None:
    values = values_of("outlier")
    held = HeldOut()
    held.add(values, 0)
    assert same(held.whole(), seen(values))
    assert HeldOut().whole().is_empty and len(HeldOut()) == 0
