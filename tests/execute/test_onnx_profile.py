"""What ONNX Runtime really ran: types, times, subgraphs, nodes without names; files of any kind, opened as they are."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import parser

from bitwright.execute.onnx_profile import OnnxSession, check_file, code_types, executed
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from networks import exported, network, sample

BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 3] x, bool flag) => (float[n, 3] y) {
  z = Erf(x)
  y = If (flag) <
    then_branch = g1 () => (float[n, 3] a) { a = Sqrt(z) },
    else_branch = g2 () => (float[n, 3] b) { b = Exp(z) }
  >
}"""


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "branches.onnx"
    onnx.save(parser.parse_model(BRANCHES), path)
    return path


def test_outputs_are_those_of_the_runner(tmp_path: Path) -> None:
    source = exported(network("two_inputs"), tmp_path)
    feeds = dict(zip(source.network().inputs, sample(network("two_inputs"), 3), strict=True))
    session = OnnxSession(source.path)
    assert tuple(session.inputs) == source.network().inputs and session.outputs == source.network().outputs
    torch.testing.assert_close(session.run(feeds), OnnxRunner(source).run(feeds))


def test_a_free_axis_has_its_name_or_none(branches: Path) -> None:
    assert OnnxSession(branches).inputs == {"x": ("n", 3), "flag": ()}


@pytest.mark.parametrize(("flag", "taken", "left"), [(True, "Sqrt", "Exp"), (False, "Exp", "Sqrt")])
def test_nodes_without_names_are_found_and_a_branch_not_taken_did_not_run(
    branches: Path, flag: bool, taken: str, left: str
) -> None:
    found = {one.op: one for one in executed(branches, {"x": torch.rand(2, 3), "flag": torch.tensor(flag)})}
    assert set(found) == {"Erf", "If", "Sqrt", "Exp"}
    assert found["Erf"].reads == ("float",) == found["Erf"].makes and not found["Erf"].inside
    assert found[taken].reads == ("float",) and found[taken].inside == "If"
    assert found[left].reads == () == found[left].makes and found[left].microseconds == 0


def test_a_file_with_external_data_is_profiled_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = exported(network("residual"), tmp_path)
    model = onnx.load(source.path)
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=512)
    feeds = {"x": sample(network("residual"), 2)[0]}
    assert check_file(folder / "m.onnx") == ""
    inside, outside = executed(source.path, feeds), executed(folder / "m.onnx", feeds)
    assert [(one.op, one.reads, one.makes) for one in inside] == [(one.op, one.reads, one.makes) for one in outside]
    assert sorted(path.name for path in folder.iterdir()) == ["m.data", "m.onnx"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [source.path.name]


def test_the_checker_says_what_is_wrong(branches: Path, tmp_path: Path) -> None:
    assert check_file(branches) == ""
    model = onnx.load(branches)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"not a model")
    assert "NoSuchOperator" in check_file(tmp_path / "bad.onnx") and check_file(tmp_path / "empty.onnx")
    with pytest.raises(RunError, match=r"bad\.onnx: ONNX Runtime cannot open it"):
        OnnxSession(tmp_path / "bad.onnx")


def test_a_batch_that_does_not_fit_is_an_error(branches: Path) -> None:
    session = OnnxSession(branches)
    with pytest.raises(RunError, match="flag: an input of the network that the feeds lack; they have x"):
        session.run({"x": torch.rand(2, 3)})
    with pytest.raises(RunError, match="ONNX Runtime failed on this batch"):
        session.run({"x": torch.rand(2, 4), "flag": torch.tensor(True)})
    with pytest.raises(RunError, match="x: bfloat16 cannot be handed"):
        session.run({"x": torch.rand(2, 3).bfloat16(), "flag": torch.tensor(True)})


@pytest.mark.parametrize(
    ("nodes", "opset", "types"),
    [
        ("y = Relu(x)", 17, set()),
        ("y = QuantizeLinear(x, scale)", 17, {"uint8"}),
        ("y = QuantizeLinear(x, scale, signed)", 17, {"int8"}),
        ("y = QuantizeLinear <output_dtype = 3> (x, scale)", 21, {"int8"}),
        ("a = QuantizeLinear(x, scale, signed) y = QuantizeLinear(x, scale)", 17, {"int8", "uint8"}),
    ],
)
def test_types_of_codes_are_those_that_the_file_says(tmp_path: Path, nodes: str, opset: int, types: set[str]) -> None:
    kind = "float[n]" if not types else "int8[n]" if types == {"int8"} else "uint8[n]"
    constants = "<float scale = {0.5}, int8 signed = {0}>"
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[n] x) => ({kind} y) {constants} {{ {nodes} }}'
    onnx.save(parser.parse_model(text), tmp_path / "q.onnx")
    assert code_types(tmp_path / "q.onnx") == types
