"""Errors that a user can mend; command lines print them as one paragraph, without a traceback."""


class MMLitError(Exception):
    """What was wrong, where, and what to do about it."""


class CheckpointError(MMLitError):
    """A checkpoint that cannot be read, or does not fit the model."""


class DatasetError(MMLitError):
    """A data set that is not there, or holds a file that cannot be used."""


class EnvironmentMismatchError(MMLitError):
    """A config that belongs to the other of the two environments."""
