"""The cluster as the end-to-end tests see it: kubectl from outside, and each node's kernel read on the node.

Used by every test of this folder. They tell their objects apart by name; each waits for what it expects, and
none for a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.cluster import Lab
from lab.progress import Progress

ROOT = Path(__file__).parents[2]
SYSTEM = "hauberk-system"
ADMISSION = "hauberk-admission"
BUSYBOX = "docker.io/library/busybox:lab"
APPARMOR_NODES = ("debian12", "debian13")
SELINUX_NODE = "selinux"
NODES = (*APPARMOR_NODES, SELINUX_NODE)
# A seccomp profile.
NO_MKDIR = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
)

# A kernel's profile as the tests see it: mode and hash of its raw data.
Kernel = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


def command(*words: str, given: str | None = None, timeout: float = 120) -> Said:
    done = subprocess.run(
        words,
        input=given,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",  # names in a kernel are bytes
        check=False,
        timeout=timeout,
        cwd=ROOT,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def kubectl(*words: str, given: Any = None, timeout: float = 120) -> Said:
    """Run kubectl; `given` is a document for its standard input."""
    text = given if isinstance(given, str) or given is None else json.dumps(given)
    return command("kubectl", *words, given=text, timeout=timeout)


def ok(said: Said) -> str:
    assert said.code == 0, said.stderr or said.stdout
    return said.stdout


def get(*words: str) -> Any:
    return json.loads(ok(kubectl("get", *words, "--output=json")))


@contextmanager
def watched(path: str) -> Generator[list[dict[str, Any]]]:
    """Collect every state that the API server tells of the objects of a path, from what is there at first.

    None is left out, and they come in the order in which they were written. A watch that the API server ends,
    as it does where a kind is changed, is begun anew with what is there then.
    """
    query = "&" if "?" in path else "?"
    first = json.loads(ok(kubectl("get", "--raw", path)))
    seen: list[dict[str, Any]] = first["items"]
    ended = threading.Event()
    running: list[subprocess.Popen[str]] = []

    def follow(version: str) -> None:
        since = f"{path}{query}watch=1&resourceVersion={version}"
        process = subprocess.Popen(
            ("kubectl", "get", "--raw", since),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        if ended.is_set():
            process.terminate()
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # it was ended within a line
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    seen.append(event["object"])
        process.wait()

    def collect() -> None:
        version = first["metadata"]["resourceVersion"]
        while not ended.is_set():
            follow(version)
            if (said := kubectl("get", "--raw", path)).code == 0:
                again = json.loads(said.stdout)
                seen.extend(again["items"])
                version = again["metadata"]["resourceVersion"]

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        for process in tuple(running):
            process.terminate()
        reader.join(timeout=10)


def version(body: dict[str, Any]) -> int:
    """Return when an object was written: the store counts the writes of all kinds together."""
    return int(body["metadata"]["resourceVersion"])


def pods_of(namespace: str) -> str:
    """Return the path of a namespace's pods, to be watched."""
    return f"/api/v1/namespaces/{namespace}/pods"


@contextmanager
def namespace(name: str, **labels: str) -> Generator[str]:
    """Have a namespace; its pods are gone afterwards, so that nothing holds up their profiles' end."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    apply(body)
    try:
        # what pods are made with; the controller manager makes it a moment later
        ok(kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s"))
        yield name
    finally:
        ok(kubectl("delete", "namespace", name, "--timeout=100s"))


def deployment(namespace: str, name: str, apparmor: str, replicas: int = 3, **spec: Any) -> dict[str, Any]:
    """Return a Deployment whose pods name an AppArmor profile; what else they are by keyword."""
    labels = {"app": name}
    body = {**pod(name, "", apparmor)["spec"], **spec}
    del body["nodeName"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": body},
        },
    }


def wait_rolled_out(namespace: str, name: str, timeout: int = 120) -> list[dict[str, Any]]:
    """Return the pods of a Deployment once all of them run."""
    words = (f"--namespace={namespace}", f"--timeout={timeout}s")
    ok(kubectl("rollout", "status", f"deployment/{name}", *words, timeout=timeout + 60))
    return get("pods", f"--namespace={namespace}", f"--selector=app={name}")["items"]


def assert_confined(body: dict[str, Any], apparmor: str) -> None:
    """Assert that the kernel has a pod's task in a profile of `deny_write`, and denies it a write."""
    where = (body["metadata"]["name"], f"--namespace={body['metadata']['namespace']}", "--")
    label = ok(kubectl("exec", *where, "cat", "/proc/1/attr/current"))
    assert label.strip() == f"{apparmor} (enforce)"
    assert "touch: /tmp/x: Permission denied" in kubectl("exec", *where, "touch", "/tmp/x").stderr


