"""The network of a lab: one namespace, two bridges, two links a node; addresses are pure.

Called by cluster.py. Everything is inside the namespace lab-NAME, which has no way to the outside, so
several labs may use the same addresses. The first link of a node carries the cluster and is the one that
`cut` cuts; the second is the way in for `exec` and stays.
"""

from dataclasses import dataclass
from pathlib import Path

from lab import process
from lab.controlplane import POD_RANGE, SERVICE_RANGE
from lab.errors import UnmetError

GATEWAY = "10.77.0.1"
MANAGEMENT_GATEWAY = "10.78.0.1"
BRIDGES = {"cluster": GATEWAY, "management": MANAGEMENT_GATEWAY}
# A bridge that is never up: what a node sends there goes nowhere. Taking the link itself down would do,
# but this kernel's network driver does not come back from a failed write.
NOWHERE = "nowhere"
LAST_INDEX = 200


@dataclass(frozen=True)
class Addresses:
    """What follows from a node's number (1 to 200) in its lab."""

    index: int

    @property
    def cluster(self) -> str:
        """The node's address in the cluster."""
        return f"10.77.0.{10 + self.index}"

    @property
    def management(self) -> str:
        """The address at which `exec` reaches the node."""
        return f"10.78.0.{10 + self.index}"

    @property
    def pods(self) -> str:
        """The range of the node's pods."""
        return f"10.244.{self.index}.0/24"

    @property
    def links(self) -> dict[str, str]:
        """The node's two links: name of the bridge to name of the tap."""
        return {"cluster": f"node{self.index}", "management": f"manage{self.index}"}

    @property
    def macs(self) -> dict[str, str]:
        """The hardware addresses of the links: with new ones at each boot, peers would seek the old ones."""
        return {bridge: f"02:00:00:00:{number:02x}:{self.index:02x}" for number, bridge in enumerate(BRIDGES)}


class Network:
    """The network namespace of the lab called `name`."""

    def __init__(self, name: str) -> None:
        self.namespace = f"lab-{name}"
        self.path = Path("/run/netns") / self.namespace

    @property
    def enter(self) -> list[str]:
        """What stands before a command that is to run inside; the process keeps its id."""
        return ["nsenter", f"--net={self.path}", "--"]

    def exists(self) -> bool:
        """Whether the namespace is there."""
        return self.path.exists()

    def _ip(self, *words: str) -> str:
        return process.capture(["ip", "-n", self.namespace, *words])

    def _has(self, device: str) -> bool:
        return process.succeeds(["ip", "-n", self.namespace, "link", "show", device])

    def create(self) -> None:
        """Make the namespace and the bridges, as far as they are not there."""
        if not Path("/dev/net/tun").exists():
            raise UnmetError("/dev/net/tun is missing: load the kernel module tun, or pass the device in.")
        if not self.exists():
            process.capture(["ip", "netns", "add", self.namespace])
        self._ip("link", "set", "lo", "up")
        for bridge, address in BRIDGES.items():
            if not self._has(bridge):
                self._ip("link", "add", bridge, "type", "bridge")
            self._ip("address", "replace", f"{address}/24", "dev", bridge)
            self._ip("link", "set", bridge, "up")
        if not self._has(NOWHERE):
            self._ip("link", "add", NOWHERE, "type", "bridge")
        # pods of one node reach pods of another through here
        process.capture([*self.enter, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])

    def add_node(self, at: Addresses) -> None:
        """Make a node's links, up, and the way to its pods."""
        for bridge, tap in at.links.items():
            if not self._has(tap):
                self._ip("tuntap", "add", tap, "mode", "tap")
            self._ip("link", "set", tap, "master", bridge)
            self._ip("link", "set", tap, "up")
        self._ip("route", "replace", at.pods, "via", at.cluster)

    def remove_node(self, at: Addresses) -> None:
        """Remove a node's links and the way to its pods, as far as they are there."""
        for tap in at.links.values():
            if self._has(tap):
                self._ip("link", "delete", tap)
        process.succeeds(["ip", "-n", self.namespace, "route", "delete", at.pods])

    def set_link(self, at: Addresses, *, up: bool) -> None:
        """Mend (or cut) the link that carries the cluster."""
        self._ip("link", "set", at.links["cluster"], "master", "cluster" if up else NOWHERE)

    def is_cut(self, at: Addresses) -> bool:
        """Whether the link that carries the cluster was cut."""
        return f" master {NOWHERE} " in self._ip("-o", "link", "show", at.links["cluster"])

    def processes(self) -> list[int]:
        """Return the ids of all processes inside."""
        return (
            [int(pid) for pid in process.capture(["ip", "netns", "pids", self.namespace]).split()]
            if self.exists()
            else []
        )

    def destroy(self) -> None:
        """Remove the namespace and with it every link and route."""
        if self.exists():
            process.capture(["ip", "netns", "delete", self.namespace])


def settings(at: Addresses) -> dict[str, str]:
    """Return the network part of a node's node.env."""
    return {
        "ADDRESS": at.cluster,
        "MANAGEMENT": at.management,
        "GATEWAY": GATEWAY,
        "POD_RANGE": POD_RANGE,
        "SERVICE_RANGE": SERVICE_RANGE,
    }
