"""The error of this package.

What is wrong with a text or a length is a TextError, as it is for calibration; everything else that the user can mend
is an EvaluateError, and its message says how.
"""


class EvaluateError(ValueError):
    """The artifact cannot be compared with this source; the message says why and what to do."""
