"""compressed-tensors files: an independent decoder and the package itself both read the artifact's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file

from bitwright.export import CompressedTensors, ExportError, export
from bitwright.export.compressed_tensors import stored_parts
from bitwright.export.schemes import find_scheme
from bitwright.numerics import PER_ROW, PER_TENSOR, Float8, Int, MinMax, QTensor, Spec, per_group, quantize
from bitwright.numerics.plain import to_plain
from bitwright.recipe.presets import OWN
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.solvers import Nearest, Problem
from bitwright.store.artifact import Artifact
from bitwright.store.layout import open_layout, write_layout
from bitwright.store.source import open_source
from export.artifacts import SPECS, integers, make
from export.decoder import quantized_weights
from store.small_models import SIZES, save

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def read_by_package(qtensor: QTensor) -> torch.Tensor:
    """What the compressed-tensors package makes of the stored parts."""
    scheme = find_scheme(qtensor.spec)
    theirs = QuantizationScheme(targets=["Linear"], weights=dict(scheme.weights()), format=scheme.format)
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    return compressor.decompress(dict(stored_parts(qtensor)), theirs)["weight"]


def test_an_independent_decoder_reads_every_weight_bit_for_bit(every: Artifact, tmp_path: Path) -> None:
    export(every, CompressedTensors(), tmp_path)
    found = quantized_weights(tmp_path)
    assert found.keys() == {entry.name for entry in every.entries}
    assert len(found) == len(SPECS)
    for block, _ in every.parts():
        for name, qtensor in every.qtensors(block).items():
            assert np.array_equal(found[name], qtensor.dequantize().numpy()), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_the_package_itself_decompresses_to_our_numbers_in_the_scales_dtype(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name].resolve(dtype)
    weight = torch.randn(40, 80, generator=torch.Generator().manual_seed(1))
    qtensor = Nearest().solve(Problem(weight, spec)).qtensor
    assert qtensor.scale is not None
    read = read_by_package(qtensor)
    assert read.dtype == qtensor.scale.codes.dtype
    assert torch.equal(read, qtensor.dequantize().to(read.dtype))


def test_extreme_codes_and_zeros_survive() -> None:
    spec = Spec(Int(4, signed=False), per_group(16), scale=OWN, zero=Spec(Int(4, signed=False))).resolve(torch.bfloat16)
    weight = torch.cat([torch.rand(4, 16), -torch.rand(4, 16), torch.zeros(1, 16), torch.full((1, 16), -3.0)])
    qtensor = quantize(weight, spec, MinMax().fit(spec, weight))
    assert qtensor.zero is not None
    assert {0, 15} <= set(qtensor.zero.codes.flatten().tolist())
    assert {0, 15} <= set(qtensor.codes.flatten().tolist())
    assert torch.equal(read_by_package(qtensor), qtensor.dequantize().bfloat16())


def test_a_negative_scale_is_written_as_it_is() -> None:
    spec = Spec(Int(3), PER_ROW, scale=OWN).resolve(torch.bfloat16)
    weight = torch.linspace(-0.5, 1, 48).repeat(2, 1)
    qtensor = Nearest().solve(Problem(weight, spec)).qtensor
    assert (stored_parts(qtensor)["weight_scale"] < 0).all()
    assert torch.equal(read_by_package(qtensor), qtensor.dequantize().bfloat16())


def test_what_was_kept_is_in_the_file_under_its_own_name(
    every: Artifact, sources: dict[str, Path], tmp_path: Path
) -> None:
    export(every, CompressedTensors(), tmp_path)
    before, after = load_file(sources["deep"] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    quantized = {f"{entry.name}.weight" for entry in every.entries}
    for name in before.keys() - quantized:
        assert torch.equal(before[name], after[name]), name
    extra = {name.rpartition(".")[0] for name in after.keys() - before.keys()}
    assert extra == {entry.name for entry in every.entries}


def refusal(artifact: Artifact, out: Path) -> str:
    with pytest.raises(ExportError) as error:
        export(artifact, CompressedTensors(), out)
    assert "--to dense" in str(error.value)
    assert not out.exists()
    return str(error.value)


def test_a_transposed_weight_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["gpt2"], tmp_path / "artifact", Spec(Int(4), PER_ROW))
    assert "transformer.h.0.attn.c_attn: it is stored transposed" in refusal(artifact, tmp_path / "out")


def test_experts_lie_in_modules_of_their_own(sources: dict[str, Path], tmp_path: Path) -> None:
    """Mixtral's w1 and w3 are the upper and the lower half of what the model multiplies with at once."""
    artifact = make(sources["mixtral"], tmp_path / "artifact", integers(4, True, per_group(16)))
    export(artifact, CompressedTensors(), tmp_path / "out")
    found = quantized_weights(tmp_path / "out")
    held = artifact.qtensors(0)
    for expert in range(4):
        stem = f"model.layers.0.block_sparse_moe.experts.{expert}"
        both = held[f"model.layers.0.mlp.experts.gate_up_proj.{expert}"].dequantize().numpy()
        assert np.array_equal(np.concatenate([found[f"{stem}.w1"], found[f"{stem}.w3"]]), both)
        down = held[f"model.layers.0.mlp.experts.down_proj.{expert}"].dequantize().numpy()
        assert np.array_equal(found[f"{stem}.w2"], down)


