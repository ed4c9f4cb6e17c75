"""A quantized file in the integer arithmetic of an engine, whether or not that engine runs here."""

from bitwright.execute.integers.runner import IntegerRunner

__all__ = ["IntegerRunner"]
