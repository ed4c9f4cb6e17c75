"""Tables in codes: rows of 8 bits are picked, and only what was picked becomes floats.

A DequantizeLinear in front of Gather would make floats of the whole table on every run. So codes and scales are picked
by the same numbers, and multiplied: operators that every engine has.
"""

from __future__ import annotations

from onnx import TensorProto, helper

from bitwright.export.onnx_draft import OnnxDraft
from bitwright.store.quantized import QuantizedNetwork


def add_tables(draft: OnnxDraft, quantized: QuantizedNetwork) -> frozenset[str]:
    """Give every Gather of rows in codes its form; the names of the weights that this took care of."""
    done: dict[str, tuple[str, str]] = {}
    for node in draft.network.nodes:
        weight = quantized.weights.get(node.inputs[0]) if node.op == "Gather" else None
        if weight is None or node.name not in weight.nodes:
            continue
        if weight.name not in done:
            parts = {"codes": weight.shaped(weight.qtensor.codes), "scale": weight.scale.reshape(-1, 1)}
            codes, scale = (draft.store(f"{weight.name}.{part}", tensor) for part, tensor in parts.items())
            done[weight.name] = codes, scale
        made, fresh = [], draft.fresh
        for part, stored in zip(("codes", "scale"), done[weight.name], strict=True):
            made.append(fresh(f"{node.made}.{part}"))
            picked = fresh(f"{node.name}.{part}")
            draft.before(node.name, helper.make_node("Gather", [stored, node.inputs[1]], made[-1:], picked, axis=0))
        codes, steps = made
        numbers = fresh(f"{node.made}.numbers")
        draft.replace(
            node.name,
            [
                helper.make_node("Cast", [codes], [numbers], fresh(f"{node.name}.cast"), to=TensorProto.FLOAT),
                helper.make_node("Mul", [numbers, steps], [node.made], node.name),
            ],
        )
    return frozenset(done)
