"""What a Hugging Face folder brings to make a model's inputs of a text, a picture or a sound.

All three are the transformers library's own, made from the folder's files and never from code in it, so samples are
prepared just as the model was trained. Where it has two processors for pictures, the one that needs no torchvision is
taken whether that is installed or not, because the two round differently.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from bitwright.store.hf_config import LIBRARY_ERRORS, transformers_library
from bitwright.store.pictures import PictureProcessor, noise_picture
from bitwright.store.sentences import PaddingTokenizer
from bitwright.store.sounds import SoundProcessor
from bitwright.store.source_error import SourceError, first_line

LOADING_ERRORS = (OSError, ImportError, *LIBRARY_ERRORS)
EXAMPLE_TEXT = "An encoder reads this sentence."
SQUARE, WIDE, TALL = (480, 480), (640, 480), (480, 640)  # width and height of pictures
EXAMPLE_SECONDS = 5
TEXT, PICTURE, SOUND = {"input_ids"}, {"pixel_values"}, {"input_values", "input_features"}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Processors:
    """What there is for text, for pictures and for sounds; None for what the folder or the model does not have."""

    tokenizer: PaddingTokenizer | None = None
    pictures: PictureProcessor | None = None
    sounds: SoundProcessor | None = None

    def example(self, is_odd: bool = False) -> dict[str, Tensor]:
        """What they make of a sentence, a picture or a sound of noise, by name, in batches of two.

        `is_odd`: of a picture or a sound of another size.
        """
        made: dict[str, Tensor] = {}
        if self.tokenizer is not None:
            made |= _twice(self.tokenizer(EXAMPLE_TEXT, return_tensors="pt"))
        if self.pictures is not None:
            size = WIDE if is_odd else SQUARE
            made |= _twice(self.pictures(images=noise_picture(*size), return_tensors="pt"))
        if self.sounds is not None:
            made |= _twice(_hear(self.sounds, EXAMPLE_SECONDS + is_odd))
        return made

    def keep_shapes(self) -> bool:
        """Whether pictures keep their shape, or sounds their length, as some that are made here show."""
        if self.pictures is not None:
            wide, tall = (self.pictures(images=noise_picture(*size), return_tensors="pt") for size in (WIDE, TALL))
            if tuple(wide["pixel_values"].shape) != tuple(tall["pixel_values"].shape):
                return True
        if self.sounds is not None:
            short, long = (_hear(self.sounds, seconds) for seconds in (1, 2))
            return any(tuple(short[name].shape) != tuple(long[name].shape) for name in SOUND & set(short))
        return False


def read_processors(folder: Path, inputs: Collection[str]) -> Processors:
    """What the folder has for a model that takes inputs of these names.

    Raises SourceError where none of them can be made of a text, a picture or a sound.
    """
    library = transformers_library()
    problems: list[str] = []

    def load(what: str, names: set[str], auto: Any, *backends: str) -> Any:
        for backend in (backends or (None,)) if names & set(inputs) else ():
            options = {} if backend is None else {"backend": backend}
            try:
                return auto().from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
            except LOADING_ERRORS as error:
                problems.append(f"no usable {what} ({first_line(error)})")
        return None

    found = Processors(
        load("tokenizer", TEXT, lambda: library.AutoTokenizer),
        load("image processor", PICTURE, _picture_door, "pil", "torchvision"),
        load("feature extractor for sounds", SOUND, lambda: library.AutoFeatureExtractor),
    )
    if found.tokenizer is None and found.pictures is None and found.sounds is None:
        if not problems:
            problems.append(f"no text, picture or sound makes its inputs ({', '.join(sorted(inputs))})")
        raise SourceError(
            f"{folder}: {problems[0]}; add its files or what they need, or give the model as module:factory"
        )
    return found


def _picture_door() -> Any:
    """The class by its own module: the library's front hides it where torchvision is not installed."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def _hear(processor: SoundProcessor, seconds: int) -> Any:
    noise = np.random.default_rng(0).normal(0, 0.1, processor.sampling_rate * seconds).astype(np.float32)
    return processor(noise, sampling_rate=processor.sampling_rate, return_tensors="pt")


def _twice(made: Any) -> dict[str, Tensor]:
    """A batch of one as a batch of two."""
    return {str(name): torch.cat([value, value]) for name, value in made.items() if isinstance(value, Tensor)}
