"""The errors a user can meet. The command line prints their message alone and exits 1."""


class SepError(Exception):
    """Base of all errors that have a cause the user can act on; the message says what and where."""


class ConfigurationError(SepError):
    """A setting, flag or declared resource is missing, malformed or contradicts another."""


class InputError(SepError):
    """A file or record is not what was expected; the message names the file, line or offset, and the field."""


class DependencyError(SepError):
    """A broker, disk, server or device that we need is gone or refuses; the message names it and the remedy."""


class StateError(SepError):
    """A snapshot, offset or artefact contradicts the log; going on would give wrong results."""


class ModelError(SepError):
    """A model is missing, corrupt, or made for other parameters."""
