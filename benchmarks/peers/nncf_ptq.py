"""Static INT8 by NNCF on the ONNX graph, its defaults.

python benchmarks/peers/nncf_ptq.py FLOAT.onnx CALIBRATION.npz OUT.onnx [--accurate-bias] [--transformer]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nncf
import numpy as np
import onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--accurate-bias", action="store_true")
    parser.add_argument("--transformer", action="store_true", help="its settings for transformers")
    arguments = parser.parse_args()
    with np.load(arguments.calibration) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = len(next(iter(arrays.values())))
    samples = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
    quantized = nncf.quantize(
        onnx.load(arguments.model),
        nncf.Dataset(samples),
        subset_size=count,
        fast_bias_correction=not arguments.accurate_bias,
        model_type=nncf.ModelType.TRANSFORMER if arguments.transformer else None,
    )
    onnx.save(quantized, arguments.out)


if __name__ == "__main__":
    main()
