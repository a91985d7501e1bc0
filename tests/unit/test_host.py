"""The node's files, on a tree like the kernel's; and the backend that works on them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hauberk.crds.errors import Fault, NodeFault
from hauberk.crds.reasons import Reason
from hauberk.daemonset import holdings
from hauberk.daemonset.apparmor import AppArmor
from hauberk.daemonset.facts import gather, os_release
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Host, Loaded
from hauberk.daemonset.plan import Load, Persist, Prune, Remove
from hauberk.profiles import compiled
from hauberk.profiles.parser import Parser
from hypothesis import given
from hypothesis import strategies as st


class Tree:
    """A node's files below a folder; `removed` is what was written to the kernel's `.remove`."""

    def __init__(self, root: Path) -> None:
        self.host = Host(
            securityfs=root / "security",
            policies=root / "apparmor.d",
            state=root / "state",
            proc=root / "proc",
            os_release=root / "os-release",
        )
        self.put(root / "security/lsm", "lockdown,capability,apparmor,bpf")
        self.put(self.host.apparmor / ".replace", "")
        self.put(self.host.apparmor / "features/domain/change_hat", "yes\n")
        self.put(root / "proc/sys/kernel/random/boot_id", "boot-1\n")
        self.put(root / "os-release", 'ID=debian\nVERSION_ID="13"\n')
        # a pipe behind `.remove`, because the kernel's file takes one name a write
        self.read, self.write = os.pipe()
        (self.host.apparmor / ".remove").symlink_to(f"/proc/self/fd/{self.write}")

    def put(self, file: Path, text: str | bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def loaded(self, name: str, mode: str = "enforce", *, parent: Path | None = None, **hashes: str) -> Path:
        folder = parent or self.host.apparmor / "policy"
        entry = folder / "profiles" / f"mangled.{len(list(folder.glob('profiles/*')))}"
        self.put(entry / "name", name + "\n")
        self.put(entry / "mode", mode + "\n")
        for file, value in hashes.items():
            self.put(entry / file, value + "\n")
        return entry

    def task(self, pid: int, label: str, file: str = "attr/apparmor/current") -> None:
        self.put(self.host.proc / str(pid) / "task" / str(pid) / file, label)

    @property
    def removed(self) -> bytes:
        os.set_blocking(self.read, False)
        try:
            return os.read(self.read, 65536)
        except BlockingIOError:
            return b""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    os.close(made.read)
    os.close(made.write)


# --- the kernel's tree -------------------------------------------------------------------------------------


def test_the_kernels_tree_is_read_by_its_names(tree: Tree):
    parent = tree.loaded("a b", raw_sha1="one", raw_sha256="two")
    child = tree.loaded("c (x)", "complain", parent=parent, raw_sha1="three")
    tree.loaded("d", "kill", parent=child)
    tree.loaded("/usr/bin/man", "unconfined")
    assert tree.host.kernel() == {
        "a b": Loaded("enforce", "two"),
        "a b//c (x)": Loaded("complain", "three"),
        "a b//c (x)//d": Loaded("kill", None),
        "/usr/bin/man": Loaded("unconfined", None),
    }


def test_a_profile_that_goes_while_it_is_read_is_not_there(tree: Tree):
    entry = tree.loaded("a")
    tree.loaded("b")
    (entry / "mode").unlink()
    assert tree.host.kernel() == {"b": Loaded("enforce")}


def test_a_kernel_without_policy_holds_nothing(tree: Tree):
    assert tree.host.kernel() == {}


def test_names_that_are_no_text_are_told_apart(tree: Tree):
    for name in (b"\xff\n", b"\xfe\n"):
        tree.put(tree.loaded("x") / "name", name)
    assert {os.fsencode(name) for name in tree.host.kernel()} == {b"\xff", b"\xfe"}


@pytest.mark.parametrize(
    ("lsm", "replace", "has"),
    [
        ("capability,apparmor", True, True),
        ("capability,apparmor", False, False),
        ("capability,selinux", True, False),
        ("", True, False),
    ],
)
def test_apparmor_must_be_there_and_on(tree: Tree, lsm: str, replace: bool, has: bool):
    tree.put(tree.host.securityfs / "lsm", lsm)
    if not replace:
        (tree.host.apparmor / ".replace").unlink()
    assert tree.host.has_apparmor() is has
    assert gather(tree.host).app_armor.enabled is has
    assert bool(gather(tree.host).app_armor.features) is has


def test_the_features_have_one_digest_whatever_their_order(tree: Tree, tmp_path: Path):
    other = Tree(tmp_path / "other")
    for one, files in ((tree, ("a/x", "b")), (other, ("b", "a/x"))):
        for file in files:
            one.put(one.host.apparmor / "features" / file, file)
    assert tree.host.features() == other.host.features()
    tree.put(tree.host.apparmor / "features/b", "more")
    assert tree.host.features() != other.host.features()
    os.close(other.read)
    os.close(other.write)


def test_a_node_without_files_has_facts_all_the_same(tmp_path: Path):
    host = Host(*(tmp_path / name for name in ("security", "policies", "state", "proc", "os")))
    facts = gather(host)
    assert (facts.os.id, facts.lsms, facts.app_armor.enabled, host.boot_id()) == ("", [], False, "")


def test_the_kernel_is_read_anew_when_its_count_of_changes_moved(tree: Tree):
    tree.loaded("a")
    tree.put(tree.host.apparmor / "revision", "1\n")
    assert set(tree.host.kernel()) == {"a"}
    tree.loaded("b")  # a kernel does not change without counting it
    assert set(tree.host.kernel()) == {"a"}
    tree.put(tree.host.apparmor / "revision", "2\n")
    assert set(tree.host.kernel()) == {"a", "b"}


@pytest.mark.parametrize(
    ("label", "profiles"),
    [
        ("unconfined", []),
        ("", []),
        ("a (enforce)", ["a"]),
        ("a (enforce)\n", ["a"]),
        ("a (enforce)\0", ["a"]),
        ("a b (x) (complain)", ["a b (x)"]),
        ("a//c (enforce)", ["a//c"]),
        ("a//&b (enforce)", ["a", "b"]),
        ("a//&unconfined (mixed)", ["a"]),
        ("a//c//&b//d (kill)", ["a//c", "b//d"]),
        ("/usr/bin/man (enforce)", ["/usr/bin/man"]),
    ],
)
def test_a_task_is_confined_by_each_profile_of_its_label(tree: Tree, label: str, profiles: list[str]):
    tree.task(7, label)
    assert dict(tree.host.confined()) == dict.fromkeys(profiles, 1)


def test_tasks_are_counted_and_those_that_end_are_not(tree: Tree):
    for pid, label in ((1, "unconfined"), (2, "a (enforce)"), (3, "a (enforce)"), (4, "b (enforce)")):
        tree.task(pid, label)
    (tree.host.proc / "5").mkdir()
    tree.put(tree.host.proc / "self/attr/apparmor/current", "c (enforce)")
    tree.task(6, "d (enforce)", "attr/current")
    assert dict(tree.host.confined()) == {"a": 2, "b": 1, "d": 1}


def test_threads_are_tasks_too(tree: Tree):
    tree.task(7, "unconfined")
    tree.put(tree.host.proc / "7/task/8/attr/apparmor/current", "a//hat (enforce)")
    assert dict(tree.host.confined()) == {"a//hat": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("", "", "")),
        ('ID=debian\nVERSION_ID="13"\n', ("debian", "13", "")),
        ("ID='rhel'\nID_LIKE=\"fedora centos\"\n", ("rhel", "", "fedora centos")),
        ("# ID=no\nID=arch\n\nnonsense\n", ("arch", "", "")),
        ('ID="unclosed\nVERSION_ID=1', ("", "1", "")),
        ("ID=" + "x" * 100, ("x" * 64, "", "")),
        ("ID=a=b", ("a=b", "", "")),
        ("ID=", ("", "", "")),
        ("ID=one\nID=two", ("two", "", "")),
    ],
)
def test_os_release(text: str, found: tuple[str, str, str]):
    one = os_release(text)
    assert (one.id, one.version, one.like) == found


@given(st.text(max_size=300))
def test_any_os_release_is_read(text: str):
    one = os_release(text)
    assert all(len(field) <= 64 for field in (one.id, one.version, one.like))


# --- its disk ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_file_is_written_whole_and_leaves_nothing_else(tree: Tree, tmp_path: Path):
    folder = tmp_path / "new/folder"
    tree.host.write(folder, "hauberk.a", "one")
    tree.host.write(folder, "hauberk.a", "two ä")
    assert contents(folder) == {"hauberk.a": "two ä"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Tests may run as root, whom no mode stops: so the system call itself fails, as on a full disk."""
    tree.host.write(tmp_path / "d", "hauberk.a", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        tree.host.write(tmp_path / "d", "hauberk.a", "new")
    assert contents(tmp_path / "d") == {"hauberk.a": "old"}


def test_a_folder_that_can_not_be_made_is_an_os_error(tree: Tree, tmp_path: Path):
    tree.put(tmp_path / "file", "x")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        tree.host.write(tmp_path / "file/d", "hauberk.a", "new")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "A", "a b", "a\n", "-x", "a\0"])
