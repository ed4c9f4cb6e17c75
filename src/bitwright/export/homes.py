"""Where a quantized weight lies in a checkpoint of Linear modules: the modules that hold it, and its rows in each.

Most weights are one module. An expert's slice of a stacked parameter is several where the files keep experts apart: the
first rows of its gate_up_proj are the module gate_proj, the others up_proj. The loader's own description of how it
stacks them says so (`Renames.rows`); there is no table of architectures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from bitwright.export.exporter import ExportError
from bitwright.export.schemes import find_scheme
from bitwright.numerics import Int, may_cut_rows
from bitwright.store.artifact import Entry
from bitwright.store.source import Source

WEIGHT = ".weight"


@final
@dataclass(frozen=True, slots=True)
class Home:
    """A module of the checkpoint, and the rows of the weight that are all of its own weight."""

    module: str
    start: int
    stop: int


@final
class Homes:
    """The homes of the weights of one model. `linears`: the names of its Linear modules."""

    def __init__(self, layout: Source, linears: frozenset[str]) -> None:
        self._layout, self._linears = layout, linears
        self._stacked: dict[str, dict[int, tuple[Home, ...]]] = {}

    def of(self, entry: Entry) -> tuple[Home, ...]:
        """Where a weight goes; ExportError, with the reason alone, if there is no such place."""
        if entry.transposed:
            raise ExportError("it is stored transposed, [in, out]; compressed-tensors stores Linear modules, [out, in]")
        if entry.index is not None:
            return self._expert(entry, entry.index)
        layout, parameter = self._layout, entry.parameter
        if parameter in layout.tied().values():
            raise ExportError(
                "it is shared with another module (tied); compressed-tensors has no shared quantized weights"
            )
        if parameter.removesuffix(WEIGHT) not in self._linears:
            raise ExportError(f"{parameter} is not the weight of a Linear module; compressed-tensors stores only these")
        stored = layout.renamed(parameter)
        if stored is None or not stored.endswith(WEIGHT):
            names = ", ".join(layout.checkpoint_names(parameter))
            raise ExportError(f"the checkpoint keeps it in another form ({names}), which has no quantized counterpart")
        return (Home(stored.removesuffix(WEIGHT), 0, entry.shape[0]),)

    def _expert(self, entry: Entry, index: int) -> tuple[Home, ...]:
        found = self._slices(entry.parameter).get(index, ())
        if not found:
            raise ExportError(
                f"it is one slice of the fused tensor {entry.parameter}, which the checkpoint keeps in one piece; "
                f"compressed-tensors stores whole Linear modules"
            )
        if entry.spec.zero is not None and isinstance(entry.spec.format, Int):
            raise ExportError(
                "it is an expert with zeros; what reads this layout takes experts only without. Quantize with "
                "symmetric weights (the recipe w4a16_sym)"
            )
        if len(found) > 1 and not may_cut_rows(entry.spec):
            raise ExportError(
                f"it is kept in {len(found)} modules, but has scales ({entry.spec}) that they would share"
            )
        return found

    def _slices(self, parameter: str) -> dict[int, tuple[Home, ...]]:
        if parameter not in self._stacked:
            parts: dict[int, list[Home]] = {}
            for stored, rows in self._layout.rows(parameter).items():
                if stored.endswith(WEIGHT):
                    home = Home(stored.removesuffix(WEIGHT), rows.start, rows.stop)
                    parts.setdefault(rows.index, []).append(home)
            self._stacked[parameter] = {index: tuple(homes) for index, homes in parts.items()}
        return self._stacked[parameter]


def check_experts(layout: Source, entries: Sequence[Entry]) -> None:
    """Refuses experts that a reader would take for others: all of a stack, and all stacks, must be stored alike."""
    experts = [entry for entry in entries if entry.index is not None]
    parameters = layout.parameters()
    for parameter, count in Counter(entry.parameter for entry in experts).items():
        wanted = parameters[parameter].shape[0]
        if count < wanted:
            raise ExportError(
                f"{parameter}: {count} of its {wanted} experts are quantized; readers take all or none. Give all the "
                f"same rule, or export with `--to dense`, which holds everything"
            )
    schemes = {find_scheme(entry.spec): entry for entry in experts}
    if len(schemes) > 1:
        first, other = list(schemes.values())[:2]
        raise ExportError(
            f"{first.name} is stored as {first.spec}, {other.name} as {other.spec}; readers decode all experts in one "
            f"way. Give all the same rule, or export with `--to dense`, which holds everything"
        )
