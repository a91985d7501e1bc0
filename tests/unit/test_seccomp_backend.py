"""The seccomp backend: files in a folder like the kubelet's, read back, guarded and watched."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx2
import msgspec
import pytest
from hauberk.crds.errors import ClusterFault, Fault, InputFault, NodeFault
from hauberk.crds.models import decode
from hauberk.crds.names import SECCOMP
from hauberk.crds.pods import PodObject
from hauberk.crds.reasons import Reason
from hauberk.daemonset.cluster import Cluster, localhost_profiles
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.plan import Load, Persist, Release, Remove, mismatch
from hauberk.daemonset.seccomp import Seccomp
from hypothesis import given
from hypothesis import strategies as st

from tests.answering import connected
from tests.unit.node import BOOT, Tree, contents

TEXT = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
OTHER = TEXT.replace("mkdir", "rmdir")
REFERENCE = "hauberk/p.json"


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def step(text: str = TEXT, profile: str = "p", *, drift: str = "") -> Load:
    return Load(
        profile=profile,
        uid=f"uid-{profile}",
        revision=hash_of(text)[:10],
        mode="Enforce",
        text=text,
        installation="here",
        drift=drift,
    )


class Pods:
    """The API's answer on pods: what they name, or nothing where it is away; `asked` counts questions."""

    def __init__(self) -> None:
        self.named: dict[str, list[str]] = {}
        self.away = False
        self.asked = 0

    async def __call__(self) -> Mapping[str, Sequence[str]]:
        self.asked += 1
        if self.away:
            raise ClusterFault(Reason.UPDATING, "the node's pods were not listed: timed out")
        return self.named


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def backend(tree: Tree, pods: Pods) -> Seccomp:
    return Seccomp(tree.host, pods)


async def loaded(
    backend: Seccomp, *steps: Load, held: Mapping[str, Holding] | None = None
) -> tuple[dict[str, Holding], dict[str, Fault]]:
    """Return what came of texts that are loaded at once: records and faults, by profile."""
    ready = [await backend.prepare(one) for one in steps]
    outcome = await backend.carry_out([], ready, held or {})
    assert outcome.keys() == {one.key for one in steps}
    records = {key.profile: one for key, one in outcome.items() if isinstance(one, Holding)}
    faults = {key.profile: one for key, one in outcome.items() if isinstance(one, Fault)}
    assert len(records) + len(faults) == len(steps)
    return records, faults


async def held_one(backend: Seccomp, profile: str = "p") -> Holding:
    records, _ = await loaded(backend, step(profile=profile))
    await backend.persist(Persist(records[profile]))
    return records[profile]


# --- load --------------------------------------------------------------------------------------------------


async def test_a_profile_is_written_where_pods_name_it_and_read_back(backend: Seccomp):
    records, faults = await loaded(backend, step())
    assert faults == {}
    assert (backend.host.seccomp / REFERENCE).read_text() == TEXT
    holding = records["p"]
    assert (holding.type, holding.modes, holding.digests, holding.boot_id) == (
        SECCOMP,
        {REFERENCE: "enforce"},
        [hash_of(TEXT)],
        BOOT,
    )
    assert backend.loaded({}) == {REFERENCE: Loaded("enforce", hash_of(TEXT))}
    assert mismatch(holding, backend.loaded({}), BOOT) == ""


async def test_many_are_written_in_one_go(backend: Seccomp):
    records, _ = await loaded(backend, *(step(profile=name) for name in "abc"))
    assert records.keys() == set("abc")
    assert contents(backend.folder) == {f"{name}.json": TEXT.encode() for name in "abc"}


async def test_a_text_is_judged_again_on_the_node(backend: Seccomp):
    with pytest.raises(InputFault, match="there is no system call mkdri"):
        await backend.prepare(step(TEXT.replace("mkdir", "mkdri")))


async def test_where_the_kubelet_looks_elsewhere_nothing_is_called_loaded(tree: Tree, pods: Pods):
    backend = Seccomp(tree.host, pods, "/data/kubelet")
    with pytest.raises(NodeFault, match=r"has its files in /data/kubelet, .* set KUBELET_DIR") as caught:
        await backend.prepare(step())
    assert caught.value.reason is Reason.LOAD_FAILED


