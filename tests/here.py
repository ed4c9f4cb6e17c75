"""The targets whose integers the engines on this machine compute, for tests that run a quantized file."""

from __future__ import annotations

from bitwright.numerics.machine import this_machine
from bitwright.recipe.network_text import default_target
from bitwright.recipe.targets import find_target

ONNX_RUNTIME = default_target(this_machine())
LACKS_VNNI = this_machine().is_x86 and this_machine().has_vnni is False
OPENVINO = find_target("openvino").without_vnni or "" if LACKS_VNNI else "openvino"
