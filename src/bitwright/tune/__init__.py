"""Tuning: an artifact's codes and scales learned together against the original model's predictions."""

from bitwright.tune.learner import Tuning
from bitwright.tune.need import needed_bytes
from bitwright.tune.tune import Step, TuneError, tune

__all__ = ["Step", "TuneError", "Tuning", "needed_bytes", "tune"]
