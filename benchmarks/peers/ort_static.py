"""Static INT8 by ONNX Runtime's own quantizer: QDQ, U8S8, per channel or per tensor.

python benchmarks/peers/ort_static.py FLOAT.onnx CALIBRATION.npz OUT.onnx --method MinMax [--per-tensor]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """Batches of eight samples: its percentile wants them all alike."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        count = len(next(iter(arrays.values())))
        self._feeds = iter([{k: v[i : i + 8] for k, v in arrays.items()} for i in range(0, count, 8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--method", choices=[m.name for m in CalibrationMethod], default="MinMax")
    parser.add_argument("--per-tensor", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(arguments.model, ready)
        quantize_static(
            ready,
            arguments.out,
            Reader(arguments.calibration),
            per_channel=not arguments.per_tensor,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[arguments.method],
        )
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
