"""Whole networks from Python: the example of the module's own text, an ONNX file, and what is refused."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitwright import networks
from bitwright.evaluate.metric import Model
from bitwright.execute.onnx_runner import OnnxRunner
from networks import exported, network, sample

BATCHES = list(sample(network("residual"), 24, seed=3)[0].split(8))


def metric(model: Model) -> Tensor:
    """A score for every sample: the largest logit."""
    found = model(sample(network("residual"), 8, seed=5)[0])
    assert isinstance(found, Tensor)
    return found.amax(1)


def test_the_example_takes_a_module_to_a_verified_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert networks.__doc__ is not None
    lines = re.findall(r"^    .*$|^$", networks.__doc__, re.MULTILINE)
    names = {"module": network("residual"), "batches": BATCHES, "metric": metric}
    exec(textwrap.dedent("\n".join(lines)), names)
    problems, measured = capsys.readouterr().out.splitlines()
    assert problems == "()" and "Measured(name='metric'" in measured
    assert (tmp_path / "out" / "int8" / "export" / "model.onnx").is_file()
    scores = names["network"].folder / "scores.json"
    assert scores.is_file() and scores.parent == Path("out/int8")


def test_an_onnx_file_resumes_opens_again_and_compares_on_what_the_metric_ran(tmp_path: Path) -> None:
    path = exported(network("residual"), tmp_path).path
    source = networks.open_source(path)
    samples = networks.take_samples(source, [{source.network().inputs[0]: batch} for batch in BATCHES], count=20)
    assert samples.count == 20
    made = networks.quantize(source, networks.find_recipe("int8", target="openvino"), tmp_path / "out", samples)
    again = networks.open_artifact(tmp_path / "out")
    assert again.folder == made.folder == tmp_path / "out" and again.weights.keys() == made.weights.keys()
    scores = networks.evaluate(again, source, metric, name="largest")
    assert scores.metric is not None and scores.metric.samples == 8
    assert scores.compared_on == "the 1 batches that largest ran"
    assert scores.outputs[0].original_db is not None and scores.outputs[0].original_db > 20
    with pytest.raises(ValueError, match="nothing to evaluate with: give a metric, or samples"):
        networks.evaluate(again, source)


def test_a_file_is_verified_on_samples_from_all_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, given = networks.open_source(exported(network("residual"), tmp_path).path), torch.cat(BATCHES)
    name = source.network().inputs[0]
    given[:, 0, 0, 0] = torch.arange(len(given))
    samples = networks.take_samples(source, [{name: given}])
    made = networks.quantize(source, networks.find_recipe("int8"), tmp_path / "out", samples)
    verify, places = networks.verify_file, []

    def seen(*given: Any, **named: Any) -> Any:
        places.extend(int(place) for batch in given[2] for place in batch[name][:, 0, 0, 0])
        return verify(*given, **named)

    monkeypatch.setattr(networks, "verify_file", seen)
    networks.verify(made, networks.export(made, tmp_path / "onnx"), source, samples)
    assert len(places) == networks.VERIFIED and min(places) == 0 and max(places) >= len(given) - 2


def test_arrays_in_a_file_are_samples(tmp_path: Path) -> None:
    import numpy as np

    source = networks.open_source(exported(network("residual"), tmp_path).path)
    np.savez(tmp_path / "samples.npz", **{source.network().inputs[0]: torch.cat(BATCHES).numpy()})
    samples = networks.read_samples(source, tmp_path / "samples.npz", 5)
    assert samples.count == 5
    assert OnnxRunner(source).run(samples.first(5)).keys() == set(source.network().outputs)


def test_what_cannot_be_used_is_refused_with_the_remedy(tmp_path: Path) -> None:
    module = network("residual")
    with pytest.raises(ValueError, match="Residual: is exported to ONNX first; say to which folder"):
        networks.open_source(module)
    with pytest.raises(ValueError, match="give at least one batch"):
        networks.open_source(module, tmp_path / "float")
    with pytest.raises(ValueError, match="an iterator, which can be run over only once; give a list"):
        networks.open_source(module, tmp_path / "float", iter(BATCHES))
    with pytest.raises(ValueError, match="training mode; call its eval"):
        networks.open_source(network("residual").train(), tmp_path / "float", BATCHES)
    source = networks.open_source(exported(module, tmp_path).path)
    with pytest.raises(ValueError, match="but the network takes"):
        networks.take_samples(source, [torch.zeros(2, 3)]).first(2)
