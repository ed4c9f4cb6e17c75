"""The last step of every ONNX form: what engines do faster in another arrangement of the same operators.

Each rewrite is a file. It keeps every result bit for bit where the operators are computed as they are written, and
speaks of operators alone, never of a model.
"""

from __future__ import annotations

from onnx import ModelProto

from bitwright.export.gelu_order import order_gelu
from bitwright.export.nan_guards import narrow_guards
from bitwright.export.proto_graph import ProtoGraph
from bitwright.export.sums_after_products import separate_biases
from bitwright.export.sums_before_norms import separate_sums
from bitwright.store.onnx_source import OnnxSource

REWRITES = (separate_sums, separate_biases, order_gelu, narrow_guards)


def arrange(model: ModelProto, source: OnnxSource) -> None:
    """Rearrange a finished model, which was made from `source`, in place."""
    for rewrite in REWRITES:
        rewrite(ProtoGraph(model, source))
