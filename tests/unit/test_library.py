"""Each profile of profiles/library keeps the promises of the folder, and the real parser takes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.cli.syscalls import ORDINARY
from hauberk.crds import models
from hauberk.crds.names import API_VERSION, PROTECTED, seccomp_reference
from hauberk.operator.aggregate import reference_name
from hauberk.profiles import cil
from hauberk.profiles.check import Accepted, Judge, check
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

FOLDER = Path(__file__).parents[2] / "profiles" / "library"
FILES = sorted(FOLDER.glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "library.md"


def names_of(policy: str) -> list[str]:
    """Return what the parser of this machine says that a text defines."""
    said = subprocess.run(
        [shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin") or "apparmor_parser", "--names"],
        input=policy,
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.splitlines()


def read(file: Path) -> models.SecurityProfile:
    return models.decode(models.SecurityProfile, yaml.safe_load(file.read_text()))


OF_TYPE = {
    kind: [file for file in FILES if read(file).spec.type == kind]
    for kind in ("AppArmor", "SELinux", "Seccomp")
}
# They only log, and advice says so.
LOGGING = {"audit-everything"}


async def judged(profile: models.SecurityProfile) -> Accepted:
    return await check(profile.spec, Judge(Parser(), Renderer()), {})


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def body(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


@pytest.fixture
def profile(file: Path) -> models.SecurityProfile:
    return read(file)


@pytest.fixture(params=OF_TYPE["AppArmor"], ids=lambda file: file.stem)
def app_armor(request: pytest.FixtureRequest) -> models.SecurityProfile:
    return read(request.param)


def test_there_are_some_of_each_type() -> None:
    assert {kind: len(files) for kind, files in OF_TYPE.items()} == {
        "AppArmor": 8,
        "SELinux": 2,
        "Seccomp": 2,
    }
    assert "k8s-apparmor-example-deny-write" in {file.stem for file in FILES}


def test_it_is_a_profile_of_its_files_name(
    file: Path, body: dict[str, Any], profile: models.SecurityProfile
) -> None:
    assert (body["apiVersion"], body["kind"]) == (API_VERSION, "SecurityProfile")
    assert profile.metadata.name == file.stem
    assert len(profile.metadata.name) <= 63
    assert profile.metadata.name not in PROTECTED


def test_nothing_is_spelt_wrong(body: dict[str, Any], profile: models.SecurityProfile) -> None:
    """A model ignores what it doesn't know; the defaults apart it must give back the whole file."""
    known = models.encode(profile)["spec"]
    if profile.spec.type != "Seccomp":
        known["appArmor" if profile.spec.app_armor else "selinux"].setdefault("mode", "Enforce")
    assert known == body["spec"]


def test_only_the_one_that_says_so_lets_things_pass(profile: models.SecurityProfile) -> None:
    assert profile.spec.mode == ("Complain" if profile.metadata.name in LOGGING else "Enforce")


def test_it_asks_for_no_guard_to_be_lifted(profile: models.SecurityProfile) -> None:
    spec = profile.spec
    assert not spec.adopt
    assert not (spec.app_armor and spec.app_armor.allow_attachment)
    assert not (spec.selinux and (spec.selinux.allow_host_types or spec.selinux.requires))


def test_a_pod_under_it_can_be_stopped(app_armor: models.SecurityProfile) -> None:
    policy = app_armor.spec.policy
    for peer in ("unconfined", "runc", "crun"):
        assert f"signal (receive) peer={peer},\n" in policy
    assert "flags=(attach_disconnected,mediate_deleted)" in policy


def test_it_says_whom_it_is_for(file: Path, profile: models.SecurityProfile) -> None:
    head = file.read_text().partition("apiVersion:")[0]
    assert len(head) > 300
    assert f"| [{file.stem}]" in PAGE.read_text()
    if profile.spec.type == "SELinux":
        assert f"seLinuxOptions: {{type: {file.stem.replace('-', '_')}.process}}" in head
    if profile.spec.type == "Seccomp":
        assert f"localhostProfile: {seccomp_reference(file.stem)}}}" in head


