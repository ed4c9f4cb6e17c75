"""What calibration keeps of the tensors that it saw: sums that can be merged, and the ranges that follow from them."""

from bitwright.calib.activation import activation_params
from bitwright.calib.auto import Auto, Choice, Trial
from bitwright.calib.density import clipped_energy, distortion, outside, sqnr
from bitwright.calib.entropy import Entropy
from bitwright.calib.gram import Cross, gram, short_products
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import MeanMinMax, MinMaxRange, MovingAverage, Percentile, RangeRule
from bitwright.calib.samples import Samples
from bitwright.calib.square_error import MeanSquaredError, Octav

__all__ = [
    "Auto",
    "Choice",
    "Cross",
    "Entropy",
    "Histogram",
    "MeanMinMax",
    "MeanSquaredError",
    "MinMaxRange",
    "MovingAverage",
    "Octav",
    "Percentile",
    "RangeRule",
    "Samples",
    "Trial",
    "activation_params",
    "clipped_energy",
    "distortion",
    "gram",
    "outside",
    "short_products",
    "sqnr",
]
