"""What the system says of its processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.numerics.machine import Machine, this_machine


@pytest.mark.parametrize(
    ("flags", "has_vnni"),
    [("fpu avx2 avx512_vnni", True), ("fpu avx_vnni", True), ("fpu avx2 avx512vbmi2", False), ("", None)],
)
def test_vnni_is_read_from_the_flags(tmp_path: Path, flags: str, has_vnni: bool | None) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: A Processor\nflags\t\t: {flags}\n\nmodel name\t: Another\n")
    found = this_machine(tmp_path / "cpuinfo")
    assert found.name == "A Processor" and found.has_vnni is has_vnni and found.processors >= 1


def test_a_system_that_does_not_say_leaves_it_open(tmp_path: Path) -> None:
    found = this_machine(tmp_path / "missing")
    assert found.has_vnni is None and found.name


def test_x86_goes_by_its_names() -> None:
    assert [Machine("", name, 1, None).is_x86 for name in ("x86_64", "AMD64", "aarch64", "arm64")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("line", "has_bfloat16"),
    [
        ("flags\t\t: fpu avx2 fma", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("processor\t: 0", None),
    ],
)
def test_bfloat16_is_read_from_what_x86_and_arm_say(tmp_path: Path, line: str, has_bfloat16: bool | None) -> None:
    (tmp_path / "cpuinfo").write_text(line + "\n")
    assert this_machine(tmp_path / "cpuinfo").has_bfloat16 is has_bfloat16
