"""Sounds as input of a network."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch

from bitwright.graph.network import Value
from bitwright.store.samples import SamplesError, read_samples


def save(path: Path, values: list[int], width: int = 2, channels: int = 1, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(b"".join(value.to_bytes(width, "little", signed=width > 1) for value in values))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_becomes_floats_from_minus_one_to_one(width: int, tmp_path: Path) -> None:
    half = 1 << (8 * width - 1)
    low = 0 if width == 1 else -half
    save(tmp_path / "a.wav", [low, low + half // 2, low + half, low + 2 * half - 1], width)
    found = read_samples(tmp_path, [Value("x", (None, None), "float32")]).first()["x"]
    torch.testing.assert_close(found, torch.tensor([[-1, -0.5, 0, 1 - 1 / half]]))


def test_channels_are_averaged(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", [16384, 0, -16384, -16384], channels=2)
    assert read_samples(tmp_path, [Value("x", (None, 2), "float32")]).first()["x"].tolist() == [[0.25, -0.5]]


def test_a_fixed_length_cuts_and_pads_and_a_free_one_cuts_to_the_shortest(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", [16384] * 3)
    save(tmp_path / "b.wav", [16384] * 9)
    fixed = read_samples(tmp_path, [Value("x", (None, 1, 5), "float32")])
    assert next(fixed.batches(2))["x"].tolist() == [[[0.5] * 3 + [0] * 2], [[0.5] * 5]]
    assert "padded with silence" in fixed.preprocessing
    free = read_samples(tmp_path, [Value("x", (None, None), "float32")])
    assert next(free.batches(2))["x"].shape == (2, 3)
    assert "cut to the shortest, which has 3" in free.preprocessing


def test_bad_sounds_are_named(tmp_path: Path) -> None:
    inputs = [Value("x", (None, None), "float32")]
    save(tmp_path / "a.wav", [1, 2])
    with pytest.raises(SamplesError, match="sounds load by themselves for"):
        read_samples(tmp_path, [Value("x", (None, 3, 8, 8), "float32")])
    save(tmp_path / "b.wav", [1, 2], rate=16000)
    with pytest.raises(SamplesError, match=r"8000 Hz in a\.wav, 16000 Hz in b\.wav"):
        read_samples(tmp_path, inputs)
    save(tmp_path / "b.wav", [])
    with pytest.raises(SamplesError, match=r"b\.wav: holds no sound"):
        read_samples(tmp_path, inputs)
    (tmp_path / "b.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(SamplesError, match=r"b\.wav: cannot be read as a PCM"):
        read_samples(tmp_path, inputs)
