"""transformers opens an exported folder by itself and computes what the artifact stands for.

docs/loading.md holds the same measurement for other versions; this one is for the version that is pinned.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from bitwright.export import CompressedTensors, export
from bitwright.numerics import PER_ROW, Float8, Spec, per_group
from bitwright.quantize import quantize
from bitwright.recipe.presets import OWN, PRESETS, nearest
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.artifact import Artifact
from bitwright.store.source import open_source
from export.artifacts import integers, llama_config, make
from store.small_models import save

DTYPES = (torch.bfloat16, torch.float32)
IDS = torch.randint(3, 150, (2, 32), generator=torch.Generator().manual_seed(0))
NAMES = ("w4a16", "w4a16_sym", "w8a16", "w3a16", "w2a16", "fp8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def reference(source: Path, artifact: Artifact, dtype: torch.dtype) -> nn.Module:
    """The source's model with the artifact's weights put in by hand."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    weights = {name: t for block, _ in artifact.parts() for name, t in artifact.parameters(block, dtype).items()}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model.eval()


def load(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The exported model after one forward pass, which is when transformers decompresses weights."""
    with quiet(), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        model(IDS)
    return model


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in expected.named_parameters():
        assert torch.equal(parameters[name], tensor), name


def assert_loads(folder: Path, expected: nn.Module, dtype: torch.dtype) -> None:
    model = load(folder, dtype)
    assert_same_weights(model, expected)
    with torch.no_grad():
        found, wanted = model(IDS).logits.double(), expected(IDS).logits.double()
    assert (found - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_with_the_artifacts_weights_bit_for_bit(name: str, bookllama: Path, tmp_path: Path) -> None:
    artifact = quantize(open_source(bookllama), nearest(PRESETS[name]()), tmp_path / "artifact")
    export(artifact, CompressedTensors(), tmp_path / "out")
    for dtype in DTYPES:
        assert_loads(tmp_path / "out", reference(bookllama, artifact, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_storage_at_once_loads_from_one_folder(
    every: Artifact, sources: dict[str, Path], dtype: torch.dtype, tmp_path: Path
) -> None:
    export(every, CompressedTensors(shard_bytes=20_000), tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_loads(tmp_path, reference(sources["deep"], every, dtype), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_checkpoint_of_another_float_type_loads_exactly_too(dtype: torch.dtype, tmp_path: Path) -> None:
    """A float32 checkpoint has bfloat16 scales; the reader multiplies in float32, so no product is rounded."""
    source = save(tmp_path / "source", llama_config(), dtype=dtype)
    artifact = make(source, tmp_path / "artifact", integers(3, False, per_group(16)))
    export(artifact, CompressedTensors(), tmp_path / "out")
    assert_loads(tmp_path / "out", reference(source, artifact, dtype), dtype)


EXPERTS = {
    "int4": Recipe((Rule("*", integers(4, True, per_group(16))),)),
    "int8 rows": Recipe((Rule("*", integers(8, True, PER_ROW)),)),
    "float8": Recipe((Rule("*", Spec(Float8(), PER_ROW, scale=OWN)),)),
    "int4 beside int8": Recipe(
        (Rule("*experts*", integers(4, True, per_group(16))), Rule("*", integers(8, True, PER_ROW)))
    ),
    "int4 beside kept": Recipe((Rule("*self_attn*"), Rule("*", integers(4, True, per_group(16))))),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_load_with_the_artifacts_weights(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    artifact = make(sources["mixtral"], tmp_path / "artifact", EXPERTS[name])
    export(artifact, CompressedTensors(), tmp_path / "out")
    assert_loads(tmp_path / "out", reference(sources["mixtral"], artifact, torch.bfloat16), torch.bfloat16)


def test_8_bit_floats_load_beside_experts_that_were_kept(sources: dict[str, Path], tmp_path: Path) -> None:
    """In the checkpoint's dtype only, which transformers 5.17 then gives kept experts whatever `dtype` asks for."""
    recipe = Recipe((Rule("*experts.*"), Rule("*", Spec(Float8(), PER_ROW, scale=OWN))))
    artifact = make(sources["mixtral"], tmp_path / "artifact", recipe)
    export(artifact, CompressedTensors(), tmp_path / "out")
    expected = reference(sources["mixtral"], artifact, torch.bfloat16)
    assert_same_weights(load(tmp_path / "out", torch.bfloat16), expected)


def test_the_tokenizer_comes_along(bookllama: Path, tmp_path: Path) -> None:
    artifact = quantize(open_source(bookllama), nearest(PRESETS["w8a16"]()), tmp_path / "artifact")
    export(artifact, CompressedTensors(), tmp_path / "out")
    text = "It was a dark and stormy night."
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(place)(text) for place in (bookllama, tmp_path / "out"))
    assert theirs["input_ids"] == ours["input_ids"]
