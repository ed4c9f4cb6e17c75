"""A model in a Hugging Face folder as a source: encoders of text, pictures or sound, with the head for their task.

The model is built by the transformers library itself from the folder's own files, never from code in the folder. It is
of the class that `architectures` names, and exported to ONNX with the inputs that the folder's own processors make.
What identifies the source is its configuration and its weight files.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bitwright.store.hf_config import check_not_custom, quiet_transformers, read_config, transformers_library
from bitwright.store.module_source import source_of
from bitwright.store.onnx_proof import CANNOT_RUN
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.processors import LOADING_ERRORS, Processors, read_processors
from bitwright.store.source_error import SourceError
from bitwright.store.weight_files import find_weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NEAR = 1e-3  # of the largest number of an output; two kernels differ by about 1e-6
HEADLESS_MARK = "modules.json"  # what sentence-transformers writes: it takes the model below the head


def is_causal(folder: Path) -> bool:
    """Whether the folder's configuration names a model that continues a text, quantized block by block instead."""
    known = transformers_library().models.auto.modeling_auto
    causal, multimodal = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    names = {*causal.values(), *multimodal.values()}
    return bool(names & set(read_config(folder).architectures or ()))


def folder_source(model_folder: Path, folder: Path) -> OnnxSource:
    """The network of the model in `model_folder`, in float32, exported to `folder`/model.onnx.

    Its outputs have the names that transformers gives them (`logits`, `last_hidden_state` ...). Raises SourceError for
    a folder that cannot be used: nothing that makes its inputs, quantized already, weights missing, code of its own,
    or not to be exported.
    """
    config = read_config(model_folder)
    digest = folder_digest(model_folder)
    model, notes = load_model(config, model_folder)
    takes = inspect.signature(model.forward).parameters
    processors = read_processors(model_folder, takes)
    try:
        source = export_freest(model, str(model_folder), processors, folder)
    except SourceError as error:
        if "decoder_input_ids" not in takes:
            raise
        raise SourceError(
            f"{error} ({type(model).__name__} has an encoder and a decoder, and writes one token after the other: give "
            f"its parts, {model_folder}:encoder, {model_folder}:decoder and {model_folder}:decoder_with_past)"
        ) from error
    return replace(source, notes=(*notes, *source.notes), made_from=digest)


def export_freest(model: nn.Module, name: str, processors: Processors, folder: Path) -> OnnxSource:
    """A model, called `name` in errors, exported with what processors make as its example.

    Pictures of any shape and sounds of any length are taken, too, if what is exported is the same for another one.
    """
    takes = inspect.signature(model.forward).parameters
    example, odd = (_given(processors.example(is_odd), takes) for is_odd in (False, True))
    is_free = processors.keep_shapes()
    source = source_of(model, name, example, folder, is_free)
    if not is_free or _agrees(model, source, odd):
        return source
    source = source_of(model, name, example, folder)
    note = "exported for inputs of one size: for others the exported network is not the same"
    return replace(source, notes=(note, *source.notes))


def _given(made: Mapping[str, Tensor], takes: Collection[str]) -> dict[str, Tensor]:
    """Of what processors made, what the model takes."""
    return {name: values for name, values in made.items() if name in takes}


def _agrees(model: nn.Module, source: OnnxSource, feed: Mapping[str, Tensor]) -> bool:
    """Whether the exported network computes what the model does for these inputs, of another size than its example."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure is an answer here
    try:
        session = onnxruntime.InferenceSession(str(source.path), options, providers=["CPUExecutionProvider"])
        read = {one.name for one in session.get_inputs()}
        found = session.run(None, {name: values.numpy() for name, values in feed.items() if name in read})
    except CANNOT_RUN:
        return False
    with torch.no_grad():
        expected = [leaf for leaf in tree_leaves(model(**feed)) if isinstance(leaf, Tensor)]
    return all(_is_close(one, other.numpy()) for one, other in zip(found, expected, strict=True))


def _is_close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and np.allclose(one, other, NEAR, NEAR * float(abs(other).max(initial=0)))


def folder_digest(model_folder: Path) -> str:
    """What identifies such a model as a source: its configuration and its weight files. Reads every byte."""
    files = find_weight_files(model_folder, allow_pickle=False)
    return files.digest((model_folder / "config.json").read_bytes())


def load_model(config: PreTrainedConfig, model_folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model in eval mode, all its weights from the folder, and what is to be said about it.

    It has no head where `architectures` names none, where the weight files lack it, and where it only served training.
    """
    named = _named_class(config, model_folder)
    if named is not None:
        model, missing = _loaded(named, model_folder)
        if not missing:
            return model, (f"{model_folder} holds a {named.__name__}",)
    model, lacks = _loaded(transformers_library().AutoModel, model_folder)
    check_not_custom(config, "AutoModel", type(model).__name__, model_folder / "config.json")
    if lacks:
        raise SourceError(
            f"{model_folder}: the weight files lack {lacks[0]} and {len(lacks) - 1} more that the model needs; "
            f"fetch the folder again, or export the part that you use with module:factory"
        )
    if named is None:
        return model, ()
    return model, (f"{type(model).__name__}, because the weight files lack what {named.__name__} needs ({missing[0]})",)


def _named_class(config: PreTrainedConfig, model_folder: Path) -> Any | None:
    """The library's class that the folder names for its task; None for none, or one whose head is not for use."""
    library = transformers_library()
    name = next(iter(config.architectures or ()), "")
    found = getattr(library, name, None)
    if not isinstance(found, type) or not issubclass(found, library.PreTrainedModel):
        return None
    is_headless = name.endswith("ForPreTraining") or (model_folder / HEADLESS_MARK).is_file()
    return None if is_headless else found


def _loaded(auto: Any, model_folder: Path) -> tuple[nn.Module, list[str]]:
    """A class's model from the folder, and the names of weights that the folder lacks."""
    try:
        with quiet_transformers():
            loaded: tuple[Any, dict[str, Any]] = auto.from_pretrained(
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
    if "use_cache" in model.config.to_dict():
        model.config.use_cache = False  # keys and values for a next call are no output of a network
    return model.eval(), sorted(told["missing_keys"])
