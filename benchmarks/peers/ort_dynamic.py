"""Dynamic INT8 by ONNX Runtime's own quantizer: weights per channel, ranges of activations found as the network runs.

python benchmarks/peers/ort_dynamic.py FLOAT.onnx CALIBRATION.npz OUT.onnx [--transformer]

It needs no samples; the argument is there so that all tools are called alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--transformer", action="store_true", help="whose shapes its symbolic inference cannot follow")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(arguments.model, ready, skip_symbolic_shape=arguments.transformer)
        quantize_dynamic(ready, arguments.out, per_channel=True, weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main()
