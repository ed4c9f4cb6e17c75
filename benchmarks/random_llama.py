"""A Llama checkpoint of any shape with random weights: for timings and memory, never for quality.

Weights are normal with deviation 0.02 in bfloat16, norms are one, embeddings are not tied. Speed and memory
of weight quantization depend on shapes, not on values, so a few layers with the widths of a 7B model stand
for the real one. A tokenizer can be copied along; its token numbers must only be below ``--vocab``.

    python benchmarks/random_llama.py --hidden 4096 --intermediate 11008 --layers 2 --heads 32 \
        --kv-heads 32 --vocab 32000 --positions 2048 --tokenizer MODEL_DIR -o DIR
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")


def random_llama(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A model in bfloat16 that never existed in another type, so that it takes two bytes a weight."""
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)


def copy_tokenizer(source: Path, target: Path) -> None:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise ValueError(f"{source} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
    for path in found:
        # Without the permissions: the source may be read-only.
        shutil.copyfile(path, target / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Llama checkpoint with random weights.")
    for name in ("hidden", "intermediate", "layers", "heads", "kv-heads", "vocab", "positions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="folder to copy the tokenizer from")
    parser.add_argument("--shard", default="2GB", help="largest file, as save_pretrained reads it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = LlamaConfig(
        hidden_size=arguments.hidden,
        intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads,
        vocab_size=arguments.vocab,
        max_position_embeddings=arguments.positions,
        initializer_range=0.02,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    model = random_llama(config, arguments.seed)
    model.save_pretrained(arguments.out, max_shard_size=arguments.shard)
    if arguments.tokenizer is not None:
        copy_tokenizer(arguments.tokenizer, arguments.out)
    print(f"{arguments.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
