"""What a verified delivery falls short of, as sentences: what was found, and what to do about it.

No figure here is tuned. A simulation has to foretell the engine twice as well as the original does (6 decibels): else
its own error is as large as what it is there to show. An output with no more signal than noise (0 decibels, which is
what zeros would reach) is lost. Above 100 decibels (1e-5 of the values) two orders of float32 sums differ as much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bitwright.evaluate.agreement import Agreement
from bitwright.evaluate.latency import Latency
from bitwright.evaluate.operators import Kind, Operator
from bitwright.numerics.machine import Machine

TWICE_DB, FLOAT_NOISE_DB = 6.0, 100.0
WORTH_TELLING = 0.1  # of the time
Causes = tuple[Machine, tuple[str, ...]]


def is_worse(found_db: float | None, expected_db: float | None) -> bool:
    """Whether an error is twice what is expected or worse, and more than the noise of float arithmetic."""
    if found_db is None or expected_db is None:
        return False
    return found_db < min(expected_db - TWICE_DB, FLOAT_NOISE_DB)


def unsound(engine: str, outputs: Sequence[Agreement]) -> Iterator[str]:
    """Why the file must not be shipped."""
    for one in outputs:
        if not one.is_finite and one.is_original_finite:
            yield (
                f"{engine}: output {one.output} is not finite on batch {one.bad_batch}, the float original's is; look "
                "for a scale of zero or infinity, or for a float operator that a quantized value takes out of range"
            )


def simulated(engine: str) -> Iterator[str]:
    """What has to be said of a file in 8-bit floats: none of the engines that run here multiplies those."""
    yield (
        f"{engine}: simulated: products of 8-bit floats are computed in float32 between quantizers; the outputs are "
        "those that the codes stand for, the times say nothing of a device that has such products"
    )


def judge(
    engine: str,
    outputs: Sequence[Agreement],
    operators: Sequence[Operator],
    latencies: Sequence[Latency],
    causes: Causes,
) -> Iterator[str]:
    """Warnings about one engine, of outputs, operators and time."""
    for output in outputs:
        yield from (f"{engine}: {text}" for text in _of_output(output))
    yield from (f"{engine}: {text}" for text in _of_operators(operators))
    why = "; ".join([*causes[1], *_of_machine(operators, causes[0]), *_of_conversions(operators)])
    for against in dict.fromkeys(one.against for one in latencies):
        mine = [one for one in latencies if one.against == against]
        yield from (f"{engine}: {text}" for text in _of_latency(against, mine, why))


def coarser(engine: str, outputs: Sequence[Agreement], exact: Sequence[Agreement]) -> Iterator[str]:
    """Where an engine's own rounding of activations, which the file does not ask for, doubles the error or worse."""
    exactly = {one.output: one.original_db for one in exact}
    for one in outputs:
        better = exactly.get(one.output)
        if is_worse(one.original_db, better):
            yield (
                f"{engine}: output {one.output} is {one.original_db:.1f} dB from the float original, and "
                f"{better:.1f} dB with activations in float32: by default this engine rounds activations "
                'that meet packed weights to 8 bits; set "session.qdq_matmulnbits_accuracy_level" to 1 if that matters'
            )


def _of_output(one: Agreement) -> Iterator[str]:
    if not one.is_finite and not one.is_original_finite:
        yield f"output {one.output} is not finite on batch {one.bad_batch}, nor is the original's; check the input"
    if one.reshaped:
        yield (
            f"output {one.output} has another shape than the original's for {one.reshaped} of the batches, which "
            "count as wrong throughout: if it lists what was found, a metric of your own says what that is worth "
            "(bitwright evaluate --metric); if not, the file is not of this network"
        )
        return
    if one.original_db is None:
        return
    if is_worse(one.original_db, one.foretold_db):
        yield (
            f"output {one.output} is {one.original_db:.1f} dB from the float original, and {one.foretold_db:.1f} dB in "
            "the simulation: the simulation does not foretell this engine; check that its target is this machine"
        )
    if one.original_db <= 0:
        yield (
            f"output {one.output} has no more signal than noise ({one.original_db:.1f} dB from the float original); "
            "calibrate on data like those verified with, or keep more operators in float"
        )


def _of_operators(operators: Sequence[Operator]) -> Iterator[str]:
    unfused = [one for one in operators if one.is_unfused and one.is_linear]
    reasons = dict.fromkeys(one.reason for one in unfused)
    for reason in reasons:
        names = [f"{one.op} {one.name}".strip() for one in unfused if one.reason == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more} stayed float: {reason}"


def _of_machine(operators: Sequence[Operator], machine: Machine) -> Iterator[str]:
    linear = [one for one in operators if one.is_linear and (one.kind is Kind.INTEGER or one.is_unfused)]
    if not machine.is_x86 or not linear:
        return
    if any(one.is_signed for one in linear):
        yield "signed activations, while x86 multiplies unsigned with signed integers: quantize for an x86 target"
    if machine.has_vnni is False and any(one.kind is Kind.INTEGER for one in linear):
        yield f"{machine.name} has no VNNI, so that integer products take several steps"


def _of_conversions(operators: Sequence[Operator]) -> Iterator[str]:
    """Where operators between integers stay float, their values are converted twice."""
    spent = sum(one.microseconds for one in operators)
    converting = sum(one.microseconds for one in operators if one.kind is Kind.QUANTIZER)
    between = Counter(one.op for one in operators if one.kind is Kind.FLOAT and not one.is_linear)
    if between and converting > WORTH_TELLING * spent:
        names = ", ".join(f"{count} {op}" for op, count in between.most_common(3))
        yield f"{converting / spent:.0%} of the time goes into codes and back around what stays float ({names})"


def _of_latency(against: str, latencies: Sequence[Latency], why: str) -> Iterator[str]:
    because = why or "nothing in the profile says why; a run as short as this may be all overhead of the call"
    slower = [_interval(one) for one in latencies if one.is_slower]
    if slower:
        yield f"slower than {against} ({'; '.join(slower)}), because: {because}"
    unsure = [one for one in latencies if not one.is_slower and not one.is_faster]
    if unsure:
        causes = f"; what may slow it: {why}" if why and any(one.speedup < 1 for one in unsure) else ""
        intervals = "; ".join(_interval(one) for one in unsure)
        yield f"not known to be faster than {against} ({intervals}); measure on an idle machine, or for longer{causes}"


def _interval(one: Latency) -> str:
    return f"batch {one.batch}: {one.speedup:.2f}x its speed, 95% interval {one.low:.2f} to {one.high:.2f}"
