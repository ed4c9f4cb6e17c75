"""The one error that a model folder can cause.

Everything that may be wrong with a folder (no config, a lost shard, a damaged file, a quantized model ...) raises
SourceError. Its message always says which file or tensor, what was found, what is allowed, and what to do.
"""


class SourceError(ValueError):
    """A model folder cannot be used as it is."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, or else what kind of error it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
