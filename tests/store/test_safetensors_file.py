"""Safetensors files: headers give names, shapes and dtypes, damage is found without reading, tensors are mapped."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitwright.store.safetensors_file import DTYPES, LARGEST_GAP_BYTES, TensorShape, map_tensors, read_header
from bitwright.store.source_error import SourceError


def written(file, header, numbers=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return file


def test_every_dtype_is_read_as_safetensors_wrote_it(tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = {name: torch.zeros(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    save_file({**tensors, "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}, file, metadata={"format": "pt"})
    found = {name: stretch.tensor for name, stretch in read_header(file).items()}
    assert {name: found.pop(name) for name in DTYPES} == {n: TensorShape((2, 3), dtype) for n, dtype in DTYPES.items()}
    assert found == {"scalar": TensorShape((), torch.float32), "empty": TensorShape((0, 4), torch.float32)}


def test_bytes_of_a_tensor_are_elements_times_width():
    assert TensorShape((3, 5), torch.bfloat16).bytes == 30


@pytest.mark.parametrize("length", [1, 4, 100])
def test_a_truncated_file_says_how_long_it_should_be(tmp_path, length):
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    whole, size = file.read_bytes(), file.stat().st_size
    file.write_bytes(whole[:-length])
    with pytest.raises(SourceError, match=rf"truncated, {size - length} bytes .* needs {size}"):
        read_header(file)


def test_a_file_cut_inside_its_header_is_truncated(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(SourceError, match="truncated, 20 bytes"):
        read_header(file)


W = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header, message",
    [
        (b"not json at all", "its header is not JSON"),
        (b"\xff\xfe", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        (["w"], "its header is a list"),
        ({"w": 3}, "describes tensor 'w' as 3"),
        ({"w": {**W, "shape": [-4]}}, "describes tensor 'w'"),
        ({"w": {**W, "shape": [True]}}, "describes tensor 'w'"),
        ({"w": {**W, "data_offsets": [0]}}, "describes tensor 'w'"),
        ({"w": {**W, "dtype": "Q4"}}, "dtype 'Q4'; allowed are F64, F32"),
        ({"w": {**W, "shape": [3]}}, "'w' of 12 bytes lies at 0 to 16, not at 0 to 12"),
        ({"w": W, "v": W}, "'v' of 16 bytes lies at 0 to 16, not at 16 to 32"),
        ({}, "16 bytes follow its last tensor"),
    ],
)
def test_a_damaged_header_says_what_is_wrong(tmp_path, header, message):
    with pytest.raises(SourceError, match=message):
        read_header(written(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 50])
def test_no_safetensors_file_at_all(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match="not a sound safetensors file: it is"):
        read_header(tmp_path / "a.safetensors")


def mapped(file, names=None):
    header = read_header(file)
    return map_tensors(file, [header[name] for name in names or header])


def test_mapped_tensors_are_those_that_safetensors_loads(tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = {name: torch.randint(0, 2, (3, 5)).to(dtype) for name, dtype in DTYPES.items()}
    save_file({**tensors, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}, file)
    expected, found = load_file(file), mapped(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert bytes(found[name].contiguous().view(-1).view(torch.uint8)) == bytes(tensor.view(-1).view(torch.uint8))


def test_tensors_far_apart_are_mapped_apart(tmp_path):
    file = tmp_path / "a.safetensors"
    filler = LARGEST_GAP_BYTES // 4 + 1
    save_file({"a": torch.ones(3), "b": torch.zeros(filler), "c": torch.full((5,), 2.0)}, file)
    found = mapped(file, ["c", "a"])
    assert found["a"].tolist() == [1] * 3 and found["c"].tolist() == [2] * 5
    assert found["c"].untyped_storage().nbytes() < 100_000


def test_only_empty_tensors(tmp_path):
    save_file({"e": torch.zeros(0, 4)}, tmp_path / "a.safetensors")
    assert mapped(tmp_path / "a.safetensors")["e"].shape == (0, 4)


def test_changing_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(100)}, file)
    mapped(file)["w"].zero_()
    assert load_file(file)["w"].sum() == 100


@pytest.mark.parametrize("pad", range(4))
def test_numbers_behind_a_header_of_odd_length_are_read(tmp_path, pad):
    header = json.dumps({"w": W}).encode() + b" " * pad
    file = written(tmp_path / "a.safetensors", header, torch.arange(4.0).numpy().tobytes())
    assert mapped(file)["w"].tolist() == [0, 1, 2, 3]


def test_one_tensor_of_a_file_larger_than_memory_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    huge = 1 << 43  # 8 TiB, never written: the file is a hole
    header = {
        "huge": {"dtype": "U8", "shape": [huge], "data_offsets": [0, huge]},
        "w": {"dtype": "F32", "shape": [4], "data_offsets": [huge, huge + 16]},
    }
    written(file, header, b"")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + huge + 16)
    assert mapped(file, ["w"])["w"].tolist() == [0] * 4
