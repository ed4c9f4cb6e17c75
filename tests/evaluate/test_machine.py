"""What the system says of its processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.evaluate.machine import Machine, this_machine


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
