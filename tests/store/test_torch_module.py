"""PyTorch modules as ONNX files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.source_error import SourceError
from bitwright.store.torch_module import export_module
from networks import NETWORKS, exported, network, sample


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_what_the_module_does_for_any_batch(name: str, tmp_path: Path) -> None:
    module = network(name)
    source = exported(module, tmp_path)
    runner = OnnxRunner(source)
    for batch in (1, 3):
        inputs = sample(module, batch, seed=batch)
        with torch.no_grad():
            expected = module(*inputs)
        found = runner.run(dict(zip(source.network().inputs, inputs, strict=True)))
        torch.testing.assert_close(found[source.network().outputs[0]], expected, rtol=1e-4, atol=1e-5)


def test_batch_norms_stay_and_parameters_keep_their_names(tmp_path: Path) -> None:
    module = network("residual")
    source = exported(module, tmp_path)
    assert Counter(node.op for node in source.network().nodes)["BatchNormalization"] == 3
    state = module.state_dict()
    kept = source.network().constants & state.keys()
    assert kept == {name for name in state if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in source.read(kept).items())


def test_a_transposed_weight_is_named_after_the_weight(tmp_path: Path) -> None:
    module = network("attention")
    source = exported(module, tmp_path)
    read = source.read(["query.weight.transposed"])["query.weight.transposed"]
    assert torch.equal(read.T, module.query.weight)


def test_inputs_by_name_and_a_batch_of_one_leave_the_batch_free(tmp_path: Path) -> None:
    module = network("two_inputs")
    x, time = sample(module, 1)
    done = export_module(module, {"x": x, "time": time}, tmp_path / "m.onnx")
    network_ = OnnxSource.open(done.path).network()
    assert done.fixed_batch == ""
    assert [network_.values[name].shape for name in network_.inputs] == [(None, 2, 8, 8), (None, 4)]


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 8), nn.Parameter(torch.randn(64, 8))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids) + self.place[: ids.shape[1]]
        return torch.softmax((x @ x.mT).masked_fill(mask[:, None] == 0, -1e9), -1) @ x


def test_text_keeps_a_free_length(tmp_path: Path) -> None:
    module = Reader().eval()
    example = torch.ones(2, 5, dtype=torch.int64)  # given twice: two inputs all the same
    done = export_module(module, (example, example), tmp_path / "m.onnx")
    source = OnnxSource.open(done.path)
    assert [source.network().values[name].shape for name in ("ids", "mask")] == [(None, None), (None, None)]
    ids = torch.arange(21).reshape(3, 7) % 20
    mask = (ids % 3 > 0).long()
    found = OnnxRunner(source).run({"ids": ids, "mask": mask})
    with torch.no_grad():
        torch.testing.assert_close(found[source.network().outputs[0]], module(ids, mask), rtol=1e-4, atol=1e-5)


def test_space_is_free_where_that_is_asked_for(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()
    done = export_module(module, (torch.randn(1, 1, 8, 8),), tmp_path / "m.onnx", free_sizes=True)
    source, x = OnnxSource.open(done.path), torch.randn(2, 1, 11, 6)
    found = OnnxRunner(source).run({source.network().inputs[0]: x})
    with torch.no_grad():
        torch.testing.assert_close(found[source.network().outputs[0]], module(x), rtol=1e-4, atol=1e-5)


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"twice": x * 2, "same": x}


def test_outputs_keep_the_names_that_the_module_gives_them(tmp_path: Path) -> None:
    source = OnnxSource.open(export_module(Named().eval(), (torch.ones(2, 3),), tmp_path / "m.onnx").path)
    assert source.network().outputs == ("twice", "same")
    found = OnnxRunner(source).run({source.network().inputs[0]: torch.ones(4, 3)})
    assert torch.equal(found["twice"], 2 * torch.ones(4, 3)) and torch.equal(found["same"], torch.ones(4, 3))


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 12) if x.shape[0] == 2 else x.reshape(3, -1) * 2


def test_a_module_with_a_fixed_batch_is_exported_for_it_and_that_is_said(tmp_path: Path) -> None:
    done = export_module(FixedBatch().eval(), (torch.randn(2, 3, 4),), tmp_path / "m.onnx")
    assert "free batch failed" in done.fixed_batch
    assert OnnxSource.open(done.path).network().values["x"].shape == (2, 3, 4)


def test_a_module_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="training mode"):
        export_module(nn.Linear(3, 3), (torch.zeros(2, 3),), tmp_path / "m.onnx")


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_a_module_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be traced"):
        export_module(DataDependent().eval(), (torch.ones(2, 3),), tmp_path / "m.onnx")


def test_nothing_is_printed_and_no_path_of_the_source_is_left_in_the_file(tmp_path: Path, capfd) -> None:
    exported(network("depthwise"), tmp_path)
    assert capfd.readouterr() == ("", "")
    text = str(onnx.load(tmp_path / "network.onnx").graph.node)
    assert "networks.py" not in text and "stack_trace" not in text


class OtherwiseFrom64On(nn.Module):
    """As diffusers' upsampling: large batches are laid out anew."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous() + 1 if x.shape[0] >= 64 else x + 1


def test_a_batch_that_may_not_be_of_any_size_is_still_free(tmp_path: Path) -> None:
    exported_file = export_module(OtherwiseFrom64On().eval(), (torch.zeros(2, 3),), tmp_path / "model.onnx")
    assert exported_file.fixed_batch == ""
    source = OnnxSource.open(exported_file.path)
    for batch in (1, 5):
        found = OnnxRunner(source).run({source.network().inputs[0]: torch.zeros(batch, 3)})
        assert found[source.network().outputs[0]].tolist() == [[1.0] * 3] * batch
