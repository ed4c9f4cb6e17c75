"""What calibration keeps of the tensors that it saw: sums that can be merged, and the ranges that follow from them."""

from bitwright.calib.activation import activation_params
from bitwright.calib.auto import Auto, Average, Choice, Trial, choose, choose_each, unjudged
from bitwright.calib.checks import Finding, InputCheck, Problem
from bitwright.calib.coverage import Coverage, check_histograms, coverage, mismatches, wasserstein
from bitwright.calib.density import clipped_energy, distortion, outside, sqnr
from bitwright.calib.effect import Effect, Given, LeastEffect, total_noise
from bitwright.calib.entropy import Entropy
from bitwright.calib.extremes import Extremes, Seen
from bitwright.calib.gram import Cross, Gram, full_products, gram, short_products
from bitwright.calib.held_out import HeldOut
from bitwright.calib.histogram import Histogram
from bitwright.calib.ranges import ExtremesRule, MeanMinMax, MinMaxRange, MovingAverage, Percentile, RangeRule
from bitwright.calib.samples import Samples
from bitwright.calib.square_error import MeanSquaredError, Octav

__all__ = [
    "Auto",
    "Average",
    "Choice",
    "Coverage",
    "Cross",
    "Effect",
    "Entropy",
    "Extremes",
    "ExtremesRule",
    "Finding",
    "Given",
    "Gram",
    "HeldOut",
    "Histogram",
    "InputCheck",
    "LeastEffect",
    "MeanMinMax",
    "MeanSquaredError",
    "MinMaxRange",
    "MovingAverage",
    "Octav",
    "Percentile",
    "Problem",
    "RangeRule",
    "Samples",
    "Seen",
    "Trial",
    "activation_params",
    "check_histograms",
    "choose",
    "choose_each",
    "clipped_energy",
    "coverage",
    "distortion",
    "full_products",
    "gram",
    "mismatches",
    "outside",
    "short_products",
    "sqnr",
    "total_noise",
    "unjudged",
    "wasserstein",
]
