"""What is said of a delivery: problems, and warnings with their cause."""

from __future__ import annotations

import pytest

from bitwright.evaluate.agreement import Agreement
from bitwright.evaluate.findings import coarser, judge, unsound
from bitwright.evaluate.latency import Latency
from bitwright.evaluate.operators import Kind, Operator
from bitwright.numerics.machine import Machine

PLAIN = Machine("a processor", "x86_64", 1, True)
GOOD = Agreement("y", 60.0, 40.0, None, True)


def timed(speedup: float, low: float, high: float, batch: str = "4x3") -> Latency:
    return Latency("fp32", batch, 1.0, speedup, speedup, low, high, 9)


def said(
    output: Agreement = GOOD,
    operators: tuple[Operator, ...] = (),
    latencies: tuple[Latency, ...] = (),
    machine: Machine = PLAIN,
    why: tuple[str, ...] = ("the cause",),
) -> list[str]:
    return list(judge("Engine", [output], operators, latencies, (machine, why)))


def test_a_good_and_fast_file_has_nothing_said_of_it() -> None:
    assert said(latencies=(timed(2, 1.9, 2.1),)) == [] and list(unsound("Engine", [GOOD])) == []


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (Agreement("y", 30.0, 30.0, None, True, 36.1), "and 36.1 dB in the simulation"),
        (Agreement("y", None, -0.5, None, True), "no more signal than noise"),
        (Agreement("y", None, None, 3, False), "not finite on batch 3, nor is the original's"),
        (Agreement("y", -0.1, -0.1, None, True, 0.5, 2), "another shape than the original's for 2 of the batches"),
    ],
)
def test_what_is_wrong_with_an_output_is_said(output: Agreement, text: str) -> None:
    (found,) = said(output)
    assert text in found and found.startswith("Engine: output y")
    assert list(unsound("Engine", [output])) == []


@pytest.mark.parametrize("foretold", [None, 20.0, 30.0, 35.9])
def test_an_engine_that_is_as_good_as_foretold_may_differ_in_every_number(foretold: float | None) -> None:
    """Deep networks enlarge what engine and simulation round differently until it is as large as the error itself."""
    assert said(Agreement("y", 30.0, 30.0, None, True, foretold)) == []


def test_an_output_that_only_the_quantized_file_spoils_is_a_problem() -> None:
    (found,) = unsound("Engine", [Agreement("y", None, None, 2, True)])
    assert "y is not finite on batch 2" in found
    assert said(Agreement("y", None, None, 2, True)) == []


def test_an_engine_that_rounds_more_than_the_file_asks_for_is_named() -> None:
    exact = [Agreement("y", None, 40.0, None, True)]
    (found,) = coarser("Engine", [Agreement("y", None, 33.9, None, True)], exact)
    assert "33.9 dB from the float original, and 40.0 dB with activations in float32" in found
    assert list(coarser("Engine", [Agreement("y", None, 34.1, None, True)], exact)) == []
    assert list(coarser("Engine", [Agreement("y", None, 34.1, None, True)], [])) == []


def test_slower_is_one_warning_of_all_batches_with_the_cause() -> None:
    (found,) = said(latencies=(timed(0.5, 0.4, 0.6), timed(0.7, 0.6, 0.8, "1x3")))
    assert "slower than fp32" in found and found.endswith("because: the cause")
    assert "batch 4x3: 0.50x its speed, 95% interval 0.40 to 0.60" in found and "batch 1x3: 0.70x" in found


def test_what_is_not_known_to_be_faster_is_said_with_what_may_slow_it() -> None:
    (found,) = said(latencies=(timed(0.9, 0.7, 1.1),))
    assert "not known to be faster" in found and found.endswith("what may slow it: the cause")
    (found,) = said(latencies=(timed(1.2, 0.9, 1.5),))
    assert "not known to be faster" in found and "the cause" not in found


@pytest.mark.parametrize(
    ("machine", "is_signed", "text"),
    [
        (PLAIN, True, "signed activations"),
        (Machine("old", "x86_64", 1, False), False, "old has no VNNI"),
        (Machine("arm", "aarch64", 1, None), True, "nothing in the profile says why"),
        (PLAIN, False, "nothing in the profile says why"),
    ],
)
def test_a_cause_may_be_the_machine(machine: Machine, is_signed: bool, text: str) -> None:
    conv = Operator("conv", "QLinearConv", Kind.INTEGER, "", 1.0, is_linear=True, is_signed=is_signed)
    (found,) = said(operators=(conv,), latencies=(timed(0.5, 0.4, 0.6),), machine=machine, why=())
    assert text in found


def test_signed_activations_are_a_cause_where_they_kept_an_operator_in_float_too() -> None:
    conv = Operator("conv", "Conv", Kind.FLOAT, "not fused", 1.0, is_linear=True, is_unfused=True, is_signed=True)
    old = Machine("old", "x86_64", 1, False)
    found = said(operators=(conv,), latencies=(timed(0.5, 0.4, 0.6),), machine=old, why=())
    assert "signed activations" in found[-1]
    assert "VNNI" not in found[-1]  # nothing ran in integers


@pytest.mark.parametrize(("spent", "told"), [(1.5, True), (0.9, False)])
def test_going_into_codes_and_back_is_a_cause_where_it_takes_a_tenth_of_the_time(spent: float, told: bool) -> None:
    operators = (
        Operator("conv", "QLinearConv", Kind.INTEGER, "", 8.0, is_linear=True),
        Operator("q", "QuantizeLinear", Kind.QUANTIZER, "", spent / 2),
        Operator("d", "DequantizeLinear", Kind.QUANTIZER, "", spent / 2),
        Operator("s1", "HardSigmoid", Kind.FLOAT, "no integer HardSigmoid", (2 - spent) / 2),
        Operator("s2", "HardSigmoid", Kind.FLOAT, "no integer HardSigmoid", (2 - spent) / 2),
    )
    (found,) = said(operators=operators, latencies=(timed(0.5, 0.4, 0.6),), why=())
    wanted = "15% of the time goes into codes and back around what stays float (2 HardSigmoid)"
    assert (wanted in found) is told and ("nothing in the profile" in found) is not told


def test_unfused_products_are_a_warning_even_where_the_file_is_fast() -> None:
    convs = tuple(
        Operator(f"conv{i}", "Conv", Kind.FLOAT, "not fused", 1.0, is_linear=True, is_unfused=True) for i in range(5)
    )
    (found,) = said(operators=convs, latencies=(timed(2, 1.9, 2.1),))
    assert found == "Engine: Conv conv0, Conv conv1, Conv conv2 and 2 more stayed float: not fused"
