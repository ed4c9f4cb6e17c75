"""Small random language models, saved as their users would find them."""

from pathlib import Path

import torch
import transformers

SIZES = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
TOLD = {  # blocks are given embeddings of their own beside the stream (Gemma 3n, Gemma 4)
    **GROUPED,
    "head_dim": 8,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 160,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
}
SHARED = {  # the last three blocks have the keys and values of the two before
    **TOLD,
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 3,
}

VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}


def save_with_vision(folder: Path) -> Path:
    """A model that reads text and pictures, of a type that has a class for its text part alone, too."""
    text = {**GROUPED, "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4}
    text |= {"linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "head_dim": 16}
    torch.manual_seed(0)
    config = transformers.Qwen3_5Config(text_config=text, vision_config=VISION)
    transformers.AutoModelForMultimodalLM.from_config(config).save_pretrained(folder)
    return folder


def save_with_layers_for_pictures(folder: Path) -> Path:
    """A model of four layers, of which the second only runs where there is a picture, and a larger part for these."""
    text = {**GROUPED, "num_hidden_layers": 4, "cross_attention_layers": [1]}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 2}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_global_layers": 1}
    vision |= {"attention_heads": 4, "image_size": 28, "patch_size": 14, "max_num_tiles": 4}
    vision |= {"intermediate_layers_indices": [0], "vision_output_dim": 128}
    torch.manual_seed(0)
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=3)
    transformers.AutoModelForMultimodalLM.from_config(config).save_pretrained(folder)
    return folder


def save(folder: Path, config: transformers.PreTrainedConfig, shard: str = "5GB", dtype=torch.float32) -> Path:
    """A model of ``config`` with random weights (norms and biases too) in ``folder``."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    for tensor in [*model.parameters(), *(t for n, t in model.state_dict().items() if "correction" in n)]:
        tensor.data.normal_(0, 0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def reference(folder: Path) -> dict[str, torch.Tensor]:
    """What transformers itself loads."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
