"""The one exception for what the user did wrong: a sentence with the value and the remedy."""


class UserError(Exception):
    """Ends a command with exit code 2 and its message, without a traceback."""


class RunFailed(Exception):
    """A part of the run failed in a way that no retry mends; ends a command with exit code 1."""
