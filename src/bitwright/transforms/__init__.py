"""Edits of a network that leave what it computes as it is, or bring it closer to what it was before rounding."""

from bitwright.transforms.clip import close_clips, open_clips, without_bounds
from bitwright.transforms.equalize import Equalize, Equalized, channel_ranges, rescaling
from bitwright.transforms.fold_norm import Folded, fold_norms
from bitwright.transforms.moments import Moments
from bitwright.transforms.transform import Affine, Edit, Rewrite, plus, times

__all__ = [
    "Affine",
    "Edit",
    "Equalize",
    "Equalized",
    "Folded",
    "Moments",
    "Rewrite",
    "channel_ranges",
    "close_clips",
    "fold_norms",
    "open_clips",
    "plus",
    "rescaling",
    "times",
    "without_bounds",
]
