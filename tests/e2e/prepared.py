"""A lab with this source's image on its nodes, and Hauberk installed on it.

Used by `python -m tests.e2e` and its tests, by `python -m tests.chaos` and by `python -m tests.corpus`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import tools
from lab.cluster import Lab
from lab.progress import Progress
from tests.e2e.cluster import SYSTEM, command, kubectl, ok

ROOT = Path(__file__).parents[2]
IMAGE = "hauberk.dev/hauberk:0.1.0"
ARCHIVE = ROOT / "build" / "image.tar"
# The saved store of a lab that Hauberk has never been installed on.
BEFORE = "before-hauberk"
# What tests of upgrades come from, its tree and its image: made by `build_previous`.
PREVIOUS = ROOT / "build" / "previous"
PREVIOUS_IMAGE = "hauberk.dev/hauberk:previous"
PREVIOUS_ARCHIVE = ROOT / "build" / "previous.tar"
RELEASE = ("hauberk", "--namespace=kube-system")
WORKLOADS = ("deployment/hauberk-operator", "deployment/hauberk-admission", "daemonset/hauberk-agent")


def lab(*words: str) -> None:
    """Run a command of the lab that LAB_NAME names.

    Raises:
        CalledProcessError: it failed; what it said went to the terminal.
    """
    subprocess.run([sys.executable, "-m", "lab", *words], cwd=ROOT, check=True)


def state() -> Lab:
    """Return the lab that LAB_NAME names."""
    return Lab(os.environ["LAB_NAME"], Progress(terminal=False))


@contextmanager
def lab_with_image(name: str, nodes: Sequence[str], *, used: bool = False) -> Generator[None]:
    """Bring up a lab with these kinds of nodes and this source's image, and end it afterwards.

    LAB_NAME, where set, names it, else `name`. KEEP_LAB leaves it up, so that the next run starts quicker;
    so does `used` where it was up before.

    Raises:
        CalledProcessError: a step failed.
    """
    os.environ.setdefault("LAB_NAME", name)
    keep = bool(os.environ.get("KEEP_LAB")) or (used and state().state.exists())
    ARCHIVE.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    try:
        if with_helm():  # from inside of the lab there is no way out to modules
            lab("tools")
        lab("up", "--nodes", ",".join(nodes))
        lab("build", "--tag", IMAGE, "--output", str(ARCHIVE), str(ROOT))
        lab("load", str(ARCHIVE))
        sys.stderr.write(f"lab and image: {time.monotonic() - began:.0f} s\n")
        yield
    finally:
        if not keep:
            lab("down")


def build_previous() -> None:
    """Take the commit that UPGRADE_FROM names, the one before this if none, and build its image.

    Outside of the lab's network: from there no packages can be had.

    Raises:
        CalledProcessError: a step failed.
    """
    commit = os.environ.get("UPGRADE_FROM", "HEAD~1")
    taken = subprocess.run(
        ("git", "archive", "--format=tar", commit), cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    shutil.rmtree(PREVIOUS, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(taken.stdout)) as tree:
        tree.extractall(PREVIOUS, filter="tar")  # the chart has links
    lab("build", "--tag", PREVIOUS_IMAGE, "--output", str(PREVIOUS_ARCHIVE), str(PREVIOUS))


def save_store_before() -> None:
    """Keep what the API stores before Hauberk is installed for the first time, for tests that put it back."""
    there = kubectl("get", "namespace", SYSTEM).code == 0
    if not there and BEFORE not in state().state.stores():
        lab("store", "save", BEFORE)


def with_helm() -> bool:
    """Return whether INSTALL asks for the chart, instead of kustomize."""
    return os.environ.get("INSTALL") == "helm"


def _helm(*words: str) -> None:
    program = tools.find("helm")
    assert program, "no helm: run `python -m lab tools`"
    ok(command(str(program), *words))


def install(*, restart: bool) -> None:
    """Install Hauberk as its users do, and wait until every node has reported.

    `restart` what runs already: an image that was loaded anew has the same tag.
    """
    there = kubectl("get", WORKLOADS[0], f"--namespace={SYSTEM}").code == 0
    if with_helm():
        _helm("upgrade", "--install", *RELEASE, "deploy/chart", "--take-ownership")
    else:
        ok(kubectl("apply", "--kustomize", "deploy"))
    if there and restart:
        ok(kubectl("rollout", "restart", f"--namespace={SYSTEM}", *WORKLOADS))
    for what in WORKLOADS:
        ok(kubectl("wait", "--for=create", what, f"--namespace={SYSTEM}", "--timeout=60s"))
        ok(kubectl("rollout", "status", what, f"--namespace={SYSTEM}", "--timeout=120s"))


def uninstall() -> None:
    """Take the operator and the admission away as users do; what outlives them stays."""
    if with_helm():
        _helm("uninstall", *RELEASE)
    else:
        ok(kubectl("delete", "--kustomize", "deploy/operator", "--timeout=60s"))
