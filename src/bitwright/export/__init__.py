"""Artifacts as checkpoints that other software reads. The names below are the registry."""

from collections.abc import Callable, Mapping

from bitwright.export.compressed_tensors import CompressedTensors
from bitwright.export.dense import Dense
from bitwright.export.exporter import Exporter, ExportError, ExportReport, export

EXPORTERS: Mapping[str, Callable[[], Exporter]] = {"compressed-tensors": CompressedTensors, "dense": Dense}

__all__ = ["EXPORTERS", "CompressedTensors", "Dense", "ExportError", "ExportReport", "Exporter", "export"]
