"""Modules that a user's factory builds, as sources."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.hooks import HookError
from bitwright.store.module_source import build_module, module_source, source_of
from bitwright.store.source_error import SourceError

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
"""


def test_a_factory_becomes_a_network_in_eval_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("factory_of_a_test.py").write_text(FACTORY)
    example = torch.randn(2, 3, 8, 8)
    source = module_source("factory_of_a_test:make", (example,), tmp_path / "made")
    module = sys.modules.pop("factory_of_a_test").make().eval()
    found = OnnxRunner(source).run({source.network().inputs[0]: example[:1]})
    torch.testing.assert_close(next(iter(found.values())), module(example[:1]), rtol=1e-4, atol=1e-5)
    assert source.path == tmp_path / "made" / "model.onnx"
    assert source.notes[0] == "exported from factory_of_a_test:make"


def test_the_digest_is_that_of_the_state(tmp_path: Path) -> None:
    module, example = nn.Linear(4, 4).eval(), (torch.randn(2, 4),)
    one = source_of(module, "a", example, tmp_path / "a").digest()
    same = source_of(nn.Sequential(module).eval()[0], "b", (torch.randn(3, 4),), tmp_path / "b").digest()
    with torch.no_grad():
        module.weight[0, 0] += 1
    assert one == same != source_of(module, "a", example, tmp_path / "a").digest()


def test_a_factory_that_gives_no_module_is_named() -> None:
    with pytest.raises(HookError, match=r"m:f: gave a dict; it must give a torch\.nn\.Module"):
        build_module(dict, "m:f")
    assert not build_module(lambda: nn.Dropout(), "m:f").training


def test_an_example_that_the_module_does_not_take_is_named(tmp_path: Path) -> None:
    module = nn.Linear(4, 4).eval()
    for example, message in (
        (
            (torch.ones(2, 4), torch.ones(2)),
            r"cannot be called with the example \(0: float32 \[2, 4\], 1: float32 \[2\]\)",
        ),
        ({"label": torch.ones(2, 4)}, r"label: float32 \[2, 4\].*by the names of its parameters"),
        ((torch.ones(2, 5),), r"0: float32 \[2, 5\].*without labels"),
    ):
        with pytest.raises(SourceError, match=f"m:f: .*{message}"):
            source_of(module, "m:f", example, tmp_path)


def test_weights_without_numbers_and_modules_that_cannot_be_traced(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = nn.Linear(2, 2).eval()
    with pytest.raises(SourceError, match="m:f: the module has weights on the meta device"):
        source_of(empty, "m:f", (torch.zeros(1, 2),), tmp_path)

    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(SourceError, match="m:f: the module cannot be traced"):
        source_of(Branching().eval(), "m:f", (torch.ones(1, 2),), tmp_path)
