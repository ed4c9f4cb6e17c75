"""What the trace claims of a model, each claim held against a real run of the same model with random weights."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitwright.graph import Block, Graph, Linear, trace
from bitwright.store.skeleton import tie
from conformance import models

DENSE = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj* mlp.gate_proj mlp.up_proj mlp.down_proj*"
NEOX = "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h"
ATTENTION = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj*"
LATENT = "self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj self_attn.o_proj*"
FOUR = " ".join(f"mlp.experts.{part}_proj.{i}" for part in ("gate_up", "down") for i in range(4))
SHARED = "mlp.{0}.gate_proj mlp.{0}.up_proj mlp.{0}.down_proj"

# the linears of the last block in the order they run; * is added straight to the stream, ? chooses experts
EXPECTED = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), DENSE),
    "gemma2": DENSE.replace("*", ""),  # a norm lies between
    "phi3": "self_attn.qkv_proj self_attn.o_proj* mlp.gate_up_proj mlp.down_proj*",
    "gpt2": "attn.c_attn attn.c_proj* mlp.c_fc mlp.c_proj*",
    "neox": NEOX,  # attention and mlp are added to each other first
    "opt": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj* fc1 fc2*",
    "falcon": NEOX.replace("attention", "self_attention"),
    "bloom": "self_attention.query_key_value self_attention.dense* mlp.dense_h_to_4h mlp.dense_4h_to_h*",
    "mixtral": f"{ATTENTION} mlp.gate? {FOUR}",
    "qwen2_moe": f"{ATTENTION} {SHARED.format('shared_expert')} mlp.gate? {FOUR} mlp.shared_expert_gate",
    "deepseek": f"{LATENT} mlp.gate? {FOUR} {SHARED.format('shared_experts')}",
    "llama4": f"{ATTENTION} mlp.router? {FOUR} {SHARED.format('shared_expert')}".replace(" mlp.", " feed_forward."),
    "odd": "aa bb* m* quux.w.0 quux.w.1 quux.w.2",
}
FAMILIES = tuple(EXPECTED)


@cache
def traced(family: str) -> Graph:
    return trace(models.Odd().to("meta") if family == "odd" else models.skeleton(family))


@dataclass
class Event:
    """One product of a real run: its input [tokens, in], its output without bias, and that output as a leaf."""

    input: Tensor
    output: Tensor
    leaf: Tensor


@dataclass
class Run:
    """All products by the address of their weight, and the output of every block."""

    events: dict[int, list[Event]] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def of(self, linear: Linear) -> list[Event]:
        """The products with this weight: found by its place in memory, not by anything that the trace said."""
        return self.events.get(linear.view.read(self.parameters[linear.view.parameter]).data_ptr(), [])


class Products(TorchFunctionMode):
    """Notes every product by its Python call, and cuts the graph of derivatives behind it."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, operands = func(*args, **(kwargs or {})), None
        if func is nn.functional.linear:
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            operands, plain = args[:2], out if bias is None else out - bias
        elif func is torch.addmm:
            operands, plain = args[1:3], out - args[0]
        elif func in (torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm):
            operands, plain = args[:2], out
        if operands is None or not any(operands[1].data_ptr() == p.data_ptr() for p in self.weights()):
            return out
        leaf = out.detach().requires_grad_()
        many = operands[0].dim() == 3 and operands[1].dim() == 3
        for i in range(len(out)) if many else (slice(None),):
            x, y = operands[0][i].clone(), plain.detach()[i].clone()
            event = Event(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), leaf)
            address = operands[1][i].data_ptr() if many else operands[1].data_ptr()
            self.run.events.setdefault(address, []).append(event)
        return leaf.clone()  # which may be changed in place

    def weights(self) -> list[Tensor]:
        """Every parameter and every slice of the fused ones."""
        every = list(self.run.parameters.values())
        return every + [one[i] for one in every if one.dim() == 3 for i in range(len(one))]


@cache
def ran(family: str) -> Run:
    """A real run of the model with random weights on random tokens."""
    torch.manual_seed(0)
    model = models.Odd() if family == "odd" else models.real(family)
    model.requires_grad_(False)
    run = Run(parameters=dict(model.named_parameters(remove_duplicate=False)))
    for block in traced(family).blocks:

        def keep(_module: nn.Module, _args: Any, output: Any, block: Block = block) -> None:
            run.streams[block.name] = block.returned.stream(output)

        model.get_submodule(block.name).register_forward_hook(keep)
    with Products(run):
        model(input_ids=torch.randint(3, 40, (2, 12)), use_cache=False)
    return run


def derivative(output: Tensor, weights: Tensor, leaf: Tensor) -> Tensor:
    """Of the sum of output * weights by a leaf; zeros where it does not depend on it."""
    if not output.requires_grad:
        return torch.zeros_like(leaf)
    found = torch.autograd.grad((output * weights).sum(), leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_are_found_in_the_order_they_run(family: str) -> None:
    block = traced(family).blocks[-1]
    found = [
        linear.view.name.removeprefix(f"{block.name}.") + "*" * linear.writes_stream + "?" * linear.selects
        for linear in block.linears
    ]
    assert found == EXPECTED[family].split()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "odd"])
