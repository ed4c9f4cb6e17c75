"""LSTMs with weights in codes, as the operator that ONNX Runtime has for them.

Standard ONNX has no LSTM of integers, and an LSTM behind DequantizeLinear would have its weights dequantized on every
run. DynamicQuantizeLSTM (com.microsoft) takes them as integers with one scale for each gate of each direction, turned
so that gates are the last axis, and puts what it reads and its state into codes at each step.

Source: ONNX Runtime 1.32, docs/ContribOperators.md.
"""

from __future__ import annotations

import torch
from onnx import NodeProto

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.graph.network import Node
from bitwright.store.quantized import QuantizedNetwork

DOMAIN, VERSION = "com.microsoft", 1
OPERATORS = {"LSTM": "DynamicQuantizeLSTM"}
FIRST, LAST = 1, 8  # the place of the first weight, and how many inputs the float operator can have
UNKNOWN = ("layout",)  # an attribute that it lacks; only its default comes here


def has_recurrent(quantized: QuantizedNetwork) -> bool:
    """Whether there is a recurrent operator with weights in codes."""
    return any(_is_coded(node, quantized) for node in quantized.source.network().nodes)


def _is_coded(node: Node, quantized: QuantizedNetwork) -> bool:
    return node.op in OPERATORS and node.name in quantized.integer


def add_recurrent(draft: OnnxDraft, quantized: QuantizedNetwork) -> frozenset[str]:
    """Give every recurrent operator in integers its form; the names of the weights that this took care of."""
    stored: dict[str, tuple[str, str, str]] = {}
    for node in draft.network.nodes:
        if not _is_coded(node, quantized):
            continue
        parts = []
        for name in node.inputs[FIRST : FIRST + 2]:
            if name not in stored:
                weight = quantized.weights[name]
                codes, steps = weight.shaped(weight.qtensor.codes), weight.scale.reshape(weight.shape[:2])
                turned = codes.movedim(1, 2).contiguous()
                held = {"codes": turned, "scale": steps, "zero": torch.zeros_like(steps, dtype=torch.int8)}
                codes_name, scale, zero = (draft.store(f"{name}.{part}", tensor) for part, tensor in held.items())
                stored[name] = codes_name, scale, zero
            parts.append(stored[name])
        proto = NodeProto()
        proto.CopyFrom(draft.proto(node.name))
        proto.op_type, proto.domain = OPERATORS[node.op], DOMAIN
        inputs = [*proto.input, *[""] * (LAST - len(proto.input))]
        inputs[FIRST : FIRST + 2] = [codes for codes, _, _ in parts]
        proto.input[:] = [*inputs, *[name for _, scale, zero in parts for name in (scale, zero)]]
        kept = [attribute for attribute in proto.attribute if attribute.name not in UNKNOWN]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        draft.replace(node.name, [proto])
        draft.use_domain(DOMAIN, VERSION)
    return frozenset(stored)
