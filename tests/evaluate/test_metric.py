"""The user's own measure of both models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.metric import LargestDrop, callable_model, measure_metric, open_model
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.hooks import load_hook
from bitwright.store.loader import run_loader
from bitwright.store.network_source import open_network
from bitwright.store.onnx_source import OnnxSource
from networks import exported, network, sample


def times(factor: float):
    return lambda given: given * factor


def total(model) -> float:
    return float(model(torch.ones(3)).sum())


def scores(model) -> Tensor:
    return model(torch.arange(40.0))


def test_a_number_has_no_interval_and_higher_is_better() -> None:
    found = measure_metric(total, "m:total", times(2), times(1.5))
    assert (found.original, found.delivered, found.samples, found.interval) == (6, 4.5, 0, None)
    assert (found.change, found.loss) == (-1.5, 1.5)
    assert found.as_json()["loss"] == 1.5


def test_a_function_may_say_that_lower_is_better() -> None:
    def error(model) -> float:
        return total(model)

    error.higher_is_better = False
    found = measure_metric(error, "m:error", times(2), times(1.5))
    assert found.loss == -1.5


def test_a_goal_is_the_metrics_loss_over_the_largest_that_is_allowed(tmp_path: Path) -> None:
    source = OnnxSource.open(exported(network("residual", 0), tmp_path, "residual").path)
    runner, feeds = OnnxRunner(source), sample(network("residual", 0), 8, 1)[0]

    def level(model) -> float:
        return float(model(feeds).sum())

    same = LargestDrop(level, "m:level", 0.5, callable_model(source))
    assert same.figure(0.1, runner) == 0 and same.excess(0.0) == 0
    worse = LargestDrop(level, "m:level", 0.5, lambda given: callable_model(source)(given) + 1)
    lost = worse.figure(0.1, runner)
    assert lost == pytest.approx(callable_model(source)(feeds).numel(), rel=1e-4)
    assert worse.excess(1.0) == pytest.approx(2) and worse.excess(-1.0) == 0 and worse.excess(1e9) == 10
    assert worse.told == {"metric": "m:level", "max_drop": 0.5}


def test_a_metric_that_fails_on_the_original_fails_before_anything_is_quantized() -> None:
    with pytest.raises(EvaluateError, match="for the original"):
        LargestDrop(lambda model: float("nan"), "m:bad", 0.5, times(1))


def test_scores_are_paired() -> None:
    found = measure_metric(scores, "m:scores", times(1), lambda given: given + 0.5)
    assert found.samples == 40
    assert found.original == 19.5
    assert found.interval == (0.5, 0.5)  # the samples differ by far more than this, but not the pairs
    noise = torch.randn(40, generator=torch.Generator().manual_seed(1))
    spread = measure_metric(scores, "m:scores", times(1), lambda given: given + noise)
    deviation = float(noise.std(correction=0)) / 40**0.5
    assert spread.interval is not None
    for end, sign in zip(spread.interval, (-1, 1), strict=True):
        assert abs(end - (spread.change + sign * 1.96 * deviation)) < 0.15 * deviation * 1.96


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (float("nan"), "gave nan for the original; a metric must be a finite number"),
        (torch.tensor([1.0, float("nan")]), "gave nan for the original, first for sample 1"),
        (float("inf"), "gave inf"),
        (None, "gave a NoneType for the original; it must return a number"),
        ("good", "gave a str"),
        ([], "gave shape .0."),
        (torch.ones(2, 2), "gave shape .2, 2."),
    ],
)
def test_what_is_no_number_is_an_error(returned: object, message: str) -> None:
    with pytest.raises(EvaluateError, match=f"--metric m:f: {message}"):
        measure_metric(lambda model: returned, "m:f", times(1), times(1))


def test_different_samples_for_the_two_models_are_an_error() -> None:
    with pytest.raises(EvaluateError, match="3 scores for the original, but 4 scores for the delivered"):
        measure_metric(lambda model: torch.zeros(model(3)), "m:f", times(1), lambda given: given + 1)


def test_networks_are_called_by_tensor_by_place_and_by_name(tmp_path: Path) -> None:
    module = network("two_inputs")
    source = exported(module, tmp_path)
    given = sample(module, 2)
    with torch.no_grad():
        expected = module(*given)
    names = source.network().inputs
    for model in (callable_model(source), open_model(source.path)):
        for form in (given, dict(zip(names, given, strict=True))):
            torch.testing.assert_close(model(form), expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(EvaluateError, match="called with 1 tensors, but it has 2 inputs"):
            model(given[0])
    assert isinstance(source, OnnxSource)


USER_CODE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def load():
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield torch.randn(5, 4, generator=generator)

def distance(model):
    import user_code_of_a_metric as again  # found while the function runs, too
    return torch.cat([(model(batch) - again.make()(batch)).square().mean(1) for batch in load()])

distance.higher_is_better = False
"""


def test_from_the_names_that_a_user_types_to_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user_code_of_a_metric.py").write_text(USER_CODE)
    try:
        loaded = run_loader(load_hook("user_code_of_a_metric:load"), "user_code_of_a_metric:load")
        source = open_network("user_code_of_a_metric:make", tmp_path / "made", loaded.example)
        network = source.network()
        samples = loaded.samples([network.values[name] for name in network.inputs], 12)
        assert [len(next(iter(batch.values()))) for batch in samples.batches(8)] == [8, 4]
        rounded = source.read(["0.weight"])["0.weight"].mul(16).round() / 16
        source.write(tmp_path / "rounded.onnx", source.model(), {"0.weight": rounded})
        metric = load_hook("user_code_of_a_metric:distance")
        found = measure_metric(metric, "distance", callable_model(source), open_model(tmp_path / "rounded.onnx"))
    finally:
        sys.modules.pop("user_code_of_a_metric", None)
    assert found.original < 1e-10
    assert (found.samples, found.higher_is_better) == (15, False)
    assert found.loss > 1e-6
    assert found.interval is not None
    assert 0 < found.interval[0] < found.loss < found.interval[1]
