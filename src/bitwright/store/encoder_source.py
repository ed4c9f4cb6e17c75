"""A Hugging Face folder whose model reads a whole text at once, as a source: sentence encoders and the like.

The model is built by the transformers library itself from the folder's own files, never from code in the folder, and
exported to ONNX with the inputs that its tokenizer makes, batch and length free. What identifies the source is its
configuration and its weight files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitwright.store.hf_config import LIBRARY_ERRORS, check_not_custom, read_config, transformers_library
from bitwright.store.module_source import source_of
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError
from bitwright.store.weight_files import find_weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLE_TEXTS = ("An encoder reads this sentence.", "And this one, too, which is a little longer.")
LOADING_ERRORS = (OSError, *LIBRARY_ERRORS)


def is_causal(folder: Path) -> bool:
    """Whether the folder's configuration names a model that continues a text, quantized block by block instead."""
    known = transformers_library().models.auto.modeling_auto
    causal, multimodal = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    names = {*causal.values(), *multimodal.values()}
    return bool(names & set(read_config(folder).architectures or ()))


def encoder_source(model_folder: Path, folder: Path) -> OnnxSource:
    """The network of the encoder in `model_folder`, in float32, exported to `folder`/model.onnx.

    Its outputs have the names that transformers gives them (`last_hidden_state` ...). Raises SourceError for a folder
    that cannot be used: no tokenizer, quantized already, weights missing, code of its own, or not to be exported.
    """
    config = read_config(model_folder)
    digest = encoder_digest(model_folder)
    tokenizer = read_tokenizer(model_folder)
    model = _load(model_folder)
    check_not_custom(config, "AutoModel", type(model).__name__, model_folder / "config.json")
    source = source_of(model, str(model_folder), _example(tokenizer), folder)
    return replace(source, made_from=digest)


def encoder_digest(model_folder: Path) -> str:
    """What identifies an encoder as a source: its configuration and its weight files. Reads every byte."""
    files = find_weight_files(model_folder, allow_pickle=False)
    return files.digest((model_folder / "config.json").read_bytes())


def read_tokenizer(model_folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; SourceError if it has none that transformers can load without extra code."""
    auto = transformers_library().AutoTokenizer
    try:
        found: PreTrainedTokenizerBase = auto.from_pretrained(
            str(model_folder), local_files_only=True, trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        raise SourceError(f"{model_folder}: no usable tokenizer ({error}); add its files") from error
    return found


def _load(model_folder: Path) -> nn.Module:
    """The model without a head, in eval mode, all its weights from the folder."""
    auto = transformers_library().AutoModel
    try:
        with _no_progress_bar():
            loaded: tuple[nn.Module, dict[str, Any]] = auto.from_pretrained(
                str(model_folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except LOADING_ERRORS as error:
        raise SourceError(f"{model_folder}: transformers cannot load the model ({error}); check the folder") from error
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise SourceError(
            f"{model_folder}: the weight files lack {missing[0]} and {len(missing) - 1} more that the model needs; "
            f"fetch the folder again, or export the part that you use with module:factory"
        )
    return model.eval()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers from writing to the terminal while it loads."""
    logs = transformers_library().utils.logging
    was_on, level = logs.is_progress_bar_enabled(), logs.get_verbosity()
    logs.disable_progress_bar()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if was_on:
            logs.enable_progress_bar()


def _example(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Tensor]:
    """What the tokenizer makes of two short texts, padded to the longer one."""
    encoded = [tokenizer(text) for text in EXAMPLE_TEXTS]
    length = max(len(one["input_ids"]) for one in encoded)
    return {
        name: torch.tensor([[*one[name], *[one[name][-1]] * (length - len(one[name]))] for one in encoded])
        for name in encoded[0]
    }
