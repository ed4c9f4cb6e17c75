"""Networks of known families from small random configurations.

`CONFIGS` has by name a function that makes a module in eval mode and one that makes a batch of its inputs, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from store.diffusion import unet

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


class Denoiser(nn.Module):
    """SDXL's U-Net, which reads a text's summary and a picture's sizes, too."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, text_embeds: Tensor, time_ids: Tensor
    ) -> Tensor:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        made = self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)
        noise: Tensor = made[0]
        return noise


def sdxl() -> Made:
    settings = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "use_linear_projection": True}
    sizes = {"projection_class_embeddings_input_dim": 10 + 6 * 4, "transformer_layers_per_block": (1, 2)}

    def noisy(count: int) -> dict[str, Tensor]:
        read = {"encoder_hidden_states": torch.randn(count, 7, 24), "text_embeds": torch.randn(count, 10)}
        steps, places = torch.randint(0, 1000, (count,)), torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(count, 1)
        return {"sample": torch.randn(count, 4, 8, 8), "timestep": steps, **read, "time_ids": places}

    return Denoiser(unet(cross_attention_dim=24, **settings, **sizes)).eval(), noisy


def lively(model: nn.Module) -> nn.Module:
    """Weights three times as large as a new model's, which hands on little but its biases."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.eval()


CONFIGS: dict[str, Callable[[], Made]] = {"vit": vit, "clip_text": clip_text, "whisper": whisper, "sdxl": sdxl}
