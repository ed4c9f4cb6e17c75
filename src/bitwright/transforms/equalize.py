"""Cross-layer equalization: channels of a weight that are small beside the others are made larger, for free.

One scale for a whole tensor has to reach its largest channel. At a site channel i of the producer may be divided by s_i
if its readers multiply by it; with r1_i and r2_i the largest absolute number of the channel on either side,
s_i = sqrt(r1_i / r2_i) makes both ranges equal. A weight that lies between two sites (a depthwise convolution) takes
part in both, so pairs are balanced in turn until none moves; for the triple conv, depthwise, conv that ends where all
three ranges are the geometric mean of what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bitwright.graph.channels import Kind, Site, Tie
from bitwright.transforms.transform import Edit, times

Scale = Float[Tensor, "channels"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Equalized:
    """Scales by the value of their site (its channels are divided by them), and whether they came to rest."""

    scales: Mapping[str, Scale]
    sweeps: int
    converged: bool

    def edit(self, sites: Sequence[Site]) -> Edit:
        """The edit that applies the scales of those of these sites that have any."""
        chosen = [site for site in sites if site.value in self.scales]
        return Edit(tuple(step for site in chosen for step in rescaling(site, self.scales[site.value]).steps))


@final
@dataclass(frozen=True, slots=True)
class Equalize:
    """Balance until no scale of a sweep is further from 1 than `tolerance`, at most `sweeps` times.

    A chain of n sites needs some n**2 sweeps; each costs one pass over the weights, kernel positions taken together.

    Channels that are zero on one side keep the scale 1. No channel is scaled by more than `limit` in all, either way:
    beyond it only numbers too small to matter are moved, and float32 would run out of exponents.

    Source: Nagel 2019 (Data-free quantization), section 4.1. Differs: any site that is found, not named pairs; bounds.
    """

    tolerance: float = 1e-4
    sweeps: int = 1000
    limit: float = 1e3

    def __post_init__(self) -> None:
        if self.tolerance <= 0 or self.sweeps < 1 or self.limit <= 1:
            raise ValueError(f"tolerance is positive, sweeps at least 1 and limit above 1; found {self}")

    def scales(self, sites: Sequence[Site], constants: Mapping[str, Tensor]) -> Equalized:
        """Balance the sites whose producer is a linear operator; the others have no weight to balance."""
        chosen = [site for site in sites if site.kind is Kind.LINEAR]
        sizes = _sizes(chosen, constants)
        total = {site.value: torch.ones(site.channels, dtype=torch.float64) for site in chosen}
        for sweep in range(self.sweeps):
            largest = 1.0
            for site in chosen:
                step = self._step(site, sizes, total[site.value])
                total[site.value] *= step
                _rescale(site, sizes, step)
                largest = max(largest, float(torch.maximum(step, 1 / step).max()))
            if largest - 1 < self.tolerance:
                return Equalized(total, sweep + 1, True)
        return Equalized(total, self.sweeps, not chosen)

    def _step(self, site: Site, sizes: Mapping[str, Tensor], so_far: Scale) -> Scale:
        source = channel_ranges(site.sources, sizes, site.channels)
        sink = channel_ranges(site.sinks, sizes, site.channels)
        alive = (source > 0) & (sink > 0)
        step = torch.where(alive, torch.sqrt(source / sink), 1.0)
        return torch.where(alive, (so_far * step).clamp(1 / self.limit, self.limit) / so_far, 1.0)


def rescaling(site: Site, scale: Scale) -> Edit:
    """The edit that divides the site's channels by `scale` and multiplies what reads them."""
    assert bool(torch.isfinite(scale).all() and (scale > 0).all()), f"{site}: scales must be positive and finite"
    down = [times(tie.constant, spread(1 / scale, tie.index)) for tie in (*site.sources, *site.shifts)]
    return Edit((*down, *[times(tie.constant, spread(scale, tie.index)) for tie in site.sinks]))


def spread(scale: Scale, index: Int64[Tensor, "..."], outside: float = 1.0) -> Tensor:
    """The number of each element's channel; `outside` for those of no channel. float64."""
    return torch.cat([scale.double(), torch.tensor([outside], dtype=torch.float64)])[index]


def channel_ranges(ties: Sequence[Tie], sizes: Mapping[str, Tensor], channels: int) -> Scale:
    """The largest absolute number of each channel over these constants; zero where there is none. float64."""
    found = torch.zeros(channels + 1, dtype=torch.float64)  # the last place is for what belongs to no channel
    for tie in ties:
        size = sizes[tie.constant].abs()
        constant_along = [axis for axis, length in enumerate(tie.index.shape) if length == 1]
        size = size.double().amax(constant_along, keepdim=True) if constant_along else size.double()
        place = torch.where(tie.index < 0, channels, tie.index).expand(size.shape)
        found.scatter_reduce_(0, place.reshape(-1), size.reshape(-1), "amax")
    return found[:channels]


def _sizes(sites: Sequence[Site], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Absolute weights, reduced along the axes (kernel positions) on which no site tells numbers apart."""
    found: dict[str, Tensor] = {}
    ties = [tie for site in sites for tie in (*site.sources, *site.sinks)]
    for tie in ties:
        shapes = [other.index.shape for other in ties if other.constant == tie.constant]
        size = constants[tie.constant].double().abs()
        alike = [axis for axis in range(size.dim()) if all(shape[axis] == 1 for shape in shapes)]
        found[tie.constant] = size.amax(alike, keepdim=True) if alike else size
    return found


def _rescale(site: Site, sizes: dict[str, Tensor], step: Scale) -> None:
    for tie in site.sources:
        sizes[tie.constant] = sizes[tie.constant] / spread(step, tie.index)
    for tie in site.sinks:
        sizes[tie.constant] = sizes[tie.constant] * spread(step, tie.index)
