"""What the processor of this machine can do with short numbers, as far as the system says."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import final

X86 = ("x86_64", "amd64", "i386", "i686")
ARM = ("aarch64", "arm64")


@final
@dataclass(frozen=True, slots=True)
class Machine:
    """`has_vnni`: whether it multiplies and adds 8-bit integers in one step; None: not x86, or the system does not say.

    `processors`: how many this process may use. `has_bfloat16`: whether it multiplies bfloat16 numbers itself; None:
    the system does not say.
    """

    name: str
    architecture: str
    processors: int
    has_vnni: bool | None
    has_bfloat16: bool | None = None

    @property
    def is_x86(self) -> bool:
        """Whether products of unsigned with signed integers are its own."""
        return self.architecture.lower() in X86

    @property
    def is_arm(self) -> bool:
        """Whether products of signed integers are its own."""
        return self.architecture.lower() in ARM


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The machine that this runs on."""
    architecture = platform.machine()
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        for key, _, text in (line.partition(":") for line in lines):
            fields.setdefault(key.strip(), text.strip())
    flags = fields.get("flags", "").split()  # on x86
    has_vnni = any(flag in flags for flag in ("avx512_vnni", "avx_vnni")) if flags else None
    known = flags or fields.get("Features", "").split()  # the latter on ARM
    has_bfloat16 = any(flag in known for flag in ("avx512_bf16", "amx_bf16", "bf16")) if known else None
    name = fields.get("model name") or platform.processor() or architecture
    return Machine(name, architecture, _processors(), has_vnni, has_bfloat16)


def _processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
