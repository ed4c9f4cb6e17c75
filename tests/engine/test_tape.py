"""What the tape of a block holds: every input once, and what every writer's output was added to."""

from __future__ import annotations

import pytest
import torch

from bitwright.engine import tape as module
from bitwright.engine.tape import Held, plan_tape, total_bytes
from engine.passes import ROWS, Setting, seen_by_hooks, setting
from engine.tiny import model

FLOAT32 = Held(torch.float32, torch.float32)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("tape")
    return setting(model(folder / "model"), folder, 1)


def test_inputs_that_are_shared_are_written_once(one: Setting) -> None:
    tape = plan_tape(one.job, one.folder, 10, 16, FLOAT32)
    assert tape is not None
    ends = sorted(key.replace("model.layers.1.", "") for key in tape.files)
    inputs = ["in:mlp.down_proj", "in:mlp.gate_proj", "in:self_attn.o_proj", "in:self_attn.q_proj"]
    assert ends == ["add:mlp.down_proj", "add:self_attn.o_proj", *inputs]
    assert total_bytes(tape.files.values()) == 10 * 16 * 4 * (4 * 32 + 48 + 32)


def test_it_holds_what_the_modules_read(one: Setting) -> None:
    tape = one.taped().tape
    assert tape is not None
    start, stop = ROWS.kept_back[0]
    seen = seen_by_hooks(one, one.block.original, one.streams.original.read(start, stop))
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        found = tape.input(f"model.layers.1.{name}", start, stop)
        assert found is not None and torch.equal(found.double(), seen[name]), name
    for name, base in (("self_attn.o_proj", ""), ("mlp.down_proj", "post_attention_layernorm")):
        found = tape.added(f"model.layers.1.{name}", start, stop)
        assert found is not None and torch.equal(found.double(), seen[base]), name
    assert tape.input("model.layers.1.self_attn.k_proj", start, stop) is None
    assert tape.added("model.layers.1.self_attn.q_proj", start, stop) is None


def test_values_that_do_not_come_one_per_token_are_left_out(one: Setting) -> None:
    tape = plan_tape(one.job, one.folder, 4, 2, FLOAT32)
    assert tape is not None
    tape.create()
    tape.write("in:model.layers.1.mlp.down_proj", 0, 2, torch.ones(3, 48))
    tape.write("in:unknown", 0, 2, torch.ones(4, 48))
    found = tape.input("model.layers.1.mlp.down_proj", 0, 4)
    assert found is not None and not found.any()


def test_a_tape_that_would_be_too_large_is_not_planned(one: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * 2 * 4 * (4 * 32 + 48 + 32)
    monkeypatch.setattr(module, "_LIMIT", size)
    assert plan_tape(one.job, one.folder, 4, 2, FLOAT32) is not None
    monkeypatch.setattr(module, "_LIMIT", size - 1)
    assert plan_tape(one.job, one.folder, 4, 2, FLOAT32) is None
