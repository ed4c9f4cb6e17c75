"""Loads a checkpoint with transformers and lets it write."""

from __future__ import annotations

from pathlib import Path

import torch


def continue_text(folder: Path, prompt: str, tokens: int, seed: int = 0) -> str:
    """The prompt and `tokens` more tokens, sampled with a fixed seed; needs transformers (the extra `hf`)."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ValueError('generating text needs transformers: pip install "bitwright[hf]"') from error
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(seed)
    with torch.inference_mode():
        written = model.generate(
            **start,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=0.7,
            top_k=40,
            pad_token_id=tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(written[0], skip_special_tokens=True))
