"""SmoothQuant: takes outlier channels out of activations and into the weights that read them.

At a site the activation is divided by s_i and the weights that read it are multiplied by s_i. With x_i the largest
absolute activation of channel i and w_i the largest absolute weight over all readers, s_i is
x_i^alpha / w_i^(1 - alpha): alpha 0 leaves the weights all alike, 1 the activations, and at 1/2 both ranges of a
channel become equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bitwright.graph.channels import Site
from bitwright.transforms.equalize import Scale, channel_ranges


@final
@dataclass(frozen=True, slots=True)
class Smooth:
    """How far the difficulty moves, `alpha` from 0 to 1. No channel is scaled beyond `limit` either way.

    Source: Xiao 2023 (SmoothQuant), equation 4. Differs: channels without activation or weight stay; bounds.
    """

    alpha: float = 0.5
    limit: float = 1e5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.limit <= 1:
            raise ValueError(f"alpha is from 0 to 1 and limit above 1; found {self}")

    def scale(self, site: Site, largest: Scale, constants: Mapping[str, Tensor]) -> Scale:
        """The scale of a site whose activation reaches `largest` in absolute value; for `rescaling`."""
        weight = channel_ranges(site.sinks, constants, site.channels)
        alive = (largest > 0) & (weight > 0)
        x, w = torch.where(alive, largest.double(), 1.0), torch.where(alive, weight, 1.0)
        return (x**self.alpha / w ** (1 - self.alpha)).clamp(1 / self.limit, self.limit)


def activation_ranges(site: Site, largest: Mapping[str, Tensor]) -> Scale:
    """The largest absolute activation of each channel of the site.

    `largest`: by the values that the site's sinks read, the largest absolute number at each place along their channel
    axis (over all batches and all other axes). Zero for a channel that no sink reads.
    """
    found = torch.zeros(site.channels + 1, dtype=torch.float64)
    for read in site.reads:
        place = torch.where(read.labels < 0, site.channels, read.labels)
        found.scatter_reduce_(0, place, largest[read.value].double(), "amax")
    return found[: site.channels]


def search_alpha(
    site: Site,
    largest: Scale,
    constants: Mapping[str, Tensor],
    alphas: Sequence[float],
    loss: Callable[[Scale], float],
) -> tuple[float | None, Scale]:
    """The alpha with the least loss, and its scale; None and ones if leaving the site as it is loses least.

    `loss` is asked with the scale of the site, first with ones. A loss that is not finite never wins.
    """
    chosen: float | None = None
    best = torch.ones(site.channels, dtype=torch.float64)
    least = loss(best)
    for alpha in alphas:
        scale = Smooth(alpha).scale(site, largest, constants)
        found = loss(scale)
        if found < least or (least != least and found == found):
            chosen, best, least = alpha, scale, found
    return chosen, best