def failures(namespace: str, states: list[dict[str, Any]]) -> list[str]:
    """Return what tells of containers that could not be made: a namespace's Events, its pods' states."""
    told = get("events", f"--namespace={namespace}", "--field-selector=reason=Failed")["items"]
    waiting = {
        f"{one['metadata']['name']}: {reason}"
        for one in states
        for container in one.get("status", {}).get("containerStatuses", [])
        if (reason := container["state"].get("waiting", {}).get("reason", "")).endswith("Error")
    }
    return [one["message"] for one in told] + sorted(waiting)


def lab(*words: str, timeout: float = 180) -> Said:
    return command(sys.executable, "-m", "lab", "--name", os.environ["LAB_NAME"], *words, timeout=timeout)


def on_node(node: str, *words: str, given: str | None = None) -> str:
    """Run a command on a node as its root and return what it printed."""
    return ok(exec_on(node, *words, given=given))


def exec_on(node: str, *words: str, given: str | None = None) -> Said:
    """Run a command on a node as its root; `given` is its standard input."""
    return command(*shell_words(node, *words), given=given)


def shell_words(node: str, *words: str) -> list[str]:
    """Return the command line that runs a command on a node as its root."""
    here = Lab(os.environ["LAB_NAME"], Progress(terminal=False))
    return here.shell(here.node(node), words)


def eventually(what: Callable[[], Any], within: float = 60) -> Any:
    """Return what a function returns once that is true; an assertion within it counts as not yet."""
    end = time.monotonic() + within
    while True:
        try:
            if found := what():
                return found
            last: object = found
        except (AssertionError, KeyError) as error:  # a field that is not there yet
            last = error
        if time.monotonic() > end:
            pytest.fail(f"not within {within:g} s: {what.__doc__ or what.__name__}; last: {last}")
        time.sleep(0.1)


def kernel_files(node: str, *files: str) -> dict[str, dict[str, str]]:
    """Return what these files say of each profile in a kernel, by full name; read on the node itself."""
    # One process for the whole tree: these kernels fork slowly.
    wanted = [f"--include={file}" for file in ("name", *files)]
    said = exec_on(node, "grep", "-Rsa", *wanted, "", "/sys/kernel/security/apparmor/policy/profiles")
    found: dict[str, dict[str, str]] = {}
    for line in said.stdout.splitlines():
        path, _, value = line.partition(":")
        folder, _, file = path.rpartition("/")
        found.setdefault(folder, {})[file] = value

    def full(folder: str) -> str:
        parent = folder.rpartition("/profiles/")[0]
        name = found[folder]["name"]
        return f"{full(parent)}//{name}" if parent in found else name

    return {
        full(folder): {file: value for file, value in one.items() if file != "name"}
        for folder, one in found.items()
        if "name" in one
    }


def kernel(node: str) -> Kernel:
    """Return what a node's kernel holds, by full name."""
    return {
        name: (one["mode"], one.get("raw_sha256") or one.get("raw_sha1", ""))
        for name, one in kernel_files(node, "mode", "raw_sha1", "raw_sha256").items()
        if "mode" in one
    }


