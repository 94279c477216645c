"""The two exceptions that end a command: a wrong input, and a failed run."""


class UserError(Exception):
    """A wrong input: one sentence with the value and the remedy. Ends a command with exit code 2, no traceback."""


class RunFailed(Exception):
    """A failure of a component that no retry mends. Ends a command with exit code 1."""


class PermanentFailure(RunFailed):
    """A failure of one process that any process after it would meet again, e.g. of a model that does not load."""
