"""Which backends the agent of a node has, and where its kubelet's files are."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX
from hauberk.daemonset import main
from hauberk.daemonset.api import Api
from hauberk.daemonset.cluster import Cluster
from hauberk.daemonset.host import KUBELET
from hauberk.daemonset.main import Settings, backends
from hauberk.daemonset.seccomp import Seccomp
from hauberk.daemonset.selinux import SELinux
from hauberk.profiles.parser import Parser

from tests.unit.node import Tree

NOBODY = Cluster(cast("Api", None), "n", "hauberk-system")


def settings(*, whole: bool = False, kubelet: str = KUBELET) -> Settings:
    return Settings(node="n", port=1, whole_host=whole, kubelet=kubelet, priority=350)


@pytest.fixture
def _parser(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "Parser", lambda: parser)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("lsms", "seccomp", "whole", "types"),
    [
        ("apparmor", True, False, [APPARMOR, SECCOMP]),
        ("apparmor", False, False, [APPARMOR]),
        ("capability", True, False, [SECCOMP]),
        ("capability", False, False, []),
        # a confined container may not write to the kubelet's folder: that is the other agent's
        ("selinux", True, False, []),
        ("selinux", True, True, [SELINUX, SECCOMP]),
        ("selinux", False, True, [SELINUX]),
        ("selinux,apparmor", True, False, [APPARMOR]),
        ("selinux,apparmor", True, True, [APPARMOR, SELINUX, SECCOMP]),
        ("apparmor", True, True, [APPARMOR, SECCOMP]),
    ],
)
async def test_each_agent_serves_what_it_can(
    tree: Tree, lsms: str, seccomp: bool, whole: bool, types: list[str]
):
    tree.put(tree.host.securityfs / "lsm", f"capability,{lsms}")
    if seccomp:
        tree.put(tree.host.proc / "sys/kernel/seccomp/actions_avail", "allow")
    found = await backends(tree.host, NOBODY, settings(whole=whole))
    assert [one.type for one in found] == types


async def test_modules_stand_in_the_nodes_own_store(tree: Tree):
    tree.put(tree.host.securityfs / "lsm", "selinux")
    tree.put(tree.host.selinux.root / "etc/selinux/config", "SELINUXTYPE=targeted\n")
    (backend,) = await backends(tree.host, NOBODY, settings(whole=True))
    assert isinstance(backend, SELinux)
    assert (backend.store.policy, backend.store.priority) == ("targeted", 350)
    assert backend.store.root == Path("/host")


@pytest.mark.parametrize(
    ("started", "whole", "elsewhere"),
    [
        ("", False, ""),
        (KUBELET, False, ""),
        (f"{KUBELET}/", False, ""),
        ("/data/kubelet", False, "/data/kubelet"),
        ("/data/kubelet", True, ""),  # it has all of the node's folders
    ],
)
async def test_where_the_kubelet_looks_elsewhere_that_is_known(
    tree: Tree, started: str, whole: bool, elsewhere: str
):
    tree.put(tree.host.securityfs / "lsm", "capability")
    tree.put(tree.host.proc / "sys/kernel/seccomp/actions_avail", "allow")
    tree.put(tree.host.proc / "7/comm", "kubelet\n")
    tree.put(tree.host.proc / "7/status", "NSpid:\t7\n")
    tree.put(tree.host.proc / "7/cmdline", f"kubelet\0--root-dir={started}\0")
    (backend,) = await backends(tree.host, NOBODY, settings(whole=whole))
    assert isinstance(backend, Seccomp)
    assert backend.elsewhere == elsewhere
