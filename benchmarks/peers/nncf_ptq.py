"""Static INT8 by NNCF on the ONNX graph, its defaults.

python benchmarks/peers/nncf_ptq.py FLOAT.onnx CALIBRATION.npz OUT.onnx [--accurate-bias]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nncf
import numpy as np
import onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--accurate-bias", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with np.load(arguments.calibration) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = len(next(iter(arrays.values())))
    samples = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
    quantized = nncf.quantize(
        onnx.load(arguments.model),
        nncf.Dataset(samples),
        subset_size=count,
        fast_bias_correction=not arguments.accurate_bias,
    )
    onnx.save(quantized, arguments.out)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
