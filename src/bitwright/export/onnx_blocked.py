"""A network whose weights alone are quantized, in standard ONNX: blocked DequantizeLinear before a matrix product.

Codes lie in the file as integers of 2, 4 or 8 bits, [columns, outputs] as MatMul reads them. ONNX Runtime joins the two
operators into one (and then rounds activations to 8 bits, unless `session.qdq_matmulnbits_accuracy_level` is 1), but
only for MatMul: so a Gemm becomes a MatMul and a sum.

Source: ONNX operator specification, DequantizeLinear, opset 21 (int4, blocks), 25 (int2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int16
from onnx import NodeProto, helper
from torch import Tensor

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.export.onnx_tables import add_tables
from bitwright.export.packed_weight import Blocks, blocks_of
from bitwright.graph.network import Node
from bitwright.store.onnx_tensors import Narrow, Stored
from bitwright.store.quantized import QuantizedNetwork

OPSET_BLOCKS = 21
OPSET_TWO_BITS = 25


@final
class BlockedGraph:
    """A model in the making."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.draft = OnnxDraft(quantized.source)

    def build(self) -> OnnxDraft:
        """The graph with every product of a quantized weight behind its DequantizeLinear."""
        nodes = {node.name: node for node in self.draft.network.nodes}
        opset = OPSET_BLOCKS
        tables = add_tables(self.draft, self.quantized)
        for weight in self.quantized.weights.values():
            if weight.name in tables:
                continue
            blocks = blocks_of(weight)
            opset = max(opset, OPSET_TWO_BITS if blocks.bits == 2 else OPSET_BLOCKS)
            made = self._dequantized(weight.name, weight.nodes[0], blocks)
            for name in weight.nodes:
                self.draft.replace(name, list(self._product(nodes[name], made)))
        self.draft.raise_opset(opset)
        return self.draft

    def _dequantized(self, name: str, first: str, blocks: Blocks) -> str:
        """The name of the float matrix [columns, outputs], made in front of the first node that reads it."""
        parts: dict[str, Stored] = {"codes": _typed(blocks.codes.T, blocks), "scale": blocks.scale.T.contiguous()}
        if blocks.zero is not None:
            parts["zero"] = _typed(blocks.zero.T, blocks)
        inputs = [self.draft.store(f"{name}.{part}", tensor) for part, tensor in parts.items()]
        made = self.draft.fresh(f"{name}.dequantized")
        proto = helper.make_node("DequantizeLinear", inputs, [made], self.draft.fresh(f"{name}.dequantize"))
        attributes = {"axis": 0, "block_size": blocks.size}
        proto.attribute.extend(helper.make_attribute(key, number) for key, number in attributes.items())
        self.draft.before(first, proto)
        return made

    def _product(self, node: Node, weight: str) -> Iterator[NodeProto]:
        """The nodes in the place of a MatMul or Gemm; the last one has its name."""
        output = node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        made = self.draft.fresh(f"{output}.product") if bias else output
        name = self.draft.fresh(f"{node.name}.product") if bias else node.name
        yield helper.make_node("MatMul", [node.inputs[0], weight], [made], name)
        if bias:
            yield helper.make_node("Add", [made, bias], [output], node.name)


def _typed(codes: Int16[Tensor, "cols rows"], blocks: Blocks) -> Stored:
    """Codes or zeros in the type that holds this width."""
    whole = codes.contiguous().to(torch.int8 if blocks.signed else torch.uint8)
    return whole if blocks.bits == 8 else Narrow(whole, blocks.bits)


def export_blocked(network: QuantizedNetwork, path: Path) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError.

    Raises the opset to 21, or 25 for weights of 2 bits.
    """
    BlockedGraph(network).build().write(path)
