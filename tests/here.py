"""The targets whose integers the engines on this machine compute, for tests that run a quantized file."""

from __future__ import annotations

from bitwright.numerics.machine import this_machine
from bitwright.recipe.network_text import default_target
from bitwright.recipe.targets import suited

ONNX_RUNTIME = default_target(this_machine())
OPENVINO = suited("openvino", this_machine())
LACKS_VNNI = OPENVINO != "openvino"
