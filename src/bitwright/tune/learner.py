"""How the weights move: against the gradient, in units of their own steps, ever more slowly.

One rate serves all formats. A number moves in steps, the mean distance of two levels of its format; a scale moves all
levels at once, the outermost by as many steps as there are levels, so that it moves by that much less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bitwright.numerics import Float
from bitwright.solvers.moving import Moving


@final
@dataclass(frozen=True, slots=True)
class Tuning:
    """`epochs` over the rows that teach, about `tokens` tokens a step.

    `rate`: of Adam, in steps of the format; it falls to zero by a cosine.
    """

    epochs: int = 5
    rate: float = 0.002
    tokens: int = 2048

    def __post_init__(self) -> None:
        if min(self.epochs, self.tokens) < 1 or self.rate <= 0:
            raise ValueError(f"epochs and tokens are at least 1, and the rate is positive; found {self}")


@final
class Learner:
    """What moves and the optimizer's averages; the state of both as tensors by name."""

    def __init__(self, weights: Mapping[str, Moving], tuning: Tuning, steps: int) -> None:
        self.steps, self.done = steps, 0
        self._moved: dict[str, Tensor] = {}
        self._rates: list[float] = []
        for name, weight in weights.items():
            spaces = 2**weight.spec.format.bits - 1
            self._add(
                f"{name}.move", weight.move, tuning.rate * (weight.spec.format.high - weight.spec.format.low) / spaces
            )
            weight.factor.requires_grad_(_has_fine_scales(weight))
            if weight.factor.requires_grad:
                self._add(f"{name}.factor", weight.factor, tuning.rate / spaces)
        groups = [{"params": [tensor], "lr": 0.0} for tensor in self._moved.values()]
        self._optimizer = torch.optim.Adam(groups, eps=1e-12, fused=True)

    def step(self) -> None:
        """Take one step along the gradients that have gathered, and forget them."""
        falling = 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            group["lr"] = rate * falling
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1

    def state(self) -> dict[str, Tensor]:
        """All that has changed since the beginning but the number of steps."""
        found = {}
        for name, tensor in self._moved.items():
            found[name] = tensor.detach()
            found |= {f"{name}.{key}": value for key, value in self._optimizer.state[tensor].items()}
        return found

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on from such a state."""
        self.done = done
        for name, tensor in self._moved.items():
            tensor.detach().copy_(state[name])
            averages = {key.removeprefix(f"{name}."): key for key in state if key.startswith(f"{name}.")}
            self._optimizer.state[tensor] = {key: state[place].clone() for key, place in averages.items()}

    def _add(self, name: str, tensor: Tensor, rate: float) -> None:
        self._moved[name] = tensor
        self._rates.append(rate)


def _has_fine_scales(weight: Moving) -> bool:
    """Whether its scales can follow a small factor; powers of two and the like cannot."""
    scale = weight.spec.scale
    return weight.params is not None and scale is not None and isinstance(scale.format, Float)
