from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.evaluate.tokens import Summary, Tokens, compare_logits


def made(seed: int = 0) -> tuple[Tokens, torch.Tensor]:
    """Tokens of four windows, the last one short."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.tensor([500, 500, 500, 133])
    columns = torch.rand((3, int(predicted.sum())), generator=generator, dtype=torch.float64) ** 3
    agrees = torch.randint(2, (int(predicted.sum()),), generator=generator).double()
    return Tokens(columns[0], columns[1], columns[2], agrees), predicted


def test_measures_equal_their_definitions() -> None:
    logits = torch.randn((2, 2, 3, 11), generator=torch.Generator().manual_seed(0)) * 4
    targets = torch.tensor([[0, 3, 10], [5, 5, 1]])
    got = compare_logits(logits[0], logits[1], targets)
    for place in np.ndindex(2, 3):
        p, q = (np.exp(x[place].double().numpy()) for x in logits)
        p, q = p / p.sum(), q / q.sum()
        target = int(targets[place])
        want = [-np.log(p[target]), -np.log(q[target]), (p * np.log(p / q)).sum(), p.argmax() == q.argmax()]
        np.testing.assert_allclose(got[(slice(None), *place)], want, rtol=1e-10)


def test_a_model_does_not_diverge_from_itself() -> None:
    logits = torch.randn((1, 5, 100), generator=torch.Generator().manual_seed(0)) * 30
    got = compare_logits(logits, logits, torch.zeros((1, 5), dtype=torch.int64))
    assert got[2].abs().max() == 0 and got[3].min() == 1


def test_a_tiny_divergence_is_resolved() -> None:
    logits = torch.randn((1, 1, 4096), generator=torch.Generator().manual_seed(0))
    moved = logits.clone()
    moved[..., 0] += 1e-3
    p = float(logits.double().softmax(-1)[0, 0, 0])
    want = (float(moved[0, 0, 0]) - float(logits[0, 0, 0])) ** 2 / 2 * p * (1 - p)  # second order
    assert float(compare_logits(logits, moved, torch.zeros((1, 1), dtype=torch.int64))[2]) == pytest.approx(
        want, rel=1e-2
    )


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [0, 3, 0, 1], [0, 0, 0, 4], [2, 0, 1, 1]])
def test_figures_of_a_resample_equal_those_of_its_tokens(counts: list[int]) -> None:
    tokens, predicted = made()
    pieces = torch.stack([tokens.original, tokens.rounded, tokens.divergence, tokens.agrees]).split(
        predicted.tolist(), 1
    )
    original, rounded, kl, agrees = torch.cat(
        [p for p, n in zip(pieces, counts, strict=True) for _ in range(n)], 1
    ).numpy()
    got = Summary(tokens, predicted).figures(torch.tensor(counts))
    np.testing.assert_allclose(
        [got.perplexity, got.perplexity_original, got.kl_mean, got.kl_p999, got.top1_agreement],
        [np.exp(rounded.mean()), np.exp(original.mean()), kl.mean(), np.quantile(kl, 0.999), agrees.mean()],
        rtol=1e-12,
    )


def test_a_loss_beyond_all_bounds_is_still_a_number() -> None:
    huge = torch.full((2,), 1e6, dtype=torch.float64)
    figures = Summary(Tokens(huge, huge, huge, huge * 0), torch.tensor([2])).figures(torch.tensor([1]))
    assert np.isfinite(figures.perplexity)
