"""How far quantized language models are from the original: divergence of their next-token distributions.

Perplexity says how well a model predicts a text; the Kullback-Leibler divergence from the original's
distribution says how much of the original is left, position by position, whatever the text. Both models
run in float32 over the same windows of the text. One JSON line a candidate:

    python benchmarks/kl.py ORIGINAL_DIR CANDIDATE_DIR [CANDIDATE_DIR ...] --text TEXT.txt

``kl_mean`` is in nats over all predicted positions, ``kl_p999`` is its 99.9th percentile over positions,
``top1_agreement`` the share of positions where both models find the same token most likely. Needs torch
and transformers only, so that any ordinary Hugging Face folder can be scored, whoever wrote it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def text_windows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[list[int]]:
    """The text, opened by the start token if there is one, as windows of at most ``length`` tokens.

    A window begins with the last token of the window before it, so that every token but the very first is
    predicted exactly once.
    """
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        tokens = [tokenizer.bos_token_id, *tokens]
    stride = length - 1
    return [tokens[start : start + length] for start in range(0, len(tokens) - 1, stride)]


def padded_batches(windows: Sequence[list[int]], size: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Token numbers [windows, longest] and the true lengths, ``size`` windows at a time.

    Short windows are filled up with token 0 on the right, which a causal model never looks at.
    """
    for start in range(0, len(windows), size):
        batch = windows[start : start + size]
        longest = max(map(len, batch))
        yield torch.tensor([row + [0] * (longest - len(row)) for row in batch]), [len(row) for row in batch]


@dataclass(slots=True)
class Scores:
    """What is summed up over positions; each entry covers the predicted positions of one window."""

    loss_original: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    divergence: list[Tensor] = field(default_factory=list)
    agreement: list[Tensor] = field(default_factory=list)

    def add(self, original: Tensor, candidate: Tensor, targets: Tensor) -> None:
        """Count one window: logits [positions, vocabulary] of both models and the true next tokens."""
        # A divergence near 1e-3 is a small difference of sums over the vocabulary: float64 keeps its digits.
        log_p = original.double().log_softmax(-1)
        log_q = candidate.double().log_softmax(-1)
        self.loss_original.append(-log_p.gather(-1, targets[:, None])[:, 0])
        self.loss.append(-log_q.gather(-1, targets[:, None])[:, 0])
        self.divergence.append((log_p.exp() * (log_p - log_q)).sum(-1))
        self.agreement.append(log_p.argmax(-1) == log_q.argmax(-1))

    def summary(self) -> dict[str, float]:
        divergence = torch.cat(self.divergence)
        return {
            "perplexity_original": math.exp(torch.cat(self.loss_original).mean().item()),
            "perplexity": math.exp(torch.cat(self.loss).mean().item()),
            "kl_mean": divergence.mean().item(),
            "kl_p999": divergence.quantile(0.999).item(),
            "top1_agreement": torch.cat(self.agreement).double().mean().item(),
        }


@torch.inference_mode()
def compare(original: PreTrainedModel, candidate: PreTrainedModel, windows: Sequence[list[int]]) -> Scores:
    """Scores of the candidate against the original over all windows, eight at a time."""
    scores = Scores()
    for tokens, lengths in padded_batches(windows, 8):
        logits = original(tokens, use_cache=False).logits, candidate(tokens, use_cache=False).logits
        for row, length in enumerate(lengths):
            predicted = length - 1
            scores.add(logits[0][row, :predicted], logits[1][row, :predicted], tokens[row, 1:length])
    return scores


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Divergence of quantized models from the original.")
    parser.add_argument("original", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text file to score on")
    parser.add_argument("--chars", type=int, default=200_000, help="characters of the text to use")
    parser.add_argument("--length", type=int, default=512, help="tokens a window")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")[: arguments.chars]
    windows = text_windows(AutoTokenizer.from_pretrained(arguments.original), text, arguments.length)
    original = load(arguments.original)
    for folder in arguments.candidates:
        summary = compare(original, load(folder), windows).summary()
        print(json.dumps({"candidate": str(folder), **summary}), flush=True)


if __name__ == "__main__":
    main()
