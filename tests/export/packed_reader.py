"""Reads packed weights out of ONNX files, written from the operators' specifications and sharing no code with ours.

Every weight comes back as float64 [columns, outputs].
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto


def packed_weights(model: ModelProto) -> dict[str, np.ndarray]:
    """By the name of its codes."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            found[node.input[1]] = from_nbits(node, stored)
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            found[node.input[0]] = from_blocks(node, stored)
    return found


def numbers(node: NodeProto) -> dict[str, int]:
    return {one.name: one.i for one in node.attribute}


def bits_at(data: bytes, index: int, width: int) -> int:
    """The index-th number of this width (1 to 8 bits) in a stream of bits, lowest first."""
    position = index * width
    pair = data[position // 8] | (data[position // 8 + 1] << 8 if position // 8 + 1 < len(data) else 0)
    return (pair >> (position % 8)) & ((1 << width) - 1)


def from_nbits(node: NodeProto, stored: dict[str, TensorProto]) -> np.ndarray:
    told = numbers(node)
    cols, rows, width, size = told["K"], told["N"], told["bits"], told["block_size"]
    blocks = -(-cols // size)
    codes = onnx.numpy_helper.to_array(stored[node.input[1]])
    assert codes.dtype == np.uint8
    assert codes.shape == (rows, blocks, size * width // 8)
    scale = onnx.numpy_helper.to_array(stored[node.input[2]]).reshape(rows, blocks)
    zero = np.full((rows, blocks), 1 << (width - 1))
    if len(node.input) > 3 and node.input[3]:
        packed = onnx.numpy_helper.to_array(stored[node.input[3]]).reshape(rows, -(-blocks * width // 8))
        for row in range(rows):
            zero[row] = [bits_at(packed[row].tobytes(), block, width) for block in range(blocks)]
    out = np.zeros((cols, rows))
    for row in range(rows):
        for col in range(cols):
            block = col // size
            code = bits_at(codes[row, block].tobytes(), col % size, width)
            out[col, row] = (code - zero[row, block]) * np.float64(scale[row, block])
    return out


def from_blocks(node: NodeProto, stored: dict[str, TensorProto]) -> np.ndarray:
    told = numbers(node)
    assert told["axis"] == 0
    parts = [onnx.numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input]
    codes, scale = parts[0], parts[1]
    zero = parts[2] if len(parts) > 2 else np.zeros_like(scale)
    rows = np.arange(codes.shape[0]) // told["block_size"]
    return (codes - zero[rows]) * scale[rows]
