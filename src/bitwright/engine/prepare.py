"""Edits before calibration: a network that computes what the user's does, in a form that takes codes well.

Norms are folded into the weights they follow, means over positions become the pools that engines have integer kernels
for. What is left is OUT/float.onnx, with the user's names.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bitwright.store.onnx_rewrite import write_edited
from bitwright.store.onnx_source import OnnxSource
from bitwright.transforms import fold_norms, means_as_pools

FLOAT = "float.onnx"


def prepare(source: OnnxSource, out: Path) -> OnnxSource:
    """The network after edits that keep what it computes, as OUT/float.onnx."""
    network, constants = source.network(), numbers_of(source)
    for plan in (lambda n, c: fold_norms(n, c).edit, means_as_pools):
        network, constants = plan(network, constants).apply(network, constants)
    return write_edited(source, network, constants, out / FLOAT)


def numbers_of(source: OnnxSource) -> dict[str, Tensor]:
    """The constants that edits may read: all but text."""
    network = source.network()
    return source.read(sorted(n for n in network.constants if network.values[n].dtype not in ("string", "unknown")))
