"""Imports go one way: every import, also inside functions, is held against the table of docs/architecture.md.

To add a package, add its row to LAYERS. To let a foreign library in, add a door to DOORS. Both are data; the walk below
them knows no names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "bitwright"
ALL = (
    "numerics graph calib store execute solvers transforms recipe engine runtime export evaluate report quantize cli"
    " networks tune version"
)
CORE = "torch numpy safetensors jaxtyping"  # what the core installs with


class Layer(NamedTuple):
    """What the modules of one package (or one top-level module) may import, as names separated by spaces."""

    ours: str
    foreign: str = CORE


def all_but(*names: str) -> str:
    return " ".join(name for name in ALL.split() if name not in names)


LAYERS = {
    "numerics": Layer("", "torch jaxtyping"),
    "graph": Layer("", "torch jaxtyping"),
    "calib": Layer("numerics"),
    "store": Layer("numerics graph"),  # an ONNX file hands out its network
    "execute": Layer("numerics calib graph store"),
    "solvers": Layer("numerics calib"),
    "transforms": Layer("numerics calib graph"),
    "recipe": Layer("numerics calib solvers transforms graph"),
    "runtime": Layer("numerics store"),
    "export": Layer("numerics store graph"),
    "engine": Layer(all_but("runtime", "export", "evaluate", "report", "quantize", "networks", "tune", "cli")),
    "evaluate": Layer("runtime execute calib graph export store numerics"),
    "report": Layer("", ""),
    "tune": Layer("numerics graph store execute solvers engine evaluate version"),  # from artifact to artifact
    "version": Layer("", ""),
    "quantize": Layer(all_but("cli", "report", "evaluate", "networks", "tune")),
    "networks": Layer(all_but("cli", "report", "quantize", "networks", "tune")),  # public; needs the onnx extra
    "cli": Layer(ALL + " bitwright"),
    "bitwright": Layer(all_but("cli")),  # src/bitwright/__init__.py, which re-exports; only the cli may import it
}

# A library in this table may be imported at its doors alone (a folder or a file below src/bitwright), in addition to
# what the rows above let in. One that is in neither table may not be imported at all.
DOORS = {
    "safetensors": ("numerics/hadamard.py",),
    "numpy": ("graph/onnx.py",),
    "transformers": ("store", "graph/trace.py", "runtime/load.py"),
    "diffusers": ("store/pipeline.py",),
    "huggingface_hub": ("store",),  # the errors that transformers raises are its own
    "tokenizers": ("store",),
    "onnx": ("graph/onnx.py", "export", "store", "execute/onnx_runner.py", "execute/onnx_profile.py"),
    "onnxscript": ("store/torch_module.py",),  # what the exporter of torch is made of
    "onnx_ir": ("store/torch_module.py",),
    "google": ("store/onnx_source.py",),  # protobuf, which ONNX files are written in
    "onnxruntime": ("graph/onnx.py", "export", "store", "execute/onnx_runner.py", "execute/onnx_profile.py"),
    "openvino": ("execute/openvino_session.py",),  # optional; verified with where it is installed
    "gguf": ("export",),
    "PIL": ("store/pictures.py",),
    "typer": ("cli",),
    "rich": ("cli",),
    "ray": ("engine/pool.py",),
    "triton": ("runtime/kernels",),
    "compressed_tensors": (),  # tests read our checkpoints with it; an independent decoder must stay independent
}


def layer_of(path: PurePosixPath) -> str:
    """The row of LAYERS that a file below src/bitwright belongs to."""
    if len(path.parts) > 1:
        return path.parts[0]
    return "bitwright" if path.stem == "__init__" else path.stem


def absolute(path: PurePosixPath, node: ast.ImportFrom) -> str:
    """The full dotted name that `from X` means in this file, relative dots resolved."""
    if node.level == 0:
        return node.module or ""
    package = ("bitwright", *path.parts[:-1])
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def imported(path: PurePosixPath, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import: statements at any depth, and import_module("...") with a literal."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(names=names):
                source = absolute(path, node)
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield node.lineno, name


def is_allowed(path: PurePosixPath, name: str) -> bool:
    layer = layer_of(path)
    top, *rest = name.split(".")
    if top == "bitwright":
        target = rest[0] if rest and rest[0] in LAYERS else "bitwright"
        return target == layer or target in LAYERS[layer].ours.split()
    if top in sys.stdlib_module_names or top in LAYERS[layer].foreign.split():
        return True
    return any(path.is_relative_to(door) for door in DOORS.get(top, ()))


def violations(path: str, source: str) -> list[str]:
    """Every import of the file that no row and no door allows, as `file:line: layer may not import name`."""
    place = PurePosixPath(path)
    layer = layer_of(place)
    if layer not in LAYERS:
        return [f"{path}:1: {layer} has no row in LAYERS"]
    return [
        f"{path}:{line}: {layer} may not import {name}"
        for line, name in imported(place, ast.parse(source))
        if not is_allowed(place, name)
    ]


def test_every_import_is_in_the_table() -> None:
    found = [
        line
        for file in sorted(PACKAGE.rglob("*.py"))
        for line in violations(file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_the_table_has_no_cycle_below_cli() -> None:
    names = LAYERS.keys() - {"cli", "bitwright"}
    below = {name: set(LAYERS[name].ours.split()) - {name} for name in names}
    while free := {name for name, ours in below.items() if not ours & below.keys()}:
        below = {name: ours for name, ours in below.items() if name not in free}
    assert not below, f"these may import each other in a circle: {sorted(below)}"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("numerics/spec.py", "from bitwright.graph.graph import Graph"),
        ("numerics/spec.py", "import numpy"),
        ("graph/ops.py", "def f():\n    from bitwright.numerics import Spec"),
        ("graph/ops.py", "from ..numerics import Spec"),
        ("graph/ops.py", "from .. import numerics"),
        ("store/source.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bitwright.solvers.solver"),
        ("solvers/feedback.py", "from bitwright import store"),
        ("solvers/feedback.py", "import transformers"),
        ("solvers/feedback.py", "from bitwright import Recipe"),
        ("engine/run.py", "from bitwright.export import gguf"),
        ("engine/run.py", "import ray"),
        ("export/gptq.py", "import importlib\nimportlib.import_module('compressed_tensors.compressors')"),
        ("graph/blocks.py", "from transformers import PreTrainedModel"),
        ("graph/trace_more.py", "import transformers"),
        ("evaluate/speed.py", "import bitwright.engine.run"),
        ("report/page.py", "import torch"),
        ("quantize.py", "import bitwright.evaluate"),
        ("__init__.py", "from bitwright.cli import main"),
        ("store/source.py", "import requests"),
        ("helpers.py", "import json"),
    ],
)
def test_a_planted_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("numerics/spec.py", "import math\nimport torch\nfrom jaxtyping import Float\nfrom .tile import Tile"),
        ("numerics/hadamard.py", "from safetensors.torch import load_file"),
        ("graph/trace.py", "def f():\n    import transformers"),
        ("store/source.py", "from transformers import AutoConfig\nfrom bitwright.numerics import Spec"),
        ("engine/pool.py", "def f():\n    import ray.util"),
        ("runtime/kernels/matmul.py", "import triton.language as tl"),
        (
            "cli/plan.py",
            "import typer\nfrom bitwright import quantize, Recipe\nfrom bitwright.report import write_report",
        ),
        ("quantize.py", "from bitwright.engine import run"),
        ("__init__.py", "from bitwright.quantize import quantize\nfrom .recipe import Recipe"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
