"""A network whose weights alone are quantized, as one ONNX file with MatMulNBits, an operator of ONNX Runtime.

Codes are packed along the columns, lowest bits first, block by block: [outputs, blocks, bytes of a block]. Scales are
[outputs, blocks], zeros are packed along the blocks of a row. Activations stay float32 unless the file is asked to let
the engine round them (`accuracy`).

Source: ONNX Runtime, contrib operator MatMulNBits, version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int16, UInt8
from onnx import NodeProto, helper
from torch import Tensor

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.export.onnx_tables import add_tables
from bitwright.export.packed_weight import Blocks, blocks_of
from bitwright.graph.network import Node
from bitwright.numerics.format import pack_bits
from bitwright.store.quantized import QuantizedNetwork

DOMAIN = "com.microsoft"


class Accuracy(Enum):
    """What activations that meet packed weights are computed in; the value is the operator's `accuracy_level`."""

    FLOAT = 0  # as they are
    INT8 = 4  # rounded block by block: faster for long inputs, an error of about half a percent


@final
class NBitsGraph:
    """A model in the making."""

    def __init__(self, quantized: QuantizedNetwork, accuracy: Accuracy = Accuracy.FLOAT) -> None:
        self.quantized, self.accuracy = quantized, accuracy
        self.draft = OnnxDraft(quantized.source)

    def build(self) -> OnnxDraft:
        """The graph with every product of a quantized weight as one operator."""
        nodes = {node.name: node for node in self.draft.network.nodes}
        tables = add_tables(self.draft, self.quantized)
        for weight in self.quantized.weights.values():
            if weight.name in tables:
                continue
            blocks = blocks_of(weight)
            stored = self._stored(weight.name, blocks)
            for name in weight.nodes:
                self.draft.replace(name, list(self._product(nodes[name], blocks, stored)))
        self.draft.use_domain(DOMAIN, 1)
        return self.draft

    def _stored(self, name: str, blocks: Blocks) -> list[str]:
        """The names of the codes, the scales, and the zeros ("" for the middle code)."""
        middle = 1 << (blocks.bits - 1)
        shift = middle if blocks.signed else 0
        codes, zero = blocks.codes + shift, None if blocks.zero is None else blocks.zero + shift
        rows, cols = codes.shape
        padded = torch.nn.functional.pad(codes, (0, -cols % blocks.size), value=middle)
        packed = pack_rows(padded, blocks.bits).reshape(rows, -1, blocks.size * blocks.bits // 8)
        stored = [self.draft.store(f"{name}.codes", packed), self.draft.store(f"{name}.scale", blocks.scale)]
        stored.append("" if zero is None else self.draft.store(f"{name}.zero", pack_rows(zero, blocks.bits)))
        return stored

    def _product(self, node: Node, blocks: Blocks, stored: list[str]) -> Iterator[NodeProto]:
        """The nodes in the place of a MatMul or Gemm; the last one has its name."""
        (rows, cols), output = blocks.codes.shape, node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        is_row = bool(bias) and self.draft.network.values[bias].shape == (rows,)
        made = self.draft.fresh(f"{output}.product") if bias and not is_row else output
        name = self.draft.fresh(f"{node.name}.product") if made != output else node.name
        inputs = [node.inputs[0], *stored, *(["", bias] if is_row else [])]
        while not inputs[-1]:
            inputs.pop()
        proto = helper.make_node("MatMulNBits", inputs, [made], name, domain=DOMAIN)
        numbers = {"K": cols, "N": rows, "bits": blocks.bits, "block_size": blocks.size}
        numbers |= {"accuracy_level": self.accuracy.value} if self.accuracy is not Accuracy.FLOAT else {}
        proto.attribute.extend(helper.make_attribute(key, number) for key, number in numbers.items())
        yield proto
        if made != output:
            yield helper.make_node("Add", [made, bias], [output], node.name)


def pack_rows(codes: Int16[Tensor, "rows cols"], bits: int) -> UInt8[Tensor, "rows bytes"]:
    """Codes of each row as a stream of bits, lowest first; every row begins with a new byte."""
    rows, cols = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -cols % (8 // bits)))
    return pack_bits(padded.to(torch.uint8), bits).reshape(rows, -1)


def export_nbits(network: QuantizedNetwork, path: Path, accuracy: Accuracy = Accuracy.FLOAT) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError."""
    NBitsGraph(network, accuracy).build().write(path)