def files(node: str) -> list[str]:
    """Return Hauberk's files on a node, unfinished ones too."""
    found = on_node(
        node, "find", "/etc/apparmor.d", "/var/lib/hauberk", "-name", "*hauberk.*", "-o", "-name", "*.json*"
    )
    return sorted(line for line in found.splitlines() if "/cache/" not in line)


def profile(name: str, policy: str, **spec: Any) -> dict[str, Any]:
    """Return a SecurityProfile; `mode` and what else stands in its spec by keyword."""
    mode = spec.pop("mode", "Enforce")
    return _of_type(name, {"type": "AppArmor", "appArmor": {"policy": policy, "mode": mode}, **spec})


def seccomp_profile(name: str, policy: str, **spec: Any) -> dict[str, Any]:
    """Return a SecurityProfile of type Seccomp."""
    return _of_type(name, {"type": "Seccomp", "seccomp": {"policy": policy}, **spec})


@contextmanager
def agent_of_selinux_stays() -> Generator[None]:
    """Keep the agent of the node with SELinux that any profile of these types calls for.

    Otherwise the node's two agents take turns with each test, half a minute each time.
    """
    document = seccomp_profile("keeper", json.dumps({"defaultAction": "SCMP_ACT_LOG"}), suspend=True)
    document["metadata"]["labels"] = {"kept": "by-file"}
    apply(document)
    try:
        yield
    finally:
        remove("secprof/keeper")


def selinux_profile(name: str, policy: str, **block: Any) -> dict[str, Any]:
    """Return a SecurityProfile of type SELinux; `mode` and what else stands in its block by keyword."""
    return _of_type(name, {"type": "SELinux", "selinux": {"policy": policy, **block}})


def _of_type(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "hauberk.dev/v1alpha1",
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": spec,
    }


def deny_write(name: str, folder: str = "/tmp") -> str:
    """Return a policy that denies writes below a folder."""
    return (
        f"#include <tunables/global>\n\nprofile {name} flags=(attach_disconnected) {{\n"
        "  #include <abstractions/base>\n  file,\n  network,\n  capability,\n"
        f"  deny {folder}/** w,\n  signal (receive) peer=runc,\n  signal (receive) peer=unconfined,\n}}\n"
    )


def apply(document: dict[str, Any]) -> None:
    ok(kubectl("apply", "--filename=-", given=document))


def refused(document: dict[str, Any], timeout: float = 120) -> str:
    """Return why `kubectl apply` does not take a document; the webhook was asked."""
    said = kubectl("apply", "--filename=-", given=document, timeout=timeout)
    assert said.code != 0, f"it was taken: {said.stdout}"
    denied = 'admission webhook "securityprofiles.hauberk.dev" denied the request: '
    assert denied in said.stderr, said.stderr
    return said.stderr.partition(denied)[2].strip()


@contextmanager
def past_the_webhook() -> Generator[None]:
    """Let in what the webhook would refuse: its configuration is not there while the context lasts."""
    remove(f"validatingwebhookconfiguration/{ADMISSION}")
    try:
        yield
    finally:
        ok(kubectl("apply", "--filename=deploy/operator/webhook.yaml"))
        eventually(webhook_answers)


def webhook_answers() -> bool:
    """The API server asks the webhook again."""
    probe = profile("probe", "this is no policy")
    return "denied the request" in kubectl("apply", "--dry-run=server", "--filename=-", given=probe).stderr


def wait_published(name: str) -> None:
    """Return when nothing is left to do for a profile that selects no node yet."""

    def settled() -> bool:
        conditions = get("secprof", name).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["reason"] == "NoNodes" for one in conditions)

    eventually(settled)


def wait_ready(name: str, timeout: int = 60) -> dict[str, Any]:
    ok(
        kubectl(
            "wait", "--for=condition=Ready", f"secprof/{name}", f"--timeout={timeout}s", timeout=timeout + 60
        )
    )
    return get("secprof", name)


