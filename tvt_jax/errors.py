"""The error that a user's mistake raises, as opposed to a fault of the program."""


class UserError(Exception):
    """Something that the user can mend: a missing file, a wrong folder, an unknown option.

    The message is one line that says what is wrong and what to do. Commands print it without a
    traceback and exit with status 2; the Python API lets it through.
    """
