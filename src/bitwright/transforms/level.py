"""Levelling: the channels of an activation are made equally large, so that one step of few bits suits all of them.

With 4 bits for a whole tensor a channel that stays within a tenth of the largest is left with two codes. At a site
channel i may be divided by s_i if what reads it multiplies by s_i. A producer with one scale per row takes that for
free, and so does a reader in which every row reads one channel alone, a depthwise convolution. (Any other reader would
have to hold columns of different sizes under one step; that is for smoothing to weigh.)

Behind a clip nothing is scaled that comes near the bound, and what does not is raised towards it. So one bound still
serves all channels, and does to the samples seen what the bound before did; the room that is left is for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.graph.channels import Kind, Site
from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network
from bitwright.transforms.equalize import Scale


@final
@dataclass(frozen=True, slots=True)
class Level:
    """`room`: what a channel may reach over what it was seen to reach. None is raised beyond 1 / `least`: one that
    hardly ever fires says little about how far it may go."""

    room: float = 1.5
    least: float = 1 / 64

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1 <= self.room:
            raise ValueError(f"least is above 0 and at most 1, room at least 1; found {self}")

    def scale(self, largest: Scale, bound: float | None = None) -> Scale:
        """The scale of a site whose activation reaches `largest` in absolute value; for `rescaling`. At most 1.

        `bound`: where the activation is clipped, the absolute value of the nearer end.
        """
        top = float(largest.max()) if bound is None else bound
        share = torch.where(largest > 0, self.room * largest.double(), top) / (top or 1.0)
        return torch.where(largest > 0, share.clamp(self.least, 1), 1.0)


def is_taken_by_rows(network: Network, site: Site) -> bool:
    """Whether scales of rows take all of a site's scale: a linear operator makes it, each row of what reads it reads
    one channel."""
    if site.kind is not Kind.LINEAR:
        return False
    for tie in site.sinks:
        for node, _ in network.readers(tie.constant):
            linear = linear_of(network, node)
            if linear is None or _varied(tie.index) - _varied(linear.writes):
                return False
    return True


def _varied(index: Int64[Tensor, "..."]) -> set[int]:
    """The axes along which an index tells numbers apart."""
    return {axis for axis, size in enumerate(index.shape) if size > 1}
