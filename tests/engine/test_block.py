"""A block whose activations overflow is named, with the row that did it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from bitwright.quantize import Resources, quantize
from bitwright.store.batches import Batches
from engine.tiny import RECIPE, token_rows
from store.small_models import GROUPED

# type -> a number close to its largest, and weights that make a block add enough to pass it
EDGES = {torch.float16: (6.5e4, 2e4), torch.bfloat16: (3.3e38, 1e38)}


def edgy(folder: Path, dtype: torch.dtype) -> Path:
    """A model that overflows in its second block where word 7 ends a row, and nowhere else."""
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**GROUPED), dtype=torch.float32)
    for parameter in whole.parameters():
        parameter.data.normal_(0, 0.1)
    whole.model.embed_tokens.weight.data[7] = EDGES[dtype][0] * torch.tensor([1.0, -1.0]).repeat(16)
    whole.model.layers[0].self_attn.o_proj.weight.data.zero_()
    whole.model.layers[0].mlp.down_proj.weight.data.zero_()
    whole.model.layers[1].self_attn.o_proj.weight.data.fill_(0.0)[:, :8] = EDGES[dtype][1]
    whole.model.layers[1].input_layernorm.weight.data.fill_(1.0)
    whole.model.layers[1].mlp.down_proj.weight.data.zero_()
    whole.to(dtype).save_pretrained(folder)
    return folder


def rows_with_word_7_at_the_end_of(row: int) -> Batches:
    rows = token_rows().rows.clone()
    rows[rows == 7] = 8
    rows[row, -1] = 7
    return Batches(rows, 2, f"7 in {row}")


@pytest.mark.parametrize(("dtype", "row"), [(torch.float16, 4), (torch.float16, 19), (torch.bfloat16, 4)])
def test_an_overflow_names_the_block_and_the_row(dtype: torch.dtype, row: int, tmp_path: Path) -> None:
    source = edgy(tmp_path / "model", dtype)
    message = rf"^model\.layers\.1: its output for calibration row {row} is not finite; .* \(--compute float32\)$"
    with pytest.raises(ValueError, match=message):
        quantize(source, RECIPE, tmp_path / "out", rows_with_word_7_at_the_end_of(row), Resources(dtype))
    assert (tmp_path / "out" / "blocks" / "00000.json").is_file()
    assert not (tmp_path / "out" / "blocks" / "00001.json").exists()


def test_what_overflows_in_float16_does_not_in_float32(tmp_path: Path) -> None:
    source = edgy(tmp_path / "model", torch.float16)
    artifact = quantize(source, RECIPE, tmp_path / "out", rows_with_word_7_at_the_end_of(4), Resources(torch.float32))
    assert len(artifact.manifest["blocks"]) == 2
