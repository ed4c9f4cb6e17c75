"""The sums of a stage against an independent computation: forward hooks on the modules, products in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitwright.engine import collect as module
from bitwright.engine.collect import InputStats, collect, passes
from bitwright.recipe.plan import Step
from engine.passes import ROWS, Setting, seen_by_hooks, setting
from engine.tiny import model

# module that reads the stream which the output of the writer is added to; "" is the block itself
BASE = {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm", "attn.c_proj": "", "mlp.c_proj": "ln_2"}


@pytest.fixture(scope="module", params=[("dense", 0), ("dense", 1), ("wide", 1), ("transposed", 1)], ids=str)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    config, index = request.param
    folder = tmp_path_factory.mktemp(config)
    return setting(model(folder / "model", config), folder, index)


def place(one: Setting, step: Step) -> str:
    """The module of a weight, as a path inside the block."""
    return step.name.removeprefix(one.job.block.name + ".")


def product(left: Tensor, right: Tensor) -> Tensor:
    return left.mT @ right


def wanted(one: Setting) -> dict[str, dict[str, Tensor]]:
    """gram, drift and stream sums by module path, float64."""
    rows = slice(0, ROWS.count - ROWS.held_out)
    before = seen_by_hooks(one, one.block.original, one.streams.original.read(rows.start, rows.stop))
    after = seen_by_hooks(one, one.block.quantized, one.streams.quantized.read(rows.start, rows.stop))
    found: dict[str, dict[str, Tensor]] = {}
    for step in one.job.steps:
        name = place(one, step)
        now, drift = after[name], before[name] - after[name]
        sums = {"gram": product(now, now), "drift": product(drift, now)}
        if name in BASE:
            sums["stream"] = product(before[BASE[name]] - after[BASE[name]], now)
        found[name] = sums
    return found


def weight_of(one: Setting, step: Step) -> Tensor:
    """The step's original weight [out, in]."""
    return step.linear.view.read(one.block.original.get_parameter(place(one, step) + ".weight"))


def close(found: Tensor, reference: Tensor) -> None:
    """Equal up to float32 sums."""
    scale = float(reference.abs().max())
    torch.testing.assert_close(found.double(), reference, rtol=1e-4, atol=2e-6 * scale)


def test_sums_are_those_of_forward_hooks_in_float64(one: Setting) -> None:
    stats = collect(one.block, one.groups, one.streams, ROWS.fitted)
    reference = wanted(one)
    writers, through = set(), []
    for group, found in zip(one.groups, stats, strict=True):
        if found.through:
            assert found.drift is not None
            through.append(found.drift.total)
            close(
                found.drift.total,
                torch.cat([weight_of(one, s).double() @ reference[place(one, s)]["drift"] for s in group]),
            )
        for step in group:
            sums = reference[place(one, step)]
            assert found.drift is not None
            assert found.gram.tokens == found.drift.tokens == (ROWS.count - ROWS.held_out) * ROWS.length
            close(found.gram.total, sums["gram"])
            if not found.through:
                close(found.drift.total, sums["drift"])
            if step.name in found.stream:
                writers.add(place(one, step))
                close(found.stream[step.name].total, sums["stream"])
    assert writers == BASE.keys() & reference.keys() != set()
    assert len(through) == sum(2 * len(weight_of(one, g[0])) <= weight_of(one, g[0]).shape[1] for g in one.groups)


def totals(stats: list[InputStats]) -> list[tuple[int, Tensor]]:
    """Every sum with its number of tokens."""
    sums = [s for one in stats for s in (one.gram, one.drift, *(one.stream[k] for k in sorted(one.stream)))]
    return [(one.tokens, one.total) for one in sums if one is not None]


def assert_same(left: list[InputStats], right: list[InputStats]) -> None:
    """Bit for bit."""
    assert len(totals(left)) == len(totals(right)) > 0
    for (count, one), (tokens, other) in zip(totals(left), totals(right), strict=True):
        assert count == tokens and torch.equal(one, other)


