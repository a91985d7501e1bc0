"""`hauberk import`: what becomes of the files in tests/golden-import, and what it says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hauberk.cli.commands import app
from hauberk.cli.foreign import balanced
from hauberk.cli.manifest import distinct, manifest, name_fault, object_name
from hauberk.cli.sources import sources
from hauberk.crds.models import AppArmor, ProfileSpec
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

CASES = Path(__file__).parents[1] / "golden-import"
CODES = {"refused": 1}
# It differs from version to version.
PARSERS_OWN = re.compile(r"(?<=syntax error), [^\[]*")


def run(*words: str, given: str = "") -> tuple[int, str, str]:
    said = CliRunner().invoke(app, ["import", *words], input=given)
    if said.exception and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said.exit_code, said.stdout, said.stderr


def documents(text: str) -> list[dict[str, object]]:
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("case", sorted(one.name for one in CASES.iterdir()))
def test_what_becomes_of_files(case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(CASES / case)
    code, out, err = run(*sorted(file.name for file in Path().glob("in*")))
    assert out == Path("out.yaml").read_text()
    assert PARSERS_OWN.sub("", err) == PARSERS_OWN.sub("", Path("said.txt").read_text())
    assert code == CODES.get(case, 0)


@pytest.mark.parametrize("case", ["raw-apparmor", "attachment-and-include", "complain", "cil", "seccomp"])
def test_a_policy_is_kept_byte_for_byte(case: str):
    files = sorted(Path(CASES / case).glob("in*"))
    out = run(*map(str, files))[1]
    policies = [one.spec.app_armor or one.spec.selinux or one.spec.seccomp for one in sources("-", out)]
    kept = [one.policy for one in policies if one]
    assert kept == [file.read_text().rstrip("\n") + "\n" for file in files]


def test_what_is_imported_of_the_operator_passes_lint():
    policy = CASES / "operator-apparmor" / "out.yaml"
    said = CliRunner().invoke(app, ["lint", "-o", "json", str(policy)])
    assert (said.exit_code, [one["message"] for one in yaml.safe_load(said.stdout)]) == (
        0,
        ["mode Complain denies nothing, it only logs what Enforce would deny"],
    )


def test_standard_input_and_folders_are_taken(tmp_path: Path):
    (tmp_path / "within").mkdir()
    (tmp_path / "within" / "one").write_text("profile one {\n}\n")
    (tmp_path / ".hidden").write_text("x")
    code, out, err = run(str(tmp_path), "-", given="profile two {\n}\n")
    assert (code, [one["metadata"] for one in documents(out)]) == (0, [{"name": "one"}, {"name": "two"}])
    assert err == "2 profiles imported, 0 could not be\n"


def test_what_the_cluster_finds_too_long_is_told(tmp_path: Path):
    (tmp_path / "long.cil").write_text("(block long)\n" + ";" * (128 << 10) + "\n")
    code, _, err = run(str(tmp_path / "long.cil"))
    assert (code, "the cluster will refuse it: the policy has 131086 bytes" in err) == (0, True)


def test_a_file_that_is_not_there_is_wrong_use():
    assert run("/nope")[::2] == (2, "error: /nope: not there, or no text\n")


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
@example("\n  \tx \n")
@example("\tx\n")
@example("\x85")
@example("\t")
@example(" x\n\n\n")
@example("x \n\ty\n")
@example("x\n \n")
@example("a\r\nb\u2028c\x85d\x00\n")
@example("- x: |\n  # y\n---\n...\n")
def test_any_policy_comes_out_of_yaml_as_it_went_in(policy: str):
    written = manifest("any", ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy)))
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        assert yaml.load(written, Loader=loader)["spec"]["appArmor"]["policy"] == policy  # noqa: S506


@given(st.text())
@example("x" * 100)
@example("a." * 40)
@example("/usr/bin/Foo")
def test_any_name_makes_an_objects_name(said: str):
    name = object_name(said)
    assert name_fault(name) == ""
    assert name_fault(distinct(name, {name})) == ""
    assert distinct(name, {name}) != name


@pytest.mark.parametrize(
    ("said", "name"),
    [("/usr/bin/Foo", "usr.bin.foo"), ("my_app", "my-app"), ("..-", "profile"), ("a.-b-.c", "a.b.c")],
)
def test_names_are_near_to_what_was_said(said: str, name: str):
    assert object_name(said) == name


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("(a (b))", True),
        ("(a", False),
        (")(", False),
        ("(a ; )\n)", True),
        ('(a ")" )', True),
        ('(a " )', False),
    ],
)
def test_brackets_are_counted_as_cil_reads_them(text: str, whole: bool):
    assert balanced(text) == whole


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        ("(block a (type t) (typepermissive t))", "Permissive"),
        ("(block a (type t))\n(typepermissive a.t)", "Permissive"),
        ("(block a (type t))\n(typepermissive .a.t)", "Permissive"),
        ("(block a (blockinherit container) (typepermissive process))", "Permissive"),
        ("(block a (type t) (block b (type u) (typepermissive t) (typepermissive u)))", "Permissive"),
        ("(block a (type t) (optional o (typepermissive t)))", "Permissive"),
        ("(block a (type t) ; (typepermissive t)\n)", "Enforce"),
        # of the host, of one type among several, and beside what is refused for another reason
        ("(block a (type t) (typepermissive init_t))", "Enforce"),
        ("(block a (type t) (typepermissive t) (typepermissive init_t))", "Enforce"),
        ("(block a (type t) (type u) (typepermissive t))", "Enforce"),
        ("(block a (type t) (typepermissive t) (allow init_t t (file (read))))", "Enforce"),
    ],
)
def test_a_module_is_permissive_as_its_text_made_its_types(tmp_path: Path, policy: str, mode: str):
    (tmp_path / "a.cil").write_text(policy)
    code, out, err = run(str(tmp_path / "a.cil"))
    (one,) = sources("-", out)
    assert code == 0
    assert one.spec.selinux
    assert one.spec.selinux.mode == mode
    if mode == "Permissive":
        assert "typepermissive" not in one.spec.selinux.policy
        assert "refuse" not in err
    else:
        assert one.spec.selinux.policy == policy + "\n"
