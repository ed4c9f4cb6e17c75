"""What calibration keeps of the tensors that it saw: sums that can be merged."""

from bitwright.calib.gram import Cross, gram, short_products
from bitwright.calib.histogram import Histogram
from bitwright.calib.samples import Samples

__all__ = ["Cross", "Histogram", "Samples", "gram", "short_products"]
