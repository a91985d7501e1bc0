"""The three kinds as types. Decoded at the API's edge, so that nothing behind it meets a bare dict.

The field names are those of the CRDs beside this file (camelCase there, snake_case here); the text of
each field's meaning lives in the CRDs, where `kubectl explain` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import msgspec

from .names import ANY_FACTS, API_VERSION, APPARMOR, SECCOMP, SELINUX, digest

# The kernel's words for a profile that only logs: AppArmor's, SELinux' for a domain.
_LENIENT = ("complain", "permissive")


class Model(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """An immutable piece of an API object; unknown fields are ignored, as for any Kubernetes client."""


class OwnerReference(Model, frozen=True, kw_only=True):
    """Who owns an object, so that the API server collects it with its owner."""

    api_version: str
    kind: str
    name: str
    uid: str


class Metadata(Model, frozen=True, kw_only=True):
    """The part of ObjectMeta that Hauberk reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    creation_timestamp: str = ""
    deletion_timestamp: str | None = msgspec.field(default=None, name="deletionTimestamp")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = msgspec.field(default_factory=list, name="ownerReferences")


class Requirement(Model, frozen=True, kw_only=True):
    """One expression of a label selector."""

    key: str
    operator: str
    values: list[str] = []


class NodeSelector(Model, frozen=True, kw_only=True):
    """A metav1.LabelSelector over Node labels; empty selects every Linux node."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Requirement] = []

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a node with `labels` is selected, by the rules of metav1.LabelSelector."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(_holds(requirement, labels) for requirement in self.match_expressions)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in requirement.values
        case "NotIn":  # also true where the label is missing: apimachinery, labels.Requirement.Matches
            return labels.get(requirement.key) not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels
        case _:  # the CRD's enum lets no other in
            return False


class AppArmor(Model, frozen=True, kw_only=True):
    """The AppArmor block of a SecurityProfile."""

    policy: str
    mode: str = "Enforce"
    # the profiles may attach to programs of the host by their path: needs a verb of its own
    allow_attachment: bool = False


class SELinux(Model, frozen=True, kw_only=True):
    """The SELinux block of a SecurityProfile."""

    policy: str
    mode: str = "Enforce"
    # SecurityProfiles whose blocks the module inherits: it waits for them
    requires: list[str] = []
    # the module may speak of types that it does not declare: needs a verb of its own
    allow_host_types: bool = False


class Seccomp(Model, frozen=True, kw_only=True):
    """The seccomp block of a SecurityProfile."""

    policy: str


class Template(Model, frozen=True, kw_only=True):
    """Turns jinja2 on for the policy; `values` is what its author hands to it."""

    values: dict[str, Any] = {}


class ProfileSpec(Model, frozen=True, kw_only=True, dict=True):
    """What the user wants. With a dict, for what is made of it once."""

    type: str
    app_armor: AppArmor | None = None
    selinux: SELinux | None = None
    seccomp: Seccomp | None = None
    template: Template | None = None
    node_selector: NodeSelector = NodeSelector()
    suspend: bool = False
    # take over profiles of these names that the host owns, and give them back: needs a verb of its own
    adopt: bool = False

    @property
    def mode(self) -> str:
        """Return the mode that is asked for; seccomp has no other than Enforce."""
        block = self.app_armor or self.selinux
        return block.mode if block else "Enforce"

    @property
    def policy(self) -> str:
        """Return the policy of whichever block is set."""
        block = self.app_armor or self.selinux or self.seccomp
        return block.policy if block else ""

    @property
    def allow_attachment(self) -> bool:
        """Return whether AppArmor profiles may attach to programs of the host."""
        return self.app_armor is not None and self.app_armor.allow_attachment

    @property
    def allow_host_types(self) -> bool:
        """Return whether an SELinux module may speak of types that it does not declare."""
        return self.selinux is not None and self.selinux.allow_host_types

    @property
    def requires(self) -> list[str]:
        """Return the SecurityProfiles that an SELinux module is made of."""
        return self.selinux.requires if self.selinux else []

    @cached_property
    def content_digest(self) -> str:
        """Return the digest that names the content which is asked for, and so its revision."""
        return digest(
            self.type,
            self.policy,
            self.mode,
            allow_attachment=self.allow_attachment,
            allow_host_types=self.allow_host_types,
            requires=self.requires,
            values=None if self.template is None else self.template.values,
        )


class Condition(Model, frozen=True, kw_only=True):
    """A metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int
    last_transition_time: str = ""


