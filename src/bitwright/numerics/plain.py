"""Frozen dataclasses to plain data (what TOML and JSON can hold) and back.

An object becomes a table with its class under "type" and one entry per field; enums become their values, tuples become
lists, and a field that is None is left out. Reading knows the allowed classes by name and checks every key, so that a
misspelt field is an error that lists what is allowed. A class alone may be written as its name; `false` switches off
what may be None, because TOML has no word for it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from inspect import isabstract
from typing import Any

Plain = Any  # bool, int, float, str, list or dict of such


class PlainError(ValueError):
    """The data does not describe an object; the message names the place and what is allowed there."""


def to_plain(value: object) -> Plain:
    """Plain data from a dataclass, enum, tuple, mapping or number."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        table: dict[str, Plain] = {"type": type(value).__name__}
        for field in dataclasses.fields(value):
            held = to_plain(_field(value, field.name))
            if held is not None:
                table[field.name] = held
        return table
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def _field(value: object, name: str) -> object:
    return object.__getattribute__(value, name)


def from_plain(data: Plain, kind: Any, classes: Mapping[str, type], place: str = "recipe") -> Any:
    """The object of type `kind` that the data describes; `classes` are the allowed dataclasses by name."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        is_off = data is None or (data is False and bool not in options)
        return None if is_off else from_plain(data, options[0], classes, place)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(data, list):
            raise PlainError(f"{place}: expected a list, found {data!r}")
        return tuple(from_plain(item, inner, classes, f"{place}[{i}]") for i, item in enumerate(data))
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = [member.value for member in kind]
        if data not in allowed:
            raise PlainError(f"{place}: expected one of {allowed}, found {data!r}")
        return kind(data)
    if kind in (bool, int, float, str):
        return _scalar(data, kind, place)
    return _object(data, kind, classes, place)


def _scalar(data: Plain, kind: type, place: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise PlainError(f"{place}: expected {kind.__name__}, found {data!r}")
    return data


def _object(data: Plain, kind: type, classes: Mapping[str, type], place: str) -> Any:
    allowed = sorted(name for name, cls in classes.items() if issubclass(cls, kind) and not isabstract(cls))
    if isinstance(data, str):
        data = {"type": data}
    if not isinstance(data, dict):
        raise PlainError(f"{place}: expected a table with type = one of {allowed}, found {data!r}")
    name = data.get("type", allowed[0] if len(allowed) == 1 else None)
    if name not in allowed:
        raise PlainError(f"{place}: type must be one of {allowed}, found {name!r}")
    cls = classes[name]
    fields = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(data) - set(fields) - {"type"})
    if unknown:
        raise PlainError(f"{place}: {name} has no field {unknown[0]!r}; its fields are {fields}")
    hints = typing.get_type_hints(cls)
    held = {key: from_plain(item, hints[key], classes, f"{place}.{key}") for key, item in data.items() if key != "type"}
    try:
        return cls(**held)
    except TypeError as error:
        raise PlainError(f"{place}: {error}") from error
    except PlainError:
        raise
    except ValueError as error:
        raise PlainError(f"{place}: {error}") from error