def test_only_names_of_its_own_are_touched(tree: Tree, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.write(tmp_path, name, "x")
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.link(tmp_path, name, "x")
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.delete(tmp_path, name)


def test_a_link_takes_the_place_of_what_was_there(tree: Tree, tmp_path: Path):
    folder = tmp_path / "force-complain"
    tree.host.write(folder, "hauberk.a", "a file")
    for target in ("../hauberk.a", "../other"):
        tree.host.link(folder, "hauberk.a", target)
        assert (folder / "hauberk.a").readlink() == Path(target)
    assert [file.name for file in folder.iterdir()] == ["hauberk.a"]
    tree.host.delete(folder, "hauberk.a")
    tree.host.delete(folder, "hauberk.a")
    assert list(folder.iterdir()) == []


# --- records -----------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    modes=st.dictionaries(texts, st.sampled_from(["enforce", "complain"]), min_size=1, max_size=3),
    text=texts,
    former=st.lists(texts, max_size=2),
)
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, modes: dict[str, str], text: str, former: list[str]
):
    host = Host(state=tmp_path_factory.getbasetemp() / "records")
    one = Holding("p", "uid", "d1", "Enforce", text, modes, ["sha"], "boot", boots=False, former=former)
    holdings.write(host, one)
    assert holdings.read(host) == ({"p": one}, [])


