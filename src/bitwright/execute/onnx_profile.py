"""Opens ONNX files in ONNX Runtime as a user would, and tells what the engine really ran.

Nothing of a file is changed and all optimisations are on, unlike in `onnx_runner.py`. What ran is read from two things
that ONNX Runtime writes: the optimised graph says which operators are left and what they read, the profile says of
which types their values were and how long they took. Files of any size: weights in the optimised graph are written
beside it, and removed with it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import onnx
import onnxruntime
import torch
from onnx import GraphProto, TensorProto
from torch import Tensor

from bitwright.execute.onnx_runner import FAILURES, RunError, session_options
from bitwright.graph.onnx import constants_of, dtype_name, inner_nodes

VERSION: str = onnxruntime.__version__
PROFILED_RUNS = 5
SUFFIX = "_kernel_time"
LARGE = "1024"  # bytes: constants from this size on are written beside the optimised graph
AXIS = int | str | None
FLOAT8 = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2})
Events = dict[str, list[dict[str, Any]]]  # by node


@final
@dataclass(frozen=True, slots=True)
class Executed:
    """One operator of an engine's own graph.

    `reads` and `makes`: the element types of its inputs and outputs, `float32` spelled `float`; both empty for an
    operator that did not run, such as one in a branch that was not taken. `microseconds`: of one run, the median.
    `inside`: the node whose subgraph it is in, or "".
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    microseconds: float
    inside: str = ""


def check_file(path: Path) -> str:
    """What the ONNX checker has to say against a file; "" where it passes. External data need not fit in memory."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        return str(error).strip() or type(error).__name__
    return ""


def holds_float8(path: Path) -> bool:
    """Whether a file stores numbers as 8-bit floats, whose products no engine here computes as such."""
    stored = onnx.load_model(path, load_external_data=False).graph.initializer
    return any(tensor.data_type in FLOAT8 for tensor in stored)


def code_types(path: Path) -> frozenset[str]:
    """The element types of the codes that the QuantizeLinear nodes of a file make, as the file says it."""
    model = onnx.load_model(path, load_external_data=False)
    stored = constants_of(model)
    found = set()
    for node in (*model.graph.node, *(inner for inner, _ in inner_nodes(model))):
        if node.op_type != "QuantizeLinear":
            continue
        asked = next((int(one.i) for one in node.attribute if one.name == "output_dtype"), 0)
        zero = stored.get(node.input[2]) if len(node.input) > 2 else None
        found.add(dtype_name(asked or (zero.data_type if zero is not None else onnx.TensorProto.UINT8)))
    return frozenset(found)


@final
class OnnxSession:
    """A file in ONNX Runtime on the CPU, all optimisations on. RunError where it cannot be opened.

    `exact`: products with 4-bit weights between quantizers are computed in float32, not with activations in 8 bits,
    which is what ONNX Runtime does by default and no QDQ file asks for.
    """

    def __init__(self, path: Path, threads: int = 1, exact: bool = False) -> None:
        options = session_options(threads)
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._session = _open(path, options)
        self.inputs: Mapping[str, tuple[AXIS, ...]] = {
            given.name: tuple(given.shape) for given in self._session.get_inputs()
        }
        self.outputs: tuple[str, ...] = tuple(made.name for made in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of one batch; RunError where ONNX Runtime fails."""
        arrays = self.run_raw(self.raw(feeds))
        return {name: _tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)}

    def raw(self, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """A batch in the engine's own form: what this file reads of it. RunError for an input that is not given."""
        return _raw(self.inputs, feeds)

    def run_raw(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The outputs in the engine's own form: what is timed."""
        return _run(self._session, arrays)


def executed(path: Path, feeds: Mapping[str, Tensor], threads: int = 1) -> tuple[Executed, ...]:
    """Every operator that is left after ONNX Runtime's optimisations, in its order, profiled on one batch.

    Writes the optimised model, as large as the file, to the system's folder for temporary files. Raises RunError.
    """
    with tempfile.TemporaryDirectory(prefix="bitwright-") as folder:
        graph = Path(folder) / "optimised.onnx"
        options = session_options(threads)
        options.optimized_model_filepath = str(graph)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", LARGE)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _open(path, options)
        given = _raw({one.name: () for one in session.get_inputs()}, feeds)
        for _ in range(PROFILED_RUNS):
            _run(session, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found = onnx.load_model(graph, load_external_data=False).graph
    return tuple(_with_profile(found, _by_node(events), _unnamed(events)))


def _open(path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        raise RunError(f"{path}: ONNX Runtime cannot open it: {str(error).strip().splitlines()[0]}") from error


def _run(session: Any, arrays: Mapping[str, Any]) -> list[Any]:
    try:
        made: list[Any] = session.run(None, arrays)
    except FAILURES as error:
        raise RunError(f"ONNX Runtime failed on this batch: {str(error).strip().splitlines()[0]}") from error
    return made


def _raw(inputs: Mapping[str, Any], feeds: Mapping[str, Tensor]) -> dict[str, Any]:
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise RunError(f"{missing[0]}: an input of the network that the feeds lack; they have {', '.join(feeds)}")
    found = {}
    for name in inputs:
        if feeds[name].dtype == torch.bfloat16:
            raise RunError(f"{name}: bfloat16 cannot be handed to ONNX Runtime from here; use a float32 model")
        found[name] = feeds[name].detach().cpu().contiguous().numpy()
    return found


def _tensor(name: str, array: Any) -> Tensor:
    try:
        return torch.as_tensor(array)
    except (TypeError, RuntimeError) as error:
        raise RunError(f"{name}: not a tensor of numbers; it cannot be compared") from error


def _by_node(events: list[dict[str, Any]]) -> Events:
    """The profile's events of each node."""
    found: Events = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            found.setdefault(event["name"].removesuffix(SUFFIX), []).append(event)
    return found


def _unnamed(events: list[dict[str, Any]]) -> dict[str, list[list[dict[str, Any]]]]:
    """By operator, the events of nodes without a name, in running order; the profile calls them by their number."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for name, mine in _by_node(events).items():
        op, number = mine[0]["args"]["op_name"], mine[0]["args"]["node_index"]
        if name == f"{op}_{number}":
            found.setdefault(op, []).append(mine)
    return found


def _with_profile(
    graph: GraphProto, events: Events, unnamed: dict[str, list[list[dict[str, Any]]]], inside: str = ""
) -> Iterator[Executed]:
    """The nodes of a graph and of its subgraphs, with what the profile says of them; takes from `unnamed`."""
    for node in graph.node:
        if node.name:
            mine = [event for event in events.get(node.name, []) if event["args"]["op_name"] == node.op_type]
        else:
            mine = unnamed[node.op_type].pop(0) if unnamed.get(node.op_type) else []
        types = mine[-1]["args"] if mine else {"input_type_shape": [], "output_type_shape": []}
        yield Executed(
            name=node.name,
            op=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            reads=tuple(kind for one in types["input_type_shape"] for kind in one),
            makes=tuple(kind for one in types["output_type_shape"] for kind in one),
            microseconds=statistics.median(float(event["dur"]) for event in mine) if mine else 0.0,
            inside=inside,
        )
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _with_profile(inner, events, unnamed, inside or node.name or node.op_type)
