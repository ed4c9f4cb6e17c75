"""The door to the diffusers library: a pipeline's models, and what they are called with while it makes a picture.

No file says what a diffusion network reads, and nobody has its inputs at hand: noisy latents at every step, encoded
texts, sizes. So the pipeline itself makes them. It runs on the user's prompts with a few steps that span its schedule,
and the calls of the part in question are recorded.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from torch import nn

from bitwright.store.calls import Call
from bitwright.store.folder_part import PipelinePart
from bitwright.store.hf_config import quiet_transformers
from bitwright.store.processors import LOADING_ERRORS
from bitwright.store.source_error import SourceError, first_line

STEPS = 10  # of the diffusion of one picture
LATENT = "latent_sample"


class _Enough(BaseException):
    """Ends a pipeline whose further calls are not wanted; no error, so that no library takes it for one."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """A pipeline, loaded whole in float32, and the module and the function of the part that is meant."""

    folder: Path
    part: PipelinePart
    module: nn.Module
    function: Callable[..., Any]
    _run: Any

    @classmethod
    def open(cls, folder: Path, part: PipelinePart) -> Pipeline:
        """The pipeline in a folder. Raises SourceError for one that diffusers cannot load."""
        options = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
        options |= {"low_cpu_mem_usage": False}  # which takes another library
        try:
            with _quiet():
                library = _diffusers_library()
                run = library.DiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32, **options)
        except LOADING_ERRORS as error:
            raise SourceError(f"{folder}: diffusers cannot load the pipeline ({error}); check the folder") from error
        run.set_progress_bar_config(disable=True)
        module = run.components[part.folder].eval()
        return cls(folder, part, module, module.decode if part.decodes else module.forward, run)

    @property
    def reads_prompts(self) -> bool:
        """Whether it makes its pictures of texts."""
        return "prompt" in inspect.signature(self._run.__call__).parameters

    def calls(self, prompt: str, seed: int, most: int | None = None) -> list[Call]:
        """What the part is called with while a picture is made of a prompt (which a pipeline may not read).

        Ends after `most` calls. Raises SourceError where the pipeline does not run or does not call the part.
        """
        made: list[Call] = []
        function = self.function

        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            made.append(self._named(Call.of(function, args, kwargs)))
            if len(made) == most:
                raise _Enough
            return function(*args, **kwargs)

        name = "decode" if self.part.decodes else "forward"
        vars(self.module)[name] = recorded  # in front of the class's own
        try:
            with _quiet():
                self._run(**self._options(prompt, seed))
        except _Enough:
            pass
        except LOADING_ERRORS as error:
            raise SourceError(
                f"{self.folder}: the pipeline does not run on a prompt alone ({first_line(error)}); give the part as "
                f"package.module:factory, with a --loader for its inputs"
            ) from error
        finally:
            del vars(self.module)[name]
        if not made:
            raise SourceError(f"{self.folder}: the pipeline makes a picture of a prompt without its {self.part.name}")
        return made

    def _options(self, prompt: str, seed: int) -> dict[str, Any]:
        options = {
            "prompt": prompt,
            "num_inference_steps": STEPS,
            "generator": torch.Generator().manual_seed(seed),
            "output_type": "pt" if self.part.decodes else "latent",
        }
        takes = inspect.signature(self._run.__call__).parameters
        return {name: value for name, value in options.items() if name in takes}

    def _named(self, call: Call) -> Call:
        """An autoencoder calls the one thing that it decodes `z` or does not name it at all; files of others do."""
        renames = self.part.decodes and len(call.tensors) == 1
        return call.renamed(dict.fromkeys(call.tensors, LATENT)) if renames else call


def _diffusers_library() -> ModuleType:
    """The diffusers library. Raises ImportError that names the extra if it is not installed."""
    try:
        import diffusers
    except ModuleNotFoundError as error:
        message = f'reading a diffusion pipeline needs {error.name}: pip install "bitwright[diffusion]"'
        raise ImportError(message, name=error.name) from error
    return diffusers


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps both libraries from writing to the terminal."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs = _diffusers_library().utils.logging
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        yield
