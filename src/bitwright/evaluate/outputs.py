"""How far the outputs of what is delivered are from the original's, on whatever inputs the two are run on.

`SideBySide` is a network to run like any other: it hands out what the original makes and, on the way, runs the
delivered one on the same inputs. So the user's metric feeds it without knowing, and samples feed it one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from bitwright.evaluate.agreement import Agreement, Compared, named
from bitwright.evaluate.error import EvaluateError
from bitwright.graph.network import Network


@runtime_checkable
class Runnable(Protocol):
    """A network that can be run on a batch."""

    @property
    def network(self) -> Network:
        """Its graph."""
        ...

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of a batch, by name."""
        ...


@final
class SideBySide:
    """Runs two networks on the same inputs, hands out the original's outputs, and sums how far they are apart."""

    def __init__(self, original: Runnable, delivered: Runnable) -> None:
        self.network = original.network
        self._original, self._delivered = original, delivered
        self._compared = {name: Compared(name) for name in self.network.outputs}
        self.batches = 0

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The original's outputs."""
        made = self._original.run(feeds)
        found = self._delivered.run(feeds)
        for name, compared in self._compared.items():
            if made[name].is_floating_point():
                compared.add(self.batches, named(found, name, "the delivered network"), made[name], None)
        self.batches += 1
        return made

    def run_all(self, batches: Iterable[Mapping[str, Tensor]]) -> tuple[Agreement, ...]:
        """How far the outputs are apart over all batches."""
        for batch in batches:
            self.run(batch)
        return self.agreements()

    def agreements(self) -> tuple[Agreement, ...]:
        """So far, of every output of real numbers; EvaluateError where the networks did not run."""
        if self.batches == 0:
            raise EvaluateError("nothing was compared: the networks were never run; give at least one sample")
        return tuple(one.agreement() for one in self._compared.values() if one.has_begun)