async def test_what_is_there_as_it_should_be_is_not_written_again(backend: Seccomp):
    holding = await held_one(backend)
    before = (backend.folder / "p.json").stat()
    records, _ = await loaded(backend, step(), held={"p": holding})
    assert records == {"p": holding}
    assert (backend.folder / "p.json").stat() == before


async def test_an_update_takes_the_place_of_what_was_there(backend: Seccomp):
    holding = await held_one(backend)
    records, _ = await loaded(backend, step(OTHER), held={"p": holding})
    assert (backend.folder / "p.json").read_text() == OTHER
    assert records["p"].digests == [hash_of(OTHER)]
    assert mismatch(holding, backend.loaded({}), BOOT).startswith("the kubelet's folder holds another policy")


def a_file(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "p.json").write_text(OTHER)
    return folder / "p.json"


def a_link(folder: Path) -> Path:
    file = a_file(folder)
    file.rename(folder.parent / "theirs.json")
    file.symlink_to("../theirs.json")
    return file


def a_link_to_nothing(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "p.json").symlink_to("nowhere")
    return folder / "p.json"


def a_folder(folder: Path) -> Path:
    (folder / "p.json").mkdir(parents=True)
    return folder / "p.json"


@pytest.mark.parametrize("theirs", [a_file, a_link, a_link_to_nothing, a_folder])
async def test_what_others_put_there_is_refused_and_left_as_it_is(
    backend: Seccomp, theirs: Callable[[Path], Path]
):
    file = theirs(backend.folder)
    before = file.lstat()
    records, faults = await loaded(backend, step(), step(profile="q"))
    assert records.keys() == {"q"}
    assert faults["p"].reason is Reason.HOST_OWNED
    assert f"a file {REFERENCE} that Hauberk did not write" in faults["p"].message
    assert file.lstat() == before
    assert [one.profile for one in backend.records.announced()] == ["q"]


async def test_what_is_in_the_kubelets_own_folder_is_no_matter(backend: Seccomp):
    backend.host.seccomp.mkdir(parents=True)
    (backend.host.seccomp / "p.json").write_text(OTHER)
    records, _ = await loaded(backend, step())
    assert records.keys() == {"p"}
    assert (backend.host.seccomp / "p.json").read_text() == OTHER


async def test_a_file_whose_record_was_lost_is_taken_over_where_it_is_the_same(backend: Seccomp):
    await loaded(backend, step())
    before = (backend.folder / "p.json").stat()
    records, faults = await loaded(backend, step(), held={})
    assert (records.keys(), faults) == ({"p"}, {})
    assert (backend.folder / "p.json").stat() == before


