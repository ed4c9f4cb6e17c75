"""Trained networks: exported, opened, run in ONNX Runtime and interpreted, all with one answer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bitwright.execute.interpret import can_interpret, interpret
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.onnx import inner_nodes
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.torch_module import export_module


@pytest.fixture(scope="module")
def loaders(zoo: Path) -> ModuleType:
    """The zoo's module of loaders, which needs pillow."""
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("zoo", zoo / "zoo.py")
    assert spec is not None and spec.loader is not None
    sys.modules["zoo"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAWS = torch.Generator().manual_seed(0)
EXAMPLES: dict[str, tuple[Tensor, ...]] = {
    "mobilenet_v2": (torch.randn(2, 3, 224, 224, generator=DRAWS),),
    "resnet20": (torch.randn(2, 3, 32, 32, generator=DRAWS),),
    "dscnn": (torch.randn(2, 1, 49, 10, generator=DRAWS),),
    "vdsr": (torch.rand(2, 1, 24, 24, generator=DRAWS),),
    "ddpm_mnist": (torch.randn(2, 1, 28, 28, generator=DRAWS), torch.tensor([3, 500])),
}
NORMS = {"resnet20": 19, "dscnn": 9}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_trained_module_is_the_same_everywhere(name: str, loaders: ModuleType, tmp_path: Path) -> None:
    module = vars(loaders)[name]()
    done = export_module(module, EXAMPLES[name], tmp_path / "model.onnx")
    source = OnnxSource.open(done.path)
    network = source.network()
    assert done.fixed_batch == "" and all(map(can_interpret, network.nodes))
    assert sum(node.op == "BatchNormalization" for node in network.nodes) == NORMS.get(name, 0)
    inputs = dict(zip(network.inputs, (torch.cat([x, x[:1]]) for x in EXAMPLES[name]), strict=True))
    wanted = [output for node in network.nodes for output in node.outputs]
    values = OnnxRunner(source).run(inputs, wanted)
    with torch.no_grad():
        expected = module(*inputs.values())
    found = interpret(network.nodes, source.read(network.constants) | inputs, wanted)
    close(values[network.outputs[0]], expected)
    for value in wanted:
        close(found[value], values[value])


def close(found: Tensor, expected: Tensor) -> None:
    """Equal up to float32 rounding at the size of the largest number."""
    scale = float(expected.abs().max()) + 1e-6
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=5e-5)


def test_a_network_with_nested_branches_and_a_recurrent_cell_opens_and_runs(zoo: Path, tmp_path: Path) -> None:
    source = OnnxSource.open(zoo / "models" / "silero_vad_16k_op15.onnx")
    network = source.network()
    inner = [node.op_type for node, _ in inner_nodes(source.model())]
    assert "If" in inner and "LSTM" in inner  # nested, and the cell is inside
    assert {node.op for node in network.nodes if not can_interpret(node)} == {"If"}
    feeds = {"input": torch.randn(2, 576), "state": torch.zeros(2, 2, 128), "sr": torch.tensor(16000)}
    wanted = [output for node in network.nodes for output in node.outputs if output]
    values = OnnxRunner(source).run(feeds, wanted)
    plain = OnnxRunner(source).run(feeds)
    torch.testing.assert_close(plain, {name: values[name] for name in network.outputs}, rtol=1e-4, atol=1e-5)
    # everything before the first branch can be interpreted
    first = next(node for node in network.nodes if node.op == "If")
    (stem,) = (name for name in first.captures if name in network.producers)
    found = interpret(network.nodes, source.read(network.constants) | feeds, [stem])
    torch.testing.assert_close(found[stem], values[stem], rtol=1e-4, atol=1e-5)
    source.write(tmp_path / "again.onnx", source.model())
    again = OnnxRunner(OnnxSource.open(tmp_path / "again.onnx")).run(feeds)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
