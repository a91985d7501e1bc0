"""Every error that a command of the lab ends with; pure.

Raised all over lab/, printed by __main__ as one sentence that tells what to install, free or run.
The exit code of the command is the class's `exit_code`.
"""


class LabError(Exception):
    """The lab cannot do what was asked; its text is one sentence for the user."""

    exit_code = 1


class UsageError(LabError):
    """The command names something that is not there: a node, a kind, a file."""

    exit_code = 2


class UnmetError(LabError):
    """The machine lacks something: a program, a device, root."""

    exit_code = 3


class NotUpError(LabError):
    """The lab, or the node, is not running."""

    exit_code = 4


class FailedError(LabError):
    """A program of the lab ended with an error or did not get ready in time."""

    exit_code = 5