@pytest.mark.parametrize("theirs", [a_link, a_link_to_nothing])
async def test_a_link_in_the_place_of_its_own_file_is_drift_and_replaced(
    backend: Seccomp, theirs: Callable[[Path], Path]
):
    holding = await held_one(backend)
    shutil.rmtree(backend.folder)
    theirs(backend.folder)
    assert mismatch(holding, backend.loaded({}), BOOT).startswith("the kubelet's folder holds another policy")
    records, _ = await loaded(backend, step(drift="changed"), held={"p": holding})
    assert records.keys() == {"p"}
    assert not (backend.folder / "p.json").is_symlink()
    assert (backend.folder / "p.json").read_text() == TEXT


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_told_and_leaves_the_last_good_one(
    backend: Seccomp, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    holding = await held_one(backend)
    monkeypatch.setattr(type(tree.host), "write", full)
    _, faults = await loaded(backend, step(OTHER), held={"p": holding})
    assert (faults["p"].reason, faults["p"].message) == (
        Reason.STATE_UNWRITABLE,
        "not written to the kubelet's folder: No space left on device",
    )
    assert mismatch(holding, backend.loaded({}), BOOT) == ""
    with pytest.raises(NodeFault, match="the node's disk took no record of it: No space left"):
        await backend.persist(Persist(holding))


async def test_what_was_written_and_is_not_there_is_not_called_loaded(
    backend: Seccomp, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    """A disk that takes everything and keeps nothing of it."""
    monkeypatch.setattr(type(tree.host), "write", Mock())
    _, faults = await loaded(backend, step())
    assert (faults["p"].reason, faults["p"].message) == (
        Reason.NOT_IN_KERNEL,
        f"after it was written the kubelet's folder does not hold {REFERENCE}",
    )


# --- records -----------------------------------------------------------------------------------------------


async def test_it_is_announced_before_it_is_written_and_recorded_afterwards(backend: Seccomp):
    records, _ = await loaded(backend, step())
    assert [one.profile for one in backend.records.announced()] == ["p"]
    assert backend.records.read() == ({}, [])
    await backend.persist(Persist(records["p"]))
    (backend.folder / ".q.json.new").write_text("half a fi")
    backend.settle([], [])
    assert backend.records.announced() == []
    assert backend.records.read() == (records, [])
    assert contents(backend.folder).keys() == {"p.json"}  # what a kill cut off is swept away
    assert (backend.set_aside(), backend.boot_files()) == ([], {})


# --- removal -----------------------------------------------------------------------------------------------


async def removed(backend: Seccomp, one: Remove | Release) -> Exception | Holding | None:
    return (await backend.carry_out([one], [], {"p": one.holding}))[one.key]


async def test_what_no_pod_names_is_deleted_and_forgotten(backend: Seccomp, pods: Pods):
    holding = await held_one(backend)
    pods.named = {"hauberk/q.json": ["pod a/b"], "p.json": ["pod a/c"]}
    assert await removed(backend, Remove(holding)) is None
    assert contents(backend.folder) == {}
    assert backend.records.read() == ({}, [])
    assert await removed(backend, Remove(holding)) is None  # as good as done already


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["a/x"], "pod a/x names it"),
        (["a/y", "a/x"], "pod a/x, pod a/y name it"),
        ([f"a/x{number}" for number in range(5)], "pod a/x0, pod a/x1, pod a/x2 and 2 more name it"),
    ],
)
async def test_what_pods_name_stays_and_the_pods_are_told(
    backend: Seccomp, pods: Pods, named: list[str], told: str
):
    holding = await held_one(backend)
    pods.named = {REFERENCE: [f"pod {one}" for one in named]}
    fault = await removed(backend, Remove(holding))
    assert isinstance(fault, NodeFault)
    assert (fault.reason, fault.message) == (Reason.IN_USE, told)
    assert mismatch(holding, backend.loaded({}), BOOT) == ""
    assert backend.records.read()[0].keys() == {"p"}


async def test_while_the_api_is_away_nothing_is_deleted(backend: Seccomp, pods: Pods):
    holding = await held_one(backend)
    pods.away = True
    assert isinstance(await removed(backend, Remove(holding)), ClusterFault)
    assert mismatch(holding, backend.loaded({}), BOOT) == ""
    assert backend.records.read()[0].keys() == {"p"}


async def test_by_force_it_is_deleted_at_once_whoever_names_it(backend: Seccomp, pods: Pods):
    """What runs keeps its filter: there is nothing to put in its place."""
    holding = await held_one(backend)
    pods.named, pods.away = {REFERENCE: ["pod a/b"]}, True
    assert await removed(backend, Release(holding)) is None
    assert pods.asked == 0
    assert (contents(backend.folder), backend.records.read()) == ({}, ({}, []))


async def test_a_removal_that_fails_holds_up_no_other_step(backend: Seccomp, pods: Pods):
    used, unused = await held_one(backend, "used"), await held_one(backend, "unused")
    pods.named = {"hauberk/used.json": ["pod a/b"]}
    steps = [Remove(used), Remove(unused)]
    ready = await backend.prepare(step(profile="new"))
    outcome = await backend.carry_out(steps, [ready], {"used": used, "unused": unused})
    assert isinstance(outcome[steps[0].key], NodeFault)
    assert outcome[steps[1].key] is None
    assert isinstance(outcome[ready.step.key], Holding)
    assert contents(backend.folder).keys() == {"used.json", "new.json"}


