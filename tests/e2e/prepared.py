"""A lab with Hauberk's image on its nodes, and Hauberk installed on it.

Used by `python -m tests.e2e`, by its tests and by `python -m tests.corpus`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from lab.cluster import Lab
from lab.progress import Progress
from tests.e2e.cluster import SYSTEM, kubectl, ok

ROOT = Path(__file__).parents[2]
IMAGE = "hauberk.dev/hauberk:0.1.0"
# The saved store of a lab that Hauberk has never been installed on.
BEFORE = "before-hauberk"
WORKLOADS = ("deployment/hauberk-operator", "daemonset/hauberk-agent")


def lab(name: str, *words: str) -> None:
    """Run a command of a lab.

    Raises:
        CalledProcessError: it failed; what it said went to the terminal.
    """
    subprocess.run([sys.executable, "-m", "lab", "--name", name, *words], cwd=ROOT, check=True)


def prepare(name: str, nodes: str) -> None:
    """Bring a lab up, as far as it is not, and load the image of this folder's sources into its nodes."""
    archive = ROOT / "build" / "image.tar"
    archive.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    lab(name, "up", "--nodes", nodes)
    lab(name, "build", "--tag", IMAGE, "--output", str(archive), str(ROOT))
    lab(name, "load", str(archive))
    sys.stderr.write(f"lab and image: {time.monotonic() - began:.0f} s\n")


def save_store_before(name: str) -> None:
    """Keep what the API stores before Hauberk is installed for the first time, for tests that put it back."""
    there = kubectl("get", "namespace", SYSTEM).code == 0
    if not there and BEFORE not in Lab(name, Progress(terminal=False)).state.stores():
        lab(name, "store", "save", BEFORE)


def install(*, restart: bool) -> None:
    """Install Hauberk as its users do, and wait until every node has reported.

    `restart` what runs already: an image that was loaded anew has the same tag.
    """
    there = kubectl("get", WORKLOADS[0], f"--namespace={SYSTEM}").code == 0
    ok(kubectl("apply", "--kustomize", "deploy"))
    if there and restart:
        ok(kubectl("rollout", "restart", f"--namespace={SYSTEM}", *WORKLOADS))
    for what in WORKLOADS:
        ok(kubectl("wait", "--for=create", what, f"--namespace={SYSTEM}", "--timeout=60s"))
        ok(kubectl("rollout", "status", what, f"--namespace={SYSTEM}", "--timeout=120s"))
