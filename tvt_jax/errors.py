"""The errors that a user's mistake raises, as opposed to a fault of the program."""

import numbers
from typing import Any

_NAMES = {numbers.Real: "a number", numbers.Integral: "an integer", type(None): "None"}


class UserError(Exception):
    """Something that the user can mend: a missing file, a wrong folder, an unknown option.

    The message is one line that says what is wrong and what to do. Commands print it without a
    traceback and exit with status 2; the Python API lets it through.
    """


def check_type(name: str, value: Any, *types: type) -> None:
    """Raises TypeError unless a parameter is of one of the types; a bool is no number."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join(_NAMES.get(t, t.__name__) for t in types)
        raise TypeError(f"`{name}` must be {wanted}, not {type(value).__name__}.")
