"""What the user gives for a whole network: the model, and samples for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.recipe.network import NetworkRecipe
from bitwright.recipe.network_text import load_network_recipe
from bitwright.store.arrays import example_in
from bitwright.store.artifact import ArtifactError
from bitwright.store.hooks import load_hook
from bitwright.store.loader import Loaded, run_loader
from bitwright.store.network_artifact import EXPORTED, read_manifest
from bitwright.store.network_source import ModelKind, kind_of, network_digest, open_network, read_samples_for
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples


@dataclass(frozen=True, slots=True)
class Asked:
    """A preset's name or a TOML file, the target, nodes to keep in float, and decibels that the outputs shall have."""

    name: str
    target: str | None = None
    keep: tuple[str, ...] = ()
    min_sqnr: float | None = None

    def recipe(self) -> NetworkRecipe:
        """All of it as a recipe; ValueError where something is not known."""
        return load_network_recipe(self.name, self.target, self.keep, self.min_sqnr)


@dataclass(frozen=True, slots=True)
class Given:
    """A model's name, and where samples for it come from: files or a function, how many, tokens in a text."""

    model: str
    files: Path | None = None
    loader: str | None = None
    count: int | None = None
    length: int | None = None

    @property
    def has_samples(self) -> bool:
        """Whether there are any."""
        return self.files is not None or self.loader is not None

    def open(self, exports: Path, needs_samples: bool = True) -> tuple[OnnxSource, Samples | None]:
        """The source and its samples; a module or a folder's model is exported to the folder `exports`.

        None for samples that were not given; ValueError where they are needed.
        """
        if needs_samples and not self.has_samples:
            raise ValueError(
                "static activations need samples: give --calibration FILE_OR_DIR or --loader pkg.mod:function, or a "
                "recipe that can do without: int8_dynamic, w4a16, w8a16"
            )
        loaded = self._loaded()
        kind, example = kind_of(self.model), None
        if kind is ModelKind.MODULE:
            example = loaded.example if loaded is not None else self._example()
        if kind is not ModelKind.ONNX:
            exports.mkdir(parents=True, exist_ok=True)
        source = open_network(self.model, exports, example)
        return source, self._samples(source, loaded) if self.has_samples else None

    def open_with_or_without(self, exports: Path) -> tuple[OnnxSource, Samples | None]:
        """The same where samples are not needed."""
        return self.open(exports, needs_samples=False)

    def samples(self, source: OnnxSource) -> Samples:
        """Samples for a source that is open already."""
        return self._samples(source, self._loaded())

    def _loaded(self) -> Loaded | None:
        if self.loader is None:
            return None
        if self.files is not None:
            raise ValueError("samples come from files or from a --loader, not from both; leave one out")
        return run_loader(load_hook(self.loader), self.loader, self.count)

    def _samples(self, source: OnnxSource, loaded: Loaded | None) -> Samples:
        network = source.network()
        if loaded is not None:
            return loaded.samples([network.values[name] for name in network.inputs], self.count)
        assert self.files is not None
        return read_samples_for(self.model, network, self.files, self.count, self.length)

    def _example(self) -> Any:
        """The first samples of an array file, to trace a module with; None where there are none."""
        if self.files is not None and self.files.suffix.lower() in (".npz", ".npy"):
            return example_in(self.files)
        return None


def original_of(folder: Path, model: str) -> OnnxSource:
    """The float network that the artifact in `folder` was made from, which `model` must name; ArtifactError else.

    A module or a folder's model is not exported again: its ONNX file lies in the artifact.
    """
    wanted = read_manifest(folder)["source"]["digest"]
    if network_digest(model) != wanted:
        raise ArtifactError(
            f"{model} is not the model that {folder} was made from (its contents differ): give that one, or run "
            f"quantize on this one"
        )
    if kind_of(model) is ModelKind.ONNX:
        return OnnxSource.open(Path(model))
    path = folder / EXPORTED / "model.onnx"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run the same quantize command again to make it anew")
    return OnnxSource.open(path)
