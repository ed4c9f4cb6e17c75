"""The one error that a model folder can cause.

Everything that may be wrong with a folder (no config, a lost shard, a damaged file, a quantized model ...) raises
SourceError. Its message always says which file or tensor, what was found, what is allowed, and what to do.
"""


class SourceError(ValueError):
    """A model folder cannot be used as it is."""
