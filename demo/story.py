"""What the demo does, step by step, and what it shows at the end.

Called by `__main__`; the cluster behind it is one of `clusters`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from .clusters import ROOT, DemoError, Road

PROFILE = "k8s-apparmor-example-deny-write"
POLICY = ROOT / "profiles" / "library" / f"{PROFILE}.yaml"
NAMESPACE = "hauberk-demo"
WAIT = "120s"


@dataclass
class Story:
    """One run of the demo on one road."""

    road: Road
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def tell(self) -> None:
        """Go from nothing to a denied write, and leave the cluster up.

        Raises:
            DemoError: a step failed, or the kernel did not deny the write.
        """
        with self._step(f"A cluster ({self.road.name})"):
            self.road.up()
        with self._step("The image, onto every node"):
            self.road.load_image()
        with self._step("kubectl apply -k deploy/"):
            self._install()
        with self._step(f"kubectl apply -f profiles/library/{PROFILE}.yaml"):
            self._kubectl("apply", "--filename", str(POLICY))
            ready = f"--for=condition=Ready secprof/{PROFILE}"
            self._kubectl("wait", *ready.split(), f"--timeout={WAIT}")
        with self._step("A pod with the profile and one without, on each node with AppArmor"):
            nodes = self._start_pods()
        denied = [self._try_to_write(node) for node in nodes]
        self._show(all(denied))

    # --- steps --------------------------------------------------------------------------------------------

    def _install(self) -> None:
        before = self._names("deployments,daemonsets")
        self._kubectl("apply", "--kustomize", str(ROOT / "deploy"))
        if before:  # a demo that runs again has a new image under the old tag
            self._kubectl("--namespace=hauberk-system", "rollout", "restart", *before)
        for what in (
            "deployment/hauberk-operator",
            "deployment/hauberk-admission",
            "daemonset/hauberk-agent",
        ):
            self._kubectl("--namespace=hauberk-system", "wait", "--for=create", what, f"--timeout={WAIT}")
            self._kubectl("--namespace=hauberk-system", "rollout", "status", what, f"--timeout={WAIT}")

    def _names(self, kinds: str) -> list[str]:
        found = self._json("--namespace=hauberk-system", "get", kinds)
        return [f"{one['kind'].lower()}/{one['metadata']['name']}" for one in found["items"]]

    def _start_pods(self) -> list[str]:
        """Start two pods on each node with AppArmor and return the nodes."""
        reports = self._json("get", "profilenodes")["items"]
        nodes = [
            one["metadata"]["name"] for one in reports if one["status"]["facts"]["appArmor"].get("enabled")
        ]
        if not nodes:
            raise DemoError("no node of this cluster has AppArmor; see `kubectl get profilenodes`")
        pods = [
            pod(node, confined=confined, image=self.road.busybox) for node in nodes for confined in (1, 0)
        ]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self._kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        listed = {"apiVersion": "v1", "kind": "List", "items": [namespace, *pods]}
        self._kubectl("apply", "--filename=-", given=json.dumps(listed))
        self._kubectl(
            f"--namespace={NAMESPACE}", "wait", "--for=condition=Ready", "pod", "--all", f"--timeout={WAIT}"
        )
        return nodes

    def _try_to_write(self, node: str) -> bool:
        """Show what happens to a write on a node; return whether it was denied as it should be."""
        results = {name: self._touch(f"{name}-{node}") for name in ("confined", "free")}
        for name, result in results.items():
            told = result.stderr.strip().splitlines()[0] if result.returncode else "written"
            self.console.print(f"{node:<10} {name:<9} touch /tmp/hello: {told}", markup=False)
        denied = "Permission denied" in results["confined"].stderr
        return denied and results["free"].returncode == 0

    def _touch(self, name: str) -> subprocess.CompletedProcess[str]:
        words = (f"--namespace={NAMESPACE}", "exec", name, "--", "touch", "/tmp/hello")  # noqa: S108
        return subprocess.run(self.road.kubectl(*words), capture_output=True, text=True, check=False)

    def _show(self, denied: bool) -> None:
        self.console.print()
        self._kubectl("get", "secprof,profilenodes", quiet=False)
        counts = self._json("get", "secprof", PROFILE)["status"]["nodes"]
        told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        self.console.print(f"\nnodes: {told}")
        if not denied:
            raise DemoError(
                "the profile is loaded, but a write went as it should not: this cluster's container runtime "
                "does not enforce AppArmor (kind on many machines does not)"
            )
        kubectl = " ".join(self.road.kubectl()).replace(str(ROOT) + "/", "")
        self.console.print("\nThe cluster stays up. What to try next:")
        for words in (
            f"{kubectl} describe secprof {PROFILE}",
            f"{kubectl} explain secprof.spec",
            f"{kubectl} apply -f profiles/library/",
            "make demo-down",
        ):
            self.console.print(f"  {words}", markup=False)

    # --- tools --------------------------------------------------------------------------------------------

    def _kubectl(self, *words: str, given: str | None = None, quiet: bool = True) -> None:
        """Run kubectl; quiet: what it says is shown only when it fails.

        Raises:
            DemoError: it failed.
        """
        done = subprocess.run(
            self.road.kubectl(*words), input=given, capture_output=quiet, text=True, check=False
        )
        if done.returncode:
            said = f": {(done.stderr or done.stdout).strip()}" if quiet else ""
            raise DemoError(f"kubectl {' '.join(words)} failed{said}")

    def _json(self, *words: str) -> Any:
        done = subprocess.run(
            self.road.kubectl(*words, "--output=json"), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"kubectl {' '.join(words)} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    @contextmanager
    def _step(self, title: str) -> Generator[None]:
        began = time.monotonic()
        self.console.print(f"[bold]== {title}[/]")
        yield
        self.console.print(f"   done in {time.monotonic() - began:.0f} s")


def pod(node: str, *, confined: int, image: str) -> dict[str, Any]:
    """Return a pod on a node that sleeps, with the profile or without."""
    container: dict[str, Any] = {
        "name": "shell",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "86400"],
    }
    if confined:
        profile = {"type": "Localhost", "localhostProfile": PROFILE}
        container["securityContext"] = {"appArmorProfile": profile}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{'confined' if confined else 'free'}-{node}", "namespace": NAMESPACE},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
