"""The two exceptions that end a command: a wrong input, and a failed run."""


class UserError(Exception):
    """A wrong input: one sentence with the value and the remedy. Ends a command with exit code 2, no traceback."""


class RunFailed(Exception):
    """A failure of a component that no retry mends. Ends a command with exit code 1."""
