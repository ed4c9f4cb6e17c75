"""Whole networks from Python: an ONNX file or a PyTorch module to an ONNX file in integers.

    from pathlib import Path
    from bitwright import networks

    source = networks.open_source(module, Path("out/float"), batches)         # or networks.open_source("model.onnx")
    samples = networks.take_samples(source, batches)                           # or networks.read_samples(source, path)
    network = networks.quantize(source, networks.find_recipe("int8"), Path("out/int8"), samples)
    file = networks.export(network, Path("out/int8/export"))
    print(networks.verify(network, file, source, samples).problems)
    print(networks.evaluate(network, source, metric, samples).metric)

`batches` are tensors, tuples of the inputs in their order, or dicts of them by name, samples along the first axis;
`metric` is a function that gets a model to call and returns a number, or a score for every sample. Language models are
quantized block by block instead: `bitwright.open_source` and `bitwright.quantize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from bitwright.engine.network import quantize_network as quantize
from bitwright.engine.portions import roomy
from bitwright.engine.progress import Step
from bitwright.engine.simulate import Simulation
from bitwright.evaluate.delivery import Delivery
from bitwright.evaluate.delivery import verify as verify_file
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.foretold import Aim, Foretold, foretell
from bitwright.evaluate.latency import Timing
from bitwright.evaluate.metric import Metric, callable_model, measure_metric
from bitwright.evaluate.network_scores import NetworkScores, write_network_scores
from bitwright.evaluate.outputs import Runnable, SideBySide
from bitwright.execute.integers import IntegerRunner
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.export.delivered import export_to as export
from bitwright.export.delivered import exported_inside, file_bytes, stored_bytes
from bitwright.export.exporter import ExportError
from bitwright.export.onnx_forms import OnnxForm
from bitwright.graph.network import Value
from bitwright.numerics.machine import this_machine
from bitwright.recipe.network import NetworkRecipe
from bitwright.recipe.network_text import load_network_recipe as find_recipe
from bitwright.recipe.network_text import read_network_recipe as read_recipe
from bitwright.recipe.targets import find_target
from bitwright.store.loader import Loaded, run_loader
from bitwright.store.module_source import source_of
from bitwright.store.network_artifact import open_network as open_artifact
from bitwright.store.network_artifact import read_manifest
from bitwright.store.network_source import open_network, read_samples_for
from bitwright.store.onnx_source import OnnxSource, read_model
from bitwright.store.onnx_specialize import Specialized, specialize
from bitwright.store.quantized import QuantizedNetwork
from bitwright.store.sample_set import Samples
from bitwright.store.samples import read_samples as read_for

Batches = Iterable[Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]]

VERIFIED = 16  # samples that a delivered file is compared on
_BATCH = 8


@final
@dataclass(frozen=True, slots=True)
class Verified:
    """What a delivered file does in the engines that are here, and what it returns on its target (None: not known).

    `problems` are reasons not to ship it; `warnings` name a cause.
    """

    delivery: Delivery
    foretold: Foretold | None
    warnings: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons not to ship the file."""
        return self.delivery.problems

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {} if self.foretold is None else {"foretold": self.foretold.to_plain()}
        return self.delivery.to_plain() | told | {"warnings": list(self.warnings)}


def open_source(
    model: str | Path | nn.Module, folder: Path | None = None, batches: Batches | None = None
) -> OnnxSource:
    """The network to quantize: an ONNX file, a module (`pkg.mod:factory` names one) or a Hugging Face folder.

    What is exported goes to `folder`/model.onnx, a module with the first of `batches` as the example of its inputs; it
    has to be in eval mode. Raises ValueError for what cannot be opened.
    """
    if not isinstance(model, nn.Module) and Path(model).suffix.lower() == ".onnx":
        return OnnxSource.open(Path(model))
    if folder is None:
        raise ValueError(f"{_called(model)}: is exported to ONNX first; say to which folder")
    example = None if batches is None else _loaded(batches, 1).example
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, nn.Module):
        return open_network(str(model), folder, example)
    if model.training:
        raise ValueError(f"{_called(model)}: is in training mode; call its eval() first")
    if example is None:
        raise ValueError(f"{_called(model)}: is exported with an example of its inputs; give at least one batch")
    return source_of(model, _called(model), example, folder)


def _called(model: str | Path | nn.Module) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def _loaded(batches: Batches, count: int | None) -> Loaded:
    if isinstance(batches, Iterator):
        raise ValueError("batches: an iterator, which can be run over only once; give a list or a DataLoader")
    return run_loader(lambda: batches, "batches", count)


def take_samples(source: OnnxSource, batches: Batches, count: int | None = None) -> Samples:
    """The first `count` samples (None: all) of these batches for a network; they are held in memory.

    Raises ValueError where they do not fit its inputs.
    """
    return _loaded(batches, count).samples(_inputs(source), count)


