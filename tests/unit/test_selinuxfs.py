"""The kernel's SELinux as its files tell it; a tree answers no questions, a few lines here do."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hauberk.crds.models import SELinuxFacts
from hauberk.daemonset import selinuxfs
from hauberk.daemonset.selinuxfs import SELinuxFS


def node(root: Path, **files: str) -> Path:
    """Write files of selinuxfs; `config` is the node's setting."""
    for name, content in files.items():
        file = root / ("etc/selinux/config" if name == "config" else f"sys/fs/selinux/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


# --- facts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({}, SELinuxFacts()),
        ({"config": "SELINUXTYPE=targeted\n"}, SELinuxFacts()),
        ({"enforce": "1"}, SELinuxFacts(mode="enforcing")),
        ({"enforce": "0"}, SELinuxFacts(mode="permissive")),
        (
            {"enforce": "1", "mls": "1", "config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n"},
            SELinuxFacts(policy="targeted", mls=True, mode="enforcing"),
        ),
        (
            {"enforce": "1", "mls": "0", "config": "SELINUXTYPE=default\n"},
            SELinuxFacts(policy="default", mls=False, mode="enforcing"),
        ),
    ],
)
def test_what_selinux_is_on_a_node(tmp_path: Path, files: dict[str, str], facts: SELinuxFacts):
    assert SELinuxFS(node(tmp_path, **files)).facts() == facts


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("", ""),
        ("SELINUX=enforcing\n# SELINUXTYPE=mls\nSELINUXTYPE=targeted", "targeted"),
        ("  SELINUXTYPE = refpolicy-x_1.2  \n", "refpolicy-x_1.2"),
        ("SELINUXTYPE=two words\n", ""),
        ("SELINUXTYPE=../../etc\n", ""),
        (f"SELINUXTYPE={'x' * 100}\n", "x" * 64),
    ],
)
def test_the_policys_name_is_the_nodes_setting(tmp_path: Path, config: str, name: str):
    assert SELinuxFS(node(tmp_path, config=config)).policy_name() == name


def test_selinux_is_there_where_its_interface_is(tmp_path: Path):
    assert not SELinuxFS(tmp_path).enabled()
    assert SELinuxFS(node(tmp_path, context="")).enabled()


# --- questions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answering(SELinuxFS):
    """A kernel that answers: the types that it knows, each with the flags of an access vector."""

    types: dict[str, int] = field(default_factory=dict[str, int])
    asked: list[str] = field(default_factory=list[str])

    def _ask(self, file: str, question: str) -> str | None:
        self.asked.append(f"{file} {question}")
        context, _, rest = question.partition(" ")
        flags = self.types.get(context.split(":")[2])
        if flags is None:
            return None
        if file == "context":
            return context
        assert rest == f"{context} 2"
        return f"0 ffffffff 0 ffffffff 7 {flags:x}"


def answering(root: Path, initial: str, **types: int) -> Answering:
    made = Answering(root, types={name.replace("__", "."): flags for name, flags in types.items()})
    for file, content in (("initial_contexts/kernel", initial), ("class/process/index", "2\n")):
        (made.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / file).write_text(content)
    return made


def test_a_type_is_enforcing_or_permissive_or_not_there(tmp_path: Path):
    kernel = answering(tmp_path, "system_u:system_r:kernel_t:s0\0", a__t=0, b__t=1, c__t=2)
    modes = {name: kernel.mode(name) for name in ("a.t", "b.t", "c.t", "d.t")}
    assert modes == {"a.t": "enforcing", "b.t": "permissive", "c.t": "enforcing", "d.t": ""}


@pytest.mark.parametrize(
    ("initial", "context"),
    [
        ("system_u:system_r:kernel_t:s0\0", "system_u:object_r:a.t:s0"),
        ("system_u:system_r:kernel_t:s0-s15:c0.c1023\0", "system_u:object_r:a.t:s0"),
        ("system_u:system_r:kernel_t:s15:c0.c1023\n", "system_u:object_r:a.t:s15:c0.c1023"),
        ("u:r:kernel", "u:object_r:a.t"),  # a policy without levels
    ],
)
def test_a_type_is_asked_for_in_a_context_that_any_policy_has(tmp_path: Path, initial: str, context: str):
    kernel = answering(tmp_path, initial, a__t=0)
    assert kernel.mode("a.t") == "enforcing"
    assert kernel.asked[0] == f"context {context}"


def test_a_kernel_that_does_not_answer_knows_no_type(tmp_path: Path):
    """Its file system may not be mounted where the agent sees it; that ends no agent."""
    assert SELinuxFS(tmp_path).mode("a.t") == ""


# --- changes -----------------------------------------------------------------------------------------------


def page(sequence: int, *, enforcing: int = 1, loads: int = 1) -> bytes:
    return struct.pack("=5I", 1, sequence, enforcing, loads, 0)


def test_a_change_of_policy_or_mode_changes_the_count(tmp_path: Path):
    kernel = SELinuxFS(tmp_path)
    assert kernel.count() == b""
    status = node(tmp_path, status="") / "sys/fs/selinux/status"
    counts: set[bytes] = set()
    for content in (page(2), page(4, enforcing=0), page(6, loads=2)):
        status.write_bytes(content + bytes(4096 - len(content)))
        assert kernel.count() == kernel.count()
        counts.add(kernel.count())
    assert len(counts) == 3


async def test_where_no_notice_is_heard_the_count_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    status = node(tmp_path, status="") / "sys/fs/selinux/status"
    status.write_bytes(page(2))
    monkeypatch.setattr(selinuxfs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(selinuxfs, "_NETLINK_SELINUX", 31)  # a protocol that no kernel has
    changed = asyncio.Event()
    with SELinuxFS(tmp_path).changes(changed):
        for sequence in (4, 6):
            await asyncio.sleep(0)  # the first look
            status.write_bytes(page(sequence))
            async with asyncio.timeout(5):
                await changed.wait()
            changed.clear()
    status.write_bytes(page(8))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not changed.is_set()
