"""Edits on trained networks from the zoo, as exported by the package: folded, proved, equalized, in float64."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bitwright.execute.interpret import interpret
from bitwright.execute.prove import doubled, prove
from bitwright.graph.channels import find_sites
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.torch_module import export_module
from bitwright.transforms import Equalize, channel_ranges, expected_means, fold_norms, open_clips

# loader, shape of an input, folded normalizations, opened clips, sites
CASES = [
    ("mobilenet_v2", (2, 3, 96, 96), 0, 35, 37),
    ("resnet20", (2, 3, 32, 32), 19, 0, 9),
    ("dscnn", (2, 1, 49, 10), 9, 0, 9),
    ("vdsr", (2, 1, 24, 24), 0, 0, 19),
]


@pytest.fixture(scope="module")
def trained(zoo: Path) -> ModuleType:
    """The zoo's own module of loaders."""
    pytest.importorskip("PIL", reason="the model zoo's loaders import pillow, which is not installed")
    spec = importlib.util.spec_from_file_location("zoo_for_edits", zoo / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "shape", "norms", "clips", "count"), CASES)
def test_a_trained_network_is_edited_without_a_change(
    trained: ModuleType, tmp_path: Path, name: str, shape: tuple[int, ...], norms: int, clips: int, count: int
) -> None:
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = export_module(getattr(trained, name)(), (batch,), tmp_path / "model.onnx").path
    network = OnnxSource.open(path).network()
    constants = doubled(OnnxSource.open(path).read(network.constants))
    inputs = {network.inputs[0]: batch.double()}

    def outputs(constants: dict[str, Tensor]) -> Tensor:
        return interpret(network.nodes, {**constants, **inputs}, network.outputs)[network.outputs[0]]

    before = outputs(constants)
    folded = fold_norms(network, constants)
    network, constants = folded.edit.apply(network, constants)
    assert len(folded.moments) == norms and not folded.left
    assert {node.outputs[0] for node in network.nodes if node.op == "Conv"} >= folded.moments.keys()
    opening = open_clips(network, constants)
    network, constants = opening.apply(network, constants)
    constants = doubled(constants)
    assert len(opening.steps) == clips
    proved = prove(network, constants, find_sites(network, constants).sites, inputs)
    assert len(proved.sites) == count and proved.rejected == ()
    found = Equalize().scales(proved.sites, constants)
    assert found.converged
    constants = found.edit(proved.sites).constants(constants)
    assert float((outputs(constants) - before).abs().max() / before.abs().max()) < 1e-10
    for site in proved.sites:
        source = channel_ranges(site.sources, constants, site.channels)
        sink = channel_ranges(site.sinks, constants, site.channels)
        inside = (source > 0) & (sink > 0)
        inside &= (found.scales[site.value] < 999) & (found.scales[site.value] > 1.001e-3)
        torch.testing.assert_close(source[inside], sink[inside], rtol=5e-3, atol=0)
    assert len(expected_means(network, constants, folded.moments)) >= 2 * norms - 10
