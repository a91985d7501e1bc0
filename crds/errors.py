"""The tree of faults: what went wrong decides who hears of it and whether it is tried again.

Raised by every layer; told apart in `operator/` and `daemonset/` where they turn into conditions,
Events or a retry. Anything that is not one of these is a bug: logged with its trace, never fatal to
other profiles.
"""

from __future__ import annotations

from .reasons import Reason


class Fault(Exception):  # noqa: N818 - a fault is foreseen, a bug is an error
    """Something that Hauberk expects to happen, with a reason that conditions and metrics share.

    Attributes:
        reason: the word for it, in CamelCase as conditions and Events want it.
        message: one sentence for the user: who refused, why, what to do. No paths of a host.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class InputFault(Fault):
    """The user's input is at fault: permanent, shown to the user, not tried again until it changes."""


class NodeFault(Fault):
    """One node can't do it: shown per node, tried again when something there changes, with backoff."""


class ClusterFault(Fault):
    """The API or the cluster is at fault: temporary, retried with backoff and jitter."""


class RefusedFault(ClusterFault):
    """The API refused one object: what is written of others may well be taken."""


class BusyFault(ClusterFault):
    """The API server has no time for this process now: nothing else is asked of it meanwhile.

    Attributes:
        seconds: how long it asks to be left alone; 0 where it does not say.
    """

    def __init__(self, reason: Reason, message: str, seconds: float) -> None:
        super().__init__(reason, message)
        self.seconds = seconds
