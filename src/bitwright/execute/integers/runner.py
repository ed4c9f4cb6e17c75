"""Runs a QDQ file with the arithmetic of an engine that need not be here: bit for bit in integers, the rest in float32.

Operators between quantizers run on codes (`fusion.py` says which); all others in float32 on dequantized numbers, as
torch functions, or in ONNX Runtime where there is no function for one. What an engine computes in floats it may compute
in another order: there, and nowhere else, the last bit of a float may differ, and with it a code on the edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from bitwright.execute.integers.blends import blended
from bitwright.execute.integers.codes import Codes, Quantizer, along
from bitwright.execute.integers.fusion import DEQUANTIZE, PRODUCTS, QUANTIZE, Fused, fusions
from bitwright.execute.integers.products import channel_axis, sums_of
from bitwright.execute.interpret import UnsupportedOperator, can_interpret, interpret
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from bitwright.graph.network import Node
from bitwright.graph.onnx import constants_of
from bitwright.numerics import Arithmetic, Scaling
from bitwright.store.onnx_source import read_model
from bitwright.store.onnx_tensors import read_tensor


@final
class IntegerRunner:
    """A QDQ file with the arithmetic of an engine. SourceError where it is no ONNX file."""

    def __init__(self, path: Path, arithmetic: Arithmetic) -> None:
        path = Path(path)
        model, folder = read_model(path), path.parent
        self._floats = OnnxRunner(model, folder, exact=True)
        self._alone: dict[str, OnnxRunner] = {}  # of nodes that are run in ONNX Runtime
        self.network, self.arithmetic = self._floats.network, arithmetic
        self.constants = {name: read_tensor(name, held, folder) for name, held in constants_of(model).items()}
        self.fused = fusions(self.network, self.constants, arithmetic)
        self._absorbed = {name for fused in self.fused.values() for name in fused.absorbed}
        nodes = [node for node in self.network.nodes if node.name not in self._absorbed]
        self._last = {name: node.name for node in nodes for name in (*node.inputs, *node.captures)}

    @torch.no_grad()
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's outputs for one batch; RunError where an input is missing or an operator cannot run."""
        missing = [name for name in self.network.inputs if name not in feeds]
        if missing:
            raise RunError(f"{missing[0]}: an input of the network that the feeds lack; they have {', '.join(feeds)}")
        run = _Run(self, feeds)
        for node in self.network.nodes:
            if node.name in self._absorbed:
                continue
            run.step(node)
            for name in {*node.inputs, *node.captures}:
                if self._last[name] == node.name and name not in self.network.outputs:
                    run.forget(name)
        return {name: run.value(name) for name in self.network.outputs}

    def float_node(self, node: Node, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a node makes of these values in float32, or whatever type it computes in."""
        wanted = [name for name in node.outputs if name]
        if can_interpret(node) and node.name not in self._alone:
            try:
                return interpret([node], given, wanted)
            except UnsupportedOperator:
                pass
        runner = self._alone.setdefault(node.name, self._floats.with_constants({}))
        return runner.run({name: held for name, held in given.items() if name not in self.constants}, wanted)


class _Run:
    """The values of one batch: tensors by name, and what DequantizeLinear makes as the codes that it reads."""

    def __init__(self, runner: IntegerRunner, feeds: Mapping[str, Tensor]) -> None:
        self.runner = runner
        self.tensors = dict(feeds)
        self.codes: dict[str, Codes] = {}

    def value(self, name: str) -> Tensor:
        """A value as numbers."""
        if name in self.codes:
            return self.codes[name].dequantize()
        return self.tensors[name] if name in self.tensors else self.runner.constants[name]

    def forget(self, name: str) -> None:
        """Nothing reads this value any more."""
        self.tensors.pop(name, None)
        self.codes.pop(name, None)

    def step(self, node: Node) -> None:
        """Run one node."""
        if node.name in self.runner.fused:
            fused = self.runner.fused[node.name]
            self.tensors[fused.made] = self._fused(fused)
        elif node.op == DEQUANTIZE:
            self._dequantize(node)
        elif node.op == QUANTIZE:
            self.tensors[node.outputs[0]] = self._quantize(node)
        else:
            given = {name: self.value(name) for name in (*node.inputs, *node.captures) if name}
            self.tensors.update(self.runner.float_node(node, given))

    def _dequantize(self, node: Node) -> None:
        codes, scale = self.value(node.inputs[0]), self.value(node.inputs[1]).float()
        has_zero = len(node.inputs) > 2 and node.inputs[2]
        zero = self.value(node.inputs[2]) if has_zero else torch.zeros((), dtype=torch.int32)
        axis = int(node.attributes.get("axis", 1))
        block = int(node.attributes.get("block_size", 0))
        if block:
            size = codes.shape[axis]
            scale = scale.repeat_interleave(block, axis).narrow(axis, 0, size)
            zero = zero.repeat_interleave(block, axis).narrow(axis, 0, size) if has_zero else zero
            self.tensors[node.outputs[0]] = (codes.float() - zero.float()) * scale
        else:
            self.codes[node.outputs[0]] = Codes(codes, scale, zero, axis % max(1, codes.dim()))

    def _quantize(self, node: Node) -> Tensor:
        values, scale = self.value(node.inputs[0]), self.value(node.inputs[1]).float()
        has_zero = len(node.inputs) > 2 and node.inputs[2]
        zero = self.value(node.inputs[2]) if has_zero else torch.zeros((), dtype=torch.uint8)
        if scale.numel() == 1:
            return Quantizer(scale.reshape(()), int(zero), zero.dtype).quantize(values)
        axis = int(node.attributes.get("axis", 1))
        limits = torch.iinfo(zero.dtype)
        steps = (values / along(scale, values.dim(), axis)).round() + along(zero.float(), values.dim(), axis)
        return steps.clamp(limits.min, limits.max).to(zero.dtype)

    def _fused(self, fused: Fused) -> Tensor:
        """Codes where the node has a quantizer, else float32."""
        node, arithmetic = fused.node, self.runner.arithmetic
        if node.op in PRODUCTS:
            return self._product(fused)
        assert fused.quantizer is not None
        return blended(node, [self.codes[name] for name in node.inputs], fused.quantizer, arithmetic.blends)

    def _product(self, fused: Fused) -> Tensor:
        node, arithmetic = fused.node, self.runner.arithmetic
        x, weight = self.codes[node.inputs[0]], self.codes[node.inputs[1]]
        sums = sums_of(node, x, weight, arithmetic.saturates)
        axis = channel_axis(node, sums.dim())
        alpha = float(node.attributes.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
        factor = x.scale.reshape(()) * weight.scale if alpha == 1 else alpha * x.scale.reshape(()) * weight.scale
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if arithmetic.products is Scaling.FLOAT:
            values = sums.float() * along(factor, sums.dim(), axis)
            beta = float(node.attributes.get("beta", 1.0))
            return values + beta * _spread(node, self.value(bias), sums.dim()) if bias else values
        if bias:
            sums = sums + _spread(node, self.codes[bias].codes, sums.dim())
        if fused.quantizer is None:
            return sums.float() * along(factor, sums.dim(), axis)
        factor = factor / fused.quantizer.scale
        return fused.quantizer.rounded(sums.float() * along(factor, sums.dim(), axis))


def _spread(node: Node, bias: Tensor, dims: int) -> Tensor:
    """A bias to be added to sums: that of a Gemm has their shape or is broadcast, others lie along the channels."""
    return bias if node.op == "Gemm" else along(bias, dims, 1)
