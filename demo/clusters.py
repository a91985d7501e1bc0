"""Two roads to a cluster: the lab (real kernels, no Docker) and kind (needs Docker and AppArmor).

Used by `story`. A road knows how to get its cluster, put the image into it and run kubectl against it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parent.parent
IMAGE = "hauberk.dev/hauberk:0.1.0"
LAB_NODES = "debian12,debian13,selinux"


class DemoError(Exception):
    """The demo can't go on; one sentence says what to do."""


class Road(Protocol):
    """A way to a cluster."""

    name: str
    busybox: str

    def up(self) -> None:
        """Bring the cluster up; one that is up is left as it is."""
        ...

    def load_image(self) -> None:
        """Build the image and put it onto every node."""
        ...

    def down(self) -> None:
        """End the cluster."""
        ...

    def kubectl(self, *words: str) -> list[str]:
        """Return the command line that runs kubectl against the cluster."""
        ...


@dataclass
class Lab:
    """The throwaway cluster of lab/: three nodes, two of them with AppArmor and one with SELinux."""

    name: str = "lab"
    busybox: str = "docker.io/library/busybox:lab"

    def up(self) -> None:
        """Bring the lab up."""
        _pass(_lab("up", "--nodes", LAB_NODES))

    def load_image(self) -> None:
        """Build the image without a registry and load it into the nodes."""
        archive = ROOT / "build" / "image.tar"
        archive.parent.mkdir(exist_ok=True)
        _pass(_lab("build", "--tag", IMAGE, "--output", str(archive), str(ROOT)))
        _pass(_lab("load", str(archive)))

    def down(self) -> None:
        """End the lab."""
        _pass(_lab("down"))

    def kubectl(self, *words: str) -> list[str]:
        """Return the command line that runs kubectl within the lab's network."""
        return _lab("run", "--", "kubectl", *words)


@dataclass
class Kind:
    """A single-node kind cluster. Its node shares this machine's kernel, so that must have AppArmor."""

    name: str = "kind"
    busybox: str = "docker.io/library/busybox:stable"
    cluster: str = "hauberk"

    def up(self) -> None:
        """Create the cluster unless it is there."""
        for tool in ("docker", "kind", "kubectl"):
            if not shutil.which(tool):
                raise DemoError(f"{tool} is missing; install it, or use the lab: make demo")
        if not Path("/sys/kernel/security/apparmor/profiles").exists():
            raise DemoError(
                "this machine's kernel has no AppArmor (or securityfs is not mounted), and kind's nodes "
                "share it; use the lab: make demo"
            )
        there = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=True)
        if self.cluster not in there.stdout.split():
            config = str(ROOT / "demo" / "kind.yaml")
            _pass(["kind", "create", "cluster", "--name", self.cluster, "--config", config])

    def load_image(self) -> None:
        """Build the image with docker and load it."""
        _pass(["docker", "build", "--tag", IMAGE, str(ROOT)])
        _pass(["docker", "pull", self.busybox])
        _pass(["kind", "load", "docker-image", "--name", self.cluster, IMAGE, self.busybox])

    def down(self) -> None:
        """Delete the cluster."""
        _pass(["kind", "delete", "cluster", "--name", self.cluster])

    def kubectl(self, *words: str) -> list[str]:
        """Return the command line that runs kubectl in the cluster's context."""
        return ["kubectl", "--context", f"kind-{self.cluster}", *words]


def _lab(*words: str) -> list[str]:
    return [sys.executable, "-m", "lab", "--name", os.environ.get("LAB_NAME", "demo"), *words]


def _pass(command: list[str]) -> None:
    """Run a command whose own output is what the user should see.

    Raises:
        DemoError: it failed; what it said stands above.
    """
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise DemoError(f"`{' '.join(command[-4:])}` ended with {done.returncode}; what it said is above")