def test_every_matrix_of_a_block_is_found(family: str) -> None:
    model = models.skeleton(family)
    for block in traced(family).blocks:
        matrices = {name for name in block.parameters if model.get_parameter(name).dim() >= 2}
        assert {linear.view.parameter for linear in block.linears} == matrices


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_inside_a_block_or_outside(family: str) -> None:
    graph = traced(family)
    inside = [name for block in graph.blocks for name in block.parameters]
    outside = [one.parameter for one in graph.outside]
    assert sorted(inside + outside) == sorted(ran(family).parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_view_of_a_weight_reproduces_its_product(family: str) -> None:
    run = ran(family)
    seen = 0
    for block in traced(family).blocks:
        for linear in block.linears:
            matrix = linear.view.read(run.parameters[linear.view.parameter])
            assert tuple(matrix.shape) == linear.view.shape
            for event in run.of(linear):
                assert torch.allclose(event.input @ matrix.mT, event.output, rtol=1e-4, atol=1e-5)
                seen += 1
            assert run.of(linear) or linear.routed, f"{linear.view.name} was never used"
    assert seen > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_linears_share_a_source_exactly_if_they_read_the_same_numbers(family: str) -> None:
    run = ran(family)
    for block in traced(family).blocks:
        used = [(linear.source, run.of(linear)[0].input) for linear in block.linears if run.of(linear)]
        for source, read in used:
            for other, also in used:
                assert (source == other) == (read.shape == also.shape and torch.equal(read, also))


@pytest.mark.parametrize("family", FAMILIES)
def test_after_names_the_linears_that_an_input_depends_on(family: str) -> None:
    """Every product's output was made a leaf, so that derivatives see no further than to the linears right above."""
    run = ran(family)
    for block in traced(family).blocks:
        routers = {linear.view.name for linear in block.linears if linear.selects}
        for linear in block.linears:
            if not run.of(linear):
                continue
            read = run.of(linear)[0].input
            above = set()
            for other in block.linears:
                for event in run.of(other):
                    if bool((derivative(read, torch.randn_like(read), event.leaf) != 0).any()):
                        above.add(other.view.name)
            assert above <= set(linear.after), linear.view.name
            assert set(linear.after) - above <= routers, linear.view.name  # a choice has no derivative


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_writer_puts_out_is_added_to_the_stream(family: str) -> None:
    run = ran(family)
    for block in traced(family).blocks:
        stream = run.streams[block.name]
        weights = torch.randn_like(stream)
        for linear in block.linears:
            if linear.writes_stream:
                (event,) = run.of(linear)
                found = derivative(stream, weights, event.leaf)
                assert torch.equal(found.reshape(weights.shape), weights), linear.view.name


def test_weights_stored_the_other_way_round_are_seen_as_such() -> None:
    views = [linear.view for linear in traced("gpt2").blocks[0].linears]
    assert all(view.transposed for view in views) and views[0].shape == (96, 32)
    assert not any(view.transposed for view in traced("llama").views().values())


@pytest.mark.parametrize("family", models.MIXTURES)
def test_experts_are_all_found_and_a_slice_depends_on_its_own_expert(family: str) -> None:
    block = traced(family).blocks[-1]
    names = [linear.view.name for linear in block.linears]
    for linear in block.linears:
        view = linear.view
        if view.index is None:
            assert not linear.routed
            continue
        assert {f"{view.parameter}.{i}" for i in range(4)} <= set(names)
        if view.parameter.endswith("down_proj") and linear.routed:
            assert linear.after == (f"{view.parameter.replace('down', 'gate_up')}.{view.index}",)
    sources = [linear.source for linear in block.linears if linear.view.index is not None]
    assert len(set(sources)) == len(sources), "experts see different tokens, so none share an input"


def test_a_model_that_chooses_by_data_is_traced_on_zeros_and_says_so() -> None:
    assert traced("llama").blocks[0].notes == ()
    assert "traced on zero weights" in traced("mixtral").blocks[0].notes[0]


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("llama", {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm", "lm_head.weight": "head"}),
        ("odd", {"side": "norm", "enter.weight": "embedding", "leave.weight": "head"}),
    ],
)
def test_parameters_outside_the_blocks_have_kinds(family: str, kinds: dict[str, str]) -> None:
    assert {one.parameter: one.kind for one in traced(family).outside} == kinds


def test_blocks_may_take_and_return_the_stream_anywhere() -> None:
    block = traced("odd").blocks[0]
    assert block.returned.place == 1
    side, stream = torch.zeros(16), torch.ones(1, 2, 16)
    assert block.returned.stream((side, stream)) is stream


def test_the_skeleton_is_left_as_it_was() -> None:
    model = models.skeleton("mixtral")
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    trace(model)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_head_tied_to_the_embedding_is_no_obstacle() -> None:
    model = models.skeleton("llama")
    tie(model, {"lm_head.weight": "model.embed_tokens.weight"})
    assert trace(model).blocks == traced("llama").blocks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_of_the_weights_does_not_matter(dtype: torch.dtype) -> None:
    assert trace(models.skeleton("llama").to(dtype)).views() == traced("llama").views()


@pytest.mark.slow
def test_size_does_not_matter() -> None:
    """Blocks as wide as those of a 70B model, 2.7 GB each, are traced without allocating them."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with torch.device("meta"):
        model = models.Odd(8192, models.Zorp, 4)
    graph = trace(model)
    assert len(graph.blocks) == 4 and graph.blocks[0].linears[0].view.shape == (16384, 8192)
    assert time.monotonic() - start < 30 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6