async def test_a_disk_that_deletes_nothing_is_told(
    backend: Seccomp, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    holding = await held_one(backend)

    def no(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(tree.host), "delete", no)
    fault = await removed(backend, Remove(holding))
    assert isinstance(fault, NodeFault)
    assert fault.message == "its file in the kubelet's folder can't be deleted: Read-only file system"


# --- drift -------------------------------------------------------------------------------------------------


def overwrite(backend: Seccomp) -> None:
    (backend.folder / "p.json").write_text(OTHER)


def delete(backend: Seccomp) -> None:
    (backend.folder / "p.json").unlink()


def move_in(backend: Seccomp) -> None:
    (backend.host.seccomp / "theirs").write_text(OTHER)
    (backend.host.seccomp / "theirs").rename(backend.folder / "p.json")


def move_out(backend: Seccomp) -> None:
    (backend.folder / "p.json").rename(backend.host.state / "theirs")


def delete_folder(backend: Seccomp) -> None:
    shutil.rmtree(backend.folder)


def delete_kubelets_folder(backend: Seccomp) -> None:
    shutil.rmtree(backend.host.seccomp)


def move_folder(backend: Seccomp) -> None:
    backend.folder.rename(backend.host.state / "theirs")


def move_kubelets_folder(backend: Seccomp) -> None:
    backend.host.seccomp.rename(backend.host.state / "theirs")


@pytest.mark.parametrize(
    "change",
    [
        *(overwrite, delete, move_in, move_out, delete_folder, delete_kubelets_folder, move_folder),
        move_kubelets_folder,
    ],
)
async def test_what_others_change_is_told_at_once_and_can_be_mended(
    backend: Seccomp, change: Callable[[Seccomp], None]
):
    holding = await held_one(backend)
    changed = asyncio.Event()
    with backend.changes(changed):
        for round_ in range(3):  # also in a folder that is another than at the start
            await told(changed)
            change(backend)
            async with asyncio.timeout(5):
                while not mismatch(holding, backend.loaded({}), BOOT):
                    await changed.wait()
                await changed.wait()
            await loaded(backend, step(drift=f"{round_}"), held={"p": holding})
            assert mismatch(holding, backend.loaded({}), BOOT) == ""
            shutil.rmtree(backend.host.state / "theirs", ignore_errors=True)


async def told(changed: asyncio.Event) -> None:
    """Return once nothing more is told: what was done before has been heard."""
    while True:
        changed.clear()
        for _ in range(20):
            await asyncio.sleep(0)
        if not changed.is_set():
            return


async def test_what_changes_before_the_first_word_is_told_too(backend: Seccomp):
    """The loop reads at once: what comes after that and before the watch would wait for a minute."""
    await held_one(backend)
    changed = asyncio.Event()
    with backend.changes(changed):
        delete(backend)
        async with asyncio.timeout(5):
            await changed.wait()


async def test_a_folder_that_can_not_be_made_ends_nothing(backend: Seccomp):
    backend.host.seccomp.parent.mkdir(parents=True)
    backend.host.seccomp.write_text("a file where the folder belongs")
    with backend.changes(asyncio.Event()):
        assert backend.loaded({}) == {}
        _, faults = await loaded(backend, step())
    assert faults["p"].reason is Reason.STATE_UNWRITABLE


# --- what pods name ----------------------------------------------------------------------------------------


def named(profile: str, kind: str = "Localhost") -> dict[str, Any]:
    return {"securityContext": {"seccompProfile": {"type": kind, "localhostProfile": profile}}}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({}, set[str]()),
        ({"spec": {"containers": [{}]}}, set()),
        ({"spec": {"containers": [{"securityContext": None}], "initContainers": None}}, set()),
        ({"spec": {"containers": [{"securityContext": {"seccompProfile": None}}]}}, set()),
        ({"spec": {"containers": [{"securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}}, set()),
        ({"spec": named("a")}, {"a"}),
        ({"spec": {"containers": [named("a"), named("b"), named("a")]}}, {"a", "b"}),
        ({"spec": {"containers": [{}], "initContainers": [named("a")]}}, {"a"}),
        ({"spec": {"containers": [{}], "ephemeralContainers": [named("a")]}}, {"a"}),
        ({"spec": {**named("a"), "containers": [named("b")]}}, {"a", "b"}),
        ({"spec": named("a"), "status": {"phase": "Pending"}}, {"a"}),
        ({"spec": named("a"), "status": {"phase": "Running"}}, {"a"}),
        ({"spec": named("a"), "status": {"phase": "Unknown"}}, {"a"}),
        ({"spec": named("a"), "status": {"phase": "Succeeded"}}, set()),
        ({"spec": named("a"), "status": {"phase": "Failed"}}, set()),
    ],
)
def test_what_a_pod_names(pod: dict[str, Any], expected: set[str]):
    assert localhost_profiles(decode(PodObject, {"metadata": {"name": "p"}, **pod})) == expected


KINDS = st.sampled_from(["initContainers", "containers", "ephemeralContainers"])


@given(st.lists(st.tuples(KINDS, st.sampled_from(["", "a", "b", "c"])), max_size=8), st.booleans())
def test_a_profile_that_any_container_names_is_found(containers: list[tuple[str, str]], ended: bool):
    spec: dict[str, list[dict[str, Any]]] = {}
    for kind, profile in containers:
        spec.setdefault(kind, []).append(named(profile) if profile else {"name": "x"})
    pod = {
        "metadata": {"name": "p"},
        "spec": spec,
        "status": {"phase": "Succeeded" if ended else "Running"},
    }
    expected = set[str]() if ended else {profile for _, profile in containers if profile}
    assert localhost_profiles(decode(PodObject, pod)) == expected


def a_pod(name: str, profile: str, phase: str = "Running") -> dict[str, Any]:
    containers = [{"name": "c", "securityContext": {"seccompProfile": {"localhostProfile": profile}}}]
    spec = {"containers": containers, "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": {"phase": phase}}


def cluster(answer: Callable[[httpx2.Request], httpx2.Response]) -> Cluster:
    return Cluster(connected(answer), "n1", "hauberk-system")


async def test_the_nodes_own_pods_are_asked_for_in_all_namespaces():
    pods = a_pod("x", REFERENCE), a_pod("y", REFERENCE), a_pod("z", "q.json"), a_pod("e", REFERENCE, "Failed")
    asked: list[httpx2.URL] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url)
        return httpx2.Response(200, json={"metadata": {"resourceVersion": "7"}, "items": pods})

    found = await cluster(answer).seccomp_profiles()
    assert found == {REFERENCE: ["pod ns/x", "pod ns/y"], "q.json": ["pod ns/z"]}
    (url,) = asked
    # not by a version: what the API server has in memory may be too old to delete a file by
    assert (url.path, dict(url.params)) == ("/api/v1/pods", {"fieldSelector": "spec.nodeName=n1"})


async def test_a_pod_that_can_not_be_read_may_name_any_file():
    pods = [a_pod("x", REFERENCE), {"metadata": {"name": "later"}, "spec": {"containers": "none"}}]
    body = {"metadata": {"resourceVersion": "7"}, "items": pods}
    with pytest.raises(ClusterFault, match="the node's pods were not all read: later"):
        await cluster(lambda _: httpx2.Response(200, json=body)).seccomp_profiles()


@pytest.mark.parametrize("error", [httpx2.ConnectError("refused"), TimeoutError(), OSError("gone")])
async def test_an_api_that_does_not_answer_is_a_fault_of_the_cluster(error: Exception):
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise error

    with pytest.raises(ClusterFault, match="the node's pods were not listed"):
        await cluster(answer).seccomp_profiles()


def test_a_record_of_the_same_file_is_the_same_after_a_restart(backend: Seccomp):
    holding = asyncio.run(held_one(backend))
    again = Seccomp(backend.host, backend.pods)
    assert again.records.read()[0] == {"p": holding}
    assert mismatch(msgspec.structs.replace(holding, boot_id=""), again.loaded({}), "another") == ""
