"""What `plan` and `quantize` share: their options, and everything that is found out before work begins."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from bitwright.calib import full_products
from bitwright.evaluate.compare import positions
from bitwright.export import EXPORTERS
from bitwright.numerics.short import has_short_units
from bitwright.quantize import compute_type, plan_source
from bitwright.recipe.cost import Cost, Machine, Types, predict
from bitwright.recipe.plan import Plan, PlanError
from bitwright.recipe.presets import keeping
from bitwright.recipe.recipe import Rule
from bitwright.recipe.text import find_recipe
from bitwright.store.batches import Batches, TextError, read_batches
from bitwright.store.source import Source, open_source

ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="A Hugging Face folder (or FOLDER:unet, FOLDER:encoder ...), an .onnx file, or pkg.mod:factory.",
        show_default=False,
    ),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A preset's name or a TOML file.", show_default=False)
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration", "-c", help="Text, or samples of a whole network: a file or a folder.", show_default=False
    ),
]
SamplesOption = Annotated[int, typer.Option("--samples", help="Calibration rows; the last 10 % are held out.", min=1)]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        help=f"A form to export to, into OUT/export/FORMAT: {', '.join(EXPORTERS)}; whole networks: onnx, onnx-nbits.",
        show_default=False,
    ),
]
LengthOption = Annotated[
    int | None,
    typer.Option("--length", help="Tokens in a row [default: the model's positions, at most 2048].", min=2),
]
MaxRamOption = Annotated[str | None, typer.Option("--max-ram", help="Refuse if more memory is predicted, e.g. 4GiB.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads to compute with.", min=1)]
ComputeOption = Annotated[str, typer.Option("--compute", help="Float type blocks run in: auto, float32, bfloat16.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Read pickle checkpoints (weights only).")]
LoaderOption = Annotated[
    str | None,
    typer.Option("--loader", help="Whole networks: pkg.mod:function that gives batches.", show_default=False),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="Whole networks: x86-vnni, x86-avx2, arm (default: this machine), tensorrt, openvino or openvino-avx2.",
        show_default=False,
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="A weight that stays as it is (a name, or a pattern with *); whole networks: a node. May be repeated.",
        show_default=False,
    ),
]
MinSqnrOption = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        help="Whole networks: decibels of signal over noise that the outputs shall have; operators stay float for it.",
        show_default=False,
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric", "-m", help="Whole networks: pkg.mod:function that gets a model and scores it.", show_default=False
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="Whole networks: how much worse --metric may become; operators stay float for it.",
        show_default=False,
    ),
]
NoVerifyOption = Annotated[bool, typer.Option("--no-verify", help="Whole networks: do not run the delivered file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_COMPUTE = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `plan` and `quantize`, as given."""

    model: Path
    recipe: str
    calibration: Path | None
    samples: int
    length: int | None
    max_ram: str | None
    threads: int | None
    compute: str
    allow_pickle: bool
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """The source, what will be done with it, on which rows, in which type, and what that will cost."""

    source: Source
    plan: Plan
    batches: Batches | None
    compute: torch.dtype
    cost: Cost


def prepare(options: Options, needs_rows: bool) -> Job:
    """Everything that can be known before a weight is touched; ValueError where it cannot work.

    `needs_rows`: a recipe that needs calibration data and has none is an error; else the default amount is assumed.
    """
    limit = parse_bytes(options.max_ram) if options.max_ram is not None else None
    if options.compute not in _COMPUTE:
        raise ValueError(f"--compute is one of {', '.join(_COMPUTE)}; found {options.compute!r}")
    use_threads(options.threads)
    recipe = keeping(find_recipe(options.recipe), options.keep)
    source = open_source(options.model, options.allow_pickle)
    plan = plan_source(source, recipe)
    _check_keep(plan, options.keep)
    limit_tokens = positions(source.skeleton())
    batches = None
    if options.calibration is not None:  # without need, too: rounding to nearest is then measured on it
        batches = read_batches(options.calibration, source.tokenizer(), limit_tokens, options.samples, options.length)
    elif plan.needs_data and needs_rows:
        raise PlanError(f"recipe {options.recipe} needs calibration data: give a text with --calibration FILE_OR_DIR")
    compute = _COMPUTE[options.compute] or compute_type()
    cost = predict(plan, *_rows(plan, batches, options, limit_tokens), Types(source.dtype, compute), measure_machine())
    if limit is not None and cost.peak_ram_bytes > limit:
        raise ValueError(
            f"--max-ram {options.max_ram} is less than the {cost.peak_ram_bytes / 2**30:.2f} GiB that this run is "
            "predicted to need; raise it, or use a machine with more memory (the limit never changes results)"
        )
    return Job(source, plan, batches, compute, cost)


def _check_keep(plan: Plan, patterns: tuple[str, ...]) -> None:
    """PlanError for what is to be kept and names no weight: it is probably misspelt."""
    linears = [linear for block in plan.graph.blocks for linear in block.linears]
    for pattern in patterns:
        if not any(Rule(pattern).matches(one.view.name, one.kind) for one in linears):
            raise PlanError(
                f"--keep {pattern}: no weight of the blocks is called so; `bitwright plan` lists their names"
            )


def _rows(plan: Plan, batches: Batches | None, options: Options, limit: int | None) -> tuple[int, int]:
    """Rows and their length, as read or as assumed."""
    if batches is not None:
        return batches.rows.shape[0], batches.rows.shape[1]
    if not plan.needs_data:
        return 0, 1
    if options.length is not None and limit is not None and options.length > limit:
        raise TextError(f"--length {options.length} is more than the model's {limit} positions; give at most {limit}")
    return options.samples, options.length or min(2048, limit or 2048)


def use_threads(count: int | None) -> None:
    """Compute with this many threads; None: as many as torch chose."""
    if count is not None:
        torch.set_num_threads(count)


def parse_bytes(text: str) -> int:
    """A size such as 4GiB, 512MiB or 6000000000 in bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = found.group(2).lower() if found else "?"
    if found is None or unit not in _UNITS:
        raise ValueError(f"{text!r} is no size; write for example 4GiB, 512MiB or 6000000000")
    return int(float(found.group(1)) * _UNITS[unit])


def measure_machine() -> Machine:
    """How fast this machine multiplies matrices, in half a second."""
    with full_products():
        full = _speed(torch.float32)
        return Machine(full, _speed(torch.bfloat16) if has_short_units() else full)


def _speed(dtype: torch.dtype) -> float:
    """Operations a second in products of 1024 x 1024 numbers."""
    left = torch.randn(1024, 1024).to(dtype)
    left @ left
    count, started = 0, time.monotonic()
    while (spent := time.monotonic() - started) < 0.2:
        left @ left
        count += 1
    return count * 2 * 1024**3 / spent
