"""The range pass alone: from samples to the range of every activation, by one tool and one rule, in this process.

python benchmarks/peers/ranges.py TOOL FLOAT.onnx CALIBRATION.npz --rule minmax|percentile|entropy

Prints processor seconds for all samples, for one sample (what is paid once), and the peak of the process's memory. The
rules are those that tools have in common; ``percentile`` is 99.99. Only the tool that runs is imported.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
Pass = Callable[[Arrays], None]


def bitwright(model: Path, rule: str) -> Pass:
    """Our pass, and the ranges that follow from it."""
    import torch

    from bitwright.calib import Entropy, ExtremesRule, MinMaxRange, Percentile
    from bitwright.engine.observe import observe, points_of_each
    from bitwright.execute.onnx_runner import OnnxRunner
    from bitwright.recipe.network import int8, plan_network
    from bitwright.store.onnx_source import OnnxSource

    torch.set_num_threads(1)
    source = OnnxSource.open(model)
    plan = plan_network(source.network(), int8())
    values = list(dict.fromkeys(value for held in plan.placement.sources(source.network()).values() for value in held))
    taken = {"minmax": MinMaxRange(), "percentile": Percentile(99.99), "entropy": Entropy()}[rule]

    def run(arrays: Arrays) -> None:
        batches = [{k: torch.from_numpy(v) for k, v in feeds.items()} for feeds in parts(arrays, 16)]
        observed = observe(OnnxRunner(source), values, batches, is_counted=not isinstance(taken, ExtremesRule))
        points_of_each(plan, source.network(), observed, [taken])

    return run


def onnx_runtime(model: Path, rule: str) -> Pass:
    """ONNX Runtime's calibrators, on the operators and in the way of its own `quantize_static`."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(CalibrationDataReader):
        def __init__(self, arrays: Arrays) -> None:
            self._feeds = iter(parts(arrays, 8))

        def get_next(self) -> Arrays | None:
            return next(self._feeds, None)

    method = {name.lower(): kind for name, kind in CalibrationMethod.__members__.items()}[rule]
    operators = sorted({*QDQRegistry, *QLinearOpsRegistry})
    options = {"percentile": 99.99} if rule == "percentile" else {}

    def run(arrays: Arrays) -> None:
        with tempfile.TemporaryDirectory() as folder:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(str(model), operators, augmented, method, extra_options=options)
            calibrator.collect_data(Reader(arrays))
            calibrator.compute_data()

    return run


def nncf(model: Path, rule: str) -> Pass:
    """NNCF without bias correction: what is left is its statistics, and inserting quantizers."""
    import nncf as tool
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    if rule != "minmax":
        raise SystemExit(f"nncf has no {rule} like the others'")
    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=True, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )

    def run(arrays: Arrays) -> None:
        samples = parts(arrays, 1)
        tool.quantize(onnx.load(model), tool.Dataset(samples), subset_size=len(samples), advanced_parameters=advanced)

    return run


def parts(arrays: Arrays, size: int) -> list[Arrays]:
    """The samples in batches of this size."""
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + size] for name, array in arrays.items()} for i in range(0, count, size)]


def seconds(run: Pass, arrays: Arrays) -> float:
    """Processor time of all threads, which does not grow while others use the machine."""
    started = time.process_time()
    run(arrays)
    return time.process_time() - started


def peak_bytes() -> int:
    """The peak of this process's memory, without that of the process that started it, which getrusage counts."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


TOOLS = {"bitwright": bitwright, "onnxruntime": onnx_runtime, "nncf": nncf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--rule", choices=("minmax", "percentile", "entropy"), default="minmax")
    arguments = parser.parse_args()
    run = TOOLS[arguments.tool](arguments.model, arguments.rule)
    with np.load(arguments.calibration) as stored:
        arrays = {name: stored[name] for name in stored.files}
    first = seconds(run, {name: array[:1] for name, array in arrays.items()})
    whole = seconds(run, arrays)
    print(json.dumps({"seconds": whole, "one_sample": first, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
