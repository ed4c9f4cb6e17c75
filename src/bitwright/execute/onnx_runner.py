"""Runs a network in ONNX Runtime and hands out any of its values.

ONNX Runtime hands out only what a graph declares as its outputs, so for every set of wanted values a session of its
own is made, of just the nodes that lead to them; a few sessions are kept. Values may also be given in the middle:
what lies before them is then not run, which is how a network runs part by part.

A session that hands out the network's own outputs runs with all optimisations. One that hands out anything else runs
without, so that a value has the same bits whatever else is asked for. Values inside subgraphs cannot be handed out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as failures
from torch import Tensor

from bitwright.graph.network import Network, Value
from bitwright.graph.onnx import constants_of, inner_nodes, is_constant, network_of, reads_of
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.onnx_tensors import SMALL, raw_bytes
from bitwright.store.onnx_write import declare

KEPT_SESSIONS = 4  # each holds the weights of its nodes
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
FAILURES = (
    failures.EPFail,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
)


class RunError(ValueError):
    """A network cannot be run as asked: a wrong feed, an unknown value, or an operator that ONNX Runtime lacks."""


def session_options(threads: int) -> Any:
    """Options of a session of so many threads that is quiet between its runs.

    ONNX Runtime's threads otherwise keep their processors busy for up to a second after a run, waiting for the next
    one. What else this process does meanwhile, another session that is timed beside it above all, runs at half its
    speed.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


