"""Products of bfloat16 matrices on machines that have no units for them."""

from __future__ import annotations

from functools import cache

from jaxtyping import Float
from torch import Tensor

from bitwright.numerics.machine import this_machine

_STRIP = 32 << 20  # bytes of the right factor that are held in float32 at a time


@cache
def has_short_units() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; True where that cannot be found out.

    Where it does not, torch's products of bfloat16 matrices are several times slower than those of float32 ones.
    """
    return this_machine().has_bfloat16 is not False


def long_product(
    left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner cols"], added: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "rows cols"]:
    """left @ right (+ added), formed in float32 and rounded once to the type of `left`.

    The same as units for short products give, but for the order of the sums.
    """
    found = left.new_empty(len(left), right.shape[1])
    factor, width = left.float(), max(1, _STRIP // (4 * max(1, len(right))))
    added = None if added is None else added.expand(found.shape)
    for start in range(0, right.shape[1], width):
        part = factor @ right[:, start : start + width].float()
        if added is not None:
            part += added[:, start : start + width]
        found[:, start : start + width] = part
    return found
