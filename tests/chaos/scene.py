"""The cluster under chaos: which profiles should be there, what happened to it, and what is not whole.

Made by `loop`, changed by `faults`. It knows what was asked for, never what the product made of it; that is
read from the kernels, the disks and the API each time.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from tests.chaos.histories import Histories
from tests.chaos.others import Others, document
from tests.chaos.verdict import Asked, Content, Duty, Seen, Span, Strike
from tests.chaos.watchers import KernelWatcher
from tests.e2e.cluster import SYSTEM, condition, deny_write, exec_on, get, kubectl, profile

PREFIX = "chaos-"
PROFILES = tuple(f"{PREFIX}{letter}" for letter in "abcd")
# For a write while the API server is away, and for a pod or an object that comes or goes. An API server that
# stopped is found again only when each node's kube-proxy has listed anew, which was seen to take a minute.
PATIENCE_SECONDS = 150.0
POLL_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """One of the texts that a profile may have."""

    key: str
    folder: str
    mode: str

    def policy(self, name: str) -> str:
        """Return the text for a profile of this name."""
        return deny_write(name, self.folder)

    @property
    def option(self) -> str:
        """Return what tells the parser about the mode."""
        return "--Complain" if self.mode == "Complain" else ""


VARIANTS = (
    Variant("tmp", "/tmp", "Enforce"),
    Variant("var", "/var", "Enforce"),
    Variant("complain", "/srv", "Complain"),
)


class Lack(StrEnum):
    """What kind of thing is not whole."""

    LOST = "lost"  # a kernel does not hold a profile as it should
    LEFT = "left"  # something stays that should be gone
    UNSAID = "unsaid"  # the kernels are right and the API does not say so
    ABSENT = "absent"  # a node or a pod is not there yet


@dataclass(frozen=True)
class Complaint:
    """One thing that is not whole."""

    lack: Lack
    text: str


@dataclass
class Scene:
    """The cluster and what is known of it.

    Attributes:
        histories: what the watchers see.
        kernels: the watchers of the nodes' kernels, by node.
        wanted: the text that each profile should have; one that is deleted is not here.
        specs: what each generation of each SecurityProfile asked for; None: a text that is refused.
        expected: what each node's kernel holds of a profile's variant.
        touched: every variant that a profile may have in this round; none: it may be gone.
        strikes: the faults of this round as they happened.
        duties: what kernels had to hold in this round.
        happened: this round in words.
        complaints: what a fault's healing did not bring about.
        kills: how often the container of a pod was killed, by the pod's UID.
        others: profiles of the other types.
    """

    histories: Histories
    kernels: Mapping[str, KernelWatcher]
    wanted: dict[str, Variant] = field(default_factory=dict[str, Variant])
    specs: dict[Asked, tuple[str, Variant | None]] = field(
        default_factory=dict[Asked, tuple[str, Variant | None]]
    )
    expected: dict[tuple[str, Variant], dict[str, Content]] = field(
        default_factory=dict[tuple[str, Variant], dict[str, Content]]
    )
    touched: dict[str, set[Variant]] = field(default_factory=dict[str, set[Variant]])
    strikes: list[Strike] = field(default_factory=list[Strike])
    duties: list[Duty] = field(default_factory=list[Duty])
    happened: list[str] = field(default_factory=list[str])
    complaints: list[Complaint] = field(default_factory=list[Complaint])
    kills: dict[str, int] = field(default_factory=dict[str, int])
    others: Others = field(default_factory=Others)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the nodes with AppArmor."""
        return self.histories.nodes

    def begin(self) -> None:
        """Forget the round before."""
        self.histories.forget()
        self.touched = {name: {variant} for name, variant in self.wanted.items()}
        for kept in (self.strikes, self.duties, self.happened, self.complaints):
            kept.clear()

    # --- asking

    def ask(self, name: str, variant: Variant) -> None:
        """Apply a profile with a good text."""
        self.wanted[name] = variant
        self.touched.setdefault(name, set()).add(variant)
        self._apply(profile(name, variant.policy(name), mode=variant.mode), name, variant)

    def ask_badly(self, name: str, policy: str) -> tuple[str, int]:
        """Apply a text that is refused; return the object's UID and generation."""
        return self._apply(profile(name, policy, mode=self.wanted[name].mode), name, None)

    def is_refused(self, name: str, policy: str) -> bool:
        """Return whether the webhook refuses a text: it is asked until it answers."""
        document = profile(name, policy, mode=self.wanted[name].mode)

        def answered() -> str:
            said = kubectl("apply", "--filename=-", given=document)
            if said.code and "denied the request" not in said.stderr:
                return ""  # nobody there to ask just now
            return "refused" if said.code else "taken"

        return within(PATIENCE_SECONDS, answered) == "refused"

    def _apply(self, document: dict[str, Any], name: str, variant: Variant | None) -> Asked:
        said = persistently("apply", "--filename=-", "--output=json", given=document)
        asked = (said["metadata"]["uid"], int(said["metadata"]["generation"]))
        self.specs[asked] = (name, variant)
        return asked

    def ask_other(self, name: str, version: int) -> None:
        """Apply a profile of another type."""
        self.others.wanted[name] = version
        persistently("apply", "--filename=-", given=document(name, version), json_said=False)

    def delete_other(self, name: str) -> None:
        """Ask for the deletion of a profile of another type and return at once."""
        self.others.wanted.pop(name, None)
        persistently("delete", "secprof", name, "--wait=false", "--ignore-not-found", json_said=False)

    def delete(self, name: str) -> None:
        """Ask for a profile's deletion and return at once."""
        self.wanted.pop(name, None)
        self.touched.pop(name, None)
        persistently("delete", "secprof", name, "--wait=false", "--ignore-not-found", json_said=False)

    # --- what the watchers saw

    def catch_up(self) -> bool:
        """Return whether the watchers have told all that the kernels held until now."""
        return all(one.catch_up() for one in self.kernels.values())

    def delay_since(self, moment: float) -> float:
        """Return the longest delay of the watchers since a moment, in seconds, there and back."""
        return max(
            (delay for one in self.kernels.values() for delay in one.delays_since(moment)), default=0.0
        )

    def seen(self, during: Span, struck: Iterable[str]) -> Seen:
        """Return what is to be judged of a span; `struck`: nodes that lost their power in it."""
        kept = [
            Duty(node, name, during, self._contents(name, node, variants))
            for name, variants in self.touched.items()
            for node in set(self.nodes) - set(struck)
        ]
        expected = {
            asked: self.expected[name, variant] if variant else None
            for asked, (name, variant) in self.specs.items()
        }
        histories = self.histories
        return Seen(
            histories.claims(), histories.readings(), expected, list(self.strikes), [*kept, *self.duties]
        )

    def duty(self, node: str, name: str, variant: Variant, during: Span) -> None:
        """Take note that a node's kernel has to hold a profile for a time."""
        self.duties.append(Duty(node, name, during, self._contents(name, node, [variant])))

    def _contents(self, name: str, node: str, variants: Iterable[Variant]) -> frozenset[tuple[str, str]]:
        return frozenset(self.expected[name, variant][node][name] for variant in variants)

    # --- what is not whole

    def lacking(self) -> list[Complaint]:
        """Return everything that is not as it should be now; the disks are read once all else is whole."""
        for look in (self._absent, self._kernels, self._unsaid, self._files, self._others):
            if found := look():
                return found
        return []

    def _absent(self) -> list[Complaint]:
        nodes, pods = get("nodes")["items"], get("pods", f"--namespace={SYSTEM}")["items"]
        found = [
            f"the {one['kind']} {one['metadata']['name']} is not Ready"
            for one in [*nodes, *pods]
            if condition(one, "Ready").get("status") != "True" or one["metadata"].get("deletionTimestamp")
        ]
        if len(pods) < len(nodes) + 4:  # the agents, and two each of operator and admission
            found.append(f"{len(pods)} pods of Hauberk's on {len(nodes)} nodes")
        return [Complaint(Lack.ABSENT, text) for text in found]

    def _kernels(self) -> list[Complaint]:
        if not self.catch_up():
            return [Complaint(Lack.ABSENT, "a node's watcher does not answer")]
        return [one for node in self.nodes for one in self._kernel(node)]

    def _kernel(self, node: str) -> list[Complaint]:
        held = self.histories.held(node)
        if held is None:
            return [Complaint(Lack.ABSENT, f"{node} has no watcher")]
        expected = {name: self.expected[name, one][node][name] for name, one in self.wanted.items()}
        lost = [
            Complaint(Lack.LOST, f"{node} holds {name} as {_short(held.get(name))} instead of {_short(one)}")
            for name, one in expected.items()
            if held.get(name) != one
        ]
        left = [
            Complaint(Lack.LEFT, f"{node} still holds {name}")
            for name in sorted(held.keys() - expected.keys())
        ]
        return lost + left

    def _unsaid(self) -> list[Complaint]:
        bodies = {one["metadata"]["name"]: one for one in get("secprof")["items"]}
        found: list[str] = []
        for name in self.wanted:
            body = bodies.pop(name, None)
            ready = condition(body, "Ready") if body else {}
            counts: dict[str, int] = body.get("status", {}).get("nodes", {}) if body else {}
            current = body and ready.get("observedGeneration") == body["metadata"]["generation"]
            if ready.get("status") != "True" or not current or counts.get("ready") != len(self.nodes):
                found.append(f"{name} is {ready.get('reason')}, ready on {counts.get('ready')}")
        found += [f"{name} is still there" for name in bodies if name.startswith(PREFIX)]
        return [Complaint(Lack.UNSAID, text) for text in found]

    def _others(self) -> list[Complaint]:
        looks = {
            Lack.LOST: self.others.lost,
            Lack.LEFT: self.others.left,
            Lack.UNSAID: self.others.unsaid,
        }
        return [Complaint(lack, text) for lack, look in looks.items() for text in look()]

    def _files(self) -> list[Complaint]:
        return [
            Complaint(Lack.LEFT, f"{node} has {path}")
            for node in self.nodes
            for path in left_files(files_of(node), self.wanted)
        ]


