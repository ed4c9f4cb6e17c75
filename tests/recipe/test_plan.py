"""A recipe meets a graph: stages, refusals, and a ledger of everything that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest
import torch

from bitwright.graph import Block, Graph, Linear, Outside, WeightView, trace
from bitwright.graph.blocks import Returned
from bitwright.graph.stream import Stream
from bitwright.numerics import Float, FloatKind, Int, Spec, per_group
from bitwright.recipe.plan import BlockJob, Plan, PlanError, Stored, make_plan
from bitwright.recipe.presets import OWN, nearest, w4a16
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.solvers import Feedback, Nearest
from conformance import models

G8 = Spec(Int(4), per_group(8), scale=OWN)
ALL = Recipe((Rule("*", G8),))


@cache
def graph(family: str) -> tuple[Graph, dict[str, Stored]]:
    skeleton = models.Odd().to("meta") if family == "odd" else models.skeleton(family)
    stored = {name: Stored(tuple(p.shape), p.dtype) for name, p in skeleton.named_parameters()}
    return trace(skeleton), stored


def plan(family: str, recipe: Recipe, dtype: torch.dtype = torch.float16) -> Plan:
    found, stored = graph(family)
    return make_plan(found, recipe, stored, dtype, {})


def stages(job: BlockJob) -> list[list[str]]:
    return [[step.name.removeprefix(f"{job.block.name}.") for step in stage.steps] for stage in job.stages]


def by_hand(linears: Iterable[Linear], **shapes: tuple[int, ...]) -> tuple[Graph, dict[str, Stored]]:
    """A graph of one block with these linears, and what the source stores."""
    linears = tuple(linears)
    parameters = {
        f"{one.view.parameter}": (3, *one.view.shape) if one.view.index is not None else one.view.shape
        for one in linears
    } | shapes
    block = Block("b", linears, tuple(parameters), Returned(None, (), 0))
    return Graph((block,), (Outside("head.weight", "head"),), Stream((8,)), tells_tokens=False), {
        name: Stored(shape, torch.float32) for name, shape in parameters.items()
    }


def linear(name: str, *after: str, selects: bool = False, index: int | None = None) -> Linear:
    return Linear(WeightView(name, (16, 32), index), hash((name, index)), after, selects=selects)


QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


def test_stages_follow_the_data() -> None:
    for job in plan("llama", ALL).blocks:
        assert stages(job) == [QKV, ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]


def test_parallel_branches_share_stages() -> None:
    first, second = stages(plan("neox", ALL).blocks[0])
    assert first == ["attention.query_key_value", "mlp.dense_h_to_4h"]
    assert second == ["attention.dense", "mlp.dense_4h_to_h"]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_no_weight_is_rounded_before_what_it_reads(family: str) -> None:
    for job in plan(family, Recipe((Rule("kind:router", G8), Rule("kind:gate", G8), Rule("*", G8)))).blocks:
        done: set[str] = set()
        for stage in job.stages:
            names = {step.name for step in stage.steps}
            for step in stage.steps:
                assert set(step.linear.after) <= done, step.name
            done |= names
        assert done == {one.view.name for one in job.block.linears}


def test_kept_weights_do_not_break_the_order() -> None:
    """gate and up stay: down still reads what o changed, so it comes after o."""
    recipe = Recipe((Rule("mlp.gate_proj"), Rule("mlp.up_proj"), Rule("*", G8)))
    assert stages(plan("llama", recipe).blocks[0]) == [QKV, ["self_attn.o_proj"], ["mlp.down_proj"]]


def test_specs_are_resolved_to_the_checkpoints_float() -> None:
    for dtype, kind in ((torch.float16, FloatKind.FLOAT16), (torch.float32, FloatKind.BFLOAT16)):
        for _, _, spec in plan("llama", ALL, dtype).specs():
            assert spec.scale == Spec(Float(kind))


def test_a_rules_solver_comes_before_the_recipes() -> None:
    recipe = Recipe((Rule("down_proj", G8, Nearest()), Rule("*", G8)), solver=Feedback(damp=0.5))
    found = plan("llama", recipe)
    for job in found.blocks:
        for step in job.steps:
            assert step.solver == (Nearest() if step.name.endswith("down_proj") else Feedback(damp=0.5))
    assert found.needs_data and not plan("llama", nearest(ALL)).needs_data


def test_a_group_that_does_not_divide_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        PlanError, match=r"q_proj \[32, 32\]: a tile of 128 columns does not divide 32; choose a divisor"
    ):
        plan("llama", w4a16())
    with pytest.raises(PlanError, match=r"down_proj \[32, 48\]: a tile of 32 columns .*\(16, 8\).* keep this weight"):
        plan("llama", Recipe((Rule("*", Spec(Int(4), per_group(32))),)))
    with pytest.raises(PlanError, match=r"To keep all 2 that do not fit: --keep 'model\.layers\.\*\.mlp\.down_proj'$"):
        plan("llama", Recipe((Rule("*", Spec(Int(4), per_group(32))),)))
    found = plan("llama", Recipe((Rule("down_proj"), Rule("*", Spec(Int(4), per_group(32))))))
    assert not any("down_proj" in name for name, _, _ in found.specs())


LEDGERS = {
    "all": ALL,
    "one": Recipe((Rule("o_proj", G8), Rule("dense", G8), Rule("w.*", G8), Rule("out_proj", G8), Rule("c_attn", G8))),
    "tables too": Recipe((Rule("kind:head", G8), Rule("kind:embedding", G8), Rule("*", G8))),
}


@pytest.mark.parametrize("recipe", LEDGERS.values(), ids=LEDGERS)
@pytest.mark.parametrize("family", [*models.FAMILIES, "odd"])
def test_every_parameter_is_quantized_or_kept_for_a_reason(family: str, recipe: Recipe) -> None:
    found = plan(family, recipe)
    quantized = {step.linear.view.parameter for job in found.blocks for step in job.steps}
    quantized |= {table.view.parameter for table in found.tables}
    kept = [one.name for one in found.kept]
    assert sorted([*quantized, *kept]) == sorted(graph(family)[1])
    for one in found.kept:
        stored = graph(family)[1][one.name]
        assert one.reason and one.kind and one.shape == stored.shape
        assert one.bytes == torch.Size(stored.shape).numel() * 4


def test_reasons_say_why() -> None:
    kept = {one.name: one for one in plan("qwen2_moe", Recipe((Rule("shared_expert.*"), Rule("*", G8)))).kept}
    layer = "model.layers.0"
    assert kept[f"{layer}.mlp.gate.weight"].kind == "router"
    assert "a router decides" in kept[f"{layer}.mlp.gate.weight"].reason
    assert kept[f"{layer}.mlp.shared_expert_gate.weight"].kind == "gate"
    assert "one number for every token" in kept[f"{layer}.mlp.shared_expert_gate.weight"].reason
    assert "the recipe keeps it ('shared_expert.*')" in kept[f"{layer}.mlp.shared_expert.up_proj.weight"].reason
    assert kept[f"{layer}.input_layernorm.weight"].reason == "a vector, not a matrix"
    assert kept[f"{layer}.self_attn.q_proj.bias"].kind == "bias"
    assert "kept by default" in kept["lm_head.weight"].reason
    assert "no product with the whole matrix" in {k.name: k.reason for k in plan("odd", ALL).kept}["zorps.0.split"]


def test_a_router_is_rounded_if_a_rule_names_it() -> None:
    named = plan("mixtral", Recipe((Rule("mlp.gate", G8), Rule("*", G8))))
    assert "model.layers.0.mlp.gate" in {name for name, _, _ in named.specs()}
    assert "model.layers.0.mlp.gate" not in {name for name, _, _ in plan("mixtral", ALL).specs()}


def test_a_rule_that_decides_nothing_is_warned_of() -> None:
    found = plan("llama", Recipe((Rule("*", G8), Rule("q_proj", G8), Rule("kind:router"), Rule("no_such", G8))))
    unused = [line for line in found.warnings if "matches no weight" in line]
    assert [line.split("'")[1] for line in unused] == ["q_proj", "kind:router", "no_such"]
    assert plan("llama", ALL).warnings == ()


@pytest.mark.parametrize(
    "recipe", [Recipe(()), Recipe((Rule("*"),)), Recipe((Rule("no_such", G8),))], ids=["a", "b", "c"]
)
def test_a_recipe_that_rounds_nothing_is_refused(recipe: Recipe) -> None:
    with pytest.raises(PlanError, match="no rule of the recipe matches any weight"):
        plan("llama", recipe)


def test_fused_slices_are_rounded_all_or_none() -> None:
    for keep in ("experts.gate_up_proj.*", "experts.*"):
        recipe = Recipe((Rule(keep), Rule("*", G8)))
        assert not any("gate_up_proj" in name for name, _, _ in plan("mixtral", recipe).specs())
    with pytest.raises(
        PlanError, match=r"experts\.down_proj: rules cover only some of its 4 slices; cover all or none"
    ):
        plan("mixtral", Recipe((Rule("experts.down_proj.2"), Rule("*", G8))))


def test_slices_that_no_operator_used_count_as_missing() -> None:
    """A fused parameter of three slices of which the graph knows two cannot be rounded."""
    found, stored = by_hand([linear("stack", index=i) for i in range(2)])
    with pytest.raises(PlanError, match="only some of its 3 slices"):
        make_plan(found, ALL, stored, torch.float32, {})


def test_tables_outside_blocks_are_rounded_only_if_named() -> None:
    assert plan("llama", ALL).tables == ()
    (head,) = plan("llama", Recipe((Rule("kind:head", G8), Rule("*", G8)))).tables
    assert (head.view, head.kind) == (WeightView("lm_head.weight", (64, 32)), "head")
    only = plan("llama", Recipe((Rule("embed_tokens*", G8),)))
    assert [table.kind for table in only.tables] == ["embedding"] and not only.needs_data


def test_weights_that_are_shared_are_warned_of() -> None:
    found, stored = graph("llama")
    stored = {name: one for name, one in stored.items() if name != "lm_head.weight"}
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    made = make_plan(found, Recipe((Rule("kind:embedding", G8), Rule("*", G8))), stored, torch.float32, tied)
    assert made.warnings == ("model.embed_tokens.weight is shared (tied); all its uses take the quantized values",)
    assert sorted(
        [
            *(one.name for one in made.kept),
            *(step.linear.view.parameter for job in made.blocks for step in job.steps),
            "model.embed_tokens.weight",
        ]
    ) == sorted(stored)


def test_depth_counts_planned_weights_alone() -> None:
    chain = [linear("a"), linear("b", "a"), linear("c", "b"), linear("d", "c", "a"), linear("e")]
    found, stored = by_hand(chain)
    assert stages(make_plan(found, ALL, stored, torch.float32, {}).blocks[0]) == [["a", "e"], ["b"], ["c"], ["d"]]
    skip = make_plan(found, Recipe((Rule("b"), Rule("c"), Rule("*", G8))), stored, torch.float32, {})
    assert stages(skip.blocks[0]) == [["a", "e"], ["d"]]


def test_a_plan_is_a_value() -> None:
    assert plan("llama", ALL) == plan("llama", replace(ALL))
    assert plan("llama", ALL).search == ALL.search


def test_weights_between_which_nothing_is_rounded_share_a_stage() -> None:
    apart = plan("llama", Recipe((Rule("v_proj", G8), Rule("up_proj", G8))))
    assert stages(apart.blocks[0]) == [["self_attn.v_proj"], ["mlp.up_proj"]]
    together = plan("llama", Recipe((Rule("q_proj", G8), Rule("v_proj", G8))))
    assert stages(together.blocks[0]) == [["self_attn.q_proj", "self_attn.v_proj"]]
