"""An independent reader of exported checkpoints, in numpy, written from the description of the layout.

It shares no code with the package: it parses safetensors itself, takes bits out of the words one by one, and finds out
from config.json alone how each module is stored.
"""

import json
import re
from pathlib import Path

import numpy as np

SIMPLE = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def float8(byte: int) -> float:
    """The E4M3FN number of a byte."""
    sign, exponent, fraction = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return float("nan")
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


FLOAT8 = np.array([float8(byte) for byte in range(256)], np.float32)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of one safetensors file; bfloat16 and float8 become float32."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in about["data_offsets"])
        raw, dtype = content[begin:end], about["dtype"]
        if dtype == "BF16":
            flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif dtype == "F8_E4M3":
            flat = FLOAT8[np.frombuffer(raw, "u1")]
        else:
            flat = np.frombuffer(raw, SIMPLE[dtype])
        tensors[name] = flat.reshape(about["shape"])
    return tensors


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint; where there is an index, only the tensors and files that it lists."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return read_file(folder / "model.safetensors")
    homes = json.loads(index.read_text())["weight_map"]
    shards = {name: read_file(folder / name) for name in sorted(set(homes.values()))}
    assert {name for shard in shards.values() for name in shard} == set(homes)
    return {name: shards[home][name] for name, home in homes.items()}


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Signed codes of each row: `count` fields of `bits` bits, lowest first, less 2**(bits - 1)."""
    rows = []
    for row in words:
        stream = sum(int(word) % 2**32 << 32 * i for i, word in enumerate(row))
        rows.append([(stream >> bits * i) % 2**bits - 2 ** (bits - 1) for i in range(count)])
    return np.array(rows, np.int64)


def spread(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One value per tile over the elements of the tile."""
    values = values.reshape(1, 1) if values.size == 1 else values
    return np.repeat(np.repeat(values, shape[0] // values.shape[0], 0), shape[1] // values.shape[1], 1)


def weight(module: str, tensors: dict[str, np.ndarray], scheme: dict) -> np.ndarray:
    """The matrix of a quantized module, float32."""
    about, scale = scheme["weights"], tensors[f"{module}.weight_scale"]
    if scheme["format"] == "float-quantized":
        codes = tensors[f"{module}.weight"]
        return codes * spread(scale, codes.shape)
    bits, shape = about["num_bits"], tuple(tensors[f"{module}.weight_shape"])
    codes = unpack(tensors[f"{module}.weight_packed"], bits, shape[1])
    if not about["symmetric"]:
        zeros = unpack(tensors[f"{module}.weight_zero_point"].T, bits, shape[0]).T
        codes = codes - spread(zeros, shape)
    return codes.astype(np.float32) * spread(scale, shape)


def scheme_of(module: str, config: dict) -> dict | None:
    """The group that a Linear module belongs to; exact names before patterns before classes; None if ignored."""
    if module in config["ignore"]:
        return None
    groups = list(config["config_groups"].values())
    for test in (lambda t: t == module, lambda t: t[:3] == "re:" and re.match(t[3:], module), lambda t: t == "Linear"):
        for group in groups:
            if any(test(target) for target in group["targets"]):
                return group
    return None


def quantized_weights(folder: Path) -> dict[str, np.ndarray]:
    """Every quantized matrix of an exported folder, by the module's name in the checkpoint."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = read_folder(folder)
    modules = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    found = {}
    for module in modules:
        scheme = scheme_of(module, config)
        assert scheme is not None, f"{module} is stored quantized but no group of config.json targets it"
        found[module] = weight(module, tensors, scheme)
    return found
