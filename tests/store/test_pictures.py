"""Pictures as input of a network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from bitwright.graph.network import Value
from bitwright.store.samples import SamplesError, read_samples

NCHW, NHWC = Value("x", (None, 3, 224, 224), "float32"), Value("x", (None, 224, 224, 3), "float32")
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def save(path: Path, height: int, width: int) -> torch.Tensor:
    """A smooth picture, uint8 [height, width, 3]."""
    image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `vision`) is not installed")
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 200 // height, columns * 200 // width, (rows + columns) % 40], axis=2).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels)


def test_the_middle_is_cut_out_and_normalised(tmp_path: Path) -> None:
    pixels = save(tmp_path / "a.png", 256, 256)  # nothing to resize
    expected = (pixels[16:240, 16:240].to(torch.float64) / 255 - MEAN) / DEVIATION
    for value, order in ((NCHW, (2, 0, 1)), (NHWC, (0, 1, 2))):
        found = read_samples(tmp_path, [value]).first()["x"]
        torch.testing.assert_close(found, expected.permute(order)[None].to(torch.float32))


@pytest.mark.parametrize(("height", "width"), [(512, 300), (100, 140)])
def test_the_shorter_side_becomes_256_224ths(height: int, width: int, tmp_path: Path) -> None:
    pixels = save(tmp_path / "a.png", height, width)
    factor = 256 / min(height, width)
    size = round(height * factor), round(width * factor)
    planes = pixels.permute(2, 0, 1)[None].to(torch.float32)
    resized = interpolate(planes, size, mode="bilinear", antialias=True)
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = resized[0, :, top : top + 224, left : left + 224].permute(1, 2, 0)
    found = read_samples(tmp_path, [NHWC]).first()["x"][0] * DEVIATION + MEAN
    assert (found * 255 - expected).abs().max() <= 1.01  # the picture is rounded to bytes between two passes


def test_folders_of_classes_are_read_in_order_and_described(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "a.jpg", 64, 64)
    save(tmp_path / "cat" / "b.PNG", 64, 96)
    samples = read_samples(tmp_path, [Value("x", (None, 3, None, None), "float32")])
    assert [tuple(batch["x"].shape) for batch in samples.batches(2)] == [(2, 3, 224, 224)]
    assert "2 pictures" in samples.preprocessing
    assert "takes any size" in samples.preprocessing
    assert "NCHW" in samples.preprocessing


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 64, 64)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(SamplesError, match=r"b\.png: cannot be read as a picture"):
        read_samples(tmp_path, [NCHW]).digest()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((None, 1, 28, 28), "float32"), ((None, 3, 8, 8), "uint8"), ((None, 9), "float32")]
)
def test_an_input_that_is_no_picture_asks_for_a_loader(
    shape: tuple[int | None, ...], dtype: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SamplesError, match="write a --loader"):
        read_samples(tmp_path, [Value("x", shape, dtype)])


def test_without_pillow_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "bitwright\[vision\]"'):
        read_samples(tmp_path, [NCHW])
