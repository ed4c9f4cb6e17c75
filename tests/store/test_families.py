"""Transformers of several families, from small random configurations: one answer from the module, its ONNX file run in
ONNX Runtime, and its nodes interpreted, for another batch and length than those of the example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from bitwright.execute.interpret import can_interpret, interpret
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.torch_module import export_module

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WHISPER = {
    **{f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")},
    "vocab_size": 99,
    "d_model": 32,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 30,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}


def ids(rows: int, length: int) -> Tensor:
    return torch.arange(rows * length).reshape(rows, length) % 90 + 5


def mask(rows: int, length: int) -> Tensor:
    return (torch.arange(length) < length - torch.arange(rows)[:, None]).long()


def encoder() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=99, **SIZES))


def vision() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **SIZES))


def caption() -> nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=99, max_position_embeddings=20, **SIZES, bos_token_id=1, eos_token_id=2
    )
    return transformers.CLIPTextModel(config)


def speech() -> nn.Module:
    return transformers.WhisperModel(transformers.WhisperConfig(**WHISPER))


def mobile() -> nn.Module:
    return transformers.MobileNetV2Model(transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.35))


Inputs = Callable[[int, int], dict[str, Tensor]]
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "encoder": (encoder, lambda rows, length: {"input_ids": ids(rows, length), "attention_mask": mask(rows, length)}),
    "vision": (vision, lambda rows, _: {"pixel_values": torch.randn(rows, 3, 16, 16)}),
    "caption": (caption, lambda rows, length: {"input_ids": ids(rows, length)}),
    "speech": (
        speech,
        lambda rows, length: {"input_features": torch.randn(rows, 8, 40), "decoder_input_ids": ids(rows, length)},
    ),
    "mobile": (mobile, lambda rows, _: {"pixel_values": torch.randn(rows, 3, 32, 32)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_same_everywhere(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = FAMILIES[family]
    module = make().eval()
    source = OnnxSource.open(export_module(module, inputs(2, 6), tmp_path / "model.onnx").path)
    network = source.network()
    assert all(map(can_interpret, network.nodes))
    given = inputs(3, 9)
    with torch.no_grad():
        expected = next(iter(module(**given).values()))
    values = OnnxRunner(source).run(given)
    output = network.outputs[0]
    torch.testing.assert_close(values[output], expected, rtol=1e-3, atol=1e-4)
    found = interpret(network.nodes, source.read(network.constants) | given, [output])
    torch.testing.assert_close(found[output], expected, rtol=1e-3, atol=1e-4)
