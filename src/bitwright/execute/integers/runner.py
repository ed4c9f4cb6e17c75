"""Runs a QDQ file with the arithmetic of an engine that need not be here: bit for bit in integers, the rest in float32.

Operators between quantizers run on codes (`fusion.py` says which); all others in float32 on dequantized numbers, as
torch functions, or in ONNX Runtime where there is no function for one. What an engine computes in floats it may compute
in another order: there, and nowhere else, the last bit of a float may differ, and with it a code on the edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright.execute.integers.blends import blended
from bitwright.execute.integers.codes import Codes, Quantizer, along
from bitwright.execute.integers.dynamic import PRODUCTS as DYNAMIC_PRODUCTS
from bitwright.execute.integers.dynamic import QUANTIZE as DYNAMIC_QUANTIZE
from bitwright.execute.integers.dynamic import run_dynamic
from bitwright.execute.integers.fusion import DEQUANTIZE, PRODUCTS, QUANTIZE, Fused, fusions
from bitwright.execute.integers.products import channel_axis, sums_of
from bitwright.execute.interpret import UnsupportedOperator, can_interpret, interpret
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from bitwright.graph.network import Node
from bitwright.graph.onnx import constants_of
from bitwright.numerics import Arithmetic, Scaling
from bitwright.store.onnx_source import read_model
from bitwright.store.onnx_tensors import read_tensor

WHOLE = frozenset({"int8", "uint8", "int16", "uint16", "int32"})  # types of codes that are computed on here


@final
class IntegerRunner:
    """A QDQ file with the arithmetic of an engine. SourceError where it is no ONNX file."""

    def __init__(self, path: Path, arithmetic: Arithmetic) -> None:
        path = Path(path)
        model, folder = read_model(path), path.parent
        self._floats = OnnxRunner(model, folder, exact=True)
        self._alone: dict[str, OnnxRunner] = {}  # of nodes that are run in ONNX Runtime
        self.network, self.arithmetic = self._floats.network, arithmetic
        self.constants: Mapping[str, Tensor] = _Constants(constants_of(model), folder)
        self.fused = fusions(self.network, self.constants, arithmetic)
        self._absorbed = {name for fused in self.fused.values() for name in fused.absorbed}
        nodes = [node for node in self.network.nodes if node.name not in self._absorbed]
        self._last = {name: node.name for node in nodes for name in (*node.inputs, *node.captures)}

    @property
    def in_integers(self) -> int:
        """How many of the file's operators run on codes."""
        return len(self.fused) + sum(node.op in DYNAMIC_PRODUCTS for node in self.network.nodes)

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

    def float_node(self, node: Node, value: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """What a node makes in float32, or whatever type it computes in, of the values that `value` gives by name."""
        wanted, reads = [name for name in node.outputs if name], [*filter(None, (*node.inputs, *node.captures))]
        if can_interpret(node) and node.name not in self._alone:
            try:
                return interpret([node], {name: value(name) for name in reads}, wanted)
            except UnsupportedOperator:
                pass
        runner = self._alone.setdefault(node.name, self._floats.with_constants({}))
        return runner.run({name: value(name) for name in reads if name not in self.constants}, wanted)


class _Constants(Mapping[str, Tensor]):
    """The stored tensors of a file, each read when it is first asked for."""

    def __init__(self, held: Mapping[str, Any], folder: Path) -> None:
        self._held, self._folder = held, folder
        self._read: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._read:
            self._read[name] = read_tensor(name, self._held[name], self._folder)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held


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
        elif node.op == DEQUANTIZE and self._is_whole(node.inputs[0]):
            self._dequantize(node)
        elif node.op == QUANTIZE and self._is_whole(node.outputs[0]):
            self.tensors[node.outputs[0]] = self._quantize(node)
        elif node.op == DYNAMIC_QUANTIZE or node.op in DYNAMIC_PRODUCTS:
            inputs = [self.value(name) if name else None for name in node.inputs]
            made = run_dynamic(node, inputs, self.runner.arithmetic.saturates)
            self.tensors.update(zip(node.outputs, made, strict=True))
        else:
            self.tensors.update(self.runner.float_node(node, self.value))

    def _is_whole(self, value: str) -> bool:
        return self.runner.network.values[value].dtype in WHOLE

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
