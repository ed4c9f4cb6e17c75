"""How far the figures would move on another text of the same kind: 95% intervals by resampling windows.

Tokens of one window depend on each other, windows hardly do, so whole windows are drawn with replacement and every
figure is computed anew, of both models on the same draw. That pairing is why the interval of the perplexity's increase
is much narrower than those of the two perplexities: what makes a text hard is hard for both.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import astuple, fields

import torch

from bitwright.evaluate.tokens import Figures, Summary

RESAMPLES = 2000
LEVEL = 0.95


def intervals(summary: Summary, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Figure -> its interval; empty where there is one window only, which says nothing about others."""
    if summary.windows < 2:
        return {}
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(resamples):
        picked = torch.randint(summary.windows, (summary.windows,), generator=generator)
        drawn.append(astuple(summary.figures(torch.bincount(picked, minlength=summary.windows))))
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(drawn, dtype=torch.float64), ends, dim=0).tolist()
    return {field.name: (low[i], high[i]) for i, field in enumerate(fields(Figures))}
