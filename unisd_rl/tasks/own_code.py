"""Functions of a user's own: found by their name, called so that what goes wrong in them is told as theirs."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeVar

from unisd_rl.errors import RunFailed, UserError

Result = TypeVar("Result")


def import_function(setting: str, name: str) -> Callable[..., Any]:
    """The function that a setting names as `module:function`; the job's own folder is looked in too.

    Raises:
        UserError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises when it is run
        raise UserError(
            f"{setting} = {name!r} cannot be imported from {here}: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise UserError(f"{setting} = {name!r} is no function, but a {type(function).__name__}")
    return function


def of_own_code(origin: str, what: str, function: Callable[..., Result], *arguments: object) -> Result:
    """What a function of a user's own task returns.

    Raises:
        UserError: it raised; the sentence says what and where.
    """
    try:
        return function(*arguments)
    except (UserError, RunFailed):
        raise
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{origin}: {what} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        ) from error