def test_the_parser_takes_it(app_armor: models.SecurityProfile) -> None:
    assert app_armor.metadata.name in names_of(app_armor.spec.policy)


async def test_hauberk_takes_it_and_warns_of_nothing(profile: models.SecurityProfile) -> None:
    verdict = await judged(profile)
    assert bool(verdict.advice) == (profile.metadata.name in LOGGING)


async def test_pods_name_an_apparmor_profile_as_the_object(app_armor: models.SecurityProfile) -> None:
    assert (await judged(app_armor)).names == (app_armor.metadata.name,)


@pytest.mark.parametrize("file", OF_TYPE["SELinux"], ids=lambda file: file.stem)
async def test_a_module_makes_the_type_of_its_name(file: Path) -> None:
    verdict = await judged(read(file))
    wanted = f"{file.stem.replace('-', '_')}.process"
    assert verdict.names == (wanted,)
    assert reference_name(read(file), list(verdict.names)) == wanted


# The least that a policy can be: a kernel, its user and its roles.
BARE = """
(handleunknown allow) (mls true) (sid kernel) (sidorder (kernel)) (type kernel_t)
(sensitivity s0) (sensitivityorder (s0)) (category c0) (categoryorder (c0)) (sensitivitycategory s0 (c0))
(user system_u) (role system_r) (role object_r) (userrole system_u system_r) (roletype system_r kernel_t)
(userlevel system_u (s0)) (userrange system_u ((s0) (s0)))
(sidcontext kernel (system_u system_r kernel_t ((s0) (s0))))
"""
# What modules may count on: attributes that the policies of Debian 13 and of container-selinux both have.
COMMON = {"domain", "container_domain", "container_net_domain", "mcs_constrained_type"}
OF_DEBIAN = {"container_system_domain"}


def policy_for(module: str, attributes: set[str]) -> str:
    """Return a policy with these attributes, and with the types and classes that a module's rules name."""
    (block,) = cil.read(module)
    rules = [one for one in cil.lists(block, 2) if one.keyword == "allow"]
    classes: dict[str, set[str]] = {}
    for rule in rules:
        kind, *permissions = cil.symbols(cil.part(rule, 3))
        classes.setdefault(kind, set()).update(permissions)
    types = {cil.word(rule, 2) for rule in rules} - {"self"}
    parts = [f"(class {kind} ({' '.join(sorted(several))}))" for kind, several in classes.items()]
    parts += [f"(classorder ({' '.join(classes)}))", *(f"(type {one})" for one in sorted(types))]
    return BARE + "\n".join([*parts, *(f"(typeattribute {one})" for one in sorted(attributes))])


@pytest.mark.parametrize("file", OF_TYPE["SELinux"], ids=lambda file: file.stem)
@pytest.mark.parametrize("attributes", [COMMON, COMMON | OF_DEBIAN], ids=["container-selinux", "debian"])
def test_a_module_can_be_linked_with_the_policies_of_nodes(
    file: Path, attributes: set[str], tmp_path: Path
) -> None:
    module = read(file).spec.policy
    (tmp_path / "base.cil").write_text(policy_for(module, attributes))
    (tmp_path / "module.cil").write_text(module)
    said = subprocess.run(
        ["secilc", "-M", "true", "-o", "policy", "-f", "/dev/null", "base.cil", "module.cil"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"] + ":/usr/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("file", OF_TYPE["Seccomp"], ids=lambda file: file.stem)
def test_a_filter_is_for_the_machines_that_are_in_use(file: Path) -> None:
    found = json.loads(read(file).spec.policy)
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"} <= set(found["architectures"])


def test_what_is_dangerous_is_denied_and_what_is_ordinary_is_not() -> None:
    found = json.loads(read(FOLDER / "deny-dangerous-calls.yaml").spec.policy)
    always = {name for rule in found["syscalls"] if "args" not in rule for name in rule["names"]}
    assert {"keyctl", "bpf", "ptrace", "mount", "init_module", "kexec_load", "userfaultfd"} <= always
    # clone3 has another call in its place
    assert always.isdisjoint(name for calls in ORDINARY.values() for name in calls.split())
