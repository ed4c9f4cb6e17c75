from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.evaluate import weigh as module
from bitwright.evaluate.weigh import sqnr, weigh
from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source
from evaluate.tiny_models import artifact_of, save


def decibels(weight: np.ndarray, rounded: np.ndarray) -> float:
    exact = weight.astype(np.float64)
    return float(10 * np.log10((exact**2).sum() / ((exact - rounded) ** 2).sum()))


def test_sqnr_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)  # several pieces, the last one smaller
    weight = torch.randn((17, 23), generator=torch.Generator().manual_seed(0))
    rounded = (weight * 4).round() / 4
    assert sqnr(weight, rounded) == pytest.approx(decibels(weight.numpy(), rounded.numpy()), abs=1e-5)


def test_an_exact_weight_has_300_decibels() -> None:
    weight = torch.randn((4, 4), generator=torch.Generator().manual_seed(0))
    assert sqnr(weight, weight) == pytest.approx(300)
    assert sqnr(weight * 0, weight * 0) == pytest.approx(300)


@pytest.mark.parametrize("name", ["transposed", "experts"])
def test_a_weight_is_compared_in_the_orientation_and_slice_it_is_stored_in(
    name: str, tmp_path: Path, bookllama: Path
) -> None:
    folder = save(tmp_path / "model", name, bookllama)
    source = open_source(folder)
    artifact = artifact_of(folder, tmp_path / "out")
    found = weigh(artifact, source, 0)
    stored = source.read(source.parameters())
    rounded = artifact.parameters(0, torch.float32)
    entries = [entry for entry in artifact.entries if entry.block == 0]
    assert found.keys() == {entry.name for entry in entries}
    for entry in entries:
        pick = ... if entry.index is None else entry.index
        want = decibels(stored[entry.parameter][pick].numpy(), rounded[entry.parameter][pick].numpy())
        assert found[entry.name].sqnr_db == pytest.approx(want, abs=1e-4) and want > 5


def test_tables_outside_the_blocks_are_weighed_too(artifact: Artifact, model: Path) -> None:
    (name, found), *others = weigh(artifact, open_source(model), None).items()
    assert not others and name == "model.embed_tokens"
    assert found.elements == 4096 * 32 and found.bits == found.elements * (3 + 2)
