"""`bitwright specialize`: an ONNX file for inputs of one value and of one size, without the branches of others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import job as options
from bitwright.cli.answer import answering, say, say_json, size

WORDS = {"true": True, "false": False}


@answering
def specialize(
    model: Annotated[Path, typer.Argument(help="An .onnx file.", show_default=False)],
    output: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.", show_default=False)],
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="INPUT=NUMBER: a value that the input always has.", show_default=False),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="INPUT=1,3,224,224: sizes that the input always has.", show_default=False),
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Write an ONNX file for inputs that always have one value or one size.

    What stands inside an If cannot be quantized. Where its condition follows from these inputs, the branch that runs
    takes the place of the If. The new file takes the same inputs as the old one; both are run and compared.
    """
    from bitwright.store.onnx_specialize import specialize as write  # needs the onnx extra

    if output.suffix.lower() != ".onnx":
        raise ValueError(f"--out is an .onnx file; found {output}")
    given = {name: _number(name, text) for name, text in map(_pair, values or [])}
    sizes = {name: _sizes(name, text) for name, text in map(_pair, shapes or [])}
    if not given and not sizes:
        raise ValueError("say which input has which value (--set INPUT=NUMBER) or which sizes (--shape INPUT=1,3,8,8)")
    found = write(model, output, given, sizes)
    if json:
        say_json(asdict(found) | {"path": str(found.path), "bytes": output.stat().st_size})
        return
    for name, branch in found.taken:
        say(f"{name}: always its {branch}-branch")
    for name in found.left:
        say(f"{name}: still decided in every run" + ("" if sizes else "; sizes of inputs (--shape) may decide it"))
    said = "computes the same as the model on random inputs"
    say(f"{output}: {size(output.stat().st_size)}, {found.doubt or said}")
    if found.doubt is not None:
        say("  with --shape for inputs of free sizes it may run")
    say(f"next: bitwright quantize {output} --recipe int8 --calibration FILE_OR_DIR --to onnx -o OUT")


def _pair(text: str) -> tuple[str, str]:
    """INPUT=VALUE in its two parts; names of inputs may have an equals sign in them, values have none."""
    name, sign, value = text.rpartition("=")
    if not sign or not name or not value:
        raise ValueError(f"{text!r}: write the name of an input, =, and its value or sizes, such as sr=16000")
    return name, value


def _number(name: str, text: str) -> float | int | bool:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--set {name}={text}: a number, true or false; found {text!r}") from None


def _sizes(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--shape {name}={text}: whole numbers with commas, such as 1,3,224,224") from None
