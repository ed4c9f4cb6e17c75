"""Measures an artifact: how far its model is from the original, on text that neither was made with."""

from bitwright.evaluate.compare import Progress, Setting, evaluate, measure
from bitwright.evaluate.error import EvaluateError
from bitwright.evaluate.scores import Scores, write_scores

__all__ = ["EvaluateError", "Progress", "Scores", "Setting", "evaluate", "measure", "write_scores"]
