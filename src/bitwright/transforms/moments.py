"""What BatchNormalization knew of a value: the mean and deviation of each channel, kept after it is folded away.

The normalized value has mean beta and deviation |gamma| by the statistics it was trained with. Taken as Gaussian, that
gives the mean behind a ReLU or a clip in closed form, without any data: what analytic bias correction and bias
absorption need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.graph.channels import Site


@final
@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and standard deviation of each channel, float64; the deviation is not negative and may be zero."""

    mean: Float[Tensor, "channels"]
    deviation: Float[Tensor, "channels"]

    def scaled(self, factor: Float[Tensor, "channels"]) -> Moments:
        """The moments after each channel is multiplied by a positive factor."""
        return Moments(self.mean * factor, self.deviation * factor)

    def shifted(self, offset: Float[Tensor, "channels"]) -> Moments:
        """The moments after a number is added to each channel."""
        return Moments(self.mean + offset, self.deviation)

    def clipped_mean(
        self, low: float | Float[Tensor, "channels"] = 0.0, high: float | Float[Tensor, "channels"] = math.inf
    ) -> Float[Tensor, "channels"]:
        """The mean of min(max(x, low), high) for Gaussian x; the bounds may be infinite or differ by channel.

        Source: Nagel 2019 (Data-free quantization), appendix; with a = (low - mean) / deviation and b likewise,
        E = deviation (phi(a) - phi(b)) + mean (Phi(b) - Phi(a)) + low Phi(a) + high (1 - Phi(b)).
        """
        lows = torch.as_tensor(low, dtype=torch.float64).expand_as(self.mean)
        highs = torch.as_tensor(high, dtype=torch.float64).expand_as(self.mean)
        width = self.deviation.clamp_min(1e-300)
        a, b = (lows - self.mean) / width, (highs - self.mean) / width
        inside = width * (_density(a) - _density(b)) + self.mean * (_below(b) - _below(a))
        found = inside + _weighed(lows, _below(a)) + _weighed(highs, _below(-b))
        constant = torch.minimum(torch.maximum(self.mean, lows), highs)
        return torch.where(self.deviation > 0, found, constant)


def scaled_by_site(moments: dict[str, Moments], site: Site, scale: Float[Tensor, "channels"]) -> dict[str, Moments]:
    """All moments after the site's channels are divided by `scale`."""
    if site.value not in moments:
        return moments
    return moments | {site.value: moments[site.value].scaled(1 / scale)}


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _below(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _weighed(bound: Tensor, share: Tensor) -> Tensor:
    """bound * share, and zero where the bound is infinite (its share is zero then)."""
    return torch.where(torch.isfinite(bound), bound, 0.0) * share