RANGES = [(0, 3), (3, 6), (6, 8)]


def test_the_tape_gives_the_same_sums(one: Setting) -> None:
    ranges = ROWS.fitted
    taped = one.taped()
    assert taped.tape is not None
    assert_same(collect(one.block, one.groups, one.streams, ranges), collect(taped, one.groups, one.streams, ranges))


def test_the_tape_gives_the_same_sums_to_float32_in_batches_of_another_size(one: Setting) -> None:
    plain = collect(one.block, one.groups, one.streams, RANGES)
    for (count, total), (tokens, other) in zip(
        totals(plain), totals(collect(one.taped(), one.groups, one.streams, RANGES)), strict=True
    ):
        assert count == tokens
        torch.testing.assert_close(total, other, rtol=1e-4, atol=1e-5 * float(total.abs().max()))


def test_the_tape_gives_the_same_sums_of_a_model_in_bfloat16(tmp_path: Path) -> None:
    mixed = setting(model(tmp_path / "model", dtype=torch.bfloat16), tmp_path, 1)
    taped = mixed.taped()
    assert_same(
        collect(mixed.block, mixed.groups, mixed.streams, ROWS.fitted),
        collect(taped, mixed.groups, mixed.streams, ROWS.fitted),
    )


def test_portions_do_not_change_the_sums(one: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    together = collect(one.block, one.groups, one.streams, RANGES)
    monkeypatch.setattr(module, "_GRAM_BYTES", 1)
    portions = list(passes(one.groups))
    assert [len(portion) for portion in portions] == [1] * len(one.groups)
    assert_same([s for portion in portions for s in collect(one.block, portion, one.streams, RANGES)], together)


def test_portions_hold_what_fits_and_every_group_once(one: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRAM_BYTES", 8 * 32 * 32 * 2)
    portions = list(passes(one.groups))
    assert [group for portion in portions for group in portion] == one.groups
    for portion in portions:
        held = sum(8 * group[0].linear.view.shape[1] ** 2 for group in portion)
        assert len(portion) == 1 or held <= 8 * 32 * 32 * 2


class Experts(TorchFunctionMode):
    """The inputs of every `F.linear` on a slice of a fused parameter, by the address of the slice."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[Tensor]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is nn.functional.linear:
            self.seen.setdefault(args[1].data_ptr(), []).append(args[0].detach().double().flatten(0, -2))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("routed")
    return setting(model(folder / "model", "routed"), folder, 1)


def test_every_expert_has_the_gram_of_the_tokens_that_the_router_sent_it(routed: Setting) -> None:
    stats = collect(routed.block, routed.groups, routed.streams, RANGES)
    experts = Experts()
    for start, stop in RANGES:
        stream = routed.streams.quantized.read(start, stop)
        routed.block.runner.note_calls(*stream.shape[:2])
        with experts:
            routed.block.run(routed.block.quantized, stream, start)
    counts = []
    for group, found in zip(routed.groups, stats, strict=True):
        view = group[0].linear.view
        if view.index is None:
            assert found.drift is not None
            continue
        parameter = routed.block.quantized.get_parameter(view.parameter.removeprefix(routed.job.block.name + "."))
        inputs = torch.cat(experts.seen[parameter[view.index].data_ptr()])
        close(found.gram.total, product(inputs, inputs))
        assert found.gram.tokens == len(inputs) and found.drift is None and not found.stream
        counts.append(len(inputs))
    assert len(counts) == 8 and len(set(counts)) > 1
    assert sum(counts) == 2 * 2 * 8 * ROWS.length  # two linears, two experts for each token


def test_a_tape_leaves_routed_weights_out_and_changes_nothing(routed: Setting) -> None:
    taped = routed.taped()
    assert taped.tape is not None and not any("expert" in key for key in taped.tape.files)
    ranges = ROWS.fitted
    assert_same(
        collect(routed.block, routed.groups, routed.streams, ranges),
        collect(taped, routed.groups, routed.streams, ranges),
    )