def _short(held: tuple[str, str] | None) -> str:
    return f"{held[0]} {held[1][:10]}" if held else "nothing"


def files_of(node: str) -> list[str]:
    """Return every file of Hauberk's on a node's disk, but for its cache."""
    said = exec_on(
        node,
        "sh",
        "-c",
        "find /etc/apparmor.d -name '*hauberk.*'; "
        "find /var/lib/hauberk -type f -not -path '*/cache/*' 2>/dev/null",
    )
    return sorted(said.stdout.splitlines())


def left_files(paths: Iterable[str], wanted: Mapping[str, Variant]) -> list[str]:
    """Return the files that should not be there: of profiles that are gone, unfinished, torn. Pure."""
    return [path for path in paths if _is_left(path, wanted)]


def _is_left(path: str, wanted: Mapping[str, Variant]) -> bool:
    folder, _, file = path.rpartition("/")
    # what was about to be loaded stands in `loading`, until it is recorded
    if file.startswith(".") or file.endswith((".new", ".torn")) or folder.endswith("/loading"):
        return True
    if folder.startswith("/etc/"):
        name = file.removeprefix("hauberk.")
        return name not in wanted or (folder.endswith("/force-complain") and wanted[name].mode != "Complain")
    name = file.removesuffix(".json")
    return name.startswith(PREFIX) and name not in wanted


