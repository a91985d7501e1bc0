"""Every reason that a condition, an Event, a log line or a metric may give, and the state of a node.

One enum on purpose: who greps for a word seen in `kubectl get secprof` finds it in logs and docs too.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Reason(StrEnum):
    """Why something is as it is. Grouped by who says it; each is explained in docs/reference/reasons.md."""

    # the operator, about a SecurityProfile's text
    ACCEPTED = "Accepted"
    POLICY_REFUSED = "PolicyRefused"  # the parser's verdict, with its words
    POLICY_TOO_LARGE = "PolicyTooLarge"
    POLICY_TOO_SLOW = "PolicyTooSlow"  # the parser met a limit of time or memory
    ADVICE = "Advice"  # allowed, and probably not meant
    TEMPLATE_REFUSED = "TemplateRefused"  # jinja2's verdict, with its words
    POLICY_EMPTY = "PolicyEmpty"  # it parses and defines nothing
    INCLUDE_REFUSED = "IncludeRefused"
    ATTACHMENT_REFUSED = "AttachmentRefused"  # it would confine programs of the host by their path
    STATEMENT_REFUSED = (
        "StatementRefused"  # a module says something of the node's policy beyond its own types
    )
    NAME_CLASH = "NameClash"  # another SecurityProfile holds a kernel name that this one defines
    NAME_PROTECTED = "NameProtected"  # the container runtime's own
    NAME_UNUSABLE = "NameUnusable"  # e.g. a policy namespace, control characters

    # the operator, about the nodes together
    READY = "Ready"
    UPDATING = "Updating"
    NO_NODES = "NoNodes"
    NODES_FAILED = "NodesFailed"
    AGENT_DOWN = "AgentDown"
    NODES_UNREACHABLE = "NodesUnreachable"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"
    IN_USE = "InUse"
    SHARED_KERNEL = "SharedKernel"
    PROGRESSING = "Progressing"
    VERIFIED = "Verified"
    NOT_VERIFIED = "NotVerified"
    SETTLED = "Settled"
    DRIFT_REPAIRED = "DriftRepaired"  # someone else changed it in a kernel; it is as it should be again

    # an agent, about one profile on its node
    LOAD_FAILED = "LoadFailed"  # the kernel or the parser refused the load
    NOT_IN_KERNEL = "NotInKernel"  # the read back disagrees with what was loaded
    MODE_MISMATCH = "ModeMismatch"
    HOST_OWNED = "HostOwned"  # the node has a profile of that name which Hauberk did not load
    ADOPT_REFUSED = "AdoptRefused"  # it can't be saved, so it could not be given back
    CONTESTED = "Contested"  # something else keeps changing it; repairs are spaced out
    ORPHANED = "Orphaned"  # loaded, and no SecurityProfile of this installation speaks of it
    AWAITING_RENDER = "AwaitingRender"  # no text of the revision fits this node's facts
    AWAITING_REQUIRED = "AwaitingRequired"  # a profile that this one is made of is not loaded here yet
    STATE_UNWRITABLE = "StateUnwritable"  # loaded, but the node's disk took no record of it
    STATE_TORN = "StateTorn"
    BUG = "Bug"

    # about a pod and what it names
    UNKNOWN_PROFILE = "UnknownProfile"  # it names a profile that no SecurityProfile defines
    NOT_SELECTED = "NotSelected"  # the profile is not meant for the pod's node
    UNSUPPORTED = "Unsupported"  # the kernel of the pod's node lacks the security module
    NO_FITTING_NODE = "NoFittingNode"  # nodes hold the profile, and the pod may run on none of them
    GATED = "Gated"  # the pod's scheduling gate is closed
    GATE_MISSED = "GateMissed"  # it should have that gate, and nobody was there to put it on
    NOT_ENFORCED = "NotEnforced"  # in force, and it only logs
    UNCONFINED = "Unconfined"  # the pod says so itself
    OVERRIDDEN = "Overridden"  # a container takes something else than what its pod names
    PRIVILEGED = "Privileged"  # container runtimes do not confine such a container by this type
    WRONG_FORM = "WrongForm"  # the right profile, in a form that does not name it
    FOREIGN = "Foreign"  # nothing of Hauberk's is named
    DELETED = "Deleted"  # its SecurityProfile is gone, and the pod runs on
    NOT_OF_PROFILES = "NotOfProfiles"  # what keeps the pod from running is something else


# Problems that a node has for now: it is Hauberk's turn, or another profile's, not the node's.
WAITING = (Reason.AWAITING_RENDER, Reason.AWAITING_REQUIRED)


class NodeState(IntEnum):
    """What one profile is on one node, worst first: folding with `min` gives the worst of many."""

    FAILED = 0
    AGENT_DOWN = 1
    UPDATING = 2
    READY = 3
    UNREACHABLE = 4
    UNSUPPORTED = 5
