"""Functions that the user names, and the batches that they give."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bitwright.graph.network import Value
from bitwright.store.hooks import HookError, load_hook
from bitwright.store.loader import run_loader, samples_from_hook
from bitwright.store.sample_set import SamplesError

X, MASK = Value("x", (None, 4), "float32"), Value("mask", (None, 4), "int64")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The current folder, and the name of a module that is not there yet and is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    name = f"hook_{abs(hash(request.node.name))}"
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    return name


def test_a_function_in_the_current_folder_is_found_and_the_path_is_left_alone(here: str) -> None:
    Path(f"{here}.py").write_text("import sys\nPLACE = sys.path[0]\ndef f():\n    return PLACE\nclass C:\n    g = f\n")
    before = list(sys.path)
    hook = load_hook(f"{here}:f")
    assert sys.path == before
    assert hook() == str(Path.cwd())
    assert load_hook(f"{here}:C.g") is hook


def test_what_is_not_there_is_named(here: str) -> None:
    Path(f"{here}.py").write_text("import math\nnumber = 3\ndef f(): pass\n")
    Path(f"{here}_lacking.py").write_text("import surely_not_installed\n")
    for name, message in (
        (here, "write it as package.module:function"),
        (f"{here}:", "write it as package.module:function"),
        ("not there:f", "write it as package.module:function"),
        ("surely_not_there.at_all:f", "no module 'surely_not_there' in "),
        (f"{here}_lacking:f", "imports 'surely_not_installed', which is not installed"),
        (f"{here}:g", f"the module {here} has no 'g'; it has f"),
        (f"{here}:number", "a int, which cannot be called"),
    ):
        with pytest.raises(HookError, match=message):
            load_hook(name)


def test_batches_of_every_form_become_samples() -> None:
    x, mask = torch.randn(3, 4), torch.ones(3, 4, dtype=torch.int64)
    forms = [{"x": x, "mask": mask}, (x, mask), [x.numpy(), mask.numpy()]]
    for form in forms:
        samples = samples_from_hook(lambda form=form: [form, form], "m:f", [X, MASK])
        assert samples.count == 6
        assert [len(batch["x"]) for batch in samples.batches(4)] == [4, 2]
        assert torch.equal(torch.cat([batch["x"] for batch in samples.batches(4)]), torch.cat([x, x]))
    assert torch.equal(samples_from_hook(lambda: iter([x]), "m:f", [X]).first(9)["x"], x)


def test_every_pass_sees_the_same_and_the_loader_runs_once() -> None:
    calls = []

    def random():
        calls.append(1)
        held = torch.empty(2, 4)
        for _ in range(3):
            yield held.normal_()  # one buffer, filled again and again

    loaded = run_loader(random, "m:f")
    samples = loaded.samples([X])
    first, second = (
        torch.cat([b["x"] for b in samples.batches(2)]),
        torch.cat([b["x"] for b in samples.batches(5)]),
    )
    assert torch.equal(first, second)
    assert len(first.unique()) == 24
    assert len(calls) == 1
    assert torch.equal(loaded.example[0], first[:2])


def test_no_more_is_drawn_than_asked_for() -> None:
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield torch.zeros(4, 4)

    assert samples_from_hook(endless, "m:f", [X], count=6).count == 6
    assert len(drawn) == 2


def test_batches_that_cannot_be_cut_stay_whole() -> None:
    inputs = [X, Value("state", (2, None, 3), "float32")]
    feed = {"x": torch.zeros(5, 4), "state": torch.zeros(2, 5, 3)}
    calls = list(samples_from_hook(lambda: [feed, feed], "m:f", inputs).batches(1))
    assert [tuple(call["state"].shape) for call in calls] == [(2, 5, 3)] * 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, HookError, "gave a int; it must give batches"),
        ([], HookError, "gave no batches"),
        ([()], HookError, "batch 0: holds no tensors"),
        (["a"], HookError, "batch 0: a str; give tensors"),
        (
            [(torch.zeros(2, 4), torch.zeros(2))],
            SamplesError,
            "2 tensors, but the network has 1 inputs .x.; .* without labels",
        ),
        ([{"y": torch.zeros(2, 4)}], SamplesError, "y is no input of the network; its inputs are x"),
        ([torch.zeros(2, 4), torch.zeros(2, 5)], SamplesError, r"batch 1, sample 0: x has shape \[1, 5\]"),
        ([torch.zeros(2, 4), torch.zeros(0, 4)], SamplesError, "batch 1: an empty batch"),
        ([torch.zeros(2, 4), torch.tensor([[0, 0, torch.nan, 0]])], SamplesError, "batch 1, sample 0: x holds NaN"),
    ],
)
def test_wrong_batches_are_named(given: object, error: type[ValueError], message: str) -> None:
    with pytest.raises(error, match=message):
        samples_from_hook(lambda: given, "m:f", [X]).digest()


def test_inputs_of_different_counts_are_an_error() -> None:
    with pytest.raises(SamplesError, match="different numbers of samples .x 2, mask 3"):
        samples_from_hook(lambda: [(torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.int64))], "m:f", [X, MASK])
