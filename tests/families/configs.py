"""Networks of known families from small random configurations, and a U-Net of the build of SDXL's written out.

`CONFIGS` has by name a function that makes a module in eval mode and one that makes a batch of its inputs, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, Callable[[int], dict[str, Tensor]]]


class Named(nn.Module):
    """Only these outputs of a model that gives out more; `names` are the inputs in the order of `forward`."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def _of(self, **inputs: Tensor) -> dict[str, Tensor]:
        made: Any = self.model(**inputs)
        return {name: getattr(made, name) for name in self.outputs}


class Pictures(Named):
    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return self._of(pixel_values=pixel_values)


class Words(Named):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return self._of(input_ids=input_ids, attention_mask=attention_mask)


class Transcript(Named):
    def forward(self, input_features: Tensor, decoder_input_ids: Tensor) -> dict[str, Tensor]:
        return self._of(input_features=input_features, decoder_input_ids=decoder_input_ids)


def vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=5, **sizes))
    return Pictures(lively(model), ("logits",)), lambda count: {"pixel_values": torch.randn(count, 3, 32, 32)}


def clip_text() -> Made:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 99}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=100, max_position_embeddings=16, **sizes, **ends))

    def words(count: int) -> dict[str, Tensor]:
        ids = torch.randint(2, 99, (count, 12))
        ids[:, -1] = 99
        return {"input_ids": ids, "attention_mask": torch.ones(count, 12, dtype=torch.long)}

    return Words(lively(model), ("last_hidden_state", "pooler_output")), words


def whisper() -> Made:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    parts = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in _WHISPER.items()}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    places = {"max_source_positions": 30, "max_target_positions": 20, "use_cache": False}
    config = WhisperConfig(vocab_size=100, num_mel_bins=16, d_model=32, **parts, **ends, **places)

    def sound(count: int) -> dict[str, Tensor]:
        return {"input_features": torch.randn(count, 16, 60), "decoder_input_ids": torch.randint(3, 99, (count, 6))}

    return Transcript(lively(WhisperForConditionalGeneration(config)), ("logits",)), sound


_WHISPER = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


class Attend(nn.Module):
    """Attention over a sequence's own vectors, or over a text's."""

    def __init__(self, width: int, read: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(size, width, bias=False) for size in (width, read, read))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        q, k, v = (layer(y).unflatten(-1, (4, -1)).transpose(1, 2) for layer, y in self._parts(x, read))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _parts(self, x: Tensor, read: Tensor) -> tuple[tuple[nn.Linear, Tensor], ...]:
        return (self.q, x), (self.k, read), (self.v, read)


class Spatial(nn.Module):
    """A transformer block over the positions of a picture: attention, attention to a text, gated feed-forward."""

    def __init__(self, width: int, text: int) -> None:
        super().__init__()
        self.norm, self.into, self.back = nn.GroupNorm(4, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.inner, self.cross = Attend(width, width), Attend(width, text)
        self.wide, self.narrow = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        y = self.into(self.norm(x).flatten(2).transpose(1, 2))
        y = y + self.inner(self.norms[0](y), self.norms[0](y))
        y = y + self.cross(self.norms[1](y), text)
        value, gate = self.wide(self.norms[2](y)).chunk(2, -1)
        y = self.back(y + self.narrow(value * F.gelu(gate)))
        return x + y.transpose(1, 2).reshape(x.shape)


class ResBlock(nn.Module):
    """Two convolutions behind group norms; what the step says is added in between."""

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.step, self.skip = nn.Linear(step, outputs), nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.step(F.silu(step))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class ConditionedUNet(nn.Module):
    """One level down and up again, conditioned on a step, on a text and on added numbers, as SDXL's U-Net is."""

    def __init__(self, width: int = 16, text: int = 24, step: int = 32) -> None:
        super().__init__()
        self.width = width
        self.steps = nn.Sequential(nn.Linear(width, step), nn.SiLU(), nn.Linear(step, step))
        self.added = nn.Sequential(nn.Linear(10, step), nn.SiLU(), nn.Linear(step, step))
        self.first, self.down = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.block1, self.block2 = ResBlock(width, width, step), ResBlock(width, 2 * width, step)
        self.middle = Spatial(2 * width, text)
        self.block3, self.up = ResBlock(3 * width, width, step), nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm, self.last = nn.GroupNorm(4, width), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, added: Tensor) -> Tensor:
        rates = torch.exp(-9.21 * torch.arange(self.width // 2, device=sample.device) / (self.width // 2))
        angles = timestep[:, None].float() * rates
        step = self.steps(torch.cat([angles.cos(), angles.sin()], 1)) + self.added(added)
        kept = self.block1(self.first(sample), step)
        x = self.middle(self.block2(self.down(kept), step), text)
        x = self.up(F.interpolate(x, scale_factor=2.0))
        return self.last(F.silu(self.norm(self.block3(torch.cat([x, kept], 1), step))))


def sdxl() -> Made:
    def noisy(count: int) -> dict[str, Tensor]:
        steps = torch.randint(0, 1000, (count,))
        more = {"text": torch.randn(count, 7, 24), "added": torch.randn(count, 10)}
        return {"sample": torch.randn(count, 4, 8, 8), "timestep": steps, **more}

    return ConditionedUNet().eval(), noisy


def lively(model: nn.Module) -> nn.Module:
    """Weights three times as large as a new model's, which hands on little but its biases."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.eval()


CONFIGS: dict[str, Callable[[], Made]] = {"vit": vit, "clip_text": clip_text, "whisper": whisper, "sdxl": sdxl}
