"""Float ONNX files of small networks, and what an independent quantizer makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from torch import Tensor

from bitwright.evaluate.latency import Timing
from here import LACKS_VNNI
from networks import exported, network, sample

QUICK = Timing(seconds=0.0, least=3, most=3, shortest=0.0)


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[dict[str, Tensor]]) -> None:
        self._left: Iterator[dict[str, Any]] = iter(
            [{name: tensor.numpy() for name, tensor in one.items()} for one in feeds]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def float_file(name: str, folder: Path) -> tuple[Path, list[dict[str, Tensor]]]:
    """A network of tests/networks.py as ONNX with its BatchNorms folded away, and three batches of inputs."""
    source = exported(network(name), folder, f"{name}-raw")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / f"{name}.onnx")
    onnxruntime.InferenceSession(str(source.path), options, providers=["CPUExecutionProvider"])
    inputs = source.network().inputs
    feeds = [dict(zip(inputs, sample(network(name), 4, seed), strict=True)) for seed in range(3)]
    return folder / f"{name}.onnx", feeds


def static(path: Path, feeds: Sequence[dict[str, Tensor]], is_signed: bool = False, **options: Any) -> Path:
    """A QDQ file beside a float one, by ONNX Runtime's own quantizer."""
    made = path.with_suffix(f".{'s8' if is_signed else 'u8'}.onnx")
    quantize_static(
        str(path),
        str(made),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if is_signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=LACKS_VNNI,
        **options,
    )
    return made


def four_bit(path: Path) -> Path:
    """A QDQ file of matrix products with weights in 4 bits, 16 to a scale, beside a float one."""
    config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, quant_format=QuantFormat.QDQ, bits=4)
    quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
    quantizer.process()
    model = quantizer.model.model
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = max(imported.version, 21)
    model.ir_version = max(model.ir_version, 10)
    onnx.save(model, path.with_suffix(".int4.onnx"))
    return path.with_suffix(".int4.onnx")


def dynamic(path: Path) -> Path:
    """A file of dynamically quantized matrix products beside a float one."""
    made = path.with_suffix(".dynamic.onnx")
    quantize_dynamic(str(path), str(made), reduce_range=LACKS_VNNI)
    return made


def edited(path: Path, name: str, edit: Any) -> Path:
    """A copy of a file with its model changed by a function."""
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path.parent / name)
    return path.parent / name
