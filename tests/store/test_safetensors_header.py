"""Headers of safetensors files: sound ones give names, shapes and dtypes; damaged ones are found without reading."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bitwright.store.safetensors_header import DTYPES, TensorShape, read_header
from bitwright.store.source_error import SourceError


def written(file, header, numbers=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return file


def test_every_dtype_is_read_as_safetensors_wrote_it(tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = {name: torch.zeros(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    save_file({**tensors, "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}, file, metadata={"format": "pt"})
    found = read_header(file)
    assert {name: found.pop(name) for name in DTYPES} == {n: TensorShape((2, 3), dtype) for n, dtype in DTYPES.items()}
    assert found == {"scalar": TensorShape((), torch.float32), "empty": TensorShape((0, 4), torch.float32)}


def test_bytes_of_a_tensor_are_elements_times_width():
    assert TensorShape((3, 5), torch.bfloat16).bytes == 30


@pytest.mark.parametrize("length", [1, 4, 100])
def test_a_truncated_file_says_how_long_it_should_be(tmp_path, length):
    file = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-length])
    with pytest.raises(SourceError, match=rf"truncated, {400 - length} bytes .* needs 400"):
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
        ({"w": {**W, "shape": [3]}}, "'w' of 12 bytes lies at 0 to 16, where 0 to 12 was expected"),
        ({"w": W, "v": W}, "'v' of 16 bytes lies at 0 to 16, where 16 to 32 was expected|'w' of 16 bytes"),
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
