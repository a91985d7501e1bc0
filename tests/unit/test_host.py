"""The node's files: the kernel's tree, its tasks, and the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hauberk.crds.models import Runtime
from hauberk.daemonset.facts import gather, newest_abi, os_release, runtime
from hauberk.daemonset.host import Host, Loaded
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import Tree, contents

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
    assert tree.host.features_digest() == other.host.features_digest()
    tree.put(tree.host.apparmor / "features/b", "more")
    assert tree.host.features_digest() != other.host.features_digest()
    other.close()


def test_the_features_are_named_as_the_kernel_has_them(tree: Tree):
    for file, said in {
        "capability": "0xffffff",
        "caps/mask": " ".join(f"cap{number}" for number in range(41)),
        "ipc/posix_mqueue": "create read write",
        "namespaces/mask": "userns_create",
        "namespaces/pivot_root": "no",
        "namespaces/profile": "yes",
        "query/label/data": "yes",
        "query/label/perms": "allow deny",
    }.items():
        tree.put(tree.host.apparmor / "features" / file, f"{said}\n")
    features = tree.host.features()
    assert [one for one in features if not one.startswith("domain")] == [
        *("capability", "caps", "ipc", "ipc/posix_mqueue"),
        *("namespaces", "namespaces/profile", "namespaces/userns_create"),
        *("query", "query/label", "query/label/data", "query/label/perms"),
    ]


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["3.0", "kernel-5.4-vanilla", "kernel-5.4-outoftree-network"], "3.0"),
        (["3.0", "4.0", "4.10", "4.9"], "4.10"),
        (["kernel-5.4-vanilla"], ""),
        ([], ""),
    ],
)
def test_the_newest_abi(names: list[str], newest: str):
    assert newest_abi(names) == newest


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("containerd://1.7.24", Runtime(name="containerd", version="1.7.24")),
        ("cri-o://1.33.0", Runtime(name="cri-o", version="1.33.0")),
        ("", Runtime()),
        ("x" * 100, Runtime(name="x" * 64)),
    ],
)
def test_the_runtime_as_the_kubelet_calls_it(said: str, found: Runtime):
    assert runtime(said) == found


def test_a_node_without_files_has_facts_all_the_same(tmp_path: Path):
    nowhere = tmp_path / "nowhere"
    host = Host(nowhere, nowhere, nowhere, nowhere, nowhere)
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


# --- SELinux, seccomp, the kubelet -------------------------------------------------------------------------


def test_tasks_are_counted_by_their_selinux_type(tree: Tree):
    contexts = (
        "system_u:system_r:web.process:s0:c1,c2\0",
        "system_u:system_r:web.process:s0:c3,c4\n",
        "u:r:other_t",  # a policy without levels
        "web (enforce)\n",  # AppArmor's
        "",
    )
    for pid, context in enumerate(contexts, start=7):
        tree.task(pid, context, "attr/current")
    tree.put(tree.host.proc / "99/task/99/comm", "it has ended")
    assert tree.host.domains() == {"web.process": 2, "other_t": 1}


def test_seccomp_is_there_where_the_kernel_says_so(tree: Tree):
    assert not tree.host.has_seccomp()
    assert not gather(tree.host).seccomp
    tree.put(tree.host.proc / "sys/kernel/seccomp/actions_avail", "kill_process errno allow\n")
    assert tree.host.has_seccomp()
    assert gather(tree.host).seccomp


def process(tree: Tree, pid: int, command: str, *words: str, numbers: str = "7") -> None:
    folder = tree.host.proc / str(pid)
    tree.put(folder / "comm", f"{command}\n")
    tree.put(folder / "cmdline", "\0".join((f"/usr/bin/{command}", *words)) + "\0")
    tree.put(folder / "status", f"Name:\t{command}\nNSpid:\t{numbers}\nThreads:\t1\n")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ((), ""),
        (("--config=/var/lib/kubelet/config.yaml",), ""),
        (("--root-dir=/data/kubelet", "--v=2"), "/data/kubelet"),
        (("--v=2", "--root-dir", "/data/kubelet"), "/data/kubelet"),
        (("--root-dir=",), ""),
        (("--root-dir",), ""),
        (("--root-dir-of-nothing=/x",), ""),
    ],
)
def test_the_kubelets_folder_is_what_it_was_started_with(tree: Tree, words: tuple[str, ...], folder: str):
    process(tree, 5, "containerd", "--root-dir=/other")
    process(tree, 7, "kubelet", *words)
    assert tree.host.kubelets_folder() == folder


def test_what_a_pod_calls_kubelet_is_none(tree: Tree):
    """It would have files written, and read back, where no runtime ever looks."""
    process(tree, 6, "kubelet", "--root-dir=/of/a/pod", numbers="6\t1")
    assert tree.host.kubelets_folder() == ""
    process(tree, 7, "kubelet", "--root-dir=/data/kubelet")
    assert tree.host.kubelets_folder() == "/data/kubelet"


# --- its disk ----------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_and_leaves_nothing_else(tree: Tree, tmp_path: Path):
    folder = tmp_path / "new/folder"
    tree.host.write(folder, "hauberk.a", b"one")
    tree.host.write(folder, "hauberk.a", b"two")
    assert contents(folder) == {"hauberk.a": b"two"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Tests may run as root, whom no mode stops: so the system call itself fails, as on a full disk."""
    tree.host.write(tmp_path / "d", "hauberk.a", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        tree.host.write(tmp_path / "d", "hauberk.a", b"new")
    assert contents(tmp_path / "d") == {"hauberk.a": b"old"}


def test_a_folder_that_can_not_be_made_is_an_os_error(tree: Tree, tmp_path: Path):
    tree.put(tmp_path / "file", "x")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        tree.host.write(tmp_path / "file/d", "hauberk.a", b"new")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "A", "a b", "a\n", "-x", "a\0"])
