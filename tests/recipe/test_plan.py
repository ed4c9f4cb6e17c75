"""Plans: stages in the order data flows, refusals with remedies, and a ledger without gaps."""

from __future__ import annotations

import pytest
import torch
import transformers as T

from bitwright.graph import trace
from bitwright.numerics import Int, Spec, per_group
from bitwright.recipe.plan import Plan, PlanError, Stored, make_plan
from bitwright.recipe.presets import asymmetric
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.skeleton import build_skeleton

SIZES = {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0}
INT4 = asymmetric(4, 16)


def plan(recipe: Recipe, config: T.PreTrainedConfig | None = None) -> Plan:
    model = build_skeleton(config or T.LlamaConfig(**LLAMA), torch.bfloat16)
    stored = {name: Stored(tuple(p.shape), torch.bfloat16) for name, p in model.named_parameters()}
    return make_plan(trace(model), recipe, stored, torch.bfloat16, {})


def test_stages_are_in_true_sequential_order() -> None:
    stages = plan(Recipe((Rule("*", INT4),))).blocks[1].stages
    ends = [[step.name.split(".")[-1] for step in stage.steps] for stage in stages]
    assert ends == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def test_weights_between_which_nothing_is_rounded_share_a_stage() -> None:
    found = plan(Recipe((Rule("*.v_proj", INT4), Rule("*.up_proj", INT4))))
    assert [len(stage.steps) for stage in found.blocks[0].stages] == [1, 1]
    found = plan(Recipe((Rule("*.q_proj", INT4), Rule("*.v_proj", INT4))))
    assert [len(stage.steps) for stage in found.blocks[0].stages] == [2]


def test_a_scale_in_the_checkpoints_own_type_is_resolved() -> None:
    spec = plan(Recipe((Rule("*", INT4),))).blocks[0].stages[0].steps[0].spec
    assert str(spec) == "uint4 per group of 16, scale bfloat16, zero uint4"


def test_a_group_that_does_not_divide_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match=r"down_proj \[32, 48\].*32 columns does not divide 48.*16"):
        plan(Recipe((Rule("*", Spec(Int(4), per_group(32))),)))


def test_a_recipe_that_matches_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="no rule"):
        plan(Recipe((Rule("*.w_proj", INT4),)))


def test_a_rule_that_decides_nothing_is_warned_of() -> None:
    assert any("w_proj" in text for text in plan(Recipe((Rule("*.w_proj", INT4), Rule("*", INT4)))).warnings)


@pytest.mark.parametrize("config", [T.LlamaConfig(**LLAMA), T.MixtralConfig(**LLAMA, num_local_experts=4)])
def test_every_parameter_is_planned_or_kept_for_a_reason(config: T.PreTrainedConfig) -> None:
    found = plan(Recipe((Rule("*", INT4),)), config)
    planned = {step.linear.view.parameter for job in found.blocks for step in job.steps}
    kept = {one.name for one in found.kept}
    names = {name for name, _ in build_skeleton(config, torch.bfloat16).named_parameters()}
    assert planned | kept == names and not planned & kept
    assert all(one.reason for one in found.kept)


def test_a_fused_parameter_is_quantized_whole_or_not_at_all() -> None:
    config = T.MixtralConfig(**LLAMA, num_local_experts=4)
    with pytest.raises(PlanError, match="cover all or none"):
        plan(Recipe((Rule("*.gate_up_proj.0", INT4),)), config)


def test_head_and_router_are_quantized_where_a_rule_names_them() -> None:
    config = T.MixtralConfig(**LLAMA, num_local_experts=4)
    found = plan(Recipe((Rule("kind:head", INT4), Rule("kind:router", INT4))), config)
    assert [table.view.name for table in found.tables] == ["lm_head"]
    assert [step.name for step in found.blocks[0].steps] == ["model.layers.0.mlp.gate"]
