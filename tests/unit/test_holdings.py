"""What the agent remembers on the node's disk: records, and what was about to be loaded."""

from __future__ import annotations

import msgspec
import pytest
from hauberk.crds.names import PROTECTED
from hauberk.crds.reasons import Reason
from hauberk.daemonset.holdings import Holding, Records
from hauberk.daemonset.host import Host
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import Tree

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# A record that claims what belongs to a container runtime is none.
names = texts.filter(lambda name: name.split("//", 1)[0] not in PROTECTED)


@given(
    modes=st.dictionaries(names, st.sampled_from(["enforce", "complain"]), min_size=1, max_size=3),
    text=texts,
    former=st.lists(names, max_size=2),
)
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, modes: dict[str, str], text: str, former: list[str]
):
    host = Host(state=tmp_path_factory.getbasetemp() / "records")
    one = Holding("p", "uid", "d1", "Enforce", text, modes, ["sha"], "boot", boots=False, former=former)
    Records(host, "apparmor").write(one)
    assert Records(host, "apparmor").read() == ({"p": one}, [])


def record(profile: str = "p") -> Holding:
    return Holding(profile, "uid", "d1", "Enforce", "x", {profile: "enforce"}, ["sha"], "boot-1", boots=True)


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"profile": "q"}',
        msgspec.json.encode(record("other")),
        msgspec.json.encode(record("q"))[:-5],
    ],
)
def test_what_is_no_record_is_set_aside(tree: Tree, torn: bytes):
    Records(tree.host, "apparmor").write(record())
    tree.put(Records(tree.host, "apparmor").folder / "q.json", torn)
    found, faults = Records(tree.host, "apparmor").read()
    assert found == {"p": record()}
    assert [fault.reason for fault in faults] == [Reason.STATE_TORN]
    assert (Records(tree.host, "apparmor").folder / "q.torn").read_bytes() == torn
    assert Records(tree.host, "apparmor").read() == ({"p": record()}, [])


def test_other_files_are_left_alone_and_half_a_record_is_swept_away(tree: Tree):
    folder = Records(tree.host, "apparmor").folder
    for name in (".p.json.new", "p.torn", "readme"):
        tree.put(folder / name, "x")
    assert Records(tree.host, "apparmor").read() == ({}, [])
    assert sorted(file.name for file in folder.iterdir()) == ["p.torn", "readme"]


def test_a_record_without_names_is_set_aside(tree: Tree):
    Records(tree.host, "apparmor").write(msgspec.structs.replace(record(), modes={}))
    found, faults = Records(tree.host, "apparmor").read()
    assert (found, len(faults)) == ({}, 1)


@pytest.mark.parametrize("claim", ["modes", "former"])
@pytest.mark.parametrize("name", [*sorted(PROTECTED), "runc//child"])
def test_a_record_that_claims_a_runtimes_profile_is_set_aside(tree: Tree, name: str, claim: str):
    """To remove such a name, as a record would allow, changes every container of the node."""
    one = record()
    one = (
        msgspec.structs.replace(one, modes=one.modes | {name: "enforce"})
        if claim == "modes"
        else msgspec.structs.replace(one, former=[name])
    )
    Records(tree.host, "apparmor").write(one)
    found, faults = Records(tree.host, "apparmor").read()
    assert found == {}
    assert [fault.reason for fault in faults] == [Reason.STATE_TORN]
    assert f"it claims {name.split('//', maxsplit=1)[0]}, which is never Hauberk's" in faults[0].message


def test_a_name_that_only_looks_like_a_runtimes_is_hauberks(tree: Tree):
    one = msgspec.structs.replace(record(), modes={"runc-wrapped": "enforce", "my//runc": "enforce"})
    Records(tree.host, "apparmor").write(one)
    assert Records(tree.host, "apparmor").read() == ({"p": one}, [])


def test_a_record_of_an_earlier_version_is_read(tree: Tree):
    """Fields that came later have defaults: a record without them is no torn one."""
    old = msgspec.to_builtins(record())
    for later in ("former", "installation", "allow_attachment", "released"):
        del old[later]
    tree.put(Records(tree.host, "apparmor").folder / "p.json", msgspec.json.encode(old))
    assert Records(tree.host, "apparmor").read() == ({"p": record()}, [])


# --- what was about to be loaded ---------------------------------------------------------------------------


def test_what_was_announced_is_known_until_it_is_settled(tree: Tree):
    assert Records(tree.host, "apparmor").announced() == []
    Records(tree.host, "apparmor").announce([record("p"), record("q")])
    assert Records(tree.host, "apparmor").announced() == [record("p"), record("q")]
    changed = msgspec.structs.replace(record("q"), revision="d2")
    Records(tree.host, "apparmor").announce([changed])
    assert Records(tree.host, "apparmor").announced() == [record("p"), changed]
    Records(tree.host, "apparmor").settle()
    Records(tree.host, "apparmor").settle()
    assert Records(tree.host, "apparmor").announced() == []
    assert Records(tree.host, "apparmor").read() == ({}, [])  # it is no record


@pytest.mark.parametrize(
    "torn", [b"", b"[", b"{}", b"[1]", b"\xff\xfe", msgspec.json.encode([record()])[:-9]]
)
def test_a_torn_announcement_is_none(tree: Tree, torn: bytes):
    tree.put(tree.host.state / "loading/apparmor.json", torn)
    assert Records(tree.host, "apparmor").announced() == []
    Records(tree.host, "apparmor").announce([record()])
    assert Records(tree.host, "apparmor").announced() == [record()]


def test_half_an_announcement_is_swept_away(tree: Tree):
    Records(tree.host, "apparmor").announce([record()])
    tree.put(tree.host.state / "loading/.apparmor.json.new", b"[")
    assert Records(tree.host, "apparmor").announced() == [record()]
    assert [file.name for file in (tree.host.state / "loading").iterdir()] == ["apparmor.json"]


@pytest.mark.parametrize(
    "claims", [{"modes": {}}, {"modes": {"runc": "enforce"}}, {"former": ["docker-default"]}]
)
def test_an_announcement_may_claim_no_more_than_a_record(tree: Tree, claims: dict[str, object]):
    """What has no names is held by any kernel; what is a runtime's is never to be removed."""
    Records(tree.host, "apparmor").announce([msgspec.structs.replace(record("q"), **claims), record("p")])
    assert Records(tree.host, "apparmor").announced() == [record("p")]