def test_only_names_of_its_own_are_touched(tree: Tree, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.write(tmp_path, name, b"x")
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.link(tmp_path, name, "x")
    with pytest.raises(ValueError, match="not a file name"):
        tree.host.delete(tmp_path, name)


def test_a_link_takes_the_place_of_what_was_there(tree: Tree, tmp_path: Path):
    folder = tmp_path / "force-complain"
    tree.host.write(folder, "hauberk.a", b"a file")
    for target in ("../hauberk.a", "../other"):
        tree.host.link(folder, "hauberk.a", target)
        assert (folder / "hauberk.a").readlink() == Path(target)
    assert [file.name for file in folder.iterdir()] == ["hauberk.a"]
    tree.host.delete(folder, "hauberk.a")
    tree.host.delete(folder, "hauberk.a")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("durable", "synced"), [(True, 2), (False, 0)])
def test_only_what_must_outlive_a_power_cut_waits_for_the_disk(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, synced: int
):
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    tree.host.write(tmp_path / "d", "a", b"x", durable=durable)
    assert len(calls) == synced
    assert contents(tmp_path / "d") == {"a": b"x"}


def test_a_write_that_fails_leaves_no_half_of_it(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tree.host.write(tmp_path / "d", "a", b"x")
    assert list((tmp_path / "d").iterdir()) == []


def test_a_sweep_takes_what_was_not_finished_and_nothing_else(tree: Tree, tmp_path: Path):
    for name in (".hauberk.a.new", ".other.new", "hauberk.a", ".hauberk.a", "hauberk.a.new"):
        tree.put(tmp_path / "d" / name, "x")
    tree.host.link(tmp_path / "d", "hauberk.b", "../hauberk.b")
    tree.host.sweep(tmp_path / "d", "hauberk.")
    assert sorted(file.name for file in (tmp_path / "d").iterdir()) == [
        ".hauberk.a",
        ".other.new",
        "hauberk.a",
        "hauberk.a.new",
        "hauberk.b",
    ]
    tree.host.sweep(tmp_path / "nowhere", "")


def test_a_stamp_changes_with_any_write_and_only_files_have_one(tree: Tree, tmp_path: Path):
    folder = tmp_path / "d"
    tree.host.write(folder, "hauberk.a", b"one")
    tree.host.write(folder, "hauberk.b", b"one")
    tree.host.link(folder, "hauberk.c", "hauberk.a")
    (folder / "hauberk.d").mkdir()
    before = tree.host.stamps(folder, "hauberk.")
    assert set(before) == {"hauberk.a", "hauberk.b"}
    assert tree.host.stamps(folder, "hauberk.") == before
    tree.host.write(folder, "hauberk.a", b"two")
    after = tree.host.stamps(folder, "hauberk.")
    assert {name for name in before if before[name] != after[name]} == {"hauberk.a"}


def test_a_file_that_can_not_be_read_is_none(tree: Tree, tmp_path: Path):
    assert tree.host.read(tmp_path, "none") is None
    assert tree.host.read(tmp_path.parent, tmp_path.name) is None
    assert tree.host.names(tmp_path / "nowhere", "") == []


def test_the_boots_texts_are_the_hosts_own(tree: Tree):
    for name, text in (("usr.bin.man", b"man"), ("hauberk.p", b"ours"), (".hidden", b"x"), ("a", b"\xff")):
        tree.put(tree.host.policies / name, text)
    (tree.host.policies / "abstractions").mkdir()
    (tree.host.policies / "gone").symlink_to("nowhere")
    assert list(tree.host.policy_texts()) == ["\udcff", "man"]


# --- what the kernel keeps of a load -----------------------------------------------------------------------


def test_raw_data_is_found_by_the_full_name(tree: Tree):
    entry = tree.loaded("a b")
    child = tree.loaded("c", parent=entry)
    tree.put(entry / "raw_data", b"\0parent")
    tree.put(child / "raw_data", b"\0child")
    tree.loaded("d")
    assert tree.host.raw("a b") == b"\0parent"
    assert tree.host.raw("a b//c") == b"\0child"
    assert [tree.host.raw(name) for name in ("c", "d", "none")] == [None] * 3


def test_what_was_loaded_anew_is_read_anew(tree: Tree):
    kept, replaced = tree.loaded("kept", raw_sha1="one"), tree.loaded("replaced", raw_sha1="two")
    (kept / "raw_abi").symlink_to("../../raw_data/1/abi")
    (replaced / "raw_abi").symlink_to("../../raw_data/2/abi")
    assert tree.host.kernel() == {"kept": Loaded("enforce", "one"), "replaced": Loaded("enforce", "two")}
    for folder in (kept, replaced):
        tree.put(folder / "mode", "complain\n")
        tree.put(folder / "raw_sha1", "three\n")
    (replaced / "raw_abi").unlink()
    (replaced / "raw_abi").symlink_to("../../raw_data/3/abi")
    assert tree.host.kernel() == {"kept": Loaded("enforce", "one"), "replaced": Loaded("complain", "three")}


def test_a_policy_is_loaded_in_one_write(tree: Tree):
    Host.replace(tree.host, b"policy" * 100_000)
    assert (tree.host.apparmor / ".replace").read_bytes() == b"policy" * 100_000


def test_what_the_kernel_refuses_is_an_error(tree: Tree):
    (tree.host.apparmor / ".replace").unlink()
    (tree.host.apparmor / ".replace").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Host.replace(tree.host, b"policy")


def test_a_removal_is_one_write_of_the_name(tree: Tree):
    tree.loaded("a (x)")
    assert tree.host.remove("a (x)")
    assert tree.removed == b"a (x)"
    assert not tree.host.remove("a (x)")
    assert tree.removed == b""


def test_a_kernel_that_has_no_such_profile_says_so(tree: Tree):
    (tree.host.apparmor / ".remove").unlink()
    (tree.host.apparmor / ".remove").symlink_to("/nonexistent/folder/file")  # open() fails with ENOENT
    assert not Host(securityfs=tree.host.securityfs).remove("a")