class Counts(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Nodes by what the profile is on them; `targeted` are the selected ones that have the LSM."""

    targeted: int = 0
    ready: int = 0
    updating: int = 0
    failed: int = 0
    agent_down: int = 0
    unreachable: int = 0
    unsupported: int = 0


class Summary(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What the columns of `kubectl get secprof` show, one field each."""

    ready: str = ""
    mode: str = ""
    status: str = ""
    reference: str = ""


class Failure(Model, frozen=True, kw_only=True):
    """One node's trouble with the profile, or one remark about it."""

    node: str
    reason: str
    message: str


class ProfileStatus(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What the nodes' kernels were seen to hold."""

    observed_generation: int = 0
    revision: str = ""
    reference: dict[str, Any] = {}
    profiles: list[str] = []
    nodes: Counts = Counts()
    summary: Summary = Summary()
    failures: list[Failure] = []
    conditions: list[Condition] = []


class SecurityProfile(Model, frozen=True, kw_only=True):
    """A profile as its author writes it."""

    metadata: Metadata
    spec: ProfileSpec
    status: ProfileStatus = ProfileStatus()


class Text(Model, frozen=True, kw_only=True, omit_defaults=False):
    """One rendered policy and the kernel names it defines (hats and children as `parent//child`).

    `facts` are the kinds of nodes that it is for: `facts.facts_key` of each, or ANY_FACTS.
    """

    id: str
    facts: list[str] = msgspec.field(default_factory=lambda: [ANY_FACTS])
    text: str
    names: list[str]


class Unrendered(Model, frozen=True, kw_only=True):
    """Kinds of nodes for which a template makes no text that can be loaded, and why."""

    facts: list[str]
    reason: str
    message: str


class Content(Model, frozen=True, kw_only=True):
    """The immutable part of a revision. `texts` only grows.

    The schema asks for all of it; the defaults let an older agent read a later contract and say so.
    """

    digest: str = ""
    mode: str = ""
    texts: list[Text] = []
    allow_attachment: bool = False
    allow_host_types: bool = False
    requires: list[str] = []


class Placement(Model, frozen=True, kw_only=True, omit_defaults=False):
    """The mutable part: where it goes and which revision of the profile is the wanted one."""

    # the SecurityProfile's generation that asked for it: the highest of a profile's revisions is wanted
    sequence: int
    node_selector: NodeSelector = NodeSelector()
    suspend: bool = False
    # the SecurityProfile is being deleted: agents unload it where nothing uses it
    withdrawn: bool = False
    # while withdrawn: where something uses it, a permissive profile takes its place
    force: bool = False
    # agents may take over profiles of its names that the host owns
    adopt: bool = False


class RevisionSpec(Model, frozen=True, kw_only=True):
    """What agents need to know, and all that they see of a SecurityProfile.

    One without content is a tombstone: it tells agents that found their revision gone that the
    SecurityProfile of this UID was deleted, and comes with a withdrawn placement.
    """

    profile: str
    profile_uid: str = msgspec.field(name="profileUID")
    type: str
    contract: int
    # which store of SecurityProfiles it comes from: the UID of their CustomResourceDefinition
    installation: str = ""
    content: Content = Content()
    # not part of the content: a later version may render what this one can't
    unrendered: list[Unrendered] = []
    placement: Placement

    def is_held_as(self, held: Entry) -> bool:
        """Return whether what a node reports of the profile is this content, in the mode that it asks for.

        And was reported since it was asked for: a profile that was changed and changed back has the content
        of an earlier report, which says nothing of what the node loaded in between.
        """
        lenient = self.content.mode != "Enforce"
        same = held.revision == self.content.digest and (held.mode in _LENIENT) == lenient
        return same and held.sequence in (None, self.placement.sequence)


class ProfileRevision(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Content that the operator checked, broadcast to the agents."""

    metadata: Metadata
    spec: RevisionSpec
    api_version: str = API_VERSION
    kind: str = "ProfileRevision"


class OperatingSystem(Model, frozen=True, kw_only=True):
    """From os-release(5)."""

    id: str = ""
    version: str = ""
    like: str = ""


class AppArmorFacts(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What the kernel's AppArmor can do: the names of its feature tree, and a digest of all of it."""

    features: list[str] = []
    features_digest: str = ""
    enabled: bool = False
    # the newest policy ABI that the node's own AppArmor package knows; empty where it has none
    host_parser: str = ""


class SELinuxFacts(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What SELinux is on the node; empty where the kernel runs without, or the agent can't see it.

    Its fields are always written: the API server makes null of an object that was applied with fields and is
    applied without any, and then refuses that.
    """

    policy: str = ""
    mls: bool = False
    mode: str = ""


class Runtime(Model, frozen=True, kw_only=True):
    """The container runtime, as the kubelet reports it."""

    name: str = ""
    version: str = ""


class Facts(Model, frozen=True, kw_only=True):
    """What a node is."""

    os: OperatingSystem = OperatingSystem()
    kernel: str = ""
    arch: str = ""
    lsms: list[str] = []
    app_armor: AppArmorFacts = AppArmorFacts()
    selinux: SELinuxFacts = SELinuxFacts()
    # the kernel takes filters
    seccomp: bool = False
    runtime: Runtime = Runtime()


class Problem(Model, frozen=True, kw_only=True):
    """Why a profile is not as wanted on this node."""

    revision: str
    reason: str
    message: str


class Orphan(Model, frozen=True, kw_only=True):
    """A profile that is loaded and that no revision speaks of any more: whose it was."""

    uid: str
    installation: str = ""


class Repairs(Model, frozen=True, kw_only=True):
    """How often this agent had to mend what someone else did to a profile, and what that was last."""

    count: int
    message: str


class Remark(Model, frozen=True, kw_only=True):
    """Something about the node that concerns no profile that it holds."""

    reason: str
    message: str


class Section(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What one backend holds: `profiles` maps a SecurityProfile's name to `revision/mode/digest/sequence`.

    The revision is a content digest, the mode is the kernel's word, the digest is the first ten hex digits of
    the hash of what is loaded, as the kernel, the module store or the file has it (`-` where there is none),
    and the sequence is that of the revision's placement (left out without one): `Entry` reads it. The other
    maps have the same keys and an entry only where there is something to tell.
    """

    profiles: dict[str, str] = {}
    problems: dict[str, Problem] = {}
    orphans: dict[str, Orphan] = {}
    repairs: dict[str, Repairs] = {}
    remarks: list[Remark] = []


class Entry(NamedTuple):
    """What a node reports of one profile, `REVISION/MODE/HASH/SEQUENCE`; empty where it has none.

    Attributes:
        revision: the digest of the content.
        mode: as it was read back.
        digest: the start of the hash of what is loaded.
        sequence: of the placement that the agent had seen of that revision; None: it tells none.
    """

    revision: str = ""
    mode: str = ""
    digest: str = ""
    sequence: int | None = None

    @classmethod
    def read(cls, entry: str) -> Entry:
        """Return what an entry of a report says."""
        revision, mode, digest, sequence, *_ = (*entry.split("/"), "", "", "")
        return cls(revision, mode, digest, int(sequence) if sequence.isdecimal() else None)


class NodeStatus(Model, frozen=True, kw_only=True, dict=True):
    """What the node's agent last read from its kernel."""

    boot_id: str = msgspec.field(default="", name="bootID")
    facts: Facts = Facts()
    summary: str = ""
    app_armor: Section | None = None
    selinux: Section | None = None
    seccomp: Section | None = None

    def section(self, profile_type: str) -> Section | None:
        """Return what the backend for a type of profile reported; None where none runs."""
        if profile_type == APPARMOR:  # asked for each profile on each node: no dict is made for it
            return self.app_armor
        if profile_type == SELINUX:
            return self.selinux
        return self.seccomp if profile_type == SECCOMP else None

    def held(self, profile: str, profile_type: str) -> Entry:
        """Return what is reported of a profile, as it was read back."""
        section = self.section(profile_type)
        return Entry.read(section.profiles.get(profile, "")) if section else Entry()

    @cached_property
    def sections(self) -> Mapping[str, Section]:
        """Return what each backend that runs here reported, by the type of its profiles.

        Kept, for the operator asks it of a thousand nodes whenever one of them has changed.
        """
        all_three = {APPARMOR: self.app_armor, SELINUX: self.selinux, SECCOMP: self.seccomp}
        return {kind: one for kind, one in all_three.items() if one is not None}

    @cached_property
    def has_repairs(self) -> bool:
        """Return whether an agent tells of repairs: few do, and all are asked."""
        return any(one.repairs for one in self.sections.values())


class ProfileNode(Model, frozen=True, kw_only=True, omit_defaults=False):
    """One node, named after it and owned by it."""

    metadata: Metadata
    status: NodeStatus = NodeStatus()
    api_version: str = API_VERSION
    kind: str = "ProfileNode"


M = TypeVar("M", bound=Model)


def decode(kind: type[M], body: Any) -> M:
    """Turn an API object (as decoded JSON) into its model.

    Raises:
        msgspec.ValidationError: the object does not have the kind's shape; names the field.
    """
    return msgspec.convert(body, kind)


def encode(model: Model) -> dict[str, Any]:
    """Turn a model into what the API takes as JSON."""
    return msgspec.to_builtins(model)
