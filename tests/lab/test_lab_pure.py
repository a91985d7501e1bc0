"""The pure parts of the lab: what follows from a name, a number or a text."""

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab import binaries, build, cluster, controlplane, deps, images, node, process, rootfs
from lab.commands import component_name, node_state
from lab.controlplane import Listening
from lab.errors import UnmetError, UsageError
from lab.network import LAST_INDEX, Addresses
from lab.state import Node, free_index, free_name

NODE = Node("debian12-2", "debian12", 4)


@given(st.integers(1, LAST_INDEX), st.integers(1, LAST_INDEX))
def test_two_nodes_share_no_address(one: int, other: int):
    def all_of(index: int) -> set[str]:
        at = Addresses(index)
        return {at.cluster, at.management, at.pods, *at.links.values(), *at.macs.values()}

    assert len(all_of(one)) == 7
    if one != other:
        assert not all_of(one) & all_of(other)


def test_names_of_links_fit_the_kernel():
    assert all(len(name) <= 15 for name in Addresses(LAST_INDEX).links.values())


@pytest.mark.parametrize(
    ("taken", "name"),
    [(set(), "selinux"), ({"selinux"}, "selinux-2"), ({"selinux", "selinux-2"}, "selinux-3")],
)
def test_free_name(taken: set[str], name: str):
    assert free_name("selinux", taken) == name


@given(st.sets(st.integers(1, 50)))
def test_free_index_is_the_lowest_that_is_free(taken: set[int]):
    index = free_index(taken)
    assert index not in taken
    assert all(lower in taken for lower in range(1, index))


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_up_adds_just_what_is_missing(wanted: list[str], present: list[str]):
    missing = cluster.missing_kinds(wanted, present)
    for kind in "abc":
        assert missing.count(kind) == max(0, wanted.count(kind) - present.count(kind))


def _node_object(name: str, ready: str, boot: str) -> dict[str, object]:
    status = {"conditions": [{"type": "Ready", "status": ready}], "nodeInfo": {"bootID": boot}}
    return {"metadata": {"name": name}, "status": status}


def test_a_node_is_ready_only_with_the_boot_it_runs():
    objects = [
        _node_object("a", "True", "1"),
        _node_object("b", "True", "old"),
        _node_object("c", "False", "3"),
    ]
    assert cluster.not_ready(objects, {"a": "1", "b": "2", "c": "3", "d": "4"}) == {"b", "c", "d"}


def test_kernel_command_of_both_security_modules():
    apparmor = node.kernel_command(NODE, Path("/x"), 900)
    assert apparmor[:2] == ["linux.uml", "mem=900M"]
    assert "ubd0=/x/disk.cow,/x/disk.img" in apparmor
    assert "apparmor=1" in apparmor
    assert "selinux=1" not in apparmor
    selinux = node.kernel_command(Node("selinux", "selinux", 1), Path("/x"), 900)
    assert "selinux=1" in selinux
    assert "apparmor=1" not in selinux


def test_node_files_have_no_word_left_to_fill():
    files = node.node_files(NODE, node.Joining())
    assert not [name for name, text in files.items() if re.search("@[A-Z]+@", text)]
    kubelet = yaml.safe_load(files["kubelet.yaml"])
    assert kubelet["address"] == "10.77.0.14"
    assert kubelet["registerWithTaints"] == []
    conflist = json.loads(files["10-lab.conflist"])
    assert conflist["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.4.0/24"}]]
    assert "enable_selinux = false" in files["containerd.toml"]


def test_a_node_joins_with_the_labels_and_taints_of_its_group():
    taints = (node.parse_taint("example.org/starting:NoSchedule"), node.parse_taint("gpu=a.b:NoExecute"))
    files = node.node_files(NODE, node.Joining(("pool=batch", "zone="), taints))
    assert yaml.safe_load(files["kubelet.yaml"])["registerWithTaints"] == [
        {"key": "example.org/starting", "effect": "NoSchedule"},
        {"key": "gpu", "value": "a.b", "effect": "NoExecute"},
    ]
    env = dict(word.split("=", 1) for word in shlex.split(files["node.env"]))
    assert env["LABELS"] == "lab/kind=debian12,pool=batch,zone="


@pytest.mark.parametrize(
    "word",
    ["", "key", "key:", ":NoSchedule", "key:Never", "key=a b:NoSchedule", "a/b/c:NoSchedule", "-a:NoExecute"],
)
def test_what_is_no_taint_is_told(word: str):
    with pytest.raises(UsageError, match=r"is no taint: write KEY\[=VALUE\]:EFFECT with one of NoSchedule"):
        node.parse_taint(word)


@pytest.mark.parametrize("word", ["", "key", "=value", "a b=c", "key=a,b=c", "key=$(c)"])
def test_what_is_no_label_is_told(word: str):
    with pytest.raises(UsageError, match="is no label: write KEY=VALUE"):
        node.parse_label(word)


