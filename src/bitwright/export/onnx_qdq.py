"""A quantized network as one ONNX file in QDQ form, which ONNX Runtime, OpenVINO and TensorRT run in integers."""

from __future__ import annotations

from pathlib import Path

from bitwright.export.exporter import ExportError
from bitwright.export.qdq_graph import QdqGraph
from bitwright.numerics import Float8, Int
from bitwright.store.quantized import QuantizedNetwork


def export_qdq(network: QuantizedNetwork, path: Path) -> None:
    """Write the network to `path`; external data go beside it where the float file had some. Raises ExportError.

    The file passes the ONNX checker. Weights of fewer than 8 bits lie in int8: engines multiply those, not int4.
    8-bit floats raise the opset to 19.
    """
    for point in network.points.values():
        form = point.spec.format
        if form.bits != 8 or not isinstance(form, Int | Float8):
            raise ExportError(
                f"{point.value}: activations in {form} are simulated, but no engine runs them; export 8-bit activations"
            )
    QdqGraph(network).build().write(path)
