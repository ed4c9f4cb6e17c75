"""Opens ONNX files in OpenVINO, where it is installed, and tells what it ran in integers.

OpenVINO is optional: `is_installed()` says whether it is there, and nothing else of this file may be used where it is
not. It computes floats in bfloat16 by default where the processor has it, so a session says in which precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitwright.execute.onnx_profile import AXIS, Executed
from bitwright.execute.onnx_runner import RunError

try:
    import openvino
except ImportError:
    openvino = None

TYPES = {"f32": "float", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4"}
HELD = ("Const", "Constant", "Input", "Parameter", "Output", "Result")  # no operators


def is_installed() -> bool:
    """Whether OpenVINO can be used here."""
    return openvino is not None


def version() -> str:
    """The version of OpenVINO."""
    return str(openvino.__version__).split("-")[0]


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16, which OpenVINO then does by default."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@final
class OpenVinoSession:
    """A file in OpenVINO on the CPU. `precision`: of floats, "f32" or "bf16"; None: what OpenVINO chooses.

    Raises RunError where it cannot be opened.
    """

    def __init__(self, path: Path, threads: int = 1, precision: str | None = None) -> None:
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if precision is not None:
            options["INFERENCE_PRECISION_HINT"] = precision
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            # Names before OpenVINO optimises: afterwards an output may have the names of several values.
            self.outputs: tuple[str, ...] = tuple(port.get_any_name() for port in model.outputs)
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise RunError(f"{path}: OpenVINO cannot open it: {_last_line(error)}") from error
        self._request = self._compiled.create_infer_request()
        self.inputs: Mapping[str, tuple[AXIS, ...]] = {
            port.get_any_name(): tuple(axis.get_length() if axis.is_static else None for axis in port.partial_shape)
            for port in self._compiled.inputs
        }

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of one batch; RunError where OpenVINO fails."""
        made = self.run_raw(self.raw(feeds))
        return {name: torch.from_numpy(array.copy()) for name, array in zip(self.outputs, made, strict=True)}

    def raw(self, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """A batch in the engine's own form: what this file reads of it. RunError for an input that is not given."""
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise RunError(f"{missing[0]}: an input of the network that the feeds lack; they have {', '.join(feeds)}")
        return {name: feeds[name].detach().cpu().contiguous().numpy() for name in self.inputs}

    def run_raw(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The outputs in the engine's own form: what is timed."""
        try:
            made = self._request.infer(dict(arrays), share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise RunError(f"OpenVINO failed on this batch: {_last_line(error)}") from error
        return list(made.values())

    def executed(self) -> tuple[Executed, ...]:
        """The operators that OpenVINO made of the file, with the type that each computes in; not timed."""
        found = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            about = node.get_rt_info()
            op = _text(about, "layerType")
            if op in HELD:
                continue
            kind = _text(about, "runtimePrecision")
            found.append(
                Executed(
                    name=node.get_friendly_name(),
                    op=op,
                    inputs=tuple(port.get_source_output().get_node().get_friendly_name() for port in node.inputs()),
                    outputs=(node.get_friendly_name(),),
                    reads=(TYPES.get(kind, kind),),
                    makes=tuple(TYPES.get(one, one) for one in _text(about, "outputPrecisions").split(",")),
                    microseconds=0.0,
                )
            )
        return tuple(found)


def _text(about: Any, key: str) -> str:
    return str(about[key].astype(str)) if key in about else ""


def _last_line(error: Exception) -> str:
    """OpenVINO says where it is in its own source first, and what is wrong last."""
    return next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), type(error).__name__)