def condition(body: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = {one["type"]: one for one in body.get("status", {}).get("conditions", [])}
    return conditions.get(kind, {})


def ready(name: str) -> tuple[str, str, str]:
    """Return a profile's Ready condition for its current generation: status, reason, message."""
    body = get("secprof", name)
    found = condition(body, "Ready")
    if found.get("observedGeneration") != body["metadata"]["generation"]:
        return "", "", ""
    return found["status"], found["reason"], found["message"]


def confined(name: str, node: str, context: dict[str, Any]) -> dict[str, Any]:
    """Return a pod whose container has a securityContext."""
    made = pod(name, node)
    made["spec"]["containers"][0]["securityContext"] = context
    return made


def pod(name: str, node: str, apparmor: str | None = None, *words: str) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": list(words) or ["sleep", "86400"],
    }
    if apparmor:
        container["securityContext"] = {
            "appArmorProfile": {"type": "Localhost", "localhostProfile": apparmor}
        }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"made-by": "e2e"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def start(*pods: dict[str, Any]) -> None:
    """Start pods, all at once, and wait until they run."""
    apply({"apiVersion": "v1", "kind": "List", "items": list(pods)})
    names = [f"pod/{one['metadata']['name']}" for one in pods]
    ok(kubectl("wait", "--for=condition=Ready", *names, "--timeout=90s"))


def remove(*words: str) -> None:
    ok(kubectl("delete", *words, "--ignore-not-found", "--timeout=60s"))


def agent_pod(node: str) -> str:
    """Return the name of a node's agent, once there is one that is not going away."""

    def there() -> str:
        """The node has an agent."""
        found = get(
            "pods",
            f"--namespace={SYSTEM}",
            "--selector=app.kubernetes.io/component=agent",
            f"--field-selector=spec.nodeName={node}",
        )["items"]
        names = [one["metadata"]["name"] for one in found if not one["metadata"].get("deletionTimestamp")]
        return names[0] if names else ""

    return eventually(there)


def agent_ready(node: str) -> bool:
    body = get("pod", agent_pod(node), f"--namespace={SYSTEM}")
    return condition(body, "Ready").get("status") == "True"


def restart_agent(node: str) -> None:
    """Replace a node's agent by a new pod and wait until that has reported."""
    old = agent_pod(node)
    remove(f"pod/{old}", f"--namespace={SYSTEM}", "--now")
    eventually(lambda: agent_pod(node) != old and agent_ready(node))


def policy_revision(node: str) -> int:
    """Return the kernel's count of policy changes: it moves with every load, replacement and removal."""
    # Its reader waits at the end for the next change: read one line of it.
    return int(on_node(node, "head", "--lines=1", "/sys/kernel/security/apparmor/revision"))


def load_by_hand(node: str, policy: str) -> None:
    """Load policy as the node's administrator would, past Hauberk."""
    on_node(node, "sh", "-c", 'printf %s "$1" | apparmor_parser --replace --skip-cache', "sh", policy)


def unload_by_hand(node: str, name: str) -> None:
    on_node(node, "sh", "-c", 'printf %s "$1" > /sys/kernel/security/apparmor/.remove', "sh", name)


def events(name: str, reason: str) -> list[str]:
    """Return the messages of the Events with a reason on a SecurityProfile."""
    found = get("events", f"--field-selector=involvedObject.name={name},reason={reason}")["items"]
    return [one["message"] for one in found]


def report(node: str) -> dict[str, Any]:
    """Return what a node's agent told of AppArmor."""
    return get("profilenode", node)["status"]["appArmor"]


def expected_hash(node: str, policy: str) -> str:
    """Return the raw hash that a kernel should give a policy: the image's parser compiles it anew there."""
    done = subprocess.run(
        (
            *("kubectl", "exec", "--stdin", f"--namespace={SYSTEM}", agent_pod(node), "--"),
            *("apparmor_parser", "--base=/etc/apparmor.d", "-QKS", "-j0"),
        ),
        input=policy.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    return hashlib.sha1(done.stdout).hexdigest()  # noqa: S324 - the kernel's choice
