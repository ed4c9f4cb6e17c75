"""A small latent diffusion pipeline with random weights, as the diffusers library saves one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

CHARACTERS = [chr(code) for code in range(33, 127)]
PROMPTS = ["a red cat", "a house by the sea", "an old map"]


def tokenizer(folder: Path) -> Any:
    """CLIP's, whose words are characters."""
    import transformers

    folder.mkdir(parents=True)
    words = [*CHARACTERS, *(f"{one}</w>" for one in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def text_encoder() -> Any:
    import transformers

    count = 2 * len(CHARACTERS) + 2
    ends = {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(vocab_size=count, max_position_embeddings=16, **sizes, **ends)
    return transformers.CLIPTextModel(config).eval()


def unet(**more: Any) -> Any:
    """A U-Net of the build of Stable Diffusion's; `more` are settings beside its sizes."""
    import diffusers

    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **{"cross_attention_dim": 16, "attention_head_dim": 2, **more},
    ).eval()


def autoencoder() -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


def save_pipeline(folder: Path) -> Path:
    """A pipeline that makes pictures of prompts."""
    import diffusers

    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder / "words"),
        unet=unet(),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_noise_pipeline(folder: Path) -> Path:
    """A pipeline that makes pictures of noise alone."""
    import diffusers

    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(net.eval(), diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def with_hook(module: nn.Module, seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]]) -> Any:
    """Notes what a module is called with and what it gives back."""

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append((args, kwargs, output))

    return module.register_forward_hook(note, with_kwargs=True)
