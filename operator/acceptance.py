"""Says in the condition Accepted what the admission found of a SecurityProfile's text. Pure.

Called by `publisher`; everything else in a status is the operator's (`aggregate`).
"""

from __future__ import annotations

from datetime import datetime

from ..crds.models import Condition, SecurityProfile
from ..crds.names import SECCOMP, SELINUX
from ..crds.reasons import Reason
from ..profiles.check import Accepted
from .publish import Judgement, Refusal

TYPE = "Accepted"


def said(profile: SecurityProfile) -> Condition | None:
    """Return what the status says of it now; None where nothing."""
    return next((one for one in profile.status.conditions if one.type == TYPE), None)


def acceptance(profile: SecurityProfile, judged: Judgement, now: datetime) -> Condition:
    """Return what the status should say; a condition whose word did not change keeps its time."""
    if isinstance(judged, Refusal):
        status, reason, message = "False", judged.reason, judged.message
    else:
        status, reason, message = "True", Reason.ACCEPTED, _what(profile, judged)
    before = said(profile)
    return Condition(
        type=TYPE,
        status=status,
        reason=reason,
        message=message,
        observed_generation=profile.metadata.generation,
        last_transition_time=before.last_transition_time
        if before and before.status == status
        else now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _what(profile: SecurityProfile, judged: Accepted) -> str:
    defines = _defines(profile.spec.type, len(judged.names))
    if profile.spec.template is None:
        return f"the policy {defines}"
    if not judged.kinds:
        return "the template is good for common kinds of nodes; it is rendered once a node can hold it"
    rendered = sum(len(one.facts) for one in judged.texts)
    return (
        f"the template {defines}; it makes {len(judged.texts)} text{'' if len(judged.texts) == 1 else 's'} "
        f"for {rendered} of {len(judged.kinds)} kinds of nodes"
    )


def _defines(profile_type: str, number: int) -> str:
    if profile_type == SECCOMP:
        return "is one that runtimes know"
    what = "type" if profile_type == SELINUX else "profile"
    return f"defines {number} {what}{'' if number == 1 else 's'}"
