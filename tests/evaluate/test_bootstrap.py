from __future__ import annotations

import numpy as np
import torch

from bitwright.evaluate.bootstrap import intervals
from bitwright.evaluate.tokens import Summary, Tokens

WINDOWS, LENGTH = 12, 40


def tokens(windows: int = WINDOWS) -> tuple[Tokens, Summary]:
    """Windows of differing difficulty; the artifact's loss is the original's and a little more."""
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand((windows, 1), generator=generator, dtype=torch.float64) * 3
    original = (hard + torch.rand((windows, LENGTH), generator=generator, dtype=torch.float64)).flatten()
    kl = torch.rand((windows * LENGTH,), generator=generator, dtype=torch.float64) ** 4
    found = Tokens(original, original + kl / 10, kl, (kl < 0.5).double())
    return found, Summary(found, torch.full((windows,), LENGTH))


def test_the_mean_and_the_tail_equal_a_slow_reference() -> None:
    found, summary = tokens()
    generator = torch.Generator().manual_seed(5)
    rows = found.divergence.reshape(WINDOWS, LENGTH).numpy()
    draws = [rows[torch.randint(WINDOWS, (WINDOWS,), generator=generator).numpy()].ravel() for _ in range(300)]
    got = intervals(summary, resamples=300, seed=5)
    means, tails = [draw.mean() for draw in draws], [np.quantile(draw, 0.999) for draw in draws]
    np.testing.assert_allclose(got["kl_mean"], np.percentile(means, [2.5, 97.5]), rtol=1e-12)
    np.testing.assert_allclose(got["kl_p999"], np.percentile(tails, [2.5, 97.5]), rtol=1e-12)


def test_the_increase_is_paired() -> None:
    got = intervals(tokens()[1])
    width = {name: high - low for name, (low, high) in got.items()}
    assert width["perplexity_increase"] < width["perplexity"] / 10


def test_more_windows_make_narrower_intervals() -> None:
    few, many = (intervals(tokens(count)[1])["kl_mean"] for count in (12, 300))
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(100):
        kl = torch.rand((30 * LENGTH,), generator=generator, dtype=torch.float64)
        summary = Summary(Tokens(kl, kl, kl, kl), torch.full((30,), LENGTH))
        low, high = intervals(summary, resamples=200)["kl_mean"]
        hits += low <= 0.5 <= high
    assert hits >= 85


def test_the_seed_alone_decides() -> None:
    summary = tokens()[1]
    assert intervals(summary, 50) == intervals(summary, 50) != intervals(summary, 50, seed=1)