def test_experts_that_the_file_keeps_in_one_piece_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(sources["mixtral"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    artifact = make(tmp_path / "fused", tmp_path / "artifact", Spec(Int(4), PER_ROW))
    assert "which the checkpoint keeps in one piece" in refusal(artifact, tmp_path / "out")


def test_experts_with_zeros_are_refused_with_the_recipe_that_has_none(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["mixtral"], tmp_path / "artifact", integers(4, False, per_group(16)))
    message = refusal(artifact, tmp_path / "out")
    assert "model.layers.0.mlp.experts.gate_up_proj.0: it is an expert with zeros" in message
    assert "w4a16_sym" in message


def test_experts_that_share_scales_across_modules_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["mixtral"], tmp_path / "artifact", Spec(Float8(), PER_TENSOR, scale=OWN))
    assert "it is kept in 2 modules" in refusal(artifact, tmp_path / "out")


def test_experts_of_two_kinds_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    recipe = Recipe((Rule("*down_proj*", Spec(Int(8), PER_ROW)), Rule("*", Spec(Int(4), PER_ROW))))
    message = refusal(make(sources["mixtral"], tmp_path / "artifact", recipe), tmp_path / "out")
    assert "readers decode all experts in one way" in message


def test_some_experts_alone_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["mixtral"], tmp_path / "artifact", Spec(Int(4), PER_ROW))
    layout = open_layout(artifact.path / "source")
    some = [entry for entry in artifact.entries if not entry.name.endswith("layers.1.mlp.experts.down_proj.2")]
    with pytest.raises(ExportError, match="3 of its 4 experts are quantized"):
        CompressedTensors().check(layout, some)


@pytest.mark.parametrize(
    ("name", "message"),
    [("tied", "embed_tokens: it is shared with another module"), ("llama", "is not the weight of a Linear module")],
)
def test_a_quantized_embedding_is_refused(sources: dict[str, Path], name: str, message: str, tmp_path: Path) -> None:
    artifact = make(sources[name], tmp_path / "artifact", Recipe((Rule("kind:embedding", Spec(Int(8), PER_ROW)),)))
    assert message in refusal(artifact, tmp_path / "out")


def test_an_untied_head_is_an_ordinary_linear(sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["llama"], tmp_path / "artifact", Recipe((Rule("kind:head", Spec(Int(8), PER_ROW)),)))
    export(artifact, CompressedTensors(), tmp_path / "out")
    assert np.array_equal(
        quantized_weights(tmp_path / "out")["lm_head"], artifact.qtensors(None)["lm_head"].dequantize().numpy()
    )


def test_experts_that_were_kept_and_are_merged_by_the_loader_are_refused(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    recipe = Recipe((Rule("*experts.*"), Rule("*", Spec(Int(4), PER_ROW))))
    artifact = make(sources["mixtral"], tmp_path / "artifact", recipe)
    message = refusal(artifact, tmp_path / "out")
    assert message.startswith("model.layers.0.mlp.experts.")
    assert "transformers does not find these. Store the other weights in 8-bit floats" in message


def test_a_weight_that_the_loader_cuts_out_of_a_larger_one_is_refused(tmp_path: Path) -> None:
    sizes = {**SIZES, "num_key_value_heads": 4, "num_hidden_layers": 4, "num_layers_per_stack": 1, "head_dim": 8}
    write_layout(open_source(save(tmp_path / "hrm", transformers.HrmTextConfig(**sizes))), tmp_path / "a" / "source")
    name = "model.L_module.layers.0.self_attn.q_proj"
    weight = {"name": name, "parameter": f"{name}.weight", "transposed": False, "shape": [32, 32], "block": 0}
    artifact = Artifact(tmp_path / "a", {"weights": [weight | {"stored": to_plain(Spec(Int(4), PER_ROW))}]})
    message = refusal(artifact, tmp_path / "out")
    assert f"{name}: the checkpoint keeps it in another form (model.L_module.layers.0.attn.gqkv_proj.weight)" in message


def test_notes_say_what_readers_cannot_do(every: Artifact, small: Artifact, tmp_path: Path) -> None:
    assert [note.split(";")[0] for note in export(every, CompressedTensors(), tmp_path / "every").notes] == [
        "3, 5, 6, 7-bit codes are packed densely",
        "transformers 5.17 to 5.22 loads asymmetric weights",
        "weights are stored in several ways",
    ]
    assert len(export(small, CompressedTensors(), tmp_path / "small").notes) == 1


def test_scales_that_a_reader_would_round_are_noted(sources: dict[str, Path], tmp_path: Path) -> None:
    wide, own = Spec(Int(4), PER_ROW), Spec(Int(4), PER_ROW, scale=OWN)
    assert str(wide.scale) == "float32"
    for name, spec, count in (("wide", wide, 1), ("own", own, 0)):
        notes = export(
            make(sources["llama"], tmp_path / name / "a", spec), CompressedTensors(), tmp_path / name / "b"
        ).notes
        assert len(notes) == count
        assert all("scales have another float type than the model" in note for note in notes)
