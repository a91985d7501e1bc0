"""Operator and admission as processes, and the nodes around them: what the tests of them write and read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hauberk.crds.names import SECURITY_PROFILES
from kubernetes import client

from lab.controlplane import free_ports
from tests.kube.accounts import Object

GROUP, VERSION = "hauberk.dev", "v1alpha1"
BOOT = "11111111-2222-3333-4444-555555555555"
POLICY = "profile {name} {{\n  file,\n  deny {folder}/** w,\n}}\n"


def eventually(what: Callable[[], Any], within: float = 60) -> Any:
    """Return what a function returns once that is true; what is not there yet is not yet."""
    end = time.monotonic() + within
    while True:
        last: object = None
        try:
            if found := what():
                return found
        except (AssertionError, KeyError, client.ApiException) as error:
            last = error
        assert time.monotonic() < end, f"not within {within:g} s; last: {last}"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    """End a process that may have ended before."""
    if process:
        process.send_signal(how)
        process.wait(timeout=30)


class Cluster:
    """The API server with a few nodes in it, and operator and admission as processes that can be ended.

    `taboo` are the words that their logs must not have: a right that is missing, or a bug.
    """

    TABOO = ("Traceback", "forbidden")

    def __init__(self, api: client.CustomObjectsApi, core: client.CoreV1Api, folder: Path) -> None:
        self.api, self.core, self.folder = api, core, folder
        self.log, self.admission_log = folder / "operator.log", folder / "admission.log"
        self.port, *probes = free_ports(3)
        self.probes: dict[str, int] = dict(zip(("main", "admission"), probes, strict=True))
        self.operator: subprocess.Popen[bytes] | None = None
        self.admission: subprocess.Popen[bytes] | None = None
        self.taboo: tuple[str, ...] = self.TABOO
        self.pod = ""  # of the operator; with one it keeps the agents

    # --- the processes ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what does not run."""
        if self.operator is None:
            self.operator = self.run("main", "hauberk-operator", self.log)
        if self.admission is None:
            self.admission = self.run(
                "admission",
                "hauberk-admission",
                self.admission_log,
                WEBHOOK_PORT=str(self.port),
                WEBHOOK_NAMES="localhost",
                LINGER_SECONDS="0",
            )

    def run(self, module: str, account: str, log: Path, **settings: str) -> subprocess.Popen[bytes]:
        """Start one of Hauberk's programs with the rights of its account."""
        kubeconfig = str(self.folder / f"{account}.kubeconfig")
        probes = str(self.probes[module])
        given = {"KUBECONFIG": kubeconfig, "NAMESPACE": "hauberk-system", "PROBES_PORT": probes}
        environment = {**os.environ, **given, **settings}
        if module == "main":
            environment["POD_NAME"] = self.pod
        with log.open("ab") as written:
            return subprocess.Popen(
                [sys.executable, "-m", f"hauberk.operator.{module}"],
                env=environment,
                stderr=written,
                stdout=written,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop both, the operator first: it has to write as it ends."""
        self.stop_operator(how)
        self.stop_admission(how)

    def stop_operator(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.operator = end(self.operator, how)

    def stop_admission(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.admission = end(self.admission, how)

    def pids(self) -> list[int]:
        """Return the programs that run."""
        return [one.pid for one in (self.operator, self.admission) if one and one.poll() is None]

    def forget(self) -> None:
        """Begin with empty logs."""
        self.taboo = self.TABOO
        for log in (self.log, self.admission_log):
            log.write_text("")

    def clear(self) -> None:
        """Delete all objects that tests write, whether or not the programs run."""
        self.core.delete_collection_node()
        self.api.delete_collection_cluster_custom_object(GROUP, VERSION, "profilenodes")
        self.api.delete_collection_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES)
        for one in self.names(SECURITY_PROFILES):  # after the deletion nobody may put a finalizer on
            change = {"metadata": {"finalizers": None}}
            try:
                self.api.patch_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, one, change)
            except client.ApiException as error:
                if error.status != 404:
                    raise
        eventually(lambda: not self.names(SECURITY_PROFILES))

        def none_left() -> bool:
            self.api.delete_collection_cluster_custom_object(GROUP, VERSION, "profilerevisions")
            return not self.names("profilerevisions")

        eventually(none_left)

    def names(self, plural: str) -> list[str]:
        """Return the names of a kind's objects."""
        listed: Any = self.api.list_cluster_custom_object(GROUP, VERSION, plural)
        return [one["metadata"]["name"] for one in listed["items"]]

    # --- objects ------------------------------------------------------------------------------------------

    def apply(self, name: str, folder: str = "/tmp", **spec: Any) -> None:
        """Create a profile, or replace its spec."""
        policy = spec.pop("policy", POLICY.format(name=name, folder=folder))
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "SecurityProfile",
            "metadata": {"name": name},
            "spec": {"type": "AppArmor", "appArmor": {"policy": policy}, **spec},
        }
        try:
            self.api.create_cluster_custom_object(GROUP, VERSION, "securityprofiles", body)
        except client.ApiException as error:
            if error.status != 409:
                raise
            self.api.patch_cluster_custom_object(GROUP, VERSION, "securityprofiles", name, body)

    def get(self, plural: str, name: str) -> dict[str, Any]:
        found: Any = self.api.get_cluster_custom_object(GROUP, VERSION, plural, name)
        return found

    def is_gone(self, plural: str, name: str) -> bool:
        try:
            self.get(plural, name)
        except client.ApiException as error:
            return error.status == 404
        return False

    def delete(self, plural: str, name: str) -> None:
        self.api.delete_cluster_custom_object(GROUP, VERSION, plural, name)

    def revisions(self, profile: str) -> list[dict[str, Any]]:
        """Return a profile's revisions, the wanted one first."""
        listed: Any = self.api.list_cluster_custom_object(
            GROUP, VERSION, "profilerevisions", label_selector=f"hauberk.dev/profile={profile}"
        )
        found = listed["items"]
        return sorted(found, key=lambda one: one["spec"]["placement"]["sequence"], reverse=True)

    def installation(self) -> str:
        """Return the UID of the definition of SecurityProfiles."""
        definitions = client.ApiextensionsV1Api(self.core.api_client)
        found: Any = definitions.read_custom_resource_definition(f"securityprofiles.{GROUP}")
        return found.metadata.uid

    def events(self, profile: str, reason: str) -> list[Any]:
        """Return the Events on a profile that give a reason."""
        about = f"involvedObject.name={profile},reason={reason}"
        listed: Any = self.core.list_namespaced_event("default", field_selector=about)
        return listed.items

    def ready(self, name: str) -> tuple[str, str]:
        """Return status and reason of Ready, of the current generation only."""
        body = self.get("securityprofiles", name)
        for one in body["status"]["conditions"]:
            if one["type"] == "Ready" and one["observedGeneration"] == body["metadata"]["generation"]:
                return one["status"], one["reason"]
        return "", ""

    def message(self, name: str, kind: str = "Ready") -> str:
        """Return what a condition says."""
        found = [
            one for one in self.get("securityprofiles", name)["status"]["conditions"] if one["type"] == kind
        ]
        return found[0]["message"] if found else ""

    def node(self, name: str, *, ready: bool = True) -> None:
        """Make a node, or change whether it is Ready."""
        labels = {"kubernetes.io/os": "linux"}
        body = client.V1Node(metadata=client.V1ObjectMeta(name=name, labels=labels))
        try:
            self.core.create_node(body)
        except client.ApiException as error:
            if error.status != 409:
                raise
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now, "reason": "Test"}
        info = dict.fromkeys(
            (
                "architecture",
                "containerRuntimeVersion",
                "kernelVersion",
                "kubeProxyVersion",
                "kubeletVersion",
                "machineID",
                "operatingSystem",
                "osImage",
                "systemUUID",
            ),
            "",
        )
        status = {"conditions": [condition], "nodeInfo": {**info, "bootID": BOOT}}
        self.core.patch_node_status(name, {"status": status})

    def report(
        self, node: str, /, orphans: Object | None = None, repairs: Object | None = None, **profiles: str
    ) -> None:
        """Write a report as the agent of a node with AppArmor would."""
        held = {name.replace("_", "-"): f"{digest}/enforce/0123456789" for name, digest in profiles.items()}
        section = {"profiles": held, "problems": {}, "orphans": orphans or {}, "repairs": repairs or {}}
        self.tell(node, {"appArmor": {"enabled": True}}, appArmor=section)

    def tell(self, node: str, facts: Object, **sections: Object) -> None:
        """Write a node's whole report."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ProfileNode",
            "metadata": {"name": node},
            "status": {"bootID": BOOT, "facts": facts, **sections},
        }
        try:
            self.api.create_cluster_custom_object(GROUP, VERSION, "profilenodes", body)
        except client.ApiException as error:
            if error.status != 409:
                raise
            there = self.get("profilenodes", node)
            body["metadata"] = {"name": node, "resourceVersion": there["metadata"]["resourceVersion"]}
            self.api.replace_cluster_custom_object(GROUP, VERSION, "profilenodes", node, body)


def publish(cluster: Cluster, name: str, folder: str = "/tmp") -> str:
    """Apply a profile, report it from both nodes and return its revision once it is Ready."""
    cluster.apply(name, folder)
    digest = eventually(lambda: cluster.revisions(name))[0]["spec"]["content"]["digest"]
    for node in ("one", "two"):
        cluster.report(node, **{name.replace("-", "_"): digest})
    eventually(lambda: cluster.ready(name) == ("True", "Ready"))
    return digest
