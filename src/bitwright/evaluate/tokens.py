"""What is measured at every predicted token, and the figures that are made of it.

With p the original's next-token distribution and q the artifact's: the two cross entropies -log p(t) and -log q(t) of
the token t that came, the divergence KL(p||q) = sum p (log p - log q) in nats, and whether both rank the same token
first. The divergence compares two distributions and not two samples of one, so it needs far fewer tokens than
perplexity does to see the same damage. Everything is float64 from the logits on: the divergence of a good artifact is a
difference in the fifth digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

TAIL = 0.999  # kl_p999 is this quantile of the tokens' divergences
MOST = 700.0  # nats per token that a perplexity is made of at most: its e-fold is the last that JSON can hold


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Per predicted token, in the order of the text: losses and divergence in nats, agreement 0 or 1."""

    original: Float[Tensor, " tokens"]
    rounded: Float[Tensor, " tokens"]
    divergence: Float[Tensor, " tokens"]
    agrees: Float[Tensor, " tokens"]


@final
@dataclass(frozen=True, slots=True)
class Figures:
    """What is reported, of all windows or of a resample of them."""

    perplexity: float
    perplexity_original: float
    perplexity_increase: float
    kl_mean: float
    kl_p999: float
    top1_agreement: float


def compare_logits(
    original: Float[Tensor, "rows tokens vocabulary"],
    rounded: Float[Tensor, "rows tokens vocabulary"],
    targets: Int64[Tensor, "rows tokens"],
) -> Float[Tensor, "4 rows tokens"]:
    """Both losses, divergence and agreement, float64, as in Tokens."""
    agrees = (original.argmax(-1) == rounded.argmax(-1)).double()
    log_p, log_q = original.double().log_softmax(-1), rounded.double().log_softmax(-1)
    losses = [-log.gather(-1, targets[..., None])[..., 0] for log in (log_p, log_q)]
    divergence = log_q.neg_().add_(log_p).mul_(log_p.exp_()).sum(-1)
    return torch.stack([*losses, divergence, agrees])


class Summary:
    """Sums and ranks of the tokens by window, so that figures of any resample of windows cost little."""

    def __init__(self, tokens: Tokens, predicted: Int64[Tensor, " windows"]) -> None:
        """`predicted`: how many tokens each window has."""
        self.windows = len(predicted)
        window = torch.repeat_interleave(torch.arange(self.windows), predicted)
        columns = [torch.ones_like(tokens.original), tokens.original, tokens.rounded, tokens.divergence, tokens.agrees]
        rows = torch.stack(columns, dim=1)
        self._sums = torch.zeros((self.windows, len(columns)), dtype=torch.float64).index_add_(0, window, rows)
        self._ranked, order = tokens.divergence.sort()
        self._window_of_rank = window[order]

    def figures(self, counts: Int64[Tensor, " windows"]) -> Figures:
        """The figures of a text that has each window as often as `counts` says."""
        total, original, rounded, divergence, agrees = (counts.double() @ self._sums).tolist()
        before, after = (math.exp(min(loss / total, MOST)) for loss in (original, rounded))
        tail = self._quantile(counts)
        return Figures(after, before, after - before, divergence / total, tail, agrees / total)

    def _quantile(self, counts: Int64[Tensor, " windows"]) -> float:
        """The quantile TAIL of the divergences, between two ranks by linear interpolation."""
        ends = counts[self._window_of_rank].cumsum(0)  # a token seen n times takes n ranks, and these are where it ends
        place = TAIL * (int(ends[-1]) - 1)
        ranks = torch.tensor([math.floor(place), math.ceil(place)])
        low, high = self._ranked[torch.searchsorted(ends, ranks, right=True)].tolist()
        return float(low + (high - low) * (place - math.floor(place)))
