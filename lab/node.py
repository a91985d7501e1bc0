"""One node: its kernel's command line, its files, its start and the way in.

Called by cluster.py. What can be pure is: the files and commands that follow from a node and its kind.
The node's kernel is one process of this machine (user-mode-linux); its disk is a copy-on-write file.
"""

import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

from lab import cache, process, rootfs
from lab.controlplane import Listening
from lab.errors import FailedError, NotUpError, UsageError
from lab.network import Network, settings
from lab.state import Node, State

if TYPE_CHECKING:
    from lab.credentials import Credentials

MEMORY_MIB = 1400
START_SECONDS = 60.0
TEMPLATES = Path(__file__).parent / "node"
CLUSTER = Listening("10.77.0.1")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
# What Kubernetes takes of a label's key (its prefix and its name) and of its value.
_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"


@dataclass(frozen=True)
class Joining:
    """What a node brings along when it makes its Node object, as the nodes of one group do.

    Attributes:
        labels: each as KEY=VALUE.
        taints: as in a Node's spec.
    """

    labels: tuple[str, ...] = ()
    taints: tuple[dict[str, str], ...] = ()


def parse_label(word: str) -> str:
    """Return a label as it was given, KEY=VALUE.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(f"{_KEY}={_VALUE}", word):
        raise UsageError(f"{word} is no label: write KEY=VALUE.")
    return word


def parse_taint(word: str) -> dict[str, str]:
    """Return a taint that was given as KEY[=VALUE]:EFFECT, as kubectl takes them.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(f"(?P<key>{_KEY})(=(?P<value>{_VALUE}))?:(?P<effect>{'|'.join(EFFECTS)})", word)
    if not found:
        raise UsageError(f"{word} is no taint: write KEY[=VALUE]:EFFECT with one of {', '.join(EFFECTS)}.")
    return {name: value for name, value in found.groupdict().items() if value}


def kernel_command(node: Node, folder: Path, memory_mib: int) -> list[str]:
    """Return the command that boots a node whose disk, console and files are in `folder`."""
    links = node.at.links
    transport = "transport=tap,depth=128,gro=1"
    macs = node.at.macs
    security = (
        ["security=selinux", "selinux=1"]
        if rootfs.kind(node.kind).selinux
        else ["apparmor=1", "lsm=landlock,lockdown,yama,integrity,apparmor,bpf"]
    )
    return [
        *("linux.uml", f"mem={memory_mib}M", f"umid={node.name}", f"uml_dir={folder}"),
        # the first is what the node wrote, the second the disk that all of its kind start from
        f"ubd0={folder / 'disk.cow'},{folder / 'disk.img'}",
        *("root=/dev/ubda", "rw", "rootflags=noinit_itable,nobarrier", "init=/lab/init", "noreboot"),
        *("con=null", "con0=fd:0,fd:1", "quiet", "panic=1"),
        f"vec0:{transport},ifname={links['cluster']},mac={macs['cluster']}",
        f"vec1:{transport},ifname={links['management']},mac={macs['management']}",
        *security,
        f"lab.host={folder / 'host'}",
    ]


def fill(template: str, values: dict[str, str]) -> str:
    """Return a template with each @WORD@ replaced by its value."""
    for word, value in values.items():
        template = template.replace(f"@{word}@", value)
    return template


def node_env(node: Node, joining: Joining) -> str:
    """Return node.env, which the node's init reads as shell assignments."""
    labels = ",".join((f"lab/kind={node.kind}", *joining.labels))
    values = {"NAME": node.name, "LABELS": labels, **settings(node.at)}
    return "".join(f"{word}={shlex.quote(value)}\n" for word, value in values.items())


def node_files(node: Node, joining: Joining) -> dict[str, str]:
    """Return the configuration files of a node, by name, keys and certificates left out."""
    values = {
        "NAME": node.name,
        "ADDRESS": node.at.cluster,
        "PODS": node.at.pods,
        "SELINUX": "true" if rootfs.kind(node.kind).selinux else "false",
        "TAINTS": json.dumps(joining.taints),
    }
    templates = ("containerd.toml", "kubelet.yaml", "10-lab.conflist")
    files = {name: fill((TEMPLATES / name).read_text(), values) for name in templates}
    return {**files, "node.env": node_env(node, joining)}


