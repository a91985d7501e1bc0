"""What the agent remembers on the node's disk: records, and what was about to be loaded."""

from __future__ import annotations

import msgspec
import pytest
from hauberk.crds.names import PROTECTED
from hauberk.crds.reasons import Reason
from hauberk.daemonset import holdings
from hauberk.daemonset.holdings import Holding
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
    holdings.write(host, one)
    assert holdings.read(host) == ({"p": one}, [])


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
    holdings.write(tree.host, record())
    tree.put(holdings.folder(tree.host) / "q.json", torn)
    found, faults = holdings.read(tree.host)
    assert found == {"p": record()}
    assert [fault.reason for fault in faults] == [Reason.STATE_TORN]
    assert (holdings.folder(tree.host) / "q.torn").read_bytes() == torn
    assert holdings.read(tree.host) == ({"p": record()}, [])


def test_other_files_are_left_alone_and_half_a_record_is_swept_away(tree: Tree):
    folder = holdings.folder(tree.host)
    for name in (".p.json.new", "p.torn", "readme"):
        tree.put(folder / name, "x")
    assert holdings.read(tree.host) == ({}, [])
    assert sorted(file.name for file in folder.iterdir()) == ["p.torn", "readme"]


def test_a_record_without_names_is_set_aside(tree: Tree):
    holdings.write(tree.host, msgspec.structs.replace(record(), modes={}))
    found, faults = holdings.read(tree.host)
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
    holdings.write(tree.host, one)
    found, faults = holdings.read(tree.host)
    assert found == {}
    assert [fault.reason for fault in faults] == [Reason.STATE_TORN]
    assert f"it claims {name.split('//', maxsplit=1)[0]}, which is never Hauberk's" in faults[0].message


def test_a_name_that_only_looks_like_a_runtimes_is_hauberks(tree: Tree):
    one = msgspec.structs.replace(record(), modes={"runc-wrapped": "enforce", "my//runc": "enforce"})
    holdings.write(tree.host, one)
    assert holdings.read(tree.host) == ({"p": one}, [])


def test_a_record_of_an_earlier_version_is_read(tree: Tree):
    """Fields that came later have defaults: a record without them is no torn one."""
    old = msgspec.to_builtins(record())
    for later in ("former", "installation", "allow_attachment", "released"):
        del old[later]
    tree.put(holdings.folder(tree.host) / "p.json", msgspec.json.encode(old))
    assert holdings.read(tree.host) == ({"p": record()}, [])


# --- what was about to be loaded ---------------------------------------------------------------------------


def test_what_was_announced_is_known_until_it_is_settled(tree: Tree):
    assert holdings.announced(tree.host) == []
    holdings.announce(tree.host, [record("p"), record("q")])
    assert holdings.announced(tree.host) == [record("p"), record("q")]
    holdings.announce(tree.host, [record("q")])
    assert holdings.announced(tree.host) == [record("q")]
    holdings.settle(tree.host)
    holdings.settle(tree.host)
    assert holdings.announced(tree.host) == []
    assert holdings.read(tree.host) == ({}, [])  # it is no record


@pytest.mark.parametrize(
    "torn", [b"", b"[", b"{}", b"[1]", b"\xff\xfe", msgspec.json.encode([record()])[:-9]]
)
def test_a_torn_announcement_is_none(tree: Tree, torn: bytes):
    tree.put(tree.host.state / "loading.json", torn)
    assert holdings.announced(tree.host) == []
    holdings.announce(tree.host, [record()])
    assert holdings.announced(tree.host) == [record()]


def test_half_an_announcement_is_swept_away(tree: Tree):
    holdings.announce(tree.host, [record()])
    tree.put(tree.host.state / ".loading.json.new", b"[")
    assert holdings.announced(tree.host) == [record()]
    assert [file.name for file in tree.host.state.iterdir()] == ["loading.json"]


@pytest.mark.parametrize(
    "claims", [{"modes": {}}, {"modes": {"runc": "enforce"}}, {"former": ["docker-default"]}]
)
def test_an_announcement_may_claim_no_more_than_a_record(tree: Tree, claims: dict[str, object]):
    """What has no names is held by any kernel; what is a runtime's is never to be removed."""
    holdings.announce(tree.host, [msgspec.structs.replace(record("q"), **claims), record("p")])
    assert holdings.announced(tree.host) == [record("p")]
