"""The bytes of a protobuf message, field by field, for messages that are too large to be held.

A field is a key (its number and kind), then a number, or a length and so many bytes; a message in it is such bytes
again. Fields may come in any order, and a message that is cut into several is the same message.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # of a model, of a graph, of a tensor: where the numbers are
_BYTES = 2  # the kind of a field with bytes; others are numbers (0), or have 8 bytes (1) or 4 (5)
_MOST_BYTES = 10  # of a number


def opening(number: int, length: int) -> bytes:
    """What stands before the `length` bytes of the field of this number."""
    return _encoded(number << 3 | _BYTES) + _encoded(length)


def fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Every field with bytes: its number, and where it, its bytes and the next field begin; up to what is damaged."""
    at = start
    while at < stop:
        begin = at
        key, inner = _decoded(data, at, stop)
        value, after = _decoded(data, inner, stop)
        ends = {0: after, 1: inner + 8, _BYTES: after + value, 5: inner + 4}
        at = ends.get(key & 7, stop + 1)
        if at > stop:
            return
        if key & 7 == _BYTES:
            yield key >> 3, begin, after, at


def _decoded(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A number, seven bits to a byte, and where it ends; beyond `stop` if it does not."""
    value = 0
    for place in range(_MOST_BYTES):
        if at + place >= stop:
            break
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return value, stop + 1


def _encoded(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