def write_files(
    node: Node, joining: Joining, folder: Path, credentials: "Credentials", public_key: str
) -> None:
    """Write what the node sees as /lab/host: its configuration, its keys, a folder for its logs."""
    from lab.credentials import KUBE_PROXY, node_user  # noqa: PLC0415 - `exec` is quicker without it

    host = folder / "host"
    (host / "log").mkdir(parents=True, exist_ok=True)
    (host / "load").mkdir(exist_ok=True)
    for name, text in node_files(node, joining).items():
        (host / name).write_text(text)
    user = node_user(node.name)
    credentials.kubeconfig(user, CLUSTER.server, host / "kubelet.kubeconfig")
    credentials.kubeconfig(KUBE_PROXY, CLUSTER.server, host / "kube-proxy.kubeconfig")
    certificate, key = credentials.serving(f"serving-{node.name}", [node.name], [node.at.cluster])
    copies = {"ca.crt": credentials.authority, "kubelet.crt": certificate, "kubelet.key": key}
    for name, source in copies.items():
        (host / name).write_bytes(source.read_bytes())
    (host / "authorized_keys").write_text(public_key)


def link_disk(folder: Path, disk: Path) -> None:
    """Give a new node its disk; the link stays when a later version of the disk is cached."""
    link = folder / "disk.img"
    if not link.is_symlink():
        link.symlink_to(disk)


def boot(state: State, network: Network, node: Node, memory_mib: int) -> None:
    """Start a node's kernel and return when `exec` reaches it."""
    folder = state.node_folder(node.name)
    network.add_node(node.at)
    command = [*network.enter, *kernel_command(node, folder, memory_mib)]
    state.set_process(f"node-{node.name}", process.start(command, folder / "console.log"))
    wait_reachable(state, network, node)


def running(state: State, node: Node) -> bool:
    """Whether the node's kernel runs."""
    found = state.process(f"node-{node.name}")
    return found is not None and process.alive(found)


def wait_reachable(state: State, network: Network, node: Node) -> None:
    """Return when `exec` reaches the node; raises FailedError if its kernel ends or is too slow."""
    console = state.node_folder(node.name) / "console.log"

    def reached() -> bool:
        if not running(state, node):
            raise FailedError(
                f"The kernel of {node.name} ended at its start, see {console}: {process.tail(console)}"
            )
        return process.succeeds(shell_command(state, network, node, ["true"]), timeout=3)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(START_SECONDS),
        wait=tenacity.wait_fixed(0.2),
        retry=tenacity.retry_if_result(lambda result: not result),
        retry_error_callback=lambda _: False,
    )
    if not retrying(reached):
        raise FailedError(f"{node.name} did not answer within {START_SECONDS:.0f} s, see {console}.")


def make_key(state: State) -> str:
    """Return the public key of the lab's way in, made at the first call."""
    private = state.folder / "ssh"

    def make(path: Path) -> None:
        process.capture(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)])
        path.with_name(f"{path.name}.pub").rename(state.folder / "ssh.pub")

    cache.kept(private, make)
    return (state.folder / "ssh.pub").read_text()


def shell_command(state: State, network: Network, node: Node, command: list[str]) -> list[str]:
    """Return the command that runs `command` on the node as root and ends with its exit code."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        # the namespace is the lab's own: nobody else can answer there
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "IdentitiesOnly": "yes",
    }
    return [
        *(*network.enter, "ssh", "-F", "none", "-i", str(state.folder / "ssh")),
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
        *(["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []),
        f"root@{node.at.management}",
        shlex.join(command),
    ]


def must_run(state: State, node: Node) -> None:
    """Raise NotUpError unless the node's kernel runs."""
    if not running(state, node):
        raise NotUpError(f"{node.name} is not running: `python -m lab reboot {node.name}` starts it.")
