"""What kind of model the user names, and whole networks of every kind as one sort of source.

`model.onnx` is a network as it is. `package.module:factory` is a PyTorch module, which needs an example of its inputs
to be exported. A Hugging Face folder holds a network for any task, or a causal language model, which is not opened
here: those are quantized block by block from the folder itself. `FOLDER:encoder`, `FOLDER:decoder` and
`FOLDER:decoder_with_past` are parts of a model that has both; `FOLDER:unet`, `FOLDER:text_encoder` and the like are
the models of a diffusion pipeline.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import assert_never

from bitwright.graph.network import Network
from bitwright.store.folder_part import FolderPart, Part, PipelinePart
from bitwright.store.folder_source import folder_digest, folder_source, is_causal
from bitwright.store.hooks import load_hook
from bitwright.store.module_source import Example, build_module, module_digest, module_source
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.part_source import part_digest, part_samples, part_source
from bitwright.store.pipeline_source import pipeline_digest, pipeline_samples, pipeline_source
from bitwright.store.processors import read_processors
from bitwright.store.sample_set import Samples
from bitwright.store.samples import read_samples
from bitwright.store.source_error import SourceError

ALLOWED = (
    "give an .onnx file, a Hugging Face folder (or one of its parts, FOLDER:encoder, FOLDER:decoder, "
    "FOLDER:decoder_with_past; of a diffusion pipeline FOLDER:unet or another), or package.module:factory for a "
    "PyTorch module"
)


class ModelKind(Enum):
    """What a model's name stands for."""

    ONNX = "an ONNX file"
    MODULE = "a PyTorch module"
    FOLDER = "a network in a Hugging Face folder"
    CAUSAL = "a causal language model in a Hugging Face folder"


def kind_of(name: str) -> ModelKind:
    """What `name` stands for: what lies there if something does, else what it looks like. Raises SourceError."""
    path, place = Path(name), FolderPart.named(name)
    if place is not None:
        return ModelKind.CAUSAL if place.part is None and is_causal(path) else ModelKind.FOLDER
    if path.suffix.lower() == ".onnx":
        return ModelKind.ONNX
    if path.exists():
        raise SourceError(f"{name}: a file that does not end in .onnx; {ALLOWED}")
    module, colon, factory = name.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
        return ModelKind.MODULE
    raise SourceError(f"{name}: no such file or folder; {ALLOWED}")


def open_network(name: str, folder: Path, example: Example | None = None) -> OnnxSource:
    """The network that `name` stands for; a module or a folder's model is exported to `folder`/model.onnx.

    `example`: inputs to trace a module with. Raises SourceError, and HookError for a factory that cannot be used.
    """
    kind = kind_of(name)
    match kind:
        case ModelKind.ONNX:
            return OnnxSource.open(Path(name))
        case ModelKind.FOLDER:
            return _folder_source(_place(name), folder)
        case ModelKind.MODULE:
            if example is None:
                raise SourceError(
                    f"{name}: a module is exported with an example of its inputs; give a --loader, whose first batch "
                    f"is taken, or calibration samples in an .npz or .npy file"
                )
            return module_source(name, example, folder)
        case ModelKind.CAUSAL:
            raise SourceError(_refusal(name))
    assert_never(kind)


def network_digest(name: str) -> str:
    """The digest of the source that `name` stands for, as `open_network(...).digest()` gives it, without an export."""
    kind = kind_of(name)
    match kind:
        case ModelKind.ONNX:
            return OnnxSource.open(Path(name)).digest()
        case ModelKind.FOLDER:
            return _folder_digest(_place(name))
        case ModelKind.MODULE:
            return module_digest(build_module(load_hook(name), name))
        case ModelKind.CAUSAL:
            raise SourceError(_refusal(name))
    assert_never(kind)


def read_samples_for(
    model: str, network: Network, path: Path, count: int | None = None, length: int | None = None
) -> Samples:
    """`count` samples (None: all) in files for the network that `model` stands for, which a folder's model prepares.

    `length` is in tokens, for text alone. Raises SamplesError, and SourceError for a folder that cannot prepare them.
    """
    inputs = [network.values[name] for name in network.inputs]
    if kind_of(model) is not ModelKind.FOLDER:
        return read_samples(path, inputs, count, length=length)
    place = _place(model)
    match place.part:
        case Part():
            return part_samples(place.folder, place.part, inputs, path, count, length)
        case PipelinePart():
            return pipeline_samples(place.folder, place.part, inputs, path, count)
    return read_samples(path, inputs, count, read_processors(place.folder, network.inputs), length)


def _folder_source(place: FolderPart, exports: Path) -> OnnxSource:
    match place.part:
        case Part():
            return part_source(place.folder, place.part, exports)
        case PipelinePart():
            return pipeline_source(place.folder, place.part, exports)
    return folder_source(place.folder, exports)


def _folder_digest(place: FolderPart) -> str:
    match place.part:
        case Part():
            return part_digest(place.folder, place.part)
        case PipelinePart():
            return pipeline_digest(place.folder, place.part)
    return folder_digest(place.folder)


def _place(name: str) -> FolderPart:
    found = FolderPart.named(name)
    assert found is not None
    return found


def _refusal(name: str) -> str:
    return (
        f"{name}: {ModelKind.CAUSAL.value}; it is quantized block by block, not as a whole network: take a recipe for "
        "language models, such as w4a16"
    )
