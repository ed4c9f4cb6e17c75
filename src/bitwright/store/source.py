"""A Hugging Face model folder, opened without reading its weights.

``open_source`` reads config.json and the headers of the weight files, builds the model on the meta device, and works
out which tensors of the files make which tensor of the model. Everything that can be wrong with a folder is found here,
before any weight is read. ``read`` then reads single tensors by the model's own names, ``to_checkpoint`` gives tensors
their names in the files back, and ``skeleton`` hands out the model without weights, for tracing and for running blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bitwright.store.hf_config import LIBRARY_ERRORS, check_not_custom, read_config, transformers_library
from bitwright.store.renames import Conversion, Renames, Rows, plan_renames
from bitwright.store.safetensors_file import TensorShape
from bitwright.store.skeleton import build_skeleton, tie
from bitwright.store.source_checks import WEIGHT_DTYPES, check_complete, check_finite, check_shapes
from bitwright.store.source_error import SourceError
from bitwright.store.ties import find_ties
from bitwright.store.weight_files import WeightFiles, find_weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["Source", "SourceError", "TensorShape", "open_source"]

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "*processor_config.json",
)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A language model on disk; names are the model's own (as in state_dict), not the checkpoint's."""

    path: Path
    dtype: torch.dtype
    bytes: int
    _config: PreTrainedConfig
    _files: WeightFiles
    _renames: Renames
    _ties: Mapping[str, str]

    def skeleton(self) -> nn.Module:
        """A new model in eval mode: parameters on meta, tied as in the checkpoint; buffers real, as constructed.

        A persistent buffer that the checkpoint provides is in ``parameters()``; load it over the constructed one.
        """
        model = build_skeleton(self._config, self.dtype)
        tie(model, self._ties)
        return model

    def parameters(self) -> Mapping[str, TensorShape]:
        """Every parameter and persistent buffer that the checkpoint provides, with the dtype that ``read`` gives."""
        return MappingProxyType({n: shape for n, shape in self._renames.shapes.items() if n not in self._ties})

    def tied(self) -> Mapping[str, str]:
        """Alias -> the name in ``parameters()`` that it shares its tensor with."""
        return MappingProxyType(dict(self._ties))

    def unused(self) -> tuple[str, ...]:
        """Checkpoint tensors that the model has no use for, such as buffers that newer code computes."""
        return self._renames.unused

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors called ``names`` (aliases too), memory-mapped where the file holds them as the model wants them.

        Reads no other tensors, except the ones merged or cut together with these. Raises SourceError for an unknown
        name, and for NaN or infinity.
        """
        wanted = {name: self._conversion(name) for name in names}
        made: dict[str, Tensor] = {}
        for conversion in {id(conversion): conversion for conversion in wanted.values()}.values():
            made |= self._read_one(conversion, {self._stored(name) for name in wanted})
        return {name: made[self._stored(name)] for name in wanted}

    def digest(self) -> str:
        """sha256 over config.json and the contents of the weight files, independent of paths. Reads every byte."""
        return self._files.digest((self.path / "config.json").read_bytes())

    def stored(self) -> Mapping[str, TensorShape]:
        """Every tensor of the checkpoint, the unused ones too, by its name in the files."""
        return MappingProxyType(dict(self._files.tensors))

    def renamed(self, name: str) -> str | None:
        """The checkpoint tensor that holds ``name`` as it is; None if it was merged, split or transposed."""
        conversion = self._conversion(name)
        return None if conversion.converter else conversion.checkpoint_names[0]

    def checkpoint_names(self, name: str) -> tuple[str, ...]:
        """The checkpoint tensors that ``name`` is made of, in order; two for a tied tensor that is stored twice."""
        stored = self._stored(name)
        copies = [alias for alias in self._ties if self._ties[alias] == stored and alias in self._renames.by_name]
        found = [self._conversion(stored), *(self._renames.by_name[alias] for alias in copies)]
        return tuple(name for conversion in found for name in conversion.checkpoint_names)

    def rows(self, name: str) -> Mapping[str, Rows]:
        """By checkpoint tensor, the rows of ``name`` [matrices, out, in] that are all it holds; see `Renames.rows`."""
        return self._renames.rows(self._stored(name))

    def to_checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tensors`` under the checkpoint's names, merged ones split again; the inverse of ``read``.

        Raises SourceError if an alias comes with other values than its tensor, or a tensor comes without one that
        the checkpoint keeps together with it.
        """
        stored = self._without_aliases(tensors)
        twice = [alias for alias, name in self._ties.items() if name in stored and alias in self._renames.by_name]
        stored |= {alias: stored[self._ties[alias]] for alias in twice}
        result: dict[str, Tensor] = {}
        for conversion in {id(found): found for found in map(self._renames.by_name.__getitem__, stored)}.values():
            lacking = [name for name in conversion.model_names if name not in stored]
            if lacking:
                together = ", ".join(conversion.checkpoint_names)
                raise SourceError(f"{', '.join(lacking)}: give it too, because {together} also holds it.")
            result |= self._renames.backward(conversion, stored)
        return result

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The folder's tokenizer. Raises SourceError if it has none that transformers can load without extra code."""
        auto = transformers_library().AutoTokenizer
        try:
            found: PreTrainedTokenizerBase = auto.from_pretrained(
                str(self.path), local_files_only=True, trust_remote_code=False
            )
        except (OSError, *LIBRARY_ERRORS) as error:
            raise SourceError(f"{self.path}: no usable tokenizer ({error}). Add its files.") from error
        return found

    def side_files(self) -> tuple[Path, ...]:
        """Configuration, tokenizer and chat template files, sorted: all that a model needs besides its weights."""
        found = {file for pattern in SIDE_FILES for file in self.path.glob(pattern) if file.is_file()}
        return tuple(sorted(file for file in found if file.suffix != ".py"))

    def _stored(self, name: str) -> str:
        return self._ties.get(name, name)

    def _conversion(self, name: str) -> Conversion:
        stored = self._stored(name)
        if stored not in self._renames.by_name:
            raise SourceError(f"{self.path}: no tensor {name!r}; parameters() lists the names that can be read.")
        return self._renames.by_name[stored]

    def _read_one(self, conversion: Conversion, wanted: set[str]) -> dict[str, Tensor]:
        loaded = self._files.load(conversion.checkpoint_names)
        made = self._renames.forward(conversion, loaded)
        for name in wanted & made.keys():
            check_finite(name, made[name], self._renames, self._files)
        return {name: made[name] for name in wanted & made.keys()}

    def _without_aliases(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stored: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            self._conversion(name)
            known = stored.setdefault(self._stored(name), tensor)
            if known is not tensor and (known.dtype != tensor.dtype or not torch.equal(known, tensor)):
                raise SourceError(
                    f"{name}: tied to {self._stored(name)}, but it comes with other values; the checkpoint has "
                    f"room for one tensor. Give one of them, or start from an untied checkpoint."
                )
        return stored


def open_source(path: Path, allow_pickle: bool = False) -> Source:
    """The model in the folder ``path``. Raises SourceError for all that is wrong with it, before weights are read.

    Only where the checkpoint stores both of two tied tensors are these compared, which reads them.
    """
    path = Path(path)
    config = read_config(path)
    files = find_weight_files(path, allow_pickle)

    def is_equal(renames: Renames, first: str, second: str) -> bool:
        tensors = [
            renames.forward(conversion, files.load(conversion.checkpoint_names))[name]
            for name, conversion in ((name, renames.by_name[name]) for name in (first, second))
        ]
        return torch.equal(tensors[0], tensors[1])

    return assemble(path, config, files, is_equal)


def assemble(
    path: Path, config: PreTrainedConfig, files: WeightFiles, is_equal: Callable[[Renames, str, str], bool]
) -> Source:
    """A source from a configuration and the tensors of ``files``; makes all checks that need no weights.

    ``is_equal`` says of two tied names that are both stored whether they hold the same numbers.
    """
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else _commonest_dtype(path, files)
    model = build_skeleton(config, dtype)
    for role in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        check_not_custom(config, role, type(model).__name__, path / "config.json")
    renames = plan_renames(model, files.tensors)
    check_shapes(renames, files)
    ties = find_ties(model, renames.by_name.keys(), lambda first, second: is_equal(renames, first, second))
    check_complete(path, renames, ties)
    return Source(path, dtype, files.total_bytes, config, files, renames, ties)


def _commonest_dtype(path: Path, files: WeightFiles) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for tensor in files.tensors.values():
        if tensor.dtype in WEIGHT_DTYPES:
            counts[tensor.dtype] += tensor.elements
    if not counts:
        raise SourceError(f"{path}: no tensor holds float numbers; a source must have plain float weights.")
    return counts.most_common(1)[0][0]
