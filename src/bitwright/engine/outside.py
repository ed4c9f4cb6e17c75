"""What lies outside the blocks: kept as it is, or rounded to nearest where a rule names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.engine.block import weight_report
from bitwright.engine.stage import Outcome
from bitwright.graph import Linear
from bitwright.numerics import MseGrid, QTensor
from bitwright.recipe.plan import Plan, Step, Table
from bitwright.solvers import Nearest, Problem
from bitwright.store.artifact import arrays_of
from bitwright.store.pieces import read_piece, write_piece
from bitwright.store.source import Source

OUTSIDE = "outside"  # its key: what it depends on is what the folder was claimed for


def store_outside(plan: Plan, source: Source, folder: Path) -> None:
    """Write outside.safetensors and its note, unless both are there and intact."""
    file = folder / "outside.safetensors"
    if read_piece(file, OUTSIDE) is not None:
        return
    inside = tuple(block.name + "." for block in plan.graph.blocks)
    tables = {table.view.parameter: table for table in plan.tables}
    names = [name for name in source.parameters() if not name.startswith(inside)]
    kept = source.read(name for name in names if name not in tables)
    qtensors: dict[str, QTensor] = {}
    reports: list[Any] = []
    for name, table in tables.items():
        weight = source.read([name])[name].float()
        outcome = _round(table, weight)
        qtensors[table.view.name] = outcome.solution.qtensor
        reports.append(weight_report(outcome, weight, None))
    write_piece(file, OUTSIDE, arrays_of((qtensors, kept)), reports)


def _round(table: Table, weight: Tensor) -> Outcome:
    solver = Nearest(MseGrid())
    solution = solver.solve(Problem(weight, table.spec))
    energy = max(float(weight.double().square().sum()), 1e-30)
    plain = Nearest().solve(Problem(weight, table.spec)).loss / energy
    step = Step(Linear(table.view, 0, ()), table.spec, solver)
    return Outcome(step, solution, "without data", solution.loss / energy, plain)
