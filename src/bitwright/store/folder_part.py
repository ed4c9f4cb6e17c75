"""A folder of models, and the part of it that is meant: `FOLDER`, or `FOLDER:part`.

Two kinds of folders hold more than one network: that of a model with an encoder and a decoder, and that of a diffusion
pipeline, whose model_index.json names its models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import final

from bitwright.store.hf_config import read_fields
from bitwright.store.source_error import SourceError

INDEX = "model_index.json"
AUTOENCODERS = ("Autoencoder", "AsymmetricAutoencoder", "VQModel")  # how the classes' names begin


class Part(Enum):
    """What of a model with an encoder and a decoder is one network; the value is what stands behind the folder."""

    ENCODER = "encoder"
    DECODER = "decoder"
    WITH_PAST = "decoder_with_past"


@final
@dataclass(frozen=True, slots=True)
class PipelinePart:
    """One model of a diffusion pipeline: its name among the parts, its folder's, and the package that its class is in.

    Of an autoencoder, `decodes`, the part is what makes a picture of a latent one.
    """

    name: str
    folder: str
    package: str
    decodes: bool

    @property
    def is_repeated(self) -> bool:
        """Whether one picture takes many calls of it, one for each step of the diffusion."""
        return self.package == "diffusers" and not self.decodes


@final
@dataclass(frozen=True, slots=True)
class FolderPart:
    """A folder, and the part of its model that is meant; None for the model as it is called."""

    folder: Path
    part: Part | PipelinePart | None = None

    @classmethod
    def named(cls, name: str) -> FolderPart | None:
        """What a name stands for: None unless a folder of that name is there, with or without a part behind a colon.

        Raises SourceError for a pipeline without a part that it has.
        """
        before, _, part = name.rpartition(":")
        folder = Path(name if Path(name).is_dir() else before or name)
        if (folder / INDEX).is_file():
            known = {one.name: one for one in pipeline_parts(folder)}
            if part in known and folder == Path(before):
                return cls(folder, known[part])
            names = ", ".join(f"{folder}:{one}" for one in known) or f"those in {folder}, where none is"
            raise SourceError(f"{name}: a diffusion pipeline holds several models; give one of {names}")
        if folder == Path(name):
            return cls(folder) if folder.is_dir() else None
        parts = {one.value: one for one in Part}
        is_model = (folder / "config.json").is_file()
        return cls(folder, parts[part]) if is_model and part in parts else None


def pipeline_parts(folder: Path) -> Sequence[PipelinePart]:
    """The models in a folder that its model_index.json names. Raises SourceError for a damaged index."""
    found = []
    for name, named in read_fields(folder / INDEX).items():
        if not (folder / name / "config.json").is_file():
            continue  # a tokenizer or a schedule, a setting, or a model that was left out
        match named:
            case [str(package), str(kind)]:
                decodes = kind.startswith(AUTOENCODERS)
                found.append(PipelinePart(f"{name}_decoder" if decodes else name, name, package, decodes))
    return found