def read_samples(source: OnnxSource, path: Path, count: int | None = None, model: str | Path | None = None) -> Samples:
    """`count` samples (None: all) spaced evenly over the text, pictures, sounds or arrays in a file or folder.

    `model`: the Hugging Face folder that the source was made from, whose tokenizer and processors prepare them, or the
    part of its model. Raises ValueError for what does not fit the network's inputs.
    """
    if model is None:
        return read_for(path, _inputs(source), count)
    return read_samples_for(str(model), source.network(), path, count)


def _inputs(source: OnnxSource) -> list[Value]:
    network = source.network()
    return [network.values[name] for name in network.inputs]


def verified_on(samples: Samples) -> Samples:
    """The samples that a delivered file is compared on: 16 from all places; whole batches where those are fixed."""
    return samples.dealt(VERIFIED, _BATCH)


def verify(network: QuantizedNetwork, file: Path, original: OnnxSource, samples: Samples, threads: int = 1) -> Verified:
    """What a delivered file does in the engines and on its target, beside what decisions foretold and the original.

    Where the target's engine runs here the file is held against that target's own arithmetic, else against floats.
    Outputs, operators that run in integers, and latency are looked at, on the samples of `verified_on`.
    """
    shown = verified_on(roomy(OnnxRunner(original), samples))
    feeds: list[Mapping[str, Tensor]] = list(shown.batches(_BATCH))
    in_floats = OnnxRunner(read_model(file), file.parent, exact=True)
    foretold, warnings = None, []
    try:
        foretold = foretell(file, _aim(network), this_machine(), OnnxRunner(original), in_floats, feeds)
    except EvaluateError as error:
        warnings = [str(error)]
    if foretold is not None:
        warnings = [*foretold.warnings]
    if foretold is not None and foretold.is_here:
        expected: Sequence[Mapping[str, Tensor]] = foretold.made
    else:
        expected = [in_floats.run(one) for one in feeds]
    in_floats.close()
    delivery = verify_file(file, original.path, feeds, expected, threads, Timing())
    return Verified(delivery, foretold, (*warnings, *delivery.warnings))


def evaluate(
    network: QuantizedNetwork,
    original: OnnxSource,
    metric: Metric | None = None,
    samples: Samples | None = None,
    name: str = "metric",
    threads: int = 1,
) -> NetworkScores:
    """The metric of both networks, and how far their outputs are apart on these samples, or else on what it ran.

    `name`: what the metric is called. The delivered network is run in the engine that it is for where that is here;
    else it is simulated, which the scores say. Writes scores.json into the artifact. Raises ValueError where there is
    neither a metric nor samples.
    """
    if metric is None and samples is None:
        raise ValueError("nothing to evaluate with: give a metric, or samples on which the outputs are compared")
    delivered, size, is_simulated = _delivered(network, threads)
    floats = OnnxRunner(original, threads=threads)
    pair, measured, compared_on = SideBySide(floats, delivered), None, ""
    if samples is not None:
        pair.run_all(roomy(floats, samples).batches(_BATCH))
        compared_on = f"{samples.count} samples, {samples.preprocessing}"
    if metric is not None:
        model = callable_model(floats if compared_on else pair)
        measured = measure_metric(metric, name, model, callable_model(delivered))
        compared_on = compared_on or f"the {pair.batches} batches that {name} ran"
    scores = NetworkScores(measured, pair.agreements(), compared_on, is_simulated, size, original.bytes)
    write_network_scores(network.folder, scores)
    return scores


def _delivered(network: QuantizedNetwork, threads: int) -> tuple[Runnable, int, bool]:
    """What is delivered, to run; its size; and whether it is simulated, because its engine does not run here."""
    try:
        file = exported_inside(network)
    except ExportError:
        return Simulation.of(network, threads), stored_bytes(network), True
    aim = _aim(network)
    if not aim.is_here(this_machine()):
        runner = IntegerRunner(file, aim.arithmetic)
        if runner.in_integers:
            return runner, file_bytes(file), True
    return OnnxRunner(read_model(file), file.parent, threads), file_bytes(file), False


def _aim(network: QuantizedNetwork) -> Aim:
    """What a quantized network is to run on."""
    target = find_target(read_manifest(network.folder)["recipe"]["target"])
    return Aim(target.name, target.engine, target.arithmetic, target.without_vnni is not None)


__all__ = [
    "Batches",
    "NetworkRecipe",
    "NetworkScores",
    "OnnxForm",
    "OnnxSource",
    "QuantizedNetwork",
    "Samples",
    "Specialized",
    "Step",
    "Verified",
    "evaluate",
    "export",
    "find_recipe",
    "open_artifact",
    "open_source",
    "quantize",
    "read_recipe",
    "read_samples",
    "specialize",
    "take_samples",
    "verify",
]
