"""The node's store of modules: read without semodule, changed by it in one transaction."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hauberk.crds.errors import NodeFault
from hauberk.crds.reasons import Reason
from hauberk.daemonset import semodule
from hauberk.daemonset.semodule import Failed, Store, words

from tests.unit.selinux_node import FakeStore, Kernel, a_store, put, someone_installs, someone_removes

TEXT = "(block p (type process))"


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return a_store(tmp_path, Kernel(tmp_path))


# --- read --------------------------------------------------------------------------------------------------


def test_only_modules_with_a_name_of_hauberks_are_read(store: FakeStore):
    assert store.modules() == {}
    someone_installs(store, 400, "hauberk_p", TEXT)
    someone_installs(store, 400, "hauberkp", TEXT)
    assert store.modules() == {"hauberk_p": {400: hash_of(TEXT)}}


@pytest.mark.parametrize("bzip", [True, False])
def test_a_checksum_is_that_of_the_source_however_it_is_stored(store: FakeStore, bzip: bool):
    put(store.folder, 400, "hauberk_p", TEXT, bzip=bzip)
    assert store.modules() == {"hauberk_p": {400: hash_of(TEXT)}}


def test_each_priority_has_its_own_checksum(store: FakeStore):
    put(store.folder, 100, "hauberk_p", "(block p)")
    put(store.folder, 400, "hauberk_p", TEXT)
    put(store.folder, 400, "hauberk_q", TEXT)
    assert store.modules() == {
        "hauberk_p": {100: hash_of("(block p)"), 400: hash_of(TEXT)},
        "hauberk_q": {400: hash_of(TEXT)},
    }


def test_a_module_in_another_language_has_the_checksum_of_its_source(store: FakeStore):
    put(store.folder, 400, "hauberk_p", TEXT)
    (store.folder / "modules/400/hauberk_p/hll").write_bytes(b"BZh is how this begins")
    checksum = hashlib.sha256(b"BZh is how this begins").hexdigest()
    assert store.modules() == {"hauberk_p": {400: checksum}}


def test_what_is_disabled_stands_beside_the_priorities(store: FakeStore):
    (store.folder / "modules/disabled").mkdir()
    (store.folder / "modules/disabled/hauberk_p").touch()
    put(store.folder, 400, "hauberk_p", TEXT)
    assert store.modules() == {"hauberk_p": {400: hash_of(TEXT)}}


def test_it_is_read_again_only_after_a_commit(store: FakeStore):
    someone_installs(store, 400, "hauberk_p", TEXT)
    first = store.modules()
    shutil.rmtree(store.folder / "modules/400/hauberk_p")  # which nobody does without a commit
    assert store.modules() is first
    (store.folder / "commit_num").unlink()
    (store.folder / "commit_num").write_bytes(b"3")
    assert store.modules() == {}
    someone_installs(store, 400, "hauberk_p", TEXT)
    assert store.modules() == first
    someone_removes(store, 400, "hauberk_p")
    assert store.modules() == {}


@pytest.mark.parametrize(
    ("setting", "folder"),
    [
        (None, "var/lib/selinux/targeted/active"),
        ("", "var/lib/selinux/targeted/active"),
        ("# store-root = /nowhere\nmodule-store = direct\n", "var/lib/selinux/targeted/active"),
        ("module-store = direct\nstore-root=/etc/selinux\n", "etc/selinux/targeted/active"),
        ("  store-root = /etc/selinux  \n", "etc/selinux/targeted/active"),
        ("store-root = /a/b/\n", "a/b/targeted/active"),
    ],
)
def test_the_store_is_where_the_node_says(tmp_path: Path, setting: str | None, folder: str):
    if setting is not None:
        (tmp_path / "etc/selinux").mkdir(parents=True)
        (tmp_path / "etc/selinux/semanage.conf").write_text(setting)
    assert Store(tmp_path, "targeted").folder == tmp_path / folder


@pytest.mark.parametrize("lacking", ["", "commit_num", "modules"])
def test_a_store_that_is_not_there_is_a_fault_of_the_node(store: FakeStore, lacking: str):
    if lacking == "commit_num":
        (store.folder / lacking).unlink()
    else:
        shutil.rmtree(store.folder / lacking)
    with pytest.raises(NodeFault) as caught:
        store.modules()
    assert caught.value.reason is Reason.LOAD_FAILED
    assert caught.value.message == (
        "the node's SELinux module store can't be read in targeted/active: No such file or directory; see "
        "store-root in its semanage.conf"
    )


@pytest.mark.parametrize("moment", ["before it is read", "while it is read"])
def test_a_store_that_is_put_in_the_place_of_another_is_read_whole(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, moment: str
):
    """libsemanage renames twice: for a moment there is no store."""
    put(store.folder, 400, "hauberk_p", TEXT)
    away = store.folder.with_name("previous")
    read = Store._read  # pyright: ignore[reportPrivateUsage]

    def cut(self: Store) -> dict[str, dict[int, str]]:
        monkeypatch.setattr(Store, "_read", read)
        self.folder.rename(away)
        put(self.folder, 400, "hauberk_q", TEXT)
        if moment == "before it is read":
            shutil.rmtree(self.folder)
            return read(self)
        found = read(self)
        (self.folder / "commit_num").touch()
        return found

    def back(seconds: float) -> None:
        assert seconds < 0.1
        if away.exists() and moment == "before it is read":
            away.rename(store.folder)

    monkeypatch.setattr(Store, "_read", cut)
    monkeypatch.setattr(semodule.time, "sleep", back)
    expected = "hauberk_p" if moment == "before it is read" else "hauberk_q"
    assert store.modules() == {expected: {400: hash_of(TEXT)}}
    assert store.modules() == {expected: {400: hash_of(TEXT)}}


# --- semodule ----------------------------------------------------------------------------------------------

CHROOT = """#!/bin/sh
echo "$@" > "$1/said"
cat "$1/stderr" >&2
[ -p "$1/wait" ] && { echo > "$1/begun"; cat "$1/wait" > "$1/ended"; }
exit "$(cat "$1/code")"
"""


class Program:
    """A node whose `chroot` writes down what it was asked for and answers as it is told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers(0, "")

    def waits(self) -> None:
        """Have a run say that it began, and wait, by pipes."""
        for name in ("begun", "wait"):
            os.mkfifo(self.root / name)

    def answers(self, code: int, stderr: str) -> None:
        (self.root / "code").write_text(str(code))
        (self.root / "stderr").write_text(stderr)

    @property
    def said(self) -> str:
        return (self.root / "said").read_text().strip()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "chroot").write_text(CHROOT)
    (folder / "chroot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    root = tmp_path / "root"
    root.mkdir()
    return Program(root)


async def test_the_nodes_own_semodule_does_it_all_in_one_run(program: Program):
    store = Store(program.root, "targeted", 350)
    program.answers(0, "libsemanage.add_user: user sddm not in password file\n")
    files = [program.root / "var/lib/hauberk/modules" / f"hauberk_{name}.cil" for name in "ab"]
    assert await store.change(files, ["hauberk_c", "hauberk_d"]) is None
    assert program.said == (
        f"{program.root} semodule -X 350 -i /var/lib/hauberk/modules/hauberk_a.cil "
        "-i /var/lib/hauberk/modules/hauberk_b.cil -r hauberk_c -r hauberk_d"
    )


REFUSED = """Failed to resolve allow statement at /var/lib/selinux/default/tmp/modules/400/hauberk_bad/cil:12
Failed to resolve AST
semodule:  Failed!
"""


async def test_what_it_refuses_is_told_with_the_module_to_blame(program: Program):
    program.answers(1, REFUSED)
    failed = await Store(program.root, "default").change([], ["hauberk_x"])
    assert failed == Failed(frozenset({"hauberk_bad"}), "line 12: Failed to resolve allow statement")


async def test_a_node_without_semodule_is_told(program: Program):
    program.answers(127, "chroot: failed to run command 'semodule': No such file or directory\n")
    with pytest.raises(NodeFault, match=r"the node's semodule can't be run: .*No such file"):
        await Store(program.root, "default").change([], ["hauberk_x"])


async def test_a_run_that_takes_too_long_blames_nobody(program: Program, monkeypatch: pytest.MonkeyPatch):
    program.waits()
    monkeypatch.setattr(semodule, "LIMITS", semodule.Limits(seconds=0.2))
    failed = await Store(program.root, "default").change([], ["hauberk_x"])
    assert failed is not None
    assert failed.blamed == frozenset()
    assert failed.message.startswith("semodule gave up: ")


async def test_a_run_that_was_begun_is_waited_for_also_by_who_is_ended(program: Program):
    program.waits()
    running = asyncio.create_task(Store(program.root, "default").change([], ["hauberk_x"]))
    await asyncio.to_thread((program.root / "begun").read_text)
    running.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    await asyncio.to_thread((program.root / "wait").write_text, "all of it")
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (program.root / "ended").read_text() == "all of it"


# --- its words ---------------------------------------------------------------------------------------------

PLACE = "/var/lib/selinux/targeted/tmp/modules"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (REFUSED, "line 12: Failed to resolve allow statement"),
        ("", "semodule gave no reason"),
        ("semodule:  Failed!\n", "semodule gave no reason"),
        ("libsemanage.add_user: user sddm not in password file\nFull\nsemodule:  Failed!\n", "Full"),
        (f"Failed to resolve blockinherit statement at {PLACE}/400/hauberk_a/cil\n" * 3, None),
        (
            f"Re-declaration of x.t\nPrevious declaration at {PLACE}/100/base/cil:3\nFailed to build AST\n",
            "Re-declaration of x.t; line 3: Previous declaration",
        ),
        ("\x1b[31mred\x1b[0m\n", "?[31mred?[0m"),
        ("x" * 5000, "x" * 1024),
    ],
)
def test_why_it_failed_is_one_plain_line_without_paths(stderr: str, expected: str | None):
    said = words(stderr)
    assert said == (expected or "Failed to resolve blockinherit statement")
    assert "/var/lib" not in said