@final
class OnnxRunner:
    """A network in ONNX Runtime, from a source or from a model whose external data are in `folder`.

    `threads`: how many ONNX Runtime uses inside an operator. `exact`: no optimisations even for the plain outputs.
    """

    def __init__(
        self, model: OnnxSource | ModelProto, folder: Path | None = None, threads: int = 1, exact: bool = False
    ) -> None:
        self.network: Network
        if isinstance(model, OnnxSource):
            self.network, self._model, self._folder = model.network(), model.model(), model.folder
        else:
            self.network, self._model, self._folder = network_of(model), model, folder
        self._threads, self._exact = threads, exact
        self._makers = {name: place for place, node in enumerate(self._model.graph.node) for name in node.output}
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._constants: dict[str, Tensor] = {}
        self._sessions: OrderedDict[tuple[tuple[str, ...], ...], tuple[Any, tuple[str, ...]]] = OrderedDict()

    def with_constants(self, constants: Mapping[str, Tensor]) -> OnnxRunner:
        """A runner of the same network with these in the place of its constants; others stay as they are here.

        Raises RunError for a name that is no constant, and for another shape or type.
        """
        for name, tensor in constants.items():
            if name not in self.network.constants:
                raise RunError(f"{name}: not a constant of the network")
            _check_like(self.network.values[name], tensor, may_be_empty=True)
        other = OnnxRunner.__new__(OnnxRunner)
        other.network, other._model, other._folder = self.network, self._model, self._folder
        other._threads, other._exact = self._threads, self._exact
        other._makers, other._initializers = self._makers, self._initializers
        other._constants = {**self._constants, **constants}
        other._sessions = OrderedDict()
        return other

    def run(self, feeds: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The wanted values for one batch, in the order asked for; None asks for the network's outputs.

        `feeds` are the network's inputs, or values further on from which all that is wanted can be computed. A wanted
        value that is itself fed is handed back. Raises RunError.
        """
        names = tuple(dict.fromkeys(self.network.outputs if wanted is None else wanted))
        self._check_wanted(names)
        for name, tensor in feeds.items():
            self._check_feed(name, tensor)
        made = tuple(name for name in names if name not in feeds)
        if not made:
            return {name: feeds[name] for name in names}
        session, read = self._session(tuple(feeds), made)
        given = {name: _to_numpy(name, feeds[name]) for name in read}
        try:
            arrays = session.run(list(made), given)
        except FAILURES as error:
            raise RunError(f"ONNX Runtime failed on this batch: {_first_line(error)}") from error
        found = {name: _from_numpy(name, array) for name, array in zip(made, arrays, strict=True)}
        return {name: feeds[name] if name in feeds else found[name] for name in names}

    def close(self) -> None:
        """Give up all sessions and the weights that they hold; they are made anew when they are needed."""
        self._sessions.clear()

    def _check_wanted(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.network.constants:
                raise RunError(f"{name}: a constant of the network; read it from the source")
            if name in self.network.values:
                continue
            makers = {output: owner for node, owner in inner_nodes(self._model) for output in node.output}
            if name in makers:
                raise RunError(
                    f"{name}: a value inside the subgraph of {makers[name]}, which cannot be handed out; ask for an "
                    f"output of that node"
                )
            raise RunError(f"{name}: the network has no such value")

    def _check_feed(self, name: str, tensor: Tensor) -> None:
        if name not in self.network.values or name in self.network.constants:
            raise RunError(f"{name}: not a value of the network that can be fed; its inputs are {self.network.inputs}")
        is_inner = name not in self.network.inputs  # of what is made inside some may be empty
        _check_like(self.network.values[name], tensor, is_inner)

    def _needed(self, feeds: Sequence[str], wanted: Sequence[str]) -> list[NodeProto]:
        """The nodes that lead from the feeds to the wanted values, in order."""
        missing, found = list(wanted), set[int]()
        lacking = set[str]()
        while missing:
            name = missing.pop()
            place = self._makers.get(name)
            if place is None:
                lacking |= {name} & set(self.network.inputs)
            elif place not in found:
                found.add(place)
                missing += [read for read in reads_of(self._model.graph.node[place]) if read not in feeds]
        if lacking:
            first = next(name for name in self.network.inputs if name in lacking)
            raise RunError(f"{first}: not fed, but {', '.join(wanted[:3])} cannot be computed without it")
        return [self._model.graph.node[place] for place in sorted(found)]

    def _session(self, feeds: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """A session that makes the wanted values, and which of the feeds it reads."""
        key = (feeds, wanted)
        if key not in self._sessions:
            nodes = self._needed(feeds, wanted)
            known = {name for node in nodes for name in reads_of(node)}
            read = tuple(name for name in feeds if name in known)
            self._sessions[key] = (self._open(read, wanted, nodes), read)
            if len(self._sessions) > KEPT_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _open(self, feeds: Sequence[str], wanted: Sequence[str], nodes: Iterable[NodeProto]) -> Any:
        model = self._part(feeds, wanted, nodes)
        options = session_options(self._threads)
        levels = onnxruntime.GraphOptimizationLevel
        is_plain = set(wanted) <= set(self.network.outputs) and not self._exact
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if is_plain else levels.ORT_DISABLE_ALL
        if self._folder is not None:
            options.add_session_config_entry(FOLDER_OPTION, str(self._folder))
        handed = self._replace(model)
        if handed:
            options.add_external_initializers(list(handed), list(handed.values()))
        try:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise RunError(f"ONNX Runtime cannot open the network: {_first_line(error)}") from error

    def _part(self, feeds: Sequence[str], wanted: Sequence[str], nodes: Iterable[NodeProto]) -> ModelProto:
        """The model of these nodes alone."""
        source = self._model
        part = ModelProto(ir_version=source.ir_version, opset_import=source.opset_import, functions=source.functions)
        part.graph.name = source.graph.name or "graph"
        part.graph.node.extend(nodes)
        read = dict.fromkeys(name for node in part.graph.node for name in reads_of(node))
        part.graph.initializer.extend(self._initializers[name] for name in read if name in self._initializers)
        part.graph.input.extend(self._declared(name) for name in feeds)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        return part

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        """What a session is told of a value that it is fed: as the file has it for an input, else type and rank."""
        for info in self._model.graph.input:
            if info.name == name:
                known: onnx.ValueInfoProto = info
                return known
        value = self.network.values[name]
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        is_size = value.dtype == "int64" and value.shape is not None and len(value.shape) == 1
        # A list of sizes is declared with its length: without it ONNX Runtime refuses a Resize to those sizes.
        shape = value.shape if is_size or value.shape is None else [None] * len(value.shape)
        declared: onnx.ValueInfoProto = onnx.helper.make_tensor_value_info(name, kind, shape)
        return declared

    def _replace(self, model: ModelProto) -> dict[str, Any]:
        """Put replaced constants into a part; large ones are handed to ONNX Runtime beside it, without a copy here."""
        here = {name: tensor for name, tensor in self._constants.items() if name in constants_of(model)}
        for node in [node for node in model.graph.node if is_constant(node) and node.output[0] in here]:
            model.graph.node.remove(node)
            model.graph.initializer.add(name=node.output[0])
        declare(model, here)
        handed: dict[str, Any] = {}
        for name, tensor in constants_of(model).items():
            if name not in here:
                continue
            if here[name].nbytes <= SMALL:
                tensor.raw_data = raw_bytes(here[name])
                continue
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="in memory")
            handed[name] = onnxruntime.OrtValue.ortvalue_from_numpy(_to_numpy(name, here[name]))
        return handed


def _check_like(value: Value, tensor: Tensor, may_be_empty: bool) -> None:
    """RunError unless a tensor has the value's type, rank and known sizes, and, if it has to, at least one row."""
    found = str(tensor.dtype).removeprefix("torch.")
    if value.dtype not in (found, "unknown"):
        raise RunError(f"{value.name}: given as {found}, but the network holds {value.dtype}; cast it")
    shape = value.shape
    if shape is None:
        return
    fits = len(shape) == tensor.dim() and all(
        size is None or size == given for size, given in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise RunError(f"{value.name}: given with shape {list(tensor.shape)}, but the network takes [{sizes}]")
    if not may_be_empty and tensor.dim() and len(tensor) == 0:
        raise RunError(f"{value.name}: the batch is empty; give at least one sample")


def _to_numpy(name: str, tensor: Tensor) -> Any:
    if tensor.dtype == torch.bfloat16:
        raise RunError(f"{name}: bfloat16 cannot be handed to ONNX Runtime from here; use a float32 model")
    return tensor.detach().cpu().contiguous().numpy()


def _from_numpy(name: str, array: Any) -> Tensor:
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "fiub":
        raise RunError(f"{name}: not a tensor of numbers; it cannot be handed out")
    return torch.from_numpy(np.asarray(array))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
