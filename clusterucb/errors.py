"""What the user can get wrong. Every error is one message that names the thing, the value and the way out.

Each class takes exactly one argument, so that it survives pickling between processes, and is also the
standard type a caller would expect to catch.
"""


class ClusterUCBError(Exception):
    """Base of every error that a user can mend; the command line prints it on one line and exits with 2."""


class ConfigError(ClusterUCBError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class DataError(ClusterUCBError, ValueError):
    """A pool or target file cannot be used; the message names file, line and field."""


class ModelError(ClusterUCBError, ValueError):
    """A model, adapter or moments file is missing, broken or belongs to another model."""


class ResourceError(ClusterUCBError, RuntimeError):
    """The machine or cluster lacks what the run asks for."""


class RunFolderError(ClusterUCBError, RuntimeError):
    """A run folder is in use, belongs to another configuration or is damaged."""


class Stopped(Exception):
    """The user or the job system stopped a run; its folder can be resumed. Not an error: the exit code is 130."""
