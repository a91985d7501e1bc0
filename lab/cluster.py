"""One lab as a whole: what each command does to it.

Called by commands.py. Ties together state, network, control plane and nodes; every change of the lab
is done under the lab's lock, and can be cut short at any point: `down` cleans up whatever is there.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from lab import binaries, cache, deps, node, process, rootfs
from lab.controlplane import CONTROL_PLANE, ControlPlane
from lab.errors import FailedError, NotUpError, UnmetError, UsageError
from lab.network import LAST_INDEX, Network
from lab.node import Joining
from lab.progress import Progress
from lab.state import Node, State, free_index, free_name

DEFAULT_KINDS = ("debian12", "debian13", "selinux")
LOGS = ("kubelet", "kube-proxy", "containerd", "kernel")
READY_SECONDS = 120.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lab:
    """The lab called `name`."""

    def __init__(self, name: str, progress: Progress) -> None:
        must_be_a_name(name, "a lab")
        self.name = name
        self.progress = progress
        self.state = State(name)
        self.network = Network(name)

    # --- the whole

    def up(self, kinds: Sequence[str], given: Path | None, memory_mib: int) -> None:
        """Bring the lab up with one node for each of `kinds`; what runs already is left as it is."""
        deps.check()
        wanted = [rootfs.kind(name) for name in kinds]
        if self.network.exists() and not self.state.exists():
            raise UnmetError(
                f"The network namespace {self.network.namespace} is taken: "
                f"free it by `python -m lab --name {self.name} down` or take another --name."
            )
        folder = binaries.ensure(given, self.progress.note)
        with self.progress.step("disks"):
            disks = dict(each({kind.name: kind for kind in wanted}.values(), self._disk_maker(folder)))
        with self.state.changing():
            self.state.set_setting("binaries", str(folder))
            self.state.set_setting("memory", str(memory_mib))
            with self.progress.step("control plane"):
                self.network.create()
                self._start_control_plane(CONTROL_PLANE)
            for name in missing_kinds(kinds, [found.kind for found in self.state.nodes()]):
                self._remember_node(name, disks[name], Joining())
            with self.progress.step("nodes"):
                nodes = self.state.nodes()
                each([one for one in nodes if not node.running(self.state, one)], self._boot)
                self._wait_joined(nodes)

    def down(self) -> None:
        """Stop everything and remove every trace but the cache; nothing to do is no error."""
        if self.state.exists():
            with self.state.changing():
                self._stop_all()
        else:
            self._stop_all()

    def _stop_all(self) -> None:
        with self.progress.step("stopping"):
            # what is going to be thrown away needs no time to write anything out
            each(self.state.processes().values(), process.kill_group)
            # what a command that was cut short had started and not yet written down
            each(self._strangers(), lambda found: process.stop(found, grace=1))
            self.network.destroy()
            self.state.remove()

    def _strangers(self) -> list[process.Process]:
        mine = process.ancestors()
        found = [process.identify(pid) for pid in self.network.processes() if pid not in mine]
        return [one for one in found if one]

    # --- control plane

    def _start_control_plane(self, components: Sequence[str]) -> None:
        plane = self.control_plane()
        try:
            plane.start(components)
        finally:
            for component, found in plane.running.items():
                self.state.set_process(component, found)

    def control_plane(self) -> ControlPlane:
        """Return the lab's control plane, with those of its processes that run."""
        folder = self.state.folder / "control-plane"
        plane = ControlPlane(folder, self.binaries(), node.CLUSTER, enter=self.network.enter)
        processes = self.state.processes()
        plane.running = {name: processes[name] for name in CONTROL_PLANE if name in processes}
        return plane

    def start_components(self, components: Sequence[str]) -> None:
        """Start parts of the control plane and wait until the API is ready."""
        self.must_be_up()
        with self.state.changing():
            self._start_control_plane(components)

    def stop_components(self, components: Sequence[str]) -> None:
        """Stop parts of the control plane."""
        self.must_be_up()
        with self.state.changing():
            plane = self.control_plane()
            plane.stop(components)
            for component in components:
                self.state.set_process(component, None)

    # --- the store

    def save_store(self, name: str) -> None:
        """Keep all that the API server stores, as it is now, under a name; what was kept so is replaced."""
        must_be_a_name(name, "a store")
        self.must_be_up()
        step = self.progress.step(f"saving the store as {name}")
        with self.state.changing(), step, self._store_at_rest() as data:
            copy_folder(data, self.state.store_folder(name))

    def restore_store(self, name: str) -> None:
        """Put the API server's store back to what it was when it was saved; the nodes run on.

        Their kubelets and kube-proxies start again: what they have watched since is ahead of the restored
        store, and they would take no notice of it until it has caught up.
        """
        self.must_be_up()
        saved = self.state.store_folder(name)
        if not saved.is_dir():
            there = ", ".join(self.state.stores())
            raise UsageError(f"There is no saved store {name}: {there or 'none'} can be restored.")
        with self.state.changing(), self.progress.step(f"restoring the store {name}"):
            with self._store_at_rest() as data:
                copy_folder(saved, data)
            nodes = [found for found in self.state.nodes() if node.running(self.state, found)]
            each(nodes, lambda found: self.capture(found, ["sh", "-c", "kill $(pidof kubelet kube-proxy)"]))
            self._wait_ready([found for found in nodes if not self.network.is_cut(found.at)])

    @contextlib.contextmanager
    def _store_at_rest(self) -> Generator[Path]:
        """Yield etcd's folder while nothing uses it; what ran before runs again afterwards.

        All of the control plane ends: the scheduler and the controllers, too, remember what they have seen.
        """
        plane = self.control_plane()
        running = [component for component in CONTROL_PLANE if plane.is_running(component)]
        plane.stop(CONTROL_PLANE, grace=1)
        for component in CONTROL_PLANE:
            self.state.set_process(component, None)
        try:
            yield plane.files.data
        finally:
            self._start_control_plane(running)

    # --- nodes

    def add(self, kind: str, joining: Joining) -> Node:
        """Join a new node of this kind and return it once it is Ready."""
        self.must_be_up()
        disk = rootfs.disk(rootfs.kind(kind), self.binaries(), self.progress.note)
        with self.state.changing(), self.progress.step(f"adding a node of kind {kind}"):
            added = self._remember_node(kind, disk, joining)
            self._boot(added)
            self._wait_joined([added])
        return added

    def remove(self, name: str) -> None:
        """End a node at once and delete its Node object."""
        found = self.node(name)
        with self.state.changing(), self.progress.step(f"removing {name}"):
            self._power_off(found)
            self.network.remove_node(found.at)
            self.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")
            self.state.remove_node(name)

    def reboot(self, name: str) -> None:
        """Shut a node down in good order and start it again; the disk is kept. Returns when it is Ready."""
        found = self.node(name)
        with self.state.changing(), self.progress.step(f"rebooting {name}"):
            running = self.state.process(f"node-{name}")
            if running and process.alive(running):
                # the connection may end before the answer: the process' end is what counts
                process.succeeds(self.shell(found, ["setsid", "-f", "/lab/halt"]))
                if not process.wait_end(running, 20):
                    raise FailedError(f"{name} did not shut down within 20 s: `python -m lab crash {name}`.")
            self._power_off(found)
            self._boot(found)
            self._wait_ready([found])

    def crash(self, name: str) -> None:
        """Cut a node's power: its kernel ends at once, what it had not written is lost."""
        found = self.node(name)
        with self.state.changing():
            self._power_off(found)

    def set_link(self, name: str, *, up: bool) -> None:
        """Cut or mend the link that carries the cluster."""
        self.network.set_link(self.node(name).at, up=up)

    def node(self, name: str) -> Node:
        """Return the node of this name; raises UsageError that lists those that are there."""
        self.must_be_up()
        nodes = {found.name: found for found in self.state.nodes()}
        if name not in nodes:
            raise UsageError(f"There is no node {name}: the lab has {', '.join(nodes) or 'none'}.")
        return nodes[name]

    def _power_off(self, found: Node) -> None:
        running = self.state.process(f"node-{found.name}")
        if running:
            process.kill_group(running)
        self.state.set_process(f"node-{found.name}", None)

    def _remember_node(self, kind: str, disk: Path, joining: Joining) -> Node:
        nodes = self.state.nodes()
        index = free_index({found.index for found in nodes})
        if index > LAST_INDEX:
            raise UsageError(f"A lab has room for {LAST_INDEX} nodes.")
        added = Node(free_name(kind, {found.name for found in nodes}), kind, index)
        folder = self.state.node_folder(added.name)
        credentials = self.control_plane().credentials
        node.write_files(added, joining, folder, credentials, node.make_key(self.state))
        node.link_disk(folder, disk)
        self.state.add_node(added)
        return added

    def _boot(self, found: Node) -> None:
        memory_mib = int(self.state.setting("memory") or node.MEMORY_MIB)
        node.boot(self.state, self.network, found, memory_mib)
        self.progress.note(f"{found.name} runs, waiting for Ready")

    def _disk_maker(self, folder: Path) -> Callable[[rootfs.Kind], tuple[str, Path]]:
        return lambda kind: (kind.name, rootfs.disk(kind, folder, self.progress.note))

    def _wait_joined(self, nodes: Sequence[Node]) -> None:
        """Wait until nodes that only the lab's own programs have run on are Ready.

        A kernel in user mode that stands still at its start is the lab's own fault, no finding about what
        is tested on it: it is told with all that is known of it, and started once more.
        """
        late = self._late(nodes)
        if late:
            again = [one for one in nodes if one.name in late]
            for one in again:
                self.progress.note(f"{late_words([one.name])}; once more. {self._last_words(one)}")
                self._power_off(one)
            each(again, self._boot)
            self._wait_ready(nodes)

    def _last_words(self, found: Node) -> str:
        """Return the ends of a node's logs and what runs on it, for somebody who will not find it again."""
        parts = {part: process.tail(self.log(found.name, part), 6) for part in LOGS}
        try:
            running = " | ".join(process.capture(self.shell(found, ["ps", "ax"]), timeout=20).splitlines())
        except FailedError as error:
            running = str(error)
        return "; ".join(f"{part}: {words}" for part, words in {**parts, "processes": running}.items())

    def _wait_ready(self, nodes: Sequence[Node]) -> None:
        late = self._late(nodes)
        if late:
            raise FailedError(
                f"{late_words(late)}; see `python -m lab logs {min(late)} kubelet`. "
                f"{self._last_words(self.node(min(late)))}"
            )

    def _late(self, nodes: Sequence[Node]) -> set[str]:
        """Wait for nodes; return the names of those that are not Ready after READY_SECONDS."""
        boots = {
            one.name: self.capture(one, ["cat", "/proc/sys/kernel/random/boot_id"]).strip() for one in nodes
        }

        def late() -> set[str]:
            return not_ready(self.node_objects(), boots)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(READY_SECONDS),
            wait=tenacity.wait_fixed(0.3),
            retry=tenacity.retry_if_result(bool) | tenacity.retry_if_exception_type(FailedError),
            retry_error_callback=lambda _: late(),
        )
        return retrying(late)

    # --- talking to it

    def must_be_up(self) -> None:
        """Raise NotUpError unless the lab was brought up."""
        if not (self.state.exists() and self.network.exists()):
            raise NotUpError(f"The lab {self.name} is not up: run `python -m lab --name {self.name} up`.")

    def binaries(self) -> Path:
        """Return the folder of Kubernetes' programs that this lab was brought up with."""
        return Path(self.state.setting("binaries") or "")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, good inside the lab's network namespace."""
        return self.state.folder / "control-plane" / "admin.kubeconfig"

    def kubectl(self, *words: str) -> str:
        """Run kubectl as administrator and return what it printed."""
        program = str(self.binaries() / "kubectl")
        return process.capture([*self.network.enter, program, f"--kubeconfig={self.kubeconfig}", *words])

    def node_objects(self) -> list[dict[str, Any]]:
        """Return the Node objects as the API server has them now."""
        return json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]

    def run(self, command: Sequence[str]) -> None:
        """Become `command` inside the network namespace, with KUBECONFIG set; does not return."""
        self.must_be_up()
        path = os.pathsep.join([str(self.binaries()), os.environ.get("PATH", os.defpath)])
        env = {"KUBECONFIG": str(self.kubeconfig), "LAB_NAME": self.name, "PATH": path}
        process.become([*self.network.enter, *command], env)

    def shell(self, found: Node, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` on the node."""
        return node.shell_command(self.state, self.network, found, list(command))

    def capture(self, found: Node, command: Sequence[str]) -> str:
        """Run a command on the node and return what it printed."""
        return process.capture(self.shell(found, command), timeout=600)

    def exec(self, name: str, command: Sequence[str]) -> None:
        """Become `command` on the node, with its input, outputs and exit code; does not return."""
        found = self.node(name)
        node.must_run(self.state, found)
        process.become(self.shell(found, command), {})

    def load(self, archives: Sequence[Path]) -> None:
        """Put image archives into containerd of every node that runs."""
        self.must_be_up()
        for archive in archives:
            if not archive.is_file():
                raise UsageError(f"{archive} is no file: give archives as `docker save` writes them.")
        nodes = [found for found in self.state.nodes() if node.running(self.state, found)]
        with self.progress.step(f"loading {', '.join(path.name for path in archives)}"):
            each(nodes, lambda found: self._load(found, archives))

    def _load(self, found: Node, archives: Sequence[Path]) -> None:
        for number, archive in enumerate(archives):
            name = f"{os.getpid()}-{number}.tar"
            shared = self.state.node_folder(found.name) / "host" / "load" / name
            try:
                link_or_copy(archive.resolve(), shared)
                self.capture(found, ["ctr", "-n", "k8s.io", "images", "import", f"/lab/host/load/{name}"])
            finally:
                shared.unlink(missing_ok=True)
            self.progress.note(f"{found.name} has {archive.name}")

    def status(self) -> dict[str, Any]:
        """Return what there is: name, namespace, kubeconfig, control plane and nodes with their memory."""
        self.must_be_up()
        try:
            ready = {item["metadata"]["name"] for item in self.node_objects() if is_ready(item)}
        except FailedError:  # without the API server nothing is known to be ready
            ready = set[str]()
        processes = self.state.processes()
        plane: dict[str, dict[str, Any]] = {
            name: _process_status(processes.get(name)) for name in CONTROL_PLANE
        }
        nodes: list[dict[str, Any]] = [
            {
                "name": found.name,
                "kind": found.kind,
                "address": found.at.cluster,
                "ready": found.name in ready,
                "cut": self.network.is_cut(found.at),
                "console": str(self.log(found.name, "kernel")),
                **_process_status(processes.get(f"node-{found.name}")),
            }
            for found in self.state.nodes()
        ]
        return {
            "name": self.name,
            "namespace": self.network.namespace,
            "kubeconfig": str(self.kubeconfig),
            "control_plane": plane,
            "nodes": nodes,
            "memory_mib": sum(one["memory_mib"] for one in [*plane.values(), *nodes]),
        }

    def log(self, name: str, part: str) -> Path:
        """Return the file of a node's log; `part` is kubelet, kube-proxy, containerd or kernel."""
        folder = self.state.node_folder(self.node(name).name)
        return folder / "console.log" if part == "kernel" else folder / "host" / "log" / f"{part}.log"


def late_words(names: Iterable[str]) -> str:
    """Return the sentence about nodes that were waited for in vain."""
    return f"Not Ready within {READY_SECONDS:.0f} s: {', '.join(sorted(names))}"


def each(items: Iterable[Item], action: Callable[[Item], Result]) -> list[Result]:
    """Do `action` for all items at the same time; wait for all, then raise the first error if any."""
    found = list(items)
    if not found:
        return []
    pool = ThreadPoolExecutor(len(found))
    futures = [pool.submit(action, item) for item in found]
    try:
        wait(futures)
    finally:  # at Ctrl-C nobody waits for what is under way
        pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


def missing_kinds(wanted: Sequence[str], present: Sequence[str]) -> list[str]:
    """Return those of the wanted kinds that no node stands for yet; a kind may be wanted twice."""
    left = list(present)
    missing: list[str] = []
    for kind in wanted:
        if kind in left:
            left.remove(kind)
        else:
            missing.append(kind)
    return missing


def not_ready(objects: Sequence[dict[str, Any]], boots: Mapping[str, str]) -> set[str]:
    """Return the nodes of `boots` (name to boot id) that are not Ready since that boot.

    A node that went down a moment ago still says Ready, with the boot id of before.
    """
    ready = {
        item["metadata"]["name"]
        for item in objects
        if is_ready(item) and boots.get(item["metadata"]["name"]) == item["status"]["nodeInfo"]["bootID"]
    }
    return set(boots) - ready


def is_ready(item: Mapping[str, Any]) -> bool:
    """Whether a Node object says that the node is ready."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def must_be_a_name(name: str, what: str) -> None:
    """Raise UsageError unless `name` can be the name of a folder and of a network namespace."""
    if not name.replace("-", "").isalnum() or len(name) > 40:
        raise UsageError(f"{name} is no name for {what}: take letters, digits and dashes, 40 at most.")


def copy_folder(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, whatever was there; cut short, it is left either old or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"making-{target.name}")
    cache.remove(temporary)
    shutil.copytree(source, temporary)
    cache.remove(target)
    temporary.rename(target)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where that is another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _process_status(found: process.Process | None) -> dict[str, Any]:
    if found is None or not process.alive(found):
        return {"running": False, "pid": None, "memory_mib": 0}
    return {"running": True, "pid": found.pid, "memory_mib": process.memory_mib(found.pid)}
