"""`hauberk render`: what a policy becomes for which kinds of nodes, by the real renderer and parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hauberk.cli.commands import app
from hauberk.cli.kinds import UnknownKindError, common, kinds_of
from hauberk.crds.models import encode
from typer.testing import CliRunner

HEAD = """\
apiVersion: hauberk.dev/v1alpha1
kind: SecurityProfile
metadata: {name: app}
spec:
  type: AppArmor
  appArmor:
    policy: |
      profile app flags=(attach_disconnected) {
        file,
        RULE
      }
"""
TEMPLATE = HEAD + "  template: {values: {folder: /srv/old data}}\n"
IO_URING = TEMPLATE.replace(
    "RULE", "{% if 'io_uring' in apparmor.features %}\n        network,\n        {% endif %}"
)
OLD = """\
# app, for debian-12, ubuntu-22.04
profile app flags=(attach_disconnected) {
  file,
}
"""
NEW = """\
# app, for debian-13, ubuntu-24.04
profile app flags=(attach_disconnected) {
  file,
  network,
}
"""


def run(*words: str, given: str = "") -> tuple[int, str, str]:
    said = CliRunner().invoke(app, ["render", *words], input=given)
    if said.exception and not isinstance(said.exception, SystemExit):
        raise said.exception
    return said.exit_code, said.stdout, said.stderr


def node(name: str, kind: str, *, apparmor: bool = True) -> dict[str, object]:
    status: dict[str, object] = {"facts": encode(common()[kind])}
    if apparmor:
        status["appArmor"] = {"profiles": {}}
    return {"kind": "ProfileNode", "metadata": {"name": name}, "status": status}


def test_each_distinct_text_is_shown_once_with_its_kinds():
    assert run("-", given=IO_URING) == (0, f"{OLD}\n{NEW}", "")


def test_kinds_are_those_asked_for():
    assert run("-", "--facts", "debian-13", given=IO_URING) == (0, NEW.replace(", ubuntu-24.04", ""), "")


def test_a_policy_without_a_template_is_for_all():
    code, out, _ = run("-", given=HEAD.replace("RULE", "network,"))
    assert (code, out.splitlines()[0]) == (0, "# app, for debian-12, debian-13, ubuntu-22.04, ubuntu-24.04")


def test_values_go_through_their_filters():
    code, out, _ = run("-", given=TEMPLATE.replace("RULE", "deny {{ values.folder | aa_path('/**') }} w,"))
    assert (code, '  deny "/srv/old data/**" w,\n' in out) == (0, True)


def test_json_and_yaml_hold_the_same():
    document = IO_URING.replace("network,", "fil,")
    code, out, err = run("-", "-o", "json", given=document)
    (found,) = json.loads(out)
    assert (code, found["file"], found["profile"]) == (1, "-", "app")
    assert [(one["kinds"], one["names"]) for one in found["texts"]] == [
        (["debian-12", "ubuntu-22.04"], ["app"])
    ]
    (failed,) = found["failed"]
    assert (failed["kinds"], failed["reason"]) == (["debian-13", "ubuntu-24.04"], "PolicyRefused")
    assert yaml.safe_load(run("-", "-o", "yaml", given=document)[1]) == [found]
    assert err.startswith("-: error: app, for debian-13, ubuntu-24.04: apparmor_parser refuses the policy: ")


def test_kinds_that_fail_for_different_reasons_are_told_apart():
    rule = "{% if node.os.id == 'debian' %}{{ nothing }}{% else %}fil,{% endif %}"
    code, out, err = run("-", given=TEMPLATE.replace("RULE", rule))
    assert (code, out) == (1, "")
    told = err.splitlines()
    assert told[0].startswith(
        "-: error: app, for debian-12, debian-13: jinja2 refuses the template: line 3: "
    )
    assert told[1].startswith("-: error: app, for ubuntu-22.04, ubuntu-24.04: apparmor_parser refuses the ")
    assert len(told) == 2


def test_what_is_refused_whatever_the_kind_is_told_for_all():
    code, out, err = run("-", given=HEAD.replace("RULE", "fil,"))
    assert (code, out) == (1, "")
    assert err.startswith(
        "-: error: app, for debian-12, debian-13, ubuntu-22.04, ubuntu-24.04: apparmor_parser"
    )


@pytest.mark.parametrize("given", ["kind: Pod\napiVersion: v1\n", "apiVersion: v1\n  kind: [\n"])
def test_a_file_without_a_profile_is_told(given: str):
    code, out, err = run("-", given=given)
    assert (code, out, err.startswith("-:")) == (1, "", True)


def test_nodes_of_a_cluster_are_kinds_too(tmp_path: Path):
    nodes = {
        "kind": "List",
        "items": [node("a", "debian-13"), node("b", "debian-13"), node("c", "debian-12")],
    }
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(nodes))
    code, out, _ = run("-", "--facts", str(tmp_path / "nodes.yaml"), given=IO_URING)
    assert (code, [line for line in out.splitlines() if line[:1] == "#"]) == (
        0,
        ["# app, for a, b", "# app, for c"],
    )


def test_facts_are_read_in_every_form(tmp_path: Path):
    debian = common()["debian-12"]
    forms = {
        "one.json": json.dumps(node("n", "debian-12")),
        "bare.yaml": yaml.safe_dump(encode(debian)),
        "status.yaml": yaml.safe_dump({"facts": encode(debian)}),
        "some.yaml": yaml.safe_dump_all([node("n", "debian-12"), node("m", "debian-13", apparmor=False)]),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    read = {name: kinds_of([str(tmp_path / name)]) for name in forms}
    assert read == {
        "one.json": {"n": debian},
        "bare.yaml": {"bare": debian},
        "status.yaml": {"status": debian},
        "some.yaml": {"n": debian},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod\n", "no facts of nodes that hold profiles"),
        ("os: {id: [1]}\n", "Expected `str`, got `array`"),
        ("a: [\n", "did not find expected"),
    ],
)
def test_a_file_without_facts_is_wrong_use(tmp_path: Path, text: str, message: str):
    (tmp_path / "facts").write_text(text)
    with pytest.raises(UnknownKindError, match=message):
        kinds_of([str(tmp_path / "facts")])
    assert run("-", "--facts", str(tmp_path / "facts"), given=IO_URING)[0] == 2


def test_an_unknown_kind_is_wrong_use():
    assert run("-", "--facts", "plan-9", given=IO_URING) == (
        2,
        "",
        f"error: plan-9 is neither a file with facts nor a common kind of node ({', '.join(common())})\n",
    )


def test_without_a_kind_the_common_ones_of_its_type_are_taken():
    policy = "(block a (type t){% if node.os.id == 'debian' %} (type u){% endif %})"
    spec = {"type": "SELinux", "selinux": {"policy": policy}, "template": {}}
    body = yaml.safe_dump({**yaml.safe_load(HEAD), "spec": spec})
    assert run("-", given=body)[1] == (
        "# app, for fedora-43, rhel-9.6, rhel-10.0\n(block a (type t))\n\n"
        "# app, for debian-13-selinux\n(block a (type t) (type u))\n"
    )
    code, out, _ = run("-", "--facts", "debian-12", "--facts", "fedora-43", given=body)
    assert (code, out) == (0, "# app, for fedora-43\n(block a (type t))\n")
    code, out, err = run("-", "--facts", "debian-12", given=body)
    assert (code, out) == (1, "")
    assert "for debian-12: none of these nodes holds profiles of the type SELinux [NoNodes]" in err
