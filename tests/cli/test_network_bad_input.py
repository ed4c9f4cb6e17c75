"""What a user can get wrong with whole networks: each an error of its own, one paragraph, exit code 2, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cli.conftest import call, refused

SHAPE = (2, 6, 6)


def model_of(folder: Path, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> Path:
    """A network from `x` to `y` of these nodes; a convolution comes first."""
    weight = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)
    first = helper.make_node("Conv", ["x", "weight"], ["made"], "first", pads=[1, 1, 1, 1])
    held = [onnx.numpy_helper.from_array(array, name) for name, array in {"weight": weight, **constants}.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [first, *nodes],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [value("y", TensorProto.FLOAT, [None] * 4)],
        held,
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    array = np.random.default_rng(1).standard_normal((16, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=array)
    return tmp_path / "samples.npz"


def quantizing(model: Path, samples: Path, *options: object) -> str:
    """What stderr says of a run that is refused; nothing finished is left behind."""
    out = model.parent / "out"
    words = refused("quantize", model, "-r", "int8", "-c", samples, "-o", out, "--no-verify", *options)
    assert not (out / "manifest.json").exists()
    return words


def test_an_activation_that_is_nan_is_named_with_its_sample(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["made"], ["positive"], "relu")
    root = helper.make_node("Sqrt", ["rooted"], ["root"], "root")
    move = helper.make_node("Add", ["positive", "shift"], ["rooted"], "move")
    last = helper.make_node("Conv", ["root", "last"], ["y"], "last")
    shift, kernel = np.full((1, 4, 1, 1), 5, np.float32), np.ones((3, 4, 1, 1), np.float32)
    model = model_of(tmp_path, [relu, move, root, last], shift=shift - 10, last=kernel)
    array = np.full((16, *SHAPE), 100, np.float32) * np.random.default_rng(2).standard_normal((16, *SHAPE))
    np.savez(tmp_path / "samples.npz", x=array.astype(np.float32))
    words = quantizing(model, tmp_path / "samples.npz")
    assert "root" in words and "NaN" in words and "samples 0, 1" in words and "made by Sqrt root" in words


def test_an_operator_without_integer_form_stays_float_and_is_listed(tmp_path: Path, samples: Path) -> None:
    curve = helper.make_node("Erf", ["made"], ["curve"], "curve")
    last = helper.make_node("Conv", ["curve", "last"], ["y"], "last")
    model = model_of(tmp_path, [curve, last], last=np.ones((3, 4, 1, 1), np.float32))
    found = call("quantize", model, "-r", "int8", "-c", samples, "-o", tmp_path / "out", "--no-verify")
    assert found.exit_code == 0, found.output
    assert "float: curve: ONNX Runtime has no integer Erf" in found.stdout


def test_an_operator_that_does_not_exist_is_named(tmp_path: Path, samples: Path) -> None:
    model = model_of(tmp_path, [helper.make_node("Frobnicate", ["made"], ["y"], "odd")])
    assert "Frobnicate" in quantizing(model, samples)


def test_a_cyclic_network_is_refused(tmp_path: Path, samples: Path) -> None:
    one = helper.make_node("Add", ["made", "b"], ["a"], "one")
    two = helper.make_node("Relu", ["a"], ["b"], "two")
    three = helper.make_node("Relu", ["b"], ["y"], "three")
    words = quantizing(model_of(tmp_path, [one, two, three]), samples)
    assert "model.onnx" in words and ("cycl" in words or "one another" in words)


@pytest.mark.parametrize("content", [b"", b"not a network", None], ids=["empty", "text", "cut short"])
def test_a_file_that_is_no_network_is_refused(content: bytes | None, tmp_path: Path, samples: Path) -> None:
    path = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    assert "model.onnx" in quantizing(path, samples)


def test_external_data_that_are_missing_are_named(tmp_path: Path, samples: Path) -> None:
    path = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="numbers.bin", size_threshold=0)
    (tmp_path / "numbers.bin").unlink()
    assert "numbers.bin" in quantizing(path, samples)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    yield torch.zeros(0, 2, 6, 6)", "batch 0: an empty batch"),
        ("    yield torch.zeros(4, 3, 6, 6)", "has shape [1, 3, 6, 6]"),
        ("    yield torch.zeros(4, 2, 6, 6), torch.zeros(4)", "2 tensors, but the network has 1 input"),
        ("    yield {'z': torch.zeros(4, 2, 6, 6)}", "z is no input"),
        ("    yield 'text'", "batch 0: a str"),
        ("    return 3", "must give batches"),
        ("    yield torch.zeros(4, 2, 6, 6) / 0", "NaN"),
        ("    raise RuntimeError('no disk')", "raised RuntimeError: no disk (line 4 of"),
    ],
)
def test_a_batch_that_does_not_fit_is_said(
    text: str, words: str, tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    name = f"loads_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n\ndef batches():\n{text}\n")
    monkeypatch.chdir(tmp_path)
    found = refused("quantize", path, "-r", "int8", "--loader", f"{name}:batches", "-o", tmp_path / "out")
    assert words in found, found


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        image.new("RGB", (6, 6), (number, 9, 9)).save(pictures / f"{number}.png")
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:40])
    path = three_channels(tmp_path)
    assert "1.png" in quantizing(path, pictures)


def three_channels(folder: Path) -> Path:
    value = helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], "first")],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [value("y", TensorProto.FLOAT, None)],
        [weight],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_the_folder_of_another_run_is_left_alone(
    quantized: Path, tmp_path: Path, samples: Path, finished: Path
) -> None:
    model = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    for made in (quantized, finished):
        out = shutil.copytree(made, tmp_path / made.name)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        words = refused("quantize", model, "-r", "int8", "-c", samples, "-o", out, "--no-verify")
        assert "another output folder" in words
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_network_that_has_nothing_for_integers_is_refused(tmp_path: Path, samples: Path) -> None:
    model = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    assert "no operator" in quantizing(model, samples, "--keep", "first")


def test_a_model_of_the_wrong_half_says_which_recipe_it_takes(
    model: Path, text: Path, tmp_path: Path, samples: Path
) -> None:
    words = refused("quantize", model, "-r", "int8", "-c", text, "-o", tmp_path / "out")
    assert "language model" in words and "w4a16" in words
    network = model_of(tmp_path, [helper.make_node("Relu", ["made"], ["y"], "relu")])
    assert "choose one of int8" in refused("quantize", network, "-r", "nf4", "-c", samples, "-o", tmp_path / "out")
