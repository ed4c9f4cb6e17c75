"""Static INT8 by ONNX Runtime's own quantizer: QDQ, U8S8, per channel or per tensor.

python benchmarks/peers/ort_static.py FLOAT.onnx CALIBRATION.npz OUT.onnx --method MinMax [--per-tensor] [--transformer]

Its calibrators hold every value of every sample, 17 GB for 256 pictures of MobileNetV2, unless they are given the
samples in strides, as is done here; what they find is then the same but for where the bins of histograms lie.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 8  # samples: its percentile wants batches that are all alike
STRIDE = 4  # batches at most


class Reader(CalibrationDataReader):
    """Batches of samples, all or those of a range."""

    def __init__(self, path: Path, batch: int = BATCH) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        count = len(next(iter(arrays.values())))
        self._batches = [{k: v[i : i + batch] for k, v in arrays.items()} for i in range(0, count, batch)]
        self.set_range(0, len(self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._feeds = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--method", choices=[m.name for m in CalibrationMethod], default="MinMax")
    parser.add_argument("--per-tensor", action="store_true")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples at once")
    parser.add_argument("--transformer", action="store_true", help="whose shapes its symbolic inference cannot follow")
    arguments = parser.parse_args()
    reader = Reader(arguments.calibration, arguments.batch)
    stride = next(size for size in range(STRIDE, 0, -1) if len(reader) % size == 0)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(arguments.model, ready, skip_symbolic_shape=arguments.transformer)
        quantize_static(
            ready,
            arguments.out,
            reader,
            per_channel=not arguments.per_tensor,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[arguments.method],
            extra_options={"CalibStridedMinMax": stride},
        )


if __name__ == "__main__":
    main()
