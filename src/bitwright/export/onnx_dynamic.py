"""A quantized network as one ONNX file whose activations are quantized as it runs.

Each value that quantized products read goes through one DynamicQuantizeLinear, whose codes all of them share. A
product is then MatMulInteger, Cast, and a multiplication with both scales, then the bias: the shape that ONNX Runtime
fuses into one operator. Gemm becomes the same, its weight turned so that its columns are the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch
from onnx import NodeProto, TensorProto, helper

from bitwright.export.exporter import ExportError
from bitwright.export.onnx_draft import OnnxDraft
from bitwright.export.onnx_recurrent import add_recurrent
from bitwright.export.onnx_tables import add_tables
from bitwright.graph.network import Node
from bitwright.numerics import Int
from bitwright.store.quantized import QuantizedNetwork, StoredWeight


@final
class DynamicGraph:
    """A model in the making. ExportError where a weight is not in signed integers with one scale per row or in all."""

    def __init__(self, quantized: QuantizedNetwork) -> None:
        self.quantized = quantized
        self.draft = OnnxDraft(quantized.source)
        self._codes: dict[str, tuple[str, str, str]] = {}

    def build(self) -> OnnxDraft:
        """The graph with all products of constant weights in integers."""
        nodes = {node.name: node for node in self.draft.network.nodes}
        apart = add_recurrent(self.draft, self.quantized) | add_tables(self.draft, self.quantized)
        for weight in self.quantized.weights.values():
            if weight.name in apart:
                continue
            check_weight(weight)
            turned = weight.axis == 0 and len(weight.shape) == 2
            codes, scale = weight.shaped(weight.qtensor.codes), weight.scale
            stored = self.draft.store(f"{weight.name}.codes", codes.T.contiguous() if turned else codes)
            steps = self.draft.store(f"{weight.name}.scale", scale if scale.numel() > 1 else scale.reshape(()))
            for name in weight.nodes:
                self.draft.replace(name, list(self._product(nodes[name], stored, steps)))
        return self.draft

    def _product(self, node: Node, weight: str, steps: str) -> Iterator[NodeProto]:
        """The nodes in the place of a MatMul or Gemm; the last one has its name."""
        codes, scale, zero = self._quantized(node.inputs[0])
        fresh, output = self.draft.fresh, node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        sums, floats, both = (fresh(f"{output}.{part}") for part in ("sums", "floats", "scale"))
        made = fresh(f"{output}.product") if bias else output
        last = "" if bias else node.name
        yield helper.make_node("MatMulInteger", [codes, weight, zero], [sums], fresh(f"{node.name}.integer"))
        yield helper.make_node("Cast", [sums], [floats], fresh(f"{node.name}.cast"), to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [scale, steps], [both], fresh(f"{node.name}.scales"))
        yield helper.make_node("Mul", [floats, both], [made], last or fresh(f"{node.name}.rescale"))
        if bias:
            yield helper.make_node("Add", [made, bias], [output], node.name)

    def _quantized(self, value: str) -> tuple[str, str, str]:
        """Codes, scale and zero of a value, made once."""
        if value not in self._codes:
            fresh = self.draft.fresh
            made = fresh(f"{value}.codes"), fresh(f"{value}.step"), fresh(f"{value}.zero")
            self.draft.after(
                value, helper.make_node("DynamicQuantizeLinear", [value], list(made), fresh(f"{value}.quantize"))
            )
            self._codes[value] = made
        return self._codes[value]


def check_weight(weight: StoredWeight) -> None:
    """Raises ExportError for a weight that MatMulInteger cannot multiply with."""
    spec = weight.qtensor.spec
    is_plain = isinstance(spec.format, Int) and spec.format.signed and spec.zero is None and weight.scale.dim() == 1
    is_wide = spec.tile is not None and spec.tile.cols is None
    if not (is_plain and is_wide) or weight.qtensor.codes.dtype != torch.int8 or len(weight.shape) != 2:
        raise ExportError(
            f"{weight.name}: stored as {spec} with shape {list(weight.shape)}; activations quantized as the network "
            "runs need a matrix in signed integers with one scale per row: use the recipe int8_dynamic"
        )


def export_dynamic(network: QuantizedNetwork, path: Path) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError."""
    DynamicGraph(network).build().write(path)