def persistently(*words: str, given: Any = None, json_said: bool = True) -> Any:
    """Run kubectl until it succeeds, for the API server may be away; return what it said, decoded.

    Raises:
        AssertionError: it never did.
    """
    output: list[str] = []

    def tried() -> bool:
        said = kubectl(*words, given=given, timeout=20)
        output[:] = [said.stdout if said.code == 0 else said.stderr]
        return said.code == 0

    assert within(PATIENCE_SECONDS, tried), f"kubectl {' '.join(words)}: {output}"
    return json.loads(output[0]) if json_said else None


def within(seconds: float, what: Callable[[], T]) -> T | None:
    """Return what a function returns once that is true, None if it never is; what it asserts is not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := what():
                return found
        except (AssertionError, KeyError, subprocess.TimeoutExpired):
            pass  # the API server is away, or a field is not there yet
        if time.monotonic() > end:
            return None
        time.sleep(POLL_SECONDS)


def expectations(nodes: Iterable[str]) -> dict[tuple[str, Variant], dict[str, Content]]:
    """Return what each node's kernel must hold of each profile and variant.

    The image's own parser compiles every text anew on every node; a kernel's hash is that of the result.
    """
    expected: dict[tuple[str, Variant], dict[str, Content]] = {}
    for node in nodes:
        wanted = [(name, variant) for name in PROFILES for variant in VARIANTS]
        for (name, variant), digest in zip(wanted, _digests(node, wanted), strict=True):
            content = {name: (variant.mode.lower(), digest)}
            expected.setdefault((name, variant), {})[node] = content
    return expected


def _digests(node: str, wanted: list[tuple[str, Variant]]) -> list[str]:
    script = "".join(
        f"printf %s {shlex.quote(variant.policy(name))} | "
        f"apparmor_parser --base=/etc/apparmor.d -QKS -j0 {variant.option} | sha1sum\n"
        for name, variant in wanted
    )
    pod = agent(node)["metadata"]["name"]
    said = kubectl("exec", "--stdin", f"--namespace={SYSTEM}", pod, "--", "sh", "-se", given=script)
    digests = [line.split()[0] for line in said.stdout.splitlines()]
    empty = hashlib.sha1(b"").hexdigest()  # noqa: S324 - the kernel's choice
    assert len(digests) == len(wanted), said.stderr
    assert empty not in digests, said.stderr
    return digests


def agent(node: str) -> dict[str, Any]:
    """Return the pod of a node's agent.

    Raises:
        AssertionError: there is none, or it is going away.
    """
    return _pod("agent", f"--field-selector=spec.nodeName={node}")


def operator() -> dict[str, Any]:
    """Return the pod of the operator that leads.

    Raises:
        AssertionError: none does, or it is going away.
    """
    return _leader("operator")


def admission() -> dict[str, Any]:
    """Return the pod of the admission that publishes.

    Raises:
        AssertionError: none does, or it is going away.
    """
    return _leader("admission")


def _leader(component: str) -> dict[str, Any]:
    leader = get("lease", f"hauberk-{component}", f"--namespace={SYSTEM}")["spec"].get("holderIdentity")
    return _pod(component, f"--field-selector=metadata.name={leader}")


def pods_of(component: str, *words: str) -> list[dict[str, Any]]:
    """Return the pods of the operator or of the agents, those too that are going away."""
    selector = f"--selector=app.kubernetes.io/component={component}"
    return get("pods", f"--namespace={SYSTEM}", selector, *words)["items"]


def _pod(component: str, *words: str) -> dict[str, Any]:
    found = pods_of(component, *words)
    staying = [one for one in found if not one["metadata"].get("deletionTimestamp")]
    assert staying, f"no pod of the {component}"
    return staying[0]


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether the kubelet calls a pod ready."""
    return condition(pod, "Ready").get("status") == "True"


def container_of(pod: dict[str, Any]) -> str:
    """Return the id of a pod's running container, empty where none runs."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return statuses[0].get("containerID", "") if "running" in statuses[0].get("state", {}) else ""
