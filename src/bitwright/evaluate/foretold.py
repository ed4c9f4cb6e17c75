"""What a delivered file returns on its target, though the target need not be this machine.

The file runs in the integer arithmetic of the target (`execute/integers`). Where the target's engine runs here, that is
one more check of both; where it does not, it is the only figure that is of the target, and it is labelled as simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from bitwright.evaluate.agreement import Agreement, Compared, named
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.findings import is_worse
from bitwright.evaluate.outputs import Runnable
from bitwright.execute import openvino_session
from bitwright.execute.integers import IntegerRunner
from bitwright.execute.interpret import InterpretError
from bitwright.execute.onnx_runner import RunError
from bitwright.numerics import Arithmetic, Scaling
from bitwright.numerics.machine import Machine
from bitwright.store.source_error import SourceError

Batch = Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Aim:
    """The target that a file is made for: its name, its engine, and how that computes with codes.

    `needs_vnni`: on x86 processors without VNNI its sums may overflow.
    """

    target: str
    engine: str
    arithmetic: Arithmetic
    needs_vnni: bool = False

    def is_here(self, machine: Machine) -> bool:
        """Whether what the target's engine computes on this machine is what the target computes."""
        if self.engine == "OpenVINO":
            overflows = self.needs_vnni and machine.is_x86 and machine.has_vnni is False
            return openvino_session.is_installed() and not overflows
        if self.engine != "ONNX Runtime" or machine.is_x86 != (self.arithmetic.blends is Scaling.MULTIPLY):
            return False
        return not machine.is_x86 or machine.has_vnni is not self.arithmetic.saturates


@final
@dataclass(frozen=True, slots=True, eq=False)
class Foretold:
    """The outputs of a file in its target's arithmetic. `is_here`: whether the target's engine also runs here.

    `outputs`: against the float original, and against the simulation in floats that decisions were made with. `made`:
    the outputs of each batch.
    """

    target: str
    is_here: bool
    outputs: tuple[Agreement, ...]
    warnings: tuple[str, ...]
    made: tuple[Batch, ...]

    def to_plain(self) -> dict[str, Any]:
        """As JSON, without the outputs themselves."""
        return {
            "target": self.target,
            "is_here": self.is_here,
            "outputs": [asdict(one) for one in self.outputs],
        }


def foretell(
    delivered: Path, aim: Aim, machine: Machine, original: Runnable, in_floats: Runnable, feeds: Sequence[Batch]
) -> Foretold | None:
    """What the target returns on these batches; None where nothing in the file runs in integers.

    `in_floats`: the same file with quantizers and floats between them, as decisions are made with. Raises EvaluateError
    where the file cannot be run so.
    """
    try:
        runner = IntegerRunner(delivered, aim.arithmetic)
        if not runner.in_integers:
            return None
        made = [runner.run(one) for one in feeds]
    except (RunError, InterpretError, SourceError) as error:
        raise EvaluateError(f"{aim.target}: not simulated in integers: {error}") from error
    found = {name: Compared(name) for name, held in made[0].items() if held.is_floating_point()}
    plain = {name: Compared(name) for name in found}
    for batch, feed in enumerate(feeds):
        floats, simulated = original.run(feed), in_floats.run(feed)
        for name, compared in found.items():
            exact = named(floats, name, "the original")
            compared.add(batch, made[batch][name], exact, simulated[name])
            plain[name].add(batch, simulated[name], exact, None)
    outcomes = tuple(one.agreement() for one in found.values())
    pairs = zip(outcomes, (one.agreement() for one in plain.values()), strict=True)
    warnings = tuple(text for one, simulated in pairs for text in _warnings(aim, one, simulated))
    return Foretold(aim.target, aim.is_here(machine), outcomes, warnings, tuple(made))


def _warnings(aim: Aim, found: Agreement, in_floats: Agreement) -> Iterator[str]:
    """Where a target's arithmetic doubles the error or worse."""
    if not is_worse(found.original_db, in_floats.original_db):
        return
    why = (
        "without VNNI pairs of products overflow 16 bits; quantize for the target x86-avx2, whose weights have 7 bits"
        if aim.arithmetic.saturates
        else "its integers do not do what the file says; keep the operators that lose most in float"
    )
    yield (
        f"{aim.target}: output {found.output} is {found.original_db:.1f} dB from the float original, and "
        f"{in_floats.original_db:.1f} dB where the same file is computed in floats: {why}"
    )
