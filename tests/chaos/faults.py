"""The faults: each does one thing to the cluster and returns what heals it.

Called by `loop`, each in a thread of its own. A fault says what happened in the scene's words and notes what
it may excuse; what is then wrong is for `verdict` and `scene.lacking` to say.
"""

from __future__ import annotations

import math
import os
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.cluster import Lab
from lab.progress import Progress
from tests.chaos.choices import Blow
from tests.chaos.others import VERSIONS, damage
from tests.chaos.scene import (
    PATIENCE_SECONDS,
    VARIANTS,
    Complaint,
    Lack,
    Scene,
    admission,
    agent,
    container_of,
    files_of,
    is_ready,
    left_files,
    operator,
    persistently,
    pods_of,
    within,
)
from tests.chaos.verdict import Harm, Span, Strike
from tests.e2e.cluster import (
    ADMISSION,
    SELINUX_NODE,
    SYSTEM,
    condition,
    exec_on,
    get,
    kubectl,
    lab,
    ok,
    pod,
    remove,
    start,
)

Heal = Callable[[], None]
# A container that was killed this often is waited for: its pod is made anew instead.
KILLS = 2
_ABSENT_SECONDS = 3.0
_REFUSED_SECONDS = 1.5
_DRAINED_SECONDS = 180.0


@dataclass(frozen=True)
class Fault:
    """A fault, and how it goes together with others.

    Attributes:
        do: does it, and returns what heals it.
        breaks: what it takes away.
        needs: what has to be there for it.
        rank: those that do not last are healed in this order: what others need for it first.
        lasts: whether it stays for its `hold`, and is healed then, whatever else goes on.
        unloads: whether it takes the node's kernel with it.
    """

    do: Callable[[Scene, Blow], Heal]
    breaks: frozenset[str]
    needs: frozenset[str] = frozenset()
    rank: int = 0
    lasts: bool = False
    unloads: bool = False


def together(one: str, other: str) -> bool:
    """Return whether two faults can happen at once: neither breaks what the other breaks or needs."""
    first, second = FAULTS[one], FAULTS[other]
    return not (first.breaks & (second.breaks | second.needs) or second.breaks & first.needs)


# --- agents and the operator ------------------------------------------------------------------------------


def kill_agent(scene: Scene, blow: Blow) -> Heal:
    """Kill a node's agent."""
    before = agent_known(blow.node)
    began = time.monotonic()
    kill(scene, before, blow.node, "hauberk[.]daemonset[.]main")
    scene.happened.append(f"killed the agent of {blow.node}")

    def heal() -> None:
        within(PATIENCE_SECONDS, lambda: is_anew(agent(blow.node), before))
        scene.strikes.append(Strike(Harm.AGENTLESS, blow.node, began, time.monotonic()))
        replace_worn(scene, lambda: agent(blow.node))

    return heal


def kill_operator(scene: Scene, blow: Blow) -> Heal:
    """Kill the operator that leads, or delete its pod."""
    return _kill_leader(scene, blow, "operator", "hauberk[.]operator[.]main", operator)


def kill_admission(scene: Scene, blow: Blow) -> Heal:
    """Kill the admission that publishes, or delete its pod."""
    return _kill_leader(scene, blow, "admission", "hauberk[.]operator[.]admission", admission)


def _kill_leader(
    scene: Scene, blow: Blow, what: str, pattern: str, leader: Callable[[], dict[str, Any]]
) -> Heal:
    before = within(PATIENCE_SECONDS, leader) or {}
    name, node = before["metadata"]["name"], before["spec"]["nodeName"]
    if blow.dice % 2:
        persistently(
            *("delete", "pod", name, f"--namespace={SYSTEM}", "--grace-period=0", "--force", "--wait=false"),
            json_said=False,
        )
        scene.happened.append(f"deleted the {what} on {node}")
    else:
        kill(scene, before, node, pattern)
        scene.happened.append(f"killed the {what} on {node}")

    def heal() -> None:
        within(PATIENCE_SECONDS, lambda: is_anew(leader(), before))
        replace_worn(scene, leader)

    return heal


