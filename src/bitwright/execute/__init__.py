"""Runs graphs: a model part by part, and the streams between its blocks on disk."""

from bitwright.execute.streams import StreamFile, batches
from bitwright.execute.torch_runner import TorchRunner

__all__ = ["StreamFile", "TorchRunner", "batches"]
