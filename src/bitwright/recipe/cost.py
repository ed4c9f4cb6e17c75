"""What a plan will cost, from shapes alone: bytes, memory, disk and time.

Stored bytes are exact. Memory follows the engine step by step and counts what lies in memory of the process's own: maps
of weight files and streams belong to the page cache and are not counted. Every phase of a block is added up and the
largest counts. Time is operations over the speed of this machine, which the caller measures, and an estimate only:
right within a factor of two on models that are large enough for matrix products to dominate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bitwright.graph import Linear
from bitwright.recipe.plan import BlockJob, Plan, Stage, Step

BATCH_TOKENS = 1024  # as execute.streams.batches
SUMS_BYTES = 2 << 30  # as engine.collect
TAPE_BYTES = 8 << 30  # as engine.tape
DECIDING_TOKENS = 2048  # as engine.choose
FACTOR_ROWS = 1024  # as numerics.triangle

_BASE = 310 << 20  # Python with torch and transformers, an open model and its tokenizer
_LOOSE = 232 << 20  # not given back: what the allocator and matrix libraries hold between tensors of changing size,
_LOOSE_SHARE = 0.2  # which grows with what a block needs
_CHUNK = 24 << 20  # the chunk in which ranges are searched, with its errors
_PORTION = 24 << 20  # float32 bytes of the rows that are solved at a time
_PORTION_COPIES = 8  # of such rows: work, values, errors, spread scales and zeros
_TALL_COPIES = 4  # float32 matrices of a stacked weight: itself, its target, two corrections
_FORWARDS = 2  # runs of all rows through a block: both streams
_VERSIONS = 25  # versions of a block that are tried on the deciding tokens
_SWEEPS = 8  # products out x in x in: feedback, four sweeps of the refinement, its refit, losses
_FACTORS = 8  # cubes of the inputs: the factors, in float64 at a fifth of the speed, and the solution for the drift
_COLUMN_SECONDS = 5e-5  # one column of one pass, whatever its height
_WEIGHT_SECONDS = 1.5e-7  # searching the range of one weight, and what the report says of it
_NEAREST_SECONDS = 2e-7  # rounding one weight without data


@dataclass(frozen=True, slots=True)
class Machine:
    """Floating-point operations a second in a matrix product, as measured: of float32 and of bfloat16 numbers."""

    flops: float
    short_flops: float


@dataclass(frozen=True, slots=True)
class Types:
    """The float type of the source and the one that blocks run in."""

    source: torch.dtype
    compute: torch.dtype

    @property
    def is_same(self) -> bool:
        """Whether weights are used as the file holds them."""
        return self.source == self.compute

    @property
    def read_bytes(self) -> int:
        """Size of one number that a linear reads."""
        return self.source.itemsize if self.keeps_matrices else self.compute.itemsize

    @property
    def keeps_matrices(self) -> bool:
        """Whether the matrices of linears stay as the file holds them (see `execute/mixed.py`)."""
        return self.is_same or (self.source, self.compute) == (torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class Cost:
    """`bytes`: stored weights of the whole model; `weight_bytes`, `weights`: of the quantized ones and their number.

    `bits_per_weight` is over the quantized weights, scales and zeros included; `model_bits_per_weight` over the whole
    model. `disk_bytes`: the artifact and, while it runs, the streams. `peak_ram_bytes`, `seconds`: predictions.
    """

    bytes: int
    bits_per_weight: float
    model_bits_per_weight: float
    weight_bytes: int
    weights: int
    peak_ram_bytes: int
    disk_bytes: int
    stream_bytes: int
    seconds: float


def predict(plan: Plan, rows: int, length: int, types: Types, machine: Machine) -> Cost:
    """The cost of a run over `rows` calibration rows of `length` tokens (0 rows: none are needed)."""
    bits = sum(spec.bits(shape) for _, shape, spec in plan.specs())
    weights = sum(shape[0] * shape[1] for _, shape, _ in plan.specs())
    kept = sum(one.bytes for one in plan.kept)
    elements = weights + sum(torch.Size(one.shape).numel() for one in plan.kept)
    stored = -(-bits // 8) + kept
    streams = _stream_bytes(plan, rows, length, types)
    return Cost(
        bytes=stored,
        bits_per_weight=bits / weights,
        model_bits_per_weight=8 * stored / elements,
        weight_bytes=-(-bits // 8),
        weights=weights,
        peak_ram_bytes=_peak(plan, rows, length, types),
        disk_bytes=stored + streams,
        stream_bytes=streams,
        seconds=sum(_block_seconds(job, rows * length, types, machine) for job in plan.blocks) + _table_seconds(plan),
    )


def inputs(stage: Stage) -> list[tuple[Step, ...]]:
    """The steps of a stage by the input that they share."""
    groups: dict[int, list[Step]] = {}
    for step in stage.steps:
        groups.setdefault(step.linear.source, []).append(step)
    return [tuple(group) for group in groups.values()]


def _stream_bytes(plan: Plan, rows: int, length: int, types: Types) -> int:
    """Two pairs of streams, before and behind a block, the tape of the widest block, and what is put aside of it."""
    if rows == 0:
        return 0
    tokens, width = rows * length, plan.graph.stream.width
    tape = max((tokens * _tape_bytes(job, types) for job in plan.blocks), default=0)
    aside = max((tokens * _aside_bytes(job, width, types) for job in plan.blocks), default=0)
    work = sum(size for size in (tape, aside) if size <= TAPE_BYTES)
    return 4 * tokens * width * types.compute.itemsize + work


def _tape_bytes(job: BlockJob, types: Types) -> int:
    """Bytes of one token."""
    leaders = {step.linear.source: step.linear.view.shape[1] for step in job.steps if not step.linear.routed}
    writers = [s.linear.view.shape[0] for s in job.steps if s.linear.writes_stream and not s.linear.routed]
    return types.read_bytes * sum(leaders.values()) + types.compute.itemsize * sum(writers)


def _aside_bytes(job: BlockJob, width: int, types: Types) -> int:
    """Bytes of one token before the stage that keeps most: what its linears read, and the stream. Experts keep none."""
    if any(step.linear.routed for step in job.steps):
        return 0
    reads = [sum(group[0].linear.view.shape[1] for group in inputs(stage)) for stage in job.stages]
    return types.read_bytes * max(reads, default=0) + types.compute.itemsize * width


def _peak(plan: Plan, rows: int, length: int, types: Types) -> int:
    """The largest phase of all blocks, or of the tables outside them."""
    phases = [_block_peak(job, rows, length, types) for job in plan.blocks]
    phases += [4 * 5 * _elements(table.view.shape) for table in plan.tables]
    outside = _outside_bytes(plan, types)
    phases = [max(phases) + outside] if plan.graph.tells_tokens and rows else [*phases, outside]
    return _BASE + _LOOSE + _CHUNK + round((1 + _LOOSE_SHARE) * max(phases))


def _outside_bytes(plan: Plan, types: Types) -> int:
    """Embeddings and head while the first stream is made (converted) and while they are stored (serialised)."""
    inside = tuple(block.name + "." for block in plan.graph.blocks)
    outside = sum(one.bytes for one in plan.kept if not one.name.startswith(inside))
    converted = 0 if types.is_same else outside * types.compute.itemsize // types.source.itemsize
    return max(outside, converted)


def _block_peak(job: BlockJob, rows: int, length: int, types: Types) -> int:
    """What a block needs at its height."""
    planned = sum(_elements(step.linear.view.shape) for step in job.steps)
    if rows == 0:
        largest = max((_elements(step.linear.view.shape) for step in job.steps), default=0)
        return planned + 2 * 4 * largest + _portions_bytes(largest)
    copies = planned * types.source.itemsize + (0 if types.keeps_matrices else 2 * planned * types.compute.itemsize)
    tokens = min(max(1, BATCH_TOKENS // length), rows) * length
    largest = max((_elements(step.linear.view.shape) for step in job.steps), default=0)
    baseline = 2 * 4 * largest + _portions_bytes(largest)  # one weight after the other, rounded to nearest
    done = planned  # the codes of finished weights
    stages = [_stage_peak(stage, tokens, types) for stage in job.stages]
    return copies + max([baseline, *(done + stage for stage in stages)])


def _stage_peak(stage: Stage, tokens: int, types: Types) -> int:
    """Sums of the inputs held at once, and on top of them a batch of activations or the widest solver."""
    held = max(sum(map(_sums_bytes, portion)) for portion in _portions(stage))
    widest = max(_solver_bytes(group) for group in inputs(stage))
    return held + max(widest, _activations(stage, tokens, types))


def _portions(stage: Stage) -> Iterator[list[tuple[Step, ...]]]:
    """The inputs whose sums are held at once."""
    portion: list[tuple[Step, ...]] = []
    size = 0
    for group in inputs(stage):
        now = 8 * group[0].linear.view.shape[1] ** 2
        if portion and size + now > SUMS_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(group)
        size += now
    yield portion


def _sums_bytes(group: tuple[Step, ...]) -> int:
    """Gram and drift (of the input or, if that is smaller, of the outputs), and for writers the drift of the stream."""
    width = group[0].linear.view.shape[1]
    rows = sum(step.linear.view.shape[0] for step in group)
    writers = sum(_elements(step.linear.view.shape) for step in group if step.linear.writes_stream)
    if any(step.linear.routed for step in group):
        return 4 * width**2
    return 4 * (width**2 + (rows if 2 * rows <= width else width) * width + writers)


def _solver_bytes(group: tuple[Step, ...]) -> int:
    """Beside the sums: the factor with what it is made in, or stacked weights with the solver's work on some rows."""
    width = group[0].linear.view.shape[1]
    height = sum(step.linear.view.shape[0] for step in group)
    tile = group[0].spec.tile
    groups = 1 if tile is None else width // tile.size((1, width))[1]
    rows = min(height, max(1, _PORTION // (4 * width)))
    refit = 32 * rows * groups**2 if tile is not None and tile.rows == 1 else 0
    work = (4 * _TALL_COPIES + 2) * height * width + _portions_bytes(height * width) + refit
    triangle = 4 * width * (width + FACTOR_ROWS)  # float64, while the factor is made; it stays as float32
    return max(triangle, triangle // 2 + work)


def _portions_bytes(elements: int) -> int:
    """What solving some rows at a time holds, for a weight of so many elements."""
    return _PORTION_COPIES * min(4 * elements, _PORTION)


def _activations(stage: Stage, tokens: int, types: Types) -> int:
    """What both runs of a block show for one batch, with float32 copies of the widest, and the block's own tensors."""
    item = types.compute.itemsize
    linears = [group[0].linear for group in inputs(stage)]
    widths = [linear.view.shape[1] for linear in linears if not linear.routed] or [0]
    seen = 2 * sum(widths) + 2 * sum(_added(step.linear) for step in stage.steps)
    own = 4 * max(max(step.linear.view.shape) for step in stage.steps)
    return tokens * (item * (seen + own) + 4 * 4 * max(widths))


def _added(linear: Linear) -> int:
    return linear.view.shape[0] if linear.writes_stream and not linear.routed else 0


def _elements(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def _block_seconds(job: BlockJob, tokens: int, types: Types, machine: Machine) -> float:
    """Products over the machine's speed, what every column costs, and the search of ranges.

    Experts count as if each saw every token, so that a mixture of experts takes less.
    """
    runs = _FORWARDS * tokens + _VERSIONS * min(tokens, DECIDING_TOKENS)
    forward = 2 * runs * sum(_elements(linear.view.shape) for linear in job.block.linears)
    sums, crosses, solving, columns = 0, 0, 0, 0
    for stage in job.stages:
        for group in inputs(stage):
            width = group[0].linear.view.shape[1]
            height = sum(step.linear.view.shape[0] for step in group)
            writers = sum(step.linear.view.shape[0] for step in group if step.linear.writes_stream)
            drift = min(width, sum(step.linear.view.shape[0] for step in group))
            sums += tokens * width**2
            crosses += 2 * tokens * width * (drift + writers)
            if any(step.solver.needs_gram for step in group):
                solving += 2 * (_SWEEPS * height + 2 * writers) * width**2 + _FACTORS * width**3
                columns += width * _SWEEPS
    searched = sum(_elements(step.linear.view.shape) for step in job.steps)
    if tokens == 0:
        return searched * _NEAREST_SECONDS
    is_short = types.keeps_matrices and types.source == torch.bfloat16
    products = (sums + solving) / machine.flops
    products += (forward + crosses) / (machine.short_flops if is_short else machine.flops)
    return products + columns * _COLUMN_SECONDS + searched * _WEIGHT_SECONDS


def _table_seconds(plan: Plan) -> float:
    return sum(_elements(table.view.shape) for table in plan.tables) * _WEIGHT_SECONDS