def record(profile: str = "p") -> Holding:
    return Holding(profile, "uid", "d1", "Enforce", "x", {profile: "enforce"}, ["sha"], "boot-1", boots=True)


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"profile": "q"}',
        msgspec.json.encode(record("other")),
        msgspec.json.encode(record("q"))[:-5],
    ],
)
def test_what_is_no_record_is_set_aside(tree: Tree, torn: bytes):
    holdings.write(tree.host, record())
    tree.put(holdings.folder(tree.host) / "q.json", torn)
    found, faults = holdings.read(tree.host)
    assert found == {"p": record()}
    assert [fault.reason for fault in faults] == [Reason.STATE_TORN]
    assert (holdings.folder(tree.host) / "q.torn").read_bytes() == torn
    assert holdings.read(tree.host) == ({"p": record()}, [])


def test_other_files_are_left_alone(tree: Tree):
    folder = holdings.folder(tree.host)
    for name in (".p.json.new", "p.torn", "readme"):
        tree.put(folder / name, "x")
    assert holdings.read(tree.host) == ({}, [])
    assert len(list(folder.iterdir())) == 3


def test_a_record_without_names_is_set_aside(tree: Tree):
    holdings.write(tree.host, msgspec.structs.replace(record(), modes={}))
    found, faults = holdings.read(tree.host)
    assert (found, len(faults)) == ({}, 1)


# --- the backend -------------------------------------------------------------------------------------------

TEXT = "profile p { profile c { file, } file, }"


def step(text: str = TEXT, mode: str = "Enforce") -> Load:
    return Load(profile="p", uid="uid", revision="d1", mode=mode, text=text)


async def taken(tree: Tree, parser: Parser, text: str = TEXT, mode: str = "Enforce") -> Holding:
    """Return the record of a profile that the kernel holds already, so that nothing has to be loaded."""
    binary = await parser.compile(text, mode)
    digest = max(compiled.digests(binary), key=len)
    entry = tree.loaded("p", "complain" if mode == "Complain" else "enforce", raw_sha256=digest)
    tree.loaded("c", "complain" if mode == "Complain" else "enforce", parent=entry, raw_sha256=digest)
    backend = AppArmor(tree.host, parser)
    held = await backend.load(step(text, mode), {})
    assert holdings.read(tree.host) == ({}, [])
    await backend.persist(Persist(held))
    return held


