"""Runs graphs: a model part by part, the streams between its blocks on disk, and whole networks differentiably.

`onnx_runner.py` runs networks in ONNX Runtime; it is imported by its own name, because ONNX is an optional extra.
"""

from bitwright.execute.finite import NotFiniteError, check_finite
from bitwright.execute.interpret import InterpretError, UnsupportedOperator, can_interpret, interpret
from bitwright.execute.mixed import short_factors
from bitwright.execute.program import Program, Recorder
from bitwright.execute.streams import StreamFile, batches, read_at, write_at
from bitwright.execute.torch_runner import TorchRunner

__all__ = [
    "InterpretError",
    "NotFiniteError",
    "Program",
    "Recorder",
    "StreamFile",
    "TorchRunner",
    "UnsupportedOperator",
    "batches",
    "can_interpret",
    "check_finite",
    "interpret",
    "read_at",
    "short_factors",
    "write_at",
]
