"""Errors that a user can mend; command lines print them as one paragraph, without a traceback."""


class MMLitError(Exception):
    """What was wrong, where, and what to do about it."""


class ArgumentError(MMLitError, ValueError):
    """An argument or an input that the model cannot take."""


class CheckpointError(MMLitError):
    """A checkpoint that cannot be read, or does not fit the model."""


class ConfigError(MMLitError):
    """A config file that cannot be used, here or at all."""


class DatasetError(MMLitError):
    """A data set that is not there, or a file in it that cannot be used."""


class DivergedError(MMLitError):
    """A training whose losses or weights are no longer finite."""


class GenerationError(MMLitError):
    """The generation of mmcv that is needed is not there, or the other is in use."""


class OutputError(MMLitError):
    """A file or folder that cannot be written, or must not be replaced."""