@pytest.mark.parametrize("mode", ["Enforce", "Complain"])
async def test_what_the_kernel_holds_already_is_recorded_and_not_loaded(
    tree: Tree, parser: Parser, mode: str
):
    held = await taken(tree, parser, mode=mode)
    assert holdings.read(tree.host) == ({"p": held}, [])
    assert held.modes == dict.fromkeys(("p", "p//c"), mode.lower())
    assert held.boots


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("profile p {", Reason.POLICY_REFUSED),
        ("profile p { include /etc/passwd\n }", Reason.INCLUDE_REFUSED),
        ("profile p /bin/x { }", Reason.ATTACHMENT_REFUSED),
        ("profile runc { }", Reason.NAME_PROTECTED),
        (TEXT, Reason.HOST_OWNED),
    ],
)
async def test_a_load_that_fails_records_nothing(tree: Tree, parser: Parser, text: str, reason: Reason):
    tree.loaded("p", raw_sha1="the host's")
    with pytest.raises(Fault) as caught:
        await AppArmor(tree.host, parser).load(step(text), {})
    # what the node is at fault for is tried again, a text is not
    assert isinstance(caught.value, NodeFault) == (reason is Reason.HOST_OWNED)
    assert caught.value.reason is reason
    assert holdings.read(tree.host) == ({}, [])
    assert tree.removed == b""


async def test_a_name_of_another_profile_is_told_with_its_owner(tree: Tree, parser: Parser):
    with pytest.raises(NodeFault, match="SecurityProfile other holds the kernel name p here") as caught:
        await AppArmor(tree.host, parser).load(
            step(), {"other": msgspec.structs.replace(record("other"), modes={"p": "enforce"})}
        )
    assert caught.value.reason is Reason.NAME_CLASH


@pytest.mark.parametrize("mode", ["Enforce", "Complain"])
async def test_what_is_persisted_is_known_again_and_forgotten(tree: Tree, parser: Parser, mode: str):
    backend = AppArmor(tree.host, parser)
    assert backend.boot_files() == {}
    held = await taken(tree, parser, mode=mode)
    assert backend.boot_files() == {"p": "d1"}
    link = tree.host.policies / "force-complain/hauberk.p"
    assert link.is_symlink() is (mode == "Complain")
    text = (tree.host.policies / "hauberk.p").read_text()
    assert text.startswith("# Written by Hauberk for SecurityProfile p, revision d1.\n")
    assert sorted(await parser.names(text)) == ["p", "p//c"]
    tree.task(1, "unconfined", "attr/current")
    backend.remove(Remove(held))
    assert backend.boot_files() == {}
    assert not link.is_symlink()
    assert holdings.read(tree.host) == ({}, [])


async def test_a_removal_takes_children_first_and_what_earlier_texts_left(tree: Tree, parser: Parser):
    held = msgspec.structs.replace(await taken(tree, parser), former=["old", "gone"])
    tree.loaded("old")
    tree.loaded("host")
    AppArmor(tree.host, parser).remove(Remove(held))
    removed = tree.removed.decode()
    assert removed.startswith("p//c")
    assert sorted(removed.replace("p//c", "p//c ").replace("old", " old ").split()) == ["old", "p", "p//c"]


@pytest.mark.parametrize("label", ["p (enforce)", "p//c (enforce)", "x//&p (enforce)", "old (enforce)"])
async def test_nothing_is_removed_while_a_task_is_confined(tree: Tree, parser: Parser, label: str):
    held = msgspec.structs.replace(await taken(tree, parser), former=["old"])
    tree.loaded("old")
    tree.task(7, label)
    tree.task(8, label)
    with pytest.raises(NodeFault, match="2 tasks are confined by ") as caught:
        AppArmor(tree.host, parser).remove(Remove(held))
    assert caught.value.reason is Reason.IN_USE
    assert tree.removed == b""
    assert set(holdings.read(tree.host)[0]) == {"p"}


async def test_a_prune_removes_only_what_it_was_told(tree: Tree, parser: Parser):
    held = msgspec.structs.replace(await taken(tree, parser), former=["old"])
    pruned = AppArmor(tree.host, parser).prune(Prune(held, ("old",)))
    assert tree.removed == b"old"
    assert pruned.former == []
    await AppArmor(tree.host, parser).persist(Persist(pruned))
    assert holdings.read(tree.host) == ({"p": pruned}, [])


async def test_a_disk_that_takes_no_record_is_told(tree: Tree, parser: Parser):
    tree.put(tree.host.state, "a file where the folder belongs")
    with pytest.raises(NodeFault, match="took no record of it") as caught:
        await taken(tree, parser)
    assert caught.value.reason is Reason.STATE_UNWRITABLE