def test_the_lost_node_grace_is_four_status_periods():
    kubelet = yaml.safe_load(node.node_files(NODE, node.Joining())["kubelet.yaml"])
    assert kubelet["nodeStatusUpdateFrequency"] == "4s"
    assert controlplane.NODE_GRACE == "16s"


@given(st.text(st.characters(categories=["L", "N", "P", "Z"]), max_size=20))
def test_process_names_cannot_confuse_the_start_time(name: str):
    fields = ["S", *map(str, range(4, 53))]
    assert process.parse_start(f"17 ({name}) {' '.join(fields)}") == ("S", 22)


def test_memory_of_a_process():
    assert process.parse_memory_mib("VmPeak:\t  9 kB\nVmRSS:\t  204800 kB\n") == 200
    assert process.parse_memory_mib("Name:\tkthreadd\n") == 0


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.25rc1 linux/amd64", (1, 25)),
        ("go version devel", (0, 0)),
    ],
)
def test_go_version(said: str, version: tuple[int, int]):
    assert binaries.parse_go_version(said) == version


def test_version_comes_from_go_mod():
    assert binaries.version("require (\n\tk8s.io/kubernetes v1.35.4\n)") == "v1.35.4"
    assert "gitMinor=35" in binaries.linker_flags("v1.35.4")


def test_a_given_folder_must_hold_every_program(tmp_path: Path):
    for name in binaries.PROGRAMS[1:]:
        (tmp_path / name).touch()
    with pytest.raises(UnmetError, match="lacks kube-apiserver"):
        binaries.ensure(tmp_path, lambda _: None)
    (tmp_path / "kube-apiserver").touch()
    assert binaries.ensure(tmp_path, lambda _: None) == tmp_path


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("agent", "docker.io/library/agent"),
        ("agent:1", "docker.io/library/agent:1"),
        ("team/agent:1", "docker.io/team/agent:1"),
        ("example.org/agent:1", "example.org/agent:1"),
        ("localhost/agent:1", "localhost/agent:1"),
        ("registry:5000/agent:1", "registry:5000/agent:1"),
    ],
)
def test_tags_are_read_as_the_kubelet_reads_them(tag: str, name: str):
    assert build.qualified(tag) == name


def test_pip_conf_names_an_index_only_if_there_is_one():
    assert "index-url" not in build.pip_conf(None)
    assert "index-url = https://example.org/simple\n" in build.pip_conf("https://example.org/simple")


def test_image_archive_is_whole_and_always_the_same():
    first = images.busybox_archive(b"program", ["sh", "cat", "busybox"])
    assert first == images.busybox_archive(b"program", ["cat", "busybox", "sh"])
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        content = {name: tar.extractfile(name) for name in tar.getnames()}
        manifest = json.loads(content["manifest.json"].read())[0]  # type: ignore[union-attr]
        layer = content[manifest["Layers"][0]].read()  # type: ignore[union-attr]
    assert manifest["RepoTags"] == [images.BUSYBOX]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("bin/busybox").isreg()
        assert tar.getmember("tmp").mode == 0o1777


def test_deps_name_each_package_once():
    missing = deps.missing(lambda what: what == "ip")
    assert "iproute2" not in {need.package for need in missing}
    command = deps.install_command(missing)
    assert len(command) == len(set(command))
    assert "etcd-server" in command


def test_words_that_are_not_there_are_told_with_those_that_are():
    with pytest.raises(UsageError, match="debian12, debian13, selinux"):
        rootfs.kind("debian11")
    with pytest.raises(UsageError, match="kube-scheduler"):
        component_name("proxy")
    assert component_name("apiserver") == "kube-apiserver"
    assert component_name("etcd") == "etcd"


@pytest.mark.parametrize(
    ("running", "cut", "ready", "state"),
    [
        (False, False, True, "Off"),
        (True, True, True, "Cut"),
        (True, False, True, "Ready"),
        (True, False, False, "NotReady"),
    ],
)
def test_node_state(running: bool, cut: bool, ready: bool, state: str):
    assert node_state({"running": running, "cut": cut, "ready": ready}) == state


def test_flags_use_the_ports_they_are_given():
    at = Listening("127.0.0.1", 1, 2, 3, 4, 5)
    files = controlplane.Files(*[Path("/f")] * 8)
    assert "--listen-client-urls=http://127.0.0.1:2" in controlplane.etcd_flags(at, files)
    assert {"--secure-port=1", "--etcd-servers=http://127.0.0.1:2"} <= set(
        controlplane.apiserver_flags(at, files)
    )
    assert "--secure-port=4" in controlplane.controller_flags(at, files)
    assert "--secure-port=5" in controlplane.scheduler_flags(at, files)


def test_rootfs_command_changes_with_the_packages():
    commands = {" ".join(rootfs.bootstrap_command(kind, Path("x"))) for kind in rootfs.KINDS.values()}
    assert len(commands) == len(rootfs.KINDS)
