"""Recipes for networks as TOML: from a preset, strictly read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.calib import MinMaxRange, Percentile
from bitwright.numerics.machine import Machine
from bitwright.numerics.plain import PlainError
from bitwright.recipe import network_text
from bitwright.recipe.network import NETWORK_PRESETS, NetworkPlanError, find_network_recipe, w4a8
from bitwright.recipe.network_text import (
    check_keep,
    default_target,
    is_for_networks,
    load_network_recipe,
    read_network_recipe,
)
from bitwright.solvers import Nearest
from networks import exported, network


@pytest.fixture(autouse=True)
def on_a_machine_with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that names no target is for VNNI here, whatever the machine."""
    monkeypatch.setattr(network_text, "this_machine", lambda: Machine("a processor", "x86_64", 2, True))


@pytest.mark.parametrize("preset", NETWORK_PRESETS)
def test_a_preset_alone_is_the_preset(preset: str) -> None:
    assert read_network_recipe(f'preset = "{preset}"') == find_network_recipe(preset, "x86-vnni")
    assert read_network_recipe(f'preset = "{preset}"', "arm") == find_network_recipe(preset, "arm")


def test_fields_replace_those_of_the_preset() -> None:
    found = read_network_recipe(
        'preset = "int8"\nweight_bits = 5\nkeep = ["a", "b"]\ncorrects_bias = false\ntarget = "openvino"\n'
        'ranges = ["MinMaxRange", { type = "Percentile", percent = 99.0 }]\nsolver = { type = "Nearest" }'
    )
    wanted = replace(
        find_network_recipe("int8", "openvino"),
        weight_bits=5,
        keep=("a", "b"),
        corrects_bias=False,
        ranges=(MinMaxRange(), Percentile(99.0)),
    )
    assert replace(found, solver=wanted.solver) == wanted and isinstance(found.solver, Nearest)


def test_the_command_line_goes_before_the_file_for_the_target_and_adds_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('preset = "int8"\ntarget = "openvino"\nkeep = ["a"]\n')
    found = load_network_recipe(str(tmp_path / "mine.toml"), "arm", ("b", "a"))
    assert (found.target, found.keep) == ("arm", ("a", "b"))
    assert load_network_recipe(str(tmp_path / "mine.toml")).target == "openvino"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('preset = "int8"\nweight_bit = 4', r"no field 'weight_bit'; its fields are \['weight_bits', "),
        ('preset = "int8"\nweight_bits = 9', "from 2 to 8; found 9"),
        ('preset = "int8"\nweight_bits = "4"', "weight_bits: expected int"),
        ('preset = "int8"\nranges = ["Widest"]', r"type must be one of \['Auto', .*found 'Widest'"),
        ('preset = "int8"\nkeep = "a"', "keep: expected a list"),
        ('preset = "int9"', "choose one of int8"),
        ('preset = "int8"\ntarget = "toaster"', "choose one of x86-vnni"),
        ("weight_bits = 4", "starts from a preset"),
        ("preset = int8", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_network_recipe(text)


def test_what_a_preset_asks_for_is_switched_off() -> None:
    found = read_network_recipe('preset = "w4a8"\nlearn = false\nrelief = false\n')
    assert found == replace(w4a8(), learn=None, relief=False)
    assert read_network_recipe('preset = "w4a16"\ngroup = false\nhas_zero = false\n').group is None
    assert read_network_recipe('preset = "int8_smooth"\nsmooth = []\n').smooth == ()
    with pytest.raises(ValueError, match="expected int, found True"):
        read_network_recipe('preset = "w4a16"\ngroup = true\n')


def test_a_file_is_for_networks_where_it_starts_from_a_preset(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text('preset = "int8"\n')
    (tmp_path / "language.toml").write_text('[[rules]]\nmatch = "*"\n')
    (tmp_path / "broken.toml").write_text("[[")
    names = ["network.toml", "language.toml", "broken.toml", "none.toml"]
    assert [is_for_networks(str(tmp_path / name)) for name in names] == [True, False, False, False]
    assert is_for_networks("int8") and not is_for_networks("w3a16")


def test_a_file_that_is_not_there_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match=r"none\.toml does not exist"):
        load_network_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "mine.toml").write_text('preset = "int8"\nbits = 4\n')
    with pytest.raises(PlainError, match=r"mine\.toml: .*no field 'bits'"):
        load_network_recipe(str(tmp_path / "mine.toml"))


def test_an_unknown_node_is_refused_with_names_like_it(tmp_path: Path) -> None:
    graph = exported(network("residual"), tmp_path).network()
    name = graph.nodes[0].name
    check_keep(graph, (name,))
    with pytest.raises(NetworkPlanError, match=f"no node of this name.*{name}"):
        check_keep(graph, (name + "x",))


@pytest.mark.parametrize(
    ("architecture", "has_vnni", "target"),
    [
        ("x86_64", True, "x86-vnni"),
        ("AMD64", False, "x86-avx2"),
        ("x86_64", None, "x86-vnni"),
        ("aarch64", None, "arm"),
        ("arm64", None, "arm"),
        ("riscv64", None, "x86-vnni"),
    ],
)
def test_without_a_target_the_machine_is_its_own(architecture: str, has_vnni: bool | None, target: str) -> None:
    assert default_target(Machine("", architecture, 1, has_vnni)) == target


def test_the_machine_decides_for_presets_and_files_that_name_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_text, "this_machine", lambda: Machine("", "aarch64", 1, None))
    (tmp_path / "mine.toml").write_text('preset = "int8"\n')
    assert load_network_recipe("int8").target == "arm"
    assert load_network_recipe(str(tmp_path / "mine.toml")).target == "arm"
    assert load_network_recipe("int8", "openvino").target == "openvino"