def agent_known(node: str) -> dict[str, Any]:
    """Return a node's agent, waiting for it if need be.

    Raises:
        AssertionError: there is none.
    """
    found = within(PATIENCE_SECONDS, lambda: agent(node))
    assert found, f"{node} has no agent"
    return found


def kill(scene: Scene, body: dict[str, Any], node: str, pattern: str) -> None:
    """Kill the process of a pod on its node, found by its command line."""
    exec_on(node, "sh", "-c", f"kill -9 $(pgrep -f {shlex.quote(pattern)})")
    uid = body["metadata"]["uid"]
    scene.kills[uid] = scene.kills.get(uid, 0) + 1


def is_anew(body: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether a pod is ready with another container than before."""
    return is_ready(body) and container_of(body) not in ("", container_of(before))


def replace_worn(scene: Scene, there: Callable[[], dict[str, Any]]) -> None:
    """Delete a pod that was killed so often that the kubelet makes it wait before it starts again."""
    body = within(PATIENCE_SECONDS, there)
    if body is None or scene.kills.get(body["metadata"]["uid"], 0) < KILLS:
        return
    persistently("delete", "pod", body["metadata"]["name"], f"--namespace={SYSTEM}", json_said=False)
    within(PATIENCE_SECONDS, lambda: is_ready(there()))


# --- nodes ------------------------------------------------------------------------------------------------


def away(scene: Scene, blow: Blow) -> Callable[[], None]:
    """Note that a node goes away now; return what notes when the API knew that it was back."""
    began = time.monotonic()
    found = within(5, operator)
    # An operator that went with the node can't say what it does not see: only the general limit holds.
    reader: str = found["spec"]["nodeName"] if found else blow.node
    there = within(5, lambda: pods_of("operator")) or []
    operators = frozenset(one["spec"].get("nodeName", "") for one in there)

    def back() -> None:
        known = scene.histories.back_since(blow.node, began)
        # An orderly end takes its time: what the kernel holds is gone when the kernel is.
        gone = scene.histories.gone_since(blow.node, began) or began
        end = math.inf if known is None else known
        scene.strikes.append(Strike(Harm.AWAY, blow.node, gone, end, reader, operators))

    if reader == blow.node:
        scene.happened.append(f"with the operator on {blow.node}")
    elif blow.node in operators:
        scene.happened.append(f"with the one that waits on {blow.node}")
    return back


def reboot(scene: Scene, blow: Blow) -> Heal:
    """Restart a node in good order; it is back when this returns."""
    scene.happened.append(f"rebooted {blow.node}")
    back = away(scene, blow)
    ok(lab("reboot", blow.node))
    return back


def crash(scene: Scene, blow: Blow) -> Heal:
    """Cut a node's power."""
    scene.happened.append(f"cut the power of {blow.node} for {blow.hold:.0f} s")
    back = away(scene, blow)
    ok(lab("crash", blow.node))

    def heal() -> None:
        ok(lab("reboot", blow.node))
        back()

    return heal


def cut(scene: Scene, blow: Blow) -> Heal:
    """Take a node's link away."""
    back = away(scene, blow)
    scene.happened.append(f"cut the link of {blow.node} for {blow.hold:.0f} s")
    # Not by a command of the lab: that takes a second to start, and the moment is what matters.
    here = Lab(os.environ["LAB_NAME"], Progress(terminal=False))
    here.set_link(blow.node, up=False)

    def heal() -> None:
        here.set_link(blow.node, up=True)
        back()

    return heal


# --- the kernel's policy, by someone else -----------------------------------------------------------------


def drift(scene: Scene, blow: Blow) -> Heal:
    """Remove a profile from a kernel, replace it by another text, or change its mode."""
    name = blow.profile
    text = f"profile {name} {{ capability, }}\n"
    kinds = {
        "removed": f"printf %s {name} > /sys/kernel/security/apparmor/.remove",
        "replaced": f"printf %s {shlex.quote(text)} | apparmor_parser -rK",
        "in another mode": f"printf %s {shlex.quote(_other_mode(scene, name))} | apparmor_parser -rK",
    }
    what = list(kinds)[blow.dice % len(kinds)]
    began = time.monotonic()
    # A deletion at the same time may have been quicker: then there is nothing to remove.
    exec_on(blow.node, "sh", "-c", kinds[what])
    scene.catch_up()
    scene.strikes.append(Strike(Harm.DRIFT, blow.node, began, time.monotonic()))
    scene.happened.append(f"{name} {what} on {blow.node}")
    return lambda: None


def _other_mode(scene: Scene, name: str) -> str:
    variant = scene.wanted.get(name, VARIANTS[0])
    flag = "" if variant.mode == "Complain" else ", complain"
    return variant.policy(name).replace("attach_disconnected", f"attach_disconnected{flag}")


# --- what authors do --------------------------------------------------------------------------------------


def update(scene: Scene, blow: Blow) -> Heal:
    """Give a profile another text; sometimes the old one again at once."""
    before = scene.wanted[blow.profile]
    others = [one for one in VARIANTS if one is not before]
    after = others[blow.dice % len(others)]
    scene.ask(blow.profile, after)
    scene.happened.append(f"{blow.profile}: {before.key} to {after.key}")
    if blow.dice % 5 == 0:
        scene.ask(blow.profile, before)
        scene.happened.append("and back")
    return lambda: None


def bad_update(scene: Scene, blow: Blow) -> Heal:
    """Give a profile a text that is refused; what is loaded has to stay."""
    name, before = blow.profile, scene.wanted[blow.profile]
    good = before.policy(name)
    another = next(one for one in scene.wanted if one != name)
    texts = {
        "broken": good.replace("  network,", "  network bogus rule,"),
        "cut short": good.rpartition("}")[0],
        "empty": "# nothing\n",
        f"of {another}'s name": good + good.replace(name, another),
        "of runc's name": good + "profile runc { file, }\n",
    }
    what = list(texts)[blow.dice % len(texts)]
    if blow.dice // len(texts) % 2:
        if not scene.is_refused(name, texts[what]):
            scene.complaints.append(Complaint(Lack.UNSAID, f"the text {what} of {name} was let in"))
        scene.happened.append(f"{name}: a text {what}, refused at once")
        return lambda: None
    generation = _stored_badly(scene, name, texts[what])
    scene.happened.append(f"{name}: a text {what}, past the webhook")

    def refused() -> bool:
        accepted = condition(get("secprof", name), "Accepted")
        return accepted.get("status") == "False" and accepted["observedGeneration"] >= generation

    def heal() -> None:
        if not within(PATIENCE_SECONDS, refused):
            scene.complaints.append(Complaint(Lack.UNSAID, f"the text {what} of {name} was not refused"))
        threading.Event().wait(_REFUSED_SECONDS)
        scene.ask(name, before)

    return heal


def _stored_badly(scene: Scene, name: str, text: str) -> int:
    """Store a text that the webhook would refuse; return the generation of the object."""
    configuration = f"validatingwebhookconfiguration/{ADMISSION}"
    persistently("delete", configuration, "--ignore-not-found", json_said=False)
    try:
        _, generation = scene.ask_badly(name, text)
    finally:
        persistently("apply", "--filename=deploy/operator/webhook.yaml", json_said=False)
    return generation


def delete(scene: Scene, blow: Blow) -> Heal:
    """Delete a profile; when it is gone everywhere it is made anew."""
    name = blow.profile
    scene.delete(name)
    scene.happened.append(f"deleted {name}")
    return lambda: _made_anew(scene, blow)


def delete_in_use(scene: Scene, blow: Blow) -> Heal:
    """Delete a profile that a pod uses: it has to stay in that kernel until the pod ends."""
    name, node = blow.profile, blow.node
    user, variant = f"user-of-{name}", scene.wanted[name]
    start(pod(user, node, name))
    began = time.monotonic()
    scene.delete(name)
    scene.happened.append(f"deleted {name}, in use on {node}")
    # long enough for an agent that does not look to unload it
    threading.Event().wait(_ABSENT_SECONDS)

    def heal() -> None:
        scene.duty(node, name, variant, Span(began, time.monotonic()))
        remove(f"pod/{user}", "--now")
        _made_anew(scene, blow)

    return heal


def _made_anew(scene: Scene, blow: Blow) -> None:
    """Wait until nothing is left of a deleted profile, complain about what is, and make it anew."""
    name = blow.profile
    left: list[Complaint] = []

    def gone() -> bool:
        left[:] = [Complaint(Lack.LEFT, text) for text in _left_of(scene, name)]
        return not left

    if not within(PATIENCE_SECONDS, gone):
        scene.complaints.extend(left)
    scene.ask(name, VARIANTS[(blow.dice // 7) % len(VARIANTS)])
    # It was gone in between: no kernel had to hold it.
    scene.touched.pop(name)


def _left_of(scene: Scene, name: str) -> list[str]:
    if kubectl("get", "secprof", name, "--output=name").code == 0:
        reason = condition(get("secprof", name), "Ready").get("reason")
        return [f"the deleted {name} is still there: {reason}"]
    assert scene.catch_up()
    holding = [node for node in scene.nodes if name in (scene.histories.held(node) or {})]
    files = {node: left_files(files_of(node), scene.wanted) for node in scene.nodes}
    return [f"{node} still holds the deleted {name}" for node in holding] + [
        f"{node} has {path}" for node, paths in files.items() for path in paths if name in path
    ]


# --- profiles of the other types --------------------------------------------------------------------------


def update_other(scene: Scene, blow: Blow) -> Heal:
    """Give a profile of another type another text."""
    name = _other(scene, blow)
    before = scene.others.wanted[name]
    after = (before + 1 + blow.dice // 2 % 2) % len(VERSIONS)
    scene.ask_other(name, after)
    scene.happened.append(f"{name}: version {before} to {after}")
    return lambda: None


def drift_other(scene: Scene, blow: Blow) -> Heal:
    """Change what a node holds of a profile of another type."""
    name = _other(scene, blow)
    node, what = damage(name, blow.dice // 2)
    scene.happened.append(f"{name} {what} on {node}")
    return lambda: None


def delete_other(scene: Scene, blow: Blow) -> Heal:
    """Delete a profile of another type; when it is gone everywhere it is made anew."""
    name = _other(scene, blow)
    scene.delete_other(name)
    scene.happened.append(f"deleted {name}")
    left: list[str] = []

    def gone() -> bool:
        left[:] = [*scene.others.left(), *scene.others.unsaid()]
        return not left

    def heal() -> None:
        if not within(PATIENCE_SECONDS, gone):
            scene.complaints.extend(Complaint(Lack.LEFT, text) for text in left)
        scene.ask_other(name, blow.dice % len(VERSIONS))

    return heal


def restart_selinux(scene: Scene, blow: Blow) -> Heal:
    """Kill the agent of the node with SELinux, or restart that node in good order."""
    if blow.dice % 2:
        before = agent_known(SELINUX_NODE)
        kill(scene, before, SELINUX_NODE, "hauberk[.]daemonset[.]main")
        scene.happened.append(f"killed the agent of {SELINUX_NODE}")

        def heal() -> None:
            within(PATIENCE_SECONDS, lambda: is_anew(agent(SELINUX_NODE), before))
            replace_worn(scene, lambda: agent(SELINUX_NODE))

        return heal
    scene.happened.append(f"rebooted {SELINUX_NODE}")
    ok(lab("reboot", SELINUX_NODE))
    return lambda: None


def _other(scene: Scene, blow: Blow) -> str:
    names = sorted(scene.others.wanted)
    return names[blow.dice % len(names)]


# --- the control plane ------------------------------------------------------------------------------------


def _stopped(*components: str) -> Callable[[Scene, Blow], Heal]:
    def stop(scene: Scene, blow: Blow) -> Heal:
        ok(lab("control-plane", "stop", *components))
        scene.happened.append(f"stopped {' and '.join(components)} for {blow.hold:.0f} s")

        def heal() -> None:
            ok(lab("control-plane", "start", *components))

        return heal

    return stop


def absence(scene: Scene, _: Blow) -> Heal:
    """Delete every revision by hand while neither operator nor admission is there: absence is no deletion."""
    writers = ("deployment/hauberk-operator", "deployment/hauberk-admission", f"--namespace={SYSTEM}")
    persistently("scale", *writers, "--replicas=0", json_said=False)
    # A kubelet takes its time to hear of it when the API server was away a moment ago.
    for component in ("operator", "admission"):
        gone = within(_DRAINED_SECONDS, lambda component=component: not pods_of(component))
        assert gone, f"the {component} does not end"
    ok(kubectl("delete", "profrev", "--all"))
    scene.happened.append("deleted all revisions with nobody to write them")
    threading.Event().wait(_ABSENT_SECONDS)

    def heal() -> None:
        persistently("scale", *writers, "--replicas=2", json_said=False)
        within(PATIENCE_SECONDS, lambda: is_ready(operator()) and is_ready(admission()))

    return heal


_SPEC, _NODE, _LINK, _API = frozenset({"spec"}), frozenset({"node"}), frozenset({"link"}), frozenset({"api"})
_OTHER, _SELINUX = frozenset({"other"}), frozenset({"selinux"})
_OPERATOR, _ADMISSION = frozenset({"operator"}), frozenset({"admission"})

FAULTS: dict[str, Fault] = {
    "agent": Fault(kill_agent, frozenset({"agent"}), _NODE, rank=2),
    "operator": Fault(kill_operator, _OPERATOR, _API | _NODE, rank=2),
    "admission": Fault(kill_admission, _ADMISSION, _API | _NODE, rank=2),
    "reboot": Fault(reboot, _NODE, _API, rank=1, unloads=True),
    "crash": Fault(crash, _NODE, _API, lasts=True, unloads=True),
    "cut": Fault(cut, _LINK, lasts=True),
    "drift": Fault(drift, frozenset({"kernel"}), _NODE),
    "update": Fault(update, _SPEC, rank=3),
    "bad-update": Fault(bad_update, _SPEC, rank=3),
    "delete": Fault(delete, _SPEC, rank=3),
    "delete-in-use": Fault(delete_in_use, _SPEC, _API | _NODE | _LINK | {"kernel"}, rank=3),
    "update-other": Fault(update_other, _OTHER, rank=3),
    "drift-other": Fault(drift_other, _OTHER, _SELINUX, rank=3),
    "delete-other": Fault(delete_other, _OTHER, rank=3),
    # An operator on that node goes with it, and so does what it would have said of others.
    "restart-selinux": Fault(
        restart_selinux,
        _SELINUX | _NODE | _LINK | _OPERATOR | _ADMISSION | {"agent", "kernel"},
        _API,
        rank=1,
    ),
    "apiserver": Fault(_stopped("apiserver"), _API, lasts=True),
    "etcd": Fault(_stopped("apiserver", "etcd"), _API, lasts=True),
    # Without an operator nobody can say that a node went away: so none does.
    "absence": Fault(absence, _SPEC | _OPERATOR | _ADMISSION, _API | _NODE | _LINK, rank=2),
}
