"""Rows that stop before every stage show and become what they do in one go."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from bitwright.engine.collect import by_input, collect
from bitwright.engine.passage import Passage
from bitwright.execute import write_at
from engine.passes import ROWS, Setting, seen_by_hooks, setting
from engine.tiny import model


@pytest.fixture(
    scope="module", params=[("dense", 1, torch.float32), ("transposed", 1, torch.float32), ("dense", 0, torch.bfloat16)]
)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    config, index, dtype = request.param
    folder = tmp_path_factory.mktemp(config)
    return setting(model(folder / "model", config, dtype=dtype), folder, index)


def passage(one: Setting) -> Passage:
    found = one.walking().passage
    assert found is not None
    return found


def whole(one: Setting, batch: tuple[int, int]) -> torch.Tensor:
    """The quantized block's output in one go."""
    return one.block.run(one.block.quantized, one.streams.quantized.read(*batch), batch[0])


def test_every_stage_sees_what_forward_hooks_see(one: Setting) -> None:
    rows = passage(one)
    seen = {batch: seen_by_hooks(one, one.block.quantized, one.streams.quantized.read(*batch)) for batch in ROWS.all}
    for stage in one.job.stages:
        rows.enter(stage)
        for batch in ROWS.all:
            reads, added = rows.reads([step.name for step in stage.steps], batch)
            for step in stage.steps:
                place = step.name.removeprefix(one.job.block.name + ".")
                exact = one.block.runner.weights is torch.float32
                wanted = seen[batch][place] if exact else seen[batch][place].bfloat16().double()
                torch.testing.assert_close(reads[step.name].double(), wanted, rtol=1e-5, atol=1e-5)
                assert (step.name in added) or not step.linear.writes_stream


def test_the_output_from_every_stage_on_is_that_of_the_whole_block(one: Setting) -> None:
    rows = passage(one)
    wanted = [whole(one, batch) for batch in ROWS.all]
    for stage in (None, *one.job.stages):
        if stage is not None:
            rows.enter(stage)
        for batch, output in zip(ROWS.all, wanted, strict=True):
            torch.testing.assert_close(rows.output(batch), output, rtol=1e-5, atol=1e-5)


def test_nothing_is_put_aside_but_what_the_stage_reads_and_the_stream(one: Setting) -> None:
    rows, runner = passage(one), one.block.runner
    for stage in one.job.stages:
        rows.enter(stage)
    reads = [sum(group[0].linear.view.shape[1] for group in by_input(stage)) for stage in one.job.stages]
    most = max(reads) * runner.weights.itemsize + runner.graph.stream.width * runner.dtype.itemsize
    assert 0 < (one.folder / "aside").stat().st_size <= ROWS.count * ROWS.length * most


def test_what_stays_where_it_is_is_not_written_again(one: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = passage(one)
    written: list[int] = []

    def count(file: BinaryIO, offset: int, values: torch.Tensor) -> None:
        written.append(values.numel())
        write_at(file, offset, values)

    *earlier, last = one.job.stages
    for stage in earlier:
        rows.enter(stage)
    monkeypatch.setattr("bitwright.engine.passage.write_at", count)
    rows.enter(last)
    [read] = by_input(last)
    assert (
        sum(written) == ROWS.count * ROWS.length * read[0].linear.view.shape[1]
    )  # what the last stage reads, and not the stream


def test_weights_that_change_at_a_stage_are_the_ones_that_the_rest_runs_with(one: Setting) -> None:
    rows = passage(one)
    last = one.job.stages[-1]
    for stage in one.job.stages:
        rows.enter(stage)
    view = last.steps[0].linear.view
    parameter = one.block.quantized.get_parameter(view.parameter.removeprefix(one.job.block.name + "."))
    before, outputs = parameter.detach().clone(), rows.output(ROWS.all[0])
    with torch.no_grad():
        parameter.mul_(2)
    after, wanted = rows.output(ROWS.all[0]), whole(one, ROWS.all[0])
    with torch.no_grad():
        parameter.copy_(before)
    assert not torch.allclose(after, outputs, rtol=1e-3)
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-5)


def test_rows_put_back_to_the_start_walk_the_same_way_again(one: Setting) -> None:
    rows = passage(one)
    outputs = []
    for _ in range(2):
        for stage in one.job.stages:
            rows.enter(stage)
        outputs.append([rows.output(batch) for batch in ROWS.all])
        rows.restart()
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_sums_are_those_of_a_block_that_is_run_anew_for_every_stage(one: Setting) -> None:
    block, anew = one.walking(), one.taped()
    assert block.passage is not None
    for stage in one.job.stages:
        block.enter(stage)
        groups = [group for group in one.groups if group[0] in stage.steps]
        found = collect(block, groups, one.streams, ROWS.fitted)
        for left, right in zip(found, collect(anew, groups, one.streams, ROWS.fitted), strict=True):
            assert left.gram.tokens == right.gram.tokens
            torch.testing.assert_close(left.gram.total, right.gram.total, rtol=1e-4, atol=1e-4)
            assert left.stream.keys() == right.stream.keys()
            for name, sums in left.stream.items():
                torch.testing.assert_close(sums.total, right.stream[name].total, rtol=1e-3, atol=1e-4)


def test_a_block_that_sends_tokens_to_experts_cannot_stop(tmp_path: Path) -> None:
    routed = setting(model(tmp_path / "model", "routed"), tmp_path, 1)
    assert routed.walking().passage is None


def test_what_would_not_fit_on_the_disk_is_not_put_aside(one: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.engine.passage._LIMIT", 1)
    assert one.walking().passage is None
