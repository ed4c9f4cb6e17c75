"""Which ONNX form a quantized network is written in: what its activations and weights are decides.

Static activations are QDQ, dynamic ones DynamicQuantizeLinear with MatMulInteger. Where only weights are quantized
there is a choice: standard ONNX, or the operator of ONNX Runtime that such a file becomes there.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from bitwright.export.exporter import ExportError
from bitwright.export.onnx_blocked import export_blocked
from bitwright.export.onnx_dynamic import export_dynamic
from bitwright.export.onnx_nbits import export_nbits
from bitwright.export.onnx_qdq import export_qdq
from bitwright.export.onnx_recurrent import has_recurrent
from bitwright.store.quantized import QuantizedNetwork


class OnnxForm(Enum):
    """What of ONNX a file may use; the value is what the command line calls it."""

    STANDARD = "onnx"
    NBITS = "onnx-nbits"  # MatMulNBits of ONNX Runtime, for networks whose weights alone are quantized


def export_onnx(network: QuantizedNetwork, path: Path, form: OnnxForm = OnnxForm.STANDARD) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError."""
    if form is OnnxForm.NBITS:
        if network.points:
            raise ExportError(
                f"--to {form.value} is for networks whose weights alone are quantized (w4a16, w8a16); this one has "
                f"activations in codes: use --to {OnnxForm.STANDARD.value}"
            )
        export_nbits(network, path)
    elif not network.points and not has_recurrent(network):
        export_blocked(network, path)
    elif any(point.is_dynamic for point in network.points.values()):
        export_dynamic(network, path)
    else:
        export_qdq(network, path)
