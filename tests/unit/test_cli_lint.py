"""`hauberk lint`: what it finds in files, where it says so, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hauberk.cli.commands import app
from hauberk.cli.sources import UnreadableError, files_of, sources
from hauberk.crds.errors import NodeFault
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
BAD = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: hauberk.dev/v1alpha1
kind: SecurityProfile
metadata: {name: bad}
spec:
  type: AppArmor
  appArmor:
    policy: |
      profile bad {
        file,
        fil,
      }
"""
OWN = BAD.partition("---\n")[2]
GOOD = "profile good flags=(attach_disconnected) {\n  file,\n  signal (receive) peer=runc,\n}\n"
WARNED = "profile warned {\n  signal,\n}\n"


def run(*words: str, given: str = "") -> tuple[int, str, str]:
    said = CliRunner().invoke(app, ["lint", *words], input=given)
    if said.exception and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said.exit_code, said.stdout, said.stderr


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_yaml", ".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_an_error_is_told_at_its_line_of_the_file(tmp_path: Path):
    put(tmp_path, bad_yaml=BAD, good=GOOD)
    code, out, err = run(str(tmp_path))
    assert code == 1
    assert out.startswith(
        f"{tmp_path}/bad.yaml:14: error: apparmor_parser refuses the policy: line 3: syntax"
    )
    assert out.endswith("[PolicyRefused]\n")
    assert err.strip() == "2 profiles: 1 error, 0 warnings"


def test_what_is_good_is_not_talked_about(tmp_path: Path):
    assert run(str(put(tmp_path, good=GOOD))) == (0, "", "1 profile: nothing to say\n")


def test_all_three_types_raw_and_in_yaml(tmp_path: Path):
    """Each with an error in the policy's second line."""
    module = "(block web (type process)\n  (allow init_t etc_t (file (read))))\n"
    filtered = '{"defaultAction": "SCMP_ACT_ERRNO",\n "syscalls": }\n'
    (tmp_path / "web.cil").write_text(module)
    (tmp_path / "web.json").write_text(filtered)
    for kind, block, policy in (("SELinux", "selinux", module), ("Seccomp", "seccomp", filtered)):
        body = {"apiVersion": "hauberk.dev/v1alpha1", "kind": "SecurityProfile", "metadata": {"name": "web"}}
        text = yaml.safe_dump(body) + f"spec:\n  type: {kind}\n  {block}:\n    policy: |\n"
        (tmp_path / f"{block}.yaml").write_text(text + textwrap.indent(policy, " " * 6))
    found = json.loads(run("-o", "json", str(tmp_path))[1])
    assert [(Path(one["file"]).name, one["level"], one["line"], one["reason"]) for one in found] == [
        ("seccomp.yaml", "error", 10, "PolicyRefused"),
        ("selinux.yaml", "error", 10, "StatementRefused"),
        ("web.cil", "error", 2, "StatementRefused"),
        ("web.json", "error", 2, "PolicyRefused"),
    ]


