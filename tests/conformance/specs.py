"""Storage that the suites run over: what presets use, and what nested scales can say."""

from __future__ import annotations

import torch

from bitwright.numerics import (
    BINARY,
    E2M1,
    NF4,
    PER_ROW,
    PER_TENSOR,
    TERNARY,
    Float,
    Float8,
    Float8Kind,
    FloatKind,
    Int,
    Params,
    PowerOfTwo,
    QTensor,
    Spec,
    Tile,
    assemble,
    per_block,
    per_group,
    store_params,
)

HALF = Spec(Float(FloatKind.FLOAT16))
BRAIN = Spec(Float(FloatKind.BFLOAT16))
SIX_BITS = Spec(Int(6, signed=False), Tile(1, 4), scale=HALF)


def asymmetric(bits: int, group: int) -> Spec:
    return Spec(Int(bits, signed=False), per_group(group), scale=BRAIN, zero=Spec(Int(bits, signed=False)))


SPECS: dict[str, Spec] = {
    "int4": Spec(Int(4), per_group(64), scale=HALF),
    "int4_asymmetric": asymmetric(4, 64),
    "int3_asymmetric": asymmetric(3, 32),
    "int2_asymmetric": asymmetric(2, 64),
    "int8_row": Spec(Int(8), PER_ROW, scale=HALF),
    "int8_tensor": Spec(Int(8), PER_TENSOR),
    "int4_real_zero": Spec(Int(4, signed=False), per_group(64), scale=HALF, zero=HALF),
    "int4_power_of_two": Spec(Int(4), per_group(32), scale=Spec(PowerOfTwo())),
    "nf4": Spec(NF4, per_group(64), scale=BRAIN),
    "nf4_double": Spec(NF4, per_group(32), scale=Spec(Int(8, signed=False), Tile(1, 4), scale=Spec(Float()))),
    "nvfp4": Spec(E2M1(), per_group(16), scale=Spec(Float8(), PER_TENSOR)),
    "mxfp4": Spec(E2M1(), per_group(32), scale=Spec(PowerOfTwo())),
    "k_quant": Spec(Int(4), per_group(32), scale=Spec(Int(6), Tile(1, 4), scale=HALF)),
    "k_quant_zero": Spec(Int(4, signed=False), per_group(32), scale=SIX_BITS, zero=SIX_BITS),
    "fp8_row": Spec(Float8(), PER_ROW, scale=BRAIN),
    "fp8_block": Spec(Float8(Float8Kind.E5M2), per_block(8, 64)),
    "binary": Spec(BINARY, per_group(64), scale=HALF),
    "ternary": Spec(TERNARY, per_group(32), scale=HALF),
}

CORE = ("int4_asymmetric", "nf4", "nvfp4", "k_quant", "fp8_row")  # for quick runs: one of each kind
ROWWISE = [name for name in SPECS if name not in ("int8_tensor", "nvfp4", "fp8_block")]  # rows share nothing


def random_weight(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers with a few outliers, float32."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator)
    weight.flatten()[:: max(7, rows * cols // 50)] *= 4
    return weight


def random_gram(cols: int, seed: int = 0, tokens: int = 0) -> torch.Tensor:
    """The second moments of strongly correlated inputs of unlike sizes, float32."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(cols, cols, generator=generator) * torch.logspace(0, -1.5, cols)[:, None]
    inputs = torch.randn(tokens or 4 * cols, cols, generator=generator) @ mix
    inputs *= torch.rand(cols, generator=generator) + 0.2
    return inputs.mT @ inputs / len(inputs)


def on_the_grid(spec: Spec, rows: int, cols: int, seed: int = 0) -> QTensor:
    """A tensor whose every tile holds the lowest and the highest number of its format."""
    torch.manual_seed(seed)
    assert spec.tile is not None
    down, across = spec.tile.count((rows, cols))
    zero = None
    if spec.zero is not None:
        zero = torch.randint(1, int(spec.format.high), (down, across)).float()
    params = store_params(spec, Params(torch.rand(down, across) * 0.5 + 0.5, zero))
    values = spec.format.values()
    wanted = values[torch.randint(len(values), (rows, cols))]
    height, width = spec.tile.size((rows, cols))
    wanted[::height, ::width] = spec.format.low
    wanted[::height, 1::width] = spec.format.high
    return assemble(spec.format.encode(wanted), spec, params)
