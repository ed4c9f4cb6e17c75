"""Edits before calibration: a network that computes what the user's does, in a form that takes codes well.

What does not depend on the inputs is computed, operators that copy go, norms are folded into the weights they follow,
means over positions become the pools that engines have integer kernels for. What is left is OUT/float.onnx, with the
user's names.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Network
from bitwright.store.onnx_rewrite import write_edited
from bitwright.store.onnx_source import OnnxSource
from bitwright.transforms import (
    as_constants,
    constant_nodes,
    fold_norms,
    means_as_pools,
    one_layout_each,
    without_copies,
)

FLOAT = "float.onnx"
GROWS, SMALL = 4, 1 << 20  # a computed constant may be so many times what it is made of, or of so many bytes


def prepare(source: OnnxSource, out: Path) -> OnnxSource:
    """The network after edits that keep what it computes, as OUT/float.onnx."""
    network, constants = source.network(), numbers_of(source)
    plans = (
        lambda n, c: as_constants(n, c, _computed(source)),
        lambda n, c: without_copies(n),
        lambda n, c: fold_norms(n, c).edit,
        means_as_pools,
        one_layout_each,
    )
    for plan in plans:
        network, constants = plan(network, constants).apply(network, constants)
    return write_edited(source, network, constants, out / FLOAT)


def _computed(source: OnnxSource) -> dict[str, Tensor]:
    """What the network computes without its inputs; left out is what is much larger than what it is made of."""
    network = source.network()
    nodes = constant_nodes(network)
    wanted = [name for node in nodes for name in node.outputs if name]
    found = OnnxRunner(source).run({}, wanted) if wanted else {}
    sizes = {name: tensor.nbytes for name, tensor in found.items()}
    for node in nodes:
        read = sum(sizes.get(name, 0) or _bytes(network, name) for name in node.inputs if name)
        for name in node.outputs:
            if sizes.get(name, 0) > max(GROWS * read, SMALL):
                del found[name]
    return found


def _bytes(network: Network, name: str) -> int:
    """How large a stored constant is, taken as float32."""
    return 4 * math.prod(size or 1 for size in network.values[name].shape or ())


def numbers_of(source: OnnxSource) -> dict[str, Tensor]:
    """The constants that edits may read: all but text."""
    network = source.network()
    return source.read(sorted(n for n in network.constants if network.values[n].dtype not in ("string", "unknown")))
