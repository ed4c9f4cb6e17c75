"""A draft changes what it is told to, and nothing else: order, names, constants that are still read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.onnx_tensors import Narrow


def opened(folder: Path) -> OnnxSource:
    """x @ w + b, and w itself as a second output's source through Identity."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], "product", doc_string="mine"),
            helper.make_node("Add", ["y", "b"], ["z"], "sum"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2])],
        [
            onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w"),
            onnx.numpy_helper.from_array(np.ones(2, dtype=np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    return OnnxSource.open(folder / "m.onnx")


def test_an_untouched_draft_is_the_users_file(tmp_path: Path) -> None:
    source = opened(tmp_path)
    assert OnnxDraft(source).finish() == source.model()


def test_new_nodes_stand_where_they_were_put(tmp_path: Path) -> None:
    draft = OnnxDraft(opened(tmp_path))
    draft.after("x", helper.make_node("Identity", ["x"], ["copy"], "behind"))
    draft.before("sum", helper.make_node("Identity", ["y"], ["other"], "front"))
    draft.after("y", helper.make_node("Identity", ["y"], ["more"], "behind_y"))
    assert [node.name for node in draft.finish().graph.node] == ["behind", "product", "behind_y", "front", "sum"]


def test_a_replaced_node_takes_the_constants_with_it_that_it_alone_read(tmp_path: Path) -> None:
    draft = OnnxDraft(opened(tmp_path))
    new = draft.store("w", torch.zeros(3, 2))
    draft.replace("product", [helper.make_node("MatMul", ["x", new], ["y"], "product")])
    model = draft.finish()
    assert new == "w_2"
    assert {tensor.name for tensor in model.graph.initializer} == {"b", "w_2"}


def test_a_constant_that_others_read_stays_beside_what_stands_for_it(tmp_path: Path) -> None:
    source = opened(tmp_path)
    model = source.model()
    model.graph.node.append(helper.make_node("Identity", ["w"], ["seen"], "look"))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, [3, 2]))
    source.write(tmp_path / "two.onnx", model)
    draft = OnnxDraft(OnnxSource.open(tmp_path / "two.onnx"))
    made = draft.stand_in("w", ["product"], 1)
    assert made != "w"
    changed = draft.finish()
    assert "w" in {tensor.name for tensor in changed.graph.initializer}
    assert next(node for node in changed.graph.node if node.name == "product").input[1] == made


def test_integers_of_2_and_4_bits_are_written_as_onnx_reads_them(tmp_path: Path) -> None:
    draft = OnnxDraft(opened(tmp_path))
    signed = draft.store("signed", Narrow(torch.tensor([[-8, 7, -1]], dtype=torch.int8), 4))
    unsigned = draft.store("unsigned", Narrow(torch.tensor([[15, 0], [1, 9]], dtype=torch.uint8), 4))
    tiny = draft.store("tiny", Narrow(torch.tensor([-2, 1, 0, -1, 1], dtype=torch.int8), 2))
    opened(tmp_path).write(tmp_path / "n.onnx", draft.finish(), draft.stored)
    stored = {tensor.name: tensor for tensor in onnx.load(tmp_path / "n.onnx").graph.initializer}
    assert stored[signed].data_type == TensorProto.INT4
    assert stored[unsigned].data_type == TensorProto.UINT4
    assert onnx.numpy_helper.to_array(stored[signed]).astype(int).tolist() == [[-8, 7, -1]]
    assert stored[tiny].data_type == TensorProto.INT2
    assert onnx.numpy_helper.to_array(stored[tiny]).astype(int).tolist() == [-2, 1, 0, -1, 1]
    assert onnx.numpy_helper.to_array(stored[unsigned]).astype(int).tolist() == [[15, 0], [1, 9]]
