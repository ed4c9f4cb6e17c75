"""What calibration keeps of the tensors that it saw: sums that can be merged."""

from bitwright.calib.gram import Cross, gram, short_products

__all__ = ["Cross", "gram", "short_products"]
