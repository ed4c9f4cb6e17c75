"""Edits that every recipe wants, because they cost nothing: the network computes the same, with fewer operators.

What does not depend on the inputs is computed, operators that copy go, norms and other lines are folded into weights
before them, numbers behind activations into weights after them, means over positions become the pools that engines have
integer kernels for, zeros around an input become part of the convolution that reads them. Hard gates take the form that
runs in integers where the recipe's engine has it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from bitwright.engine.edits import Draft
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Network
from bitwright.recipe.network import NetworkRecipe, runs_gates
from bitwright.store.onnx_source import OnnxSource
from bitwright.transforms import (
    as_constants,
    constant_nodes,
    fold_norms,
    gates_in_parts,
    means_as_pools,
    means_without_padding,
    numbers_into_readers,
    one_layout_each,
    pads_into_windows,
    without_copies,
)

GROWS, SMALL = 4, 1 << 20  # a computed constant may be so many times what it is made of, or of so many bytes


def simplified(source: OnnxSource, recipe: NetworkRecipe) -> Draft:
    """The network after edits that keep what it computes."""
    network, constants = source.network(), numbers_of(source)
    draft = Draft(network, constants, originals=constants)
    draft = draft.edited(as_constants(network, constants, _computed(source)))
    draft = draft.edited(without_copies(draft.network))
    if runs_gates(recipe):
        draft = draft.edited(gates_in_parts(draft.network, draft.constants))
    folded = fold_norms(draft.network, draft.constants)
    draft = replace(draft.edited(folded.edit), moments=folded.moments)
    draft = draft.edited(means_without_padding(draft.network))
    for plan in (means_as_pools, pads_into_windows, one_layout_each, numbers_into_readers):
        draft = draft.edited(plan(draft.network, draft.constants))
    return draft


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
