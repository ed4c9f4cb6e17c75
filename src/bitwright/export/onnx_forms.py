"""Which ONNX form a quantized network is written in: what its activations and weights are decides.

Static activations are QDQ, dynamic ones DynamicQuantizeLinear with MatMulInteger.
"""

from __future__ import annotations

from pathlib import Path

from bitwright.export.onnx_dynamic import export_dynamic
from bitwright.export.onnx_qdq import export_qdq
from bitwright.store.quantized import QuantizedNetwork


def export_onnx(network: QuantizedNetwork, path: Path) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError."""
    if any(point.is_dynamic for point in network.points.values()):
        export_dynamic(network, path)
    else:
        export_qdq(network, path)
