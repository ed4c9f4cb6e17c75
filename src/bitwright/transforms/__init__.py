"""Edits of a network that leave what it computes as it is, or bring it closer to what it was before rounding."""

from bitwright.transforms.absorb import Absorb, Absorbed
from bitwright.transforms.bias import (
    Corrected,
    Correction,
    Shift,
    bias_edit,
    correct_analytically,
    correct_empirically,
    expected_shift,
    linear_nodes,
)
from bitwright.transforms.biases import biased_value, own_bias
from bitwright.transforms.clip import close_clips, open_clips, without_bounds
from bitwright.transforms.copies import with_copies
from bitwright.transforms.equalize import Equalize, Equalized, channel_ranges, rescaling
from bitwright.transforms.fold_norm import Folded, fold_norms
from bitwright.transforms.gains import with_gains
from bitwright.transforms.gates import gates_in_parts
from bitwright.transforms.layouts import one_layout_each
from bitwright.transforms.level import Level, is_taken_by_rows
from bitwright.transforms.means import expected_means
from bitwright.transforms.moments import Moments, scaled_by_site
from bitwright.transforms.numbers import numbers_into_readers
from bitwright.transforms.pads import means_without_padding, pads_into_windows
from bitwright.transforms.pools import means_as_pools
from bitwright.transforms.simplify import as_constants, constant_nodes, without_copies
from bitwright.transforms.slopes import slopes_in_parts
from bitwright.transforms.smooth import Smooth, activation_ranges, search_alpha
from bitwright.transforms.transform import Affine, Edit, Rewrite, plus, times

__all__ = [
    "Absorb",
    "Absorbed",
    "Affine",
    "Corrected",
    "Correction",
    "Edit",
    "Equalize",
    "Equalized",
    "Folded",
    "Level",
    "Moments",
    "Rewrite",
    "Shift",
    "Smooth",
    "activation_ranges",
    "as_constants",
    "bias_edit",
    "biased_value",
    "channel_ranges",
    "close_clips",
    "constant_nodes",
    "correct_analytically",
    "correct_empirically",
    "expected_means",
    "expected_shift",
    "fold_norms",
    "gates_in_parts",
    "is_taken_by_rows",
    "linear_nodes",
    "means_as_pools",
    "means_without_padding",
    "numbers_into_readers",
    "one_layout_each",
    "open_clips",
    "own_bias",
    "pads_into_windows",
    "plus",
    "rescaling",
    "scaled_by_site",
    "search_alpha",
    "times",
    "with_copies",
    "with_gains",
    "slopes_in_parts",
    "without_bounds",
    "without_copies",
]
