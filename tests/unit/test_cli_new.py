"""`hauberk new`: what it prints is valid as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hauberk.cli.commands import app
from hauberk.cli.foreign import balanced
from hauberk.cli.sources import sources
from hauberk.crds.names import PROTECTED
from typer.testing import CliRunner

NAMES = ["my-app", "a", "1a.b-2", "x" * 63]
TYPES = {"apparmor": "appArmor", "selinux": "selinux", "seccomp": "seccomp"}


def run(*words: str, given: str = "") -> tuple[int, str, str]:
    said = CliRunner().invoke(app, list(words), input=given)
    if said.exception and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said.exit_code, said.stdout, said.stderr


def policy_of(text: str) -> str:
    (one,) = sources("x.yaml", text)
    block = one.spec.app_armor or one.spec.selinux or one.spec.seccomp
    assert block
    return block.policy


@pytest.mark.parametrize("name", NAMES)
def test_lint_has_nothing_to_say_of_a_new_apparmor_profile(name: str):
    code, out, err = run("new", "apparmor", name)
    assert (code, err) == (0, "")
    assert f"profile {name} flags=(attach_disconnected" in policy_of(out)
    assert f"localhostProfile: {name}}}" in out
    assert run("lint", "--strict", "-", given=out) == (0, "", "1 profile: nothing to say\n")


def test_the_comments_are_choices_that_the_api_knows():
    out = run("new", "apparmor", "my-app")[1]
    chosen = out.replace("# mode:", "mode:").replace("# nodeSelector:", "nodeSelector:")
    spec = yaml.safe_load(chosen)["spec"]
    assert spec["appArmor"]["mode"] == "Complain"
    assert spec["nodeSelector"] == {"matchLabels": {"kubernetes.io/arch": "amd64"}}
    (one,) = sources("x.yaml", chosen)
    assert one.spec.node_selector.match_labels == {"kubernetes.io/arch": "amd64"}


@pytest.mark.parametrize("kind", ["selinux", "seccomp"])
@pytest.mark.parametrize("name", NAMES)
def test_lint_has_nothing_to_say_of_a_new_one_of_the_other_types(kind: str, name: str):
    code, out, err = run("new", kind, name)
    assert (code, err) == (0, "")
    body = yaml.safe_load(out)
    assert (body["metadata"]["name"], [key for key in body["spec"] if key != "type"]) == (name, [TYPES[kind]])
    assert run("lint", "--strict", "-", given=out) == (0, "", "1 profile: nothing to say\n")


def test_a_new_seccomp_profile_is_one_of_oci():
    profile = json.loads(policy_of(run("new", "seccomp", "my-app")[1]))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    calls = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert sorted(set(calls)) == sorted(calls)
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }
    assert {"read", "execve", "futex", "openat"} <= allowed
    assert not {"mount", "ptrace", "bpf", "unshare", "setns", "clone", "clone3", "init_module"} & allowed
    (clone,) = [rule for rule in profile["syscalls"] if rule["names"] == ["clone"]]
    # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET of linux/sched.h
    wanted = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert clone["args"] == [{"index": 0, "value": wanted, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


@pytest.mark.parametrize(("name", "block"), [("my-app", "my_app"), ("1a.b", "c_1a_b")])
def test_a_new_selinux_module_is_a_block(name: str, block: str):
    policy = policy_of(run("new", "selinux", name)[1])
    assert f"(block {block}\n" in policy
    # templates of udica's are on no node by themselves
    assert "blockinherit" not in policy
    assert f"(optional {block}_debian\n" in policy
    assert balanced(policy)


def test_a_policy_of_ones_own_is_taken(tmp_path: Path):
    (tmp_path / "own").write_text("profile other flags=(attach_disconnected) {\n\tfile,\n  signal,\n} \n")
    out = run("new", "apparmor", "mine", "--policy", str(tmp_path / "own"))[1]
    assert policy_of(out) == (tmp_path / "own").read_text()
    assert "localhostProfile" not in out  # the policy's names are its own affair
    assert run("lint", "--strict", "-", given=out)[0] == 0


@pytest.mark.parametrize(
    "name", ["My-App", "my_app", "-a", "a-", "a..b", "a.-b", "", "x" * 64, "a/b", "a\nb", "a: b"]
)
def test_a_name_that_the_api_refuses_is_wrong_use(name: str):
    code, out, err = run("new", "apparmor", "--", name)
    assert (code, out, err.startswith("error: ")) == (2, "", True)
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(PROTECTED))
def test_names_of_runtimes_are_not_for_the_taking(name: str):
    assert run("new", "apparmor", name)[0] == 2


def test_a_policy_that_is_not_there_is_wrong_use(tmp_path: Path):
    assert run("new", "apparmor", "a", "--policy", str(tmp_path / "none"))[0] == 2
    (tmp_path / "empty").write_text("\n")
    assert run("new", "apparmor", "a", "--policy", str(tmp_path / "empty"))[0] == 2