def test_modules_and_filters_are_judged_like_profiles(tmp_path: Path):
    (tmp_path / "web.cil").write_text("(block web (blockinherit container))\n")
    (tmp_path / "web.json").write_text('{"defaultAction": "SCMP_ACT_ERRNO"}\n')
    assert run(str(tmp_path)) == (0, "", "2 profiles: nothing to say\n")
    (tmp_path / "bad.cil").write_text("(block bad (type t) (allow etc_t .bad.t (file (read))))\n")
    (tmp_path / "bad.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}\n')
    code, out, _ = run(str(tmp_path))
    assert (code, "[StatementRefused]" in out, "[PolicyEmpty]" in out) == (1, True, True)


def test_warnings_are_errors_only_where_asked(tmp_path: Path):
    put(tmp_path, warned=WARNED)
    code, out, _ = run(str(tmp_path))
    assert (code, ": warning: profile warned lacks flags=(attach_disconnected)" in out) == (0, True)
    assert run("--strict", str(tmp_path))[0] == 1


def test_json_and_sarif_hold_the_same(tmp_path: Path):
    put(tmp_path, bad_yaml=BAD, warned=WARNED)
    found = json.loads(run("-o", "json", str(tmp_path))[1])
    assert [(one["level"], one["line"], one["profile"], one["reason"]) for one in found] == [
        ("error", 14, "bad", "PolicyRefused"),
        ("warning", 1, "warned", "Advice"),
    ]
    (sarif,) = json.loads(run("-o", "sarif", str(tmp_path))[1])["runs"]
    results = [
        (one["level"], one["locations"][0]["physicalLocation"]["region"]["startLine"], one["message"]["text"])
        for one in sarif["results"]
    ]
    assert results == [(one["level"], one["line"], one["message"]) for one in found]
    assert [one["id"] for one in sarif["tool"]["driver"]["rules"]] == ["Advice", "PolicyRefused"]


def test_standard_input_is_a_file_too():
    code, out, _ = run("-", given=BAD)
    assert (code, out.startswith("-:14: error: ")) == (1, True)


def test_a_template_is_rendered_for_common_kinds():
    document = BAD.replace("fil,", "{{ {'12': 'file,'}[node.os.version] }}") + "  template: {}\n"
    code, out, _ = run("-", given=document)
    assert code == 1
    assert "could end a rule" in out
    document = BAD.replace("fil,", "{{ node.os.version }}x,") + "  template: {}\n"
    code, out, _ = run("-", given=document)
    assert code == 1
    assert (
        "-:12: error: for debian 12 (kernel 6.1, x86_64): apparmor_parser refuses the policy: line 3" in out
    )
    document = BAD.replace("fil,", "{% if node.os.id == 'ubuntu' %}fil,{% endif %}") + "  template: {}\n"
    code, out, _ = run("-", given=document)
    assert code == 0
    assert "warning: for ubuntu 22.04 (kernel 5.15, x86_64): apparmor_parser refuses" in out


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("apiVersion: hauberk.dev/v1\nkind: SecurityProfile\n", 1, "apiVersion is hauberk.dev/v1"),
        ("a: 1\n---\n" + OWN.replace("type: AppArmor", "type: [a]"), 3, "no SecurityProfile"),
        ("apiVersion: v1\n  kind: [\n", 2, "no YAML"),
        ("apiVersion: v1\nkind: \a\n", 1, "no YAML: .*control characters"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_an_error(text: str, line: int, message: str):
    with pytest.raises(UnreadableError, match=message) as told:
        list(sources("x.yaml", text))
    assert told.value.line == line
    code, out, _ = run("-", given=text)
    assert (code, f"-:{line}: error: " in out) == (1, True)


def test_a_file_that_is_not_there_is_wrong_use():
    code, out, err = run("/nope")
    assert (code, out, err) == (2, "", "error: /nope: not there, or no text\n")


def test_no_parser_is_the_machines_fault(tmp_path: Path):
    with pytest.raises(NodeFault, match="can't be started"):
        run("--parser", str(tmp_path / "none"), "-", given=GOOD)
    words = [sys.executable, "-m", "hauberk.cli", "lint", "--parser", str(tmp_path / "none"), "-"]
    said = subprocess.run(words, input=GOOD, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (3, "")
    assert said.stderr.startswith("error: ")
    assert said.stderr.count("\n") == 1


def test_of_a_folder_only_profiles_are_taken(tmp_path: Path):
    put(tmp_path, good=GOOD, **{".hidden": "x", "good~": "x", "good.dpkg-old": "x", "sub__more": GOOD})
    assert [file.name for file in files_of(tmp_path)] == ["good", "more"]
    assert files_of(tmp_path / ".hidden") == [tmp_path / ".hidden"]  # asked for by its name


def test_the_library_passes():
    code, _, err = run(str(ROOT / "profiles" / "library"))
    assert (code, err.partition(":")[0]) == (0, "12 profiles")


def test_help_has_examples_and_exit_codes():
    out = run("--help")[1]
    assert "hauberk lint profiles/" in out
    assert "Exit codes: 0 fine, 1 something is wrong, 2 wrong use, 3" in out
    assert max(len(line) for line in out.splitlines()) <= 80
