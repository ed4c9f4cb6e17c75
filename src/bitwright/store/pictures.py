"""Pictures as input of a network, prepared as ImageNet classifiers are evaluated.

The picture is made so small that its shorter side is 256/224 of the network's, its middle is cut out, its colours are
red, green and blue from 0 to 1, and the mean of ImageNet is taken off and divided by its deviation. A Hugging Face
folder's processor does what its network was trained with instead; any other network that was trained another way needs
a loader of its own. The description of what was done goes into the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bitwright.graph.network import Value
from bitwright.store.sample_set import Feed, Samples, SamplesError, describe, gather, only_input, pick

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 256 / 224
FREE_SIZE = 224  # of a network that takes any
COLOURS = 3


@runtime_checkable  # for the type check under pytest
class PictureProcessor(Protocol):
    """What is needed of a transformers image processor."""

    def __call__(self, images: Any, **options: Any) -> Any: ...


def samples_from_pictures(
    paths: Sequence[Path], inputs: Sequence[Value], wanted: int | None, processor: PictureProcessor | None = None
) -> Samples:
    """Pictures for a network whose one input is [batch, 3, height, width] or [batch, height, width, 3].

    `processor` makes the inputs of another, by their names. Raises SamplesError for an input that is not made,
    ImportError that names the extra where Pillow is not installed.
    """
    image = _pillow()
    if processor is not None:

        def make(index: int) -> tuple[str, Feed]:
            made = processor(images=_open(image, paths[index]), return_tensors="pt")
            return str(paths[index]), pick(str(paths[index]), made, inputs)

        said = f"{len(paths)} pictures, prepared by the folder's {type(processor).__name__}"
        return gather(inputs, len(paths), wanted, said, make)
    value = only_input(inputs, "pictures")
    channels_last, height, width = _size(value)

    def read(index: int) -> tuple[str, Feed]:
        pixels = _normalised(_middle(image, _open(image, paths[index]), height, width))
        return str(paths[index]), {
            value.name: (pixels if channels_last else pixels.permute(2, 0, 1))[None].contiguous()
        }

    free = value.shape is not None and None in value.shape[1:]
    said = (
        f"{len(paths)} pictures: shorter side to 256/224 of the input, bilinear; centre {height} x {width}"
        f"{' (the network takes any size)' if free else ''}; RGB / 255; mean {MEAN}, deviation {DEVIATION} of "
        f"ImageNet; {'NHWC' if channels_last else 'NCHW'}"
    )
    return gather(inputs, len(paths), wanted, said, read)


def _size(value: Value) -> tuple[bool, int, int]:
    """Whether the channels come last, and the height and width of an input."""
    shape = value.shape or ()
    first, last = len(shape) == 4 and shape[1] == COLOURS, len(shape) == 4 and shape[3] == COLOURS
    if first == last or not value.dtype.startswith(("float", "unknown")):
        raise SamplesError(
            f"{value.name} is {value.dtype} {describe(value.shape)}; pictures load by themselves for floats of shape "
            f"[batch, 3, height, width] or [batch, height, width, 3]; write a --loader for this network"
        )
    height, width = shape[1:3] if last else shape[2:4]
    return last, height or FREE_SIZE, width or FREE_SIZE


def noise_picture(width: int, height: int) -> Any:
    """A picture of random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (height, width, COLOURS), dtype=np.uint8)
    return _pillow().fromarray(colours)


def _open(image: ModuleType, path: Path) -> Any:
    """A picture in red, green and blue."""
    try:
        with image.open(path) as file:
            return file.convert("RGB")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise SamplesError(f"{path}: cannot be read as a picture ({error}); mend it or take it away") from error


def _middle(image: ModuleType, picture: Any, height: int, width: int) -> Float[Tensor, "height width 3"]:
    """The middle of a picture, from 0 to 255."""
    factor = max(height * MARGIN / picture.height, width * MARGIN / picture.width)
    size = max(round(picture.width * factor), width), max(round(picture.height * factor), height)
    picture = picture.resize(size, image.Resampling.BILINEAR)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    cut = picture.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cut, dtype=np.float32))


def _normalised(pixels: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    return (pixels / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)


def _pillow() -> ModuleType:
    try:
        import PIL.Image
    except ModuleNotFoundError as error:
        raise ImportError('reading pictures needs Pillow: pip install "bitwright[vision]"', name="PIL") from error
    return PIL.Image
