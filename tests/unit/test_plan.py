"""What a node's agent decides: a table of situations, and a model of a node that carries steps out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hauberk.crds.models import (
    Content,
    Metadata,
    NodeSelector,
    Placement,
    Problem,
    ProfileRevision,
    RevisionSpec,
    Text,
    Unrendered,
)
from hauberk.crds.names import ANY_FACTS, CONTRACT, text_id
from hauberk.crds.reasons import Reason
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.plan import (
    Key,
    Load,
    Persist,
    Plan,
    Prune,
    Release,
    Remove,
    Snapshot,
    Step,
    foreign_names,
    mismatch,
    plan,
    stale_names,
)
from hauberk.daemonset.resting import Planner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

BOOT = "boot-1"
HERE = {"kubernetes.io/os": "linux", "pool": "a"}
ELSEWHERE = NodeSelector(match_labels={"pool": "b"})


def a_text(text: str, kind: str = ANY_FACTS, *names: str) -> Text:
    return Text(id=text_id(text), facts=[kind], text=text, names=list(names or ("p",)))


def revision(
    profile: str = "p",
    digest: str = "d1",
    sequence: int = 1,
    *,
    text: str = "",
    uid: str = "",
    mode: str = "Enforce",
    facts: str = "any",
    contract: int = CONTRACT,
    selector: NodeSelector | None = None,
    suspend: bool = False,
    withdrawn: bool = False,
    force: bool = False,
    adopt: bool = False,
) -> ProfileRevision:
    placement = Placement(
        sequence=sequence,
        node_selector=selector or NodeSelector(),
        suspend=suspend,
        withdrawn=withdrawn,
        force=force,
        adopt=adopt,
    )
    content = Content(digest=digest, mode=mode, texts=[a_text(text or profile, facts, profile)])
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.{digest}"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=uid or f"uid-{profile}",
            type="AppArmor",
            contract=contract,
            content=content,
            placement=placement,
        ),
    )


def tombstone(profile: str = "p", uid: str = "", *, force: bool = False) -> ProfileRevision:
    """Return what tells of the end of a SecurityProfile whose revisions are gone."""
    one = revision(profile, "", 0, uid=uid, withdrawn=True, force=force)
    return replace(
        one, metadata=Metadata(name=f"{profile}.gone-{uid}"), spec=replace(one.spec, content=Content())
    )


def holding(profile: str = "p", digest: str = "d1", *names: str, text: str = "", uid: str = "") -> Holding:
    return Holding(
        profile=profile,
        uid=uid or f"uid-{profile}",
        revision=digest,
        mode="Enforce",
        text=text or profile,
        modes=dict.fromkeys(names or (profile,), "enforce"),
        digests=[f"sha-{digest}"],
        boot_id=BOOT,
        boots=True,
    )


def kernel_of(*holdings: Holding) -> dict[str, Loaded]:
    return {name: Loaded(mode, one.digests[0]) for one in holdings for name, mode in one.modes.items()}


def planned(
    *revisions: ProfileRevision,
    held: tuple[Holding, ...] = (),
    kernel: dict[str, Loaded] | None = None,
    files: dict[str, str] | None = None,
    refused: dict[Key, Problem] | None = None,
    unrecorded: tuple[str, ...] = (),
    boot: str = BOOT,
) -> Plan:
    """Plan for a node that is as its records say, but for what a test names."""
    return plan(
        Snapshot(
            revisions=revisions,
            labels=HERE,
            holdings={one.profile: one for one in held},
            kernel=kernel_of(*held) if kernel is None else kernel,
            boot_id=boot,
            unrecorded=frozenset(unrecorded),
            boot_files={one.profile: one.revision for one in held} if files is None else files,
            refused=refused or {},
        )
    )


def kinds(decided: Plan) -> list[Key]:
    return [step.key for step in decided.steps]


def problem(digest: str, reason: Reason = Reason.POLICY_REFUSED) -> Problem:
    return Problem(revision=digest, reason=reason, message="no")


H1 = holding()
LOAD1 = ("load", "p", "d1")
REMOVE1 = ("remove", "p", "d1")
REFUSED2 = {Key("load", "p", "d2"): problem("d2")}


@pytest.mark.parametrize(
    ("decided", "steps", "problems"),
    [
        pytest.param(planned(), [], {}, id="nothing"),
        pytest.param(planned(revision()), [LOAD1], {}, id="new"),
        pytest.param(planned(revision(), held=(H1,)), [], {}, id="settled"),
        pytest.param(planned(held=(H1,)), [], {}, id="absence is not deletion"),
        pytest.param(planned(held=(H1,), kernel={}), [LOAD1], {}, id="absent and drifted: repaired"),
        pytest.param(
            planned(revision(), held=(H1,), files={}), [("persist", "p", "d1")], {}, id="not on disk"
        ),
        pytest.param(
            planned(revision(), held=(H1,), files={"p": "d0"}), [("persist", "p", "d1")], {}, id="old on disk"
        ),
        pytest.param(
            planned(revision(), held=(replace(H1, boots=False),), files={}), [], {}, id="not for boot"
        ),
        pytest.param(planned(revision(), held=(H1,), kernel={}), [LOAD1], {}, id="drift: unloaded"),
        pytest.param(
            planned(revision(), held=(H1,), kernel={"p": Loaded("complain", "sha-d1")}),
            [LOAD1],
            {},
            id="drift: mode",
        ),
        pytest.param(
            planned(revision(), held=(H1,), kernel={"p": Loaded("enforce", "other")}),
            [LOAD1],
            {},
            id="drift: text",
        ),
        pytest.param(
            planned(revision(), held=(H1,), kernel={"p": Loaded("enforce")}), [], {}, id="kernel without hash"
        ),
        pytest.param(
            planned(revision(), held=(replace(H1, boot_id="boot-0"),), kernel={"p": Loaded("enforce")}),
            [LOAD1],
            {},
            id="kernel without hash, since a reboot",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2), held=(H1,)),
            [("load", "p", "d2")],
            {},
            id="update",
        ),
        pytest.param(
            planned(revision(sequence=3), revision(digest="d2", sequence=2), held=(H1,)),
            [],
            {},
            id="rollback",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2), held=(H1,), refused=REFUSED2),
            [],
            {"p": Reason.POLICY_REFUSED},
            id="a refused update leaves the good one",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2), held=(H1,), kernel={}, refused=REFUSED2),
            [LOAD1],
            {"p": Reason.POLICY_REFUSED},
            id="a refused update, and drift of the good one",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2), refused=REFUSED2),
            [LOAD1],
            {"p": Reason.POLICY_REFUSED},
            id="a new node falls back",
        ),
        pytest.param(
            planned(revision(digest="d2", sequence=2), refused=REFUSED2),
            [],
            {"p": Reason.POLICY_REFUSED},
            id="a new node with nothing to fall back to",
        ),
        pytest.param(
            planned(revision(digest="d2", sequence=2), held=(H1,), refused=REFUSED2),
            [],
            {"p": Reason.POLICY_REFUSED},
            id="what it holds is enough to fall back to",
        ),
        pytest.param(
            planned(revision(uid="other"), held=(H1,)), [LOAD1], {}, id="made anew under the same name"
        ),
        pytest.param(planned(revision(withdrawn=True), held=(H1,)), [REMOVE1], {}, id="withdrawn"),
        pytest.param(planned(revision(withdrawn=True)), [], {}, id="withdrawn, not there"),
        pytest.param(
            planned(revision(withdrawn=True), held=(H1,), kernel={}), [REMOVE1], {}, id="withdrawn, drifted"
        ),
        pytest.param(
            planned(
                revision(withdrawn=True), held=(H1,), refused={Key(*REMOVE1): problem("d1", Reason.IN_USE)}
            ),
            [],
            {"p": Reason.IN_USE},
            id="withdrawn, in use",
        ),
        pytest.param(planned(revision(selector=ELSEWHERE), held=(H1,)), [REMOVE1], {}, id="deselected"),
        pytest.param(planned(revision(selector=ELSEWHERE)), [], {}, id="not selected"),
        pytest.param(
            planned(revision(selector=ELSEWHERE), revision(digest="d2", sequence=2), held=(H1,)),
            [("load", "p", "d2")],
            {},
            id="the wanted revision's selector counts",
        ),
        pytest.param(
            planned(revision(suspend=True, digest="d2", sequence=2), held=(H1,)), [], {}, id="suspended"
        ),
        pytest.param(
            planned(revision(suspend=True, digest="d2", sequence=2), held=(H1,), kernel={}),
            [LOAD1],
            {},
            id="suspended and drifted",
        ),
        pytest.param(planned(revision(suspend=True)), [LOAD1], {}, id="suspended on a new node"),
        pytest.param(
            planned(revision(suspend=True, withdrawn=True), held=(H1,)),
            [REMOVE1],
            {},
            id="suspended, deleted",
        ),
        pytest.param(
            planned(revision(contract=CONTRACT + 1, digest="d2", sequence=2), held=(H1,)),
            [],
            {"p": Reason.AWAITING_RENDER},
            id="of a newer contract: left alone",
        ),
        pytest.param(
            planned(revision(contract=CONTRACT + 1, withdrawn=True), held=(H1,)),
            [REMOVE1],
            {},
            id="of a newer contract, withdrawn: that word is understood",
        ),
        pytest.param(
            planned(revision(contract=CONTRACT + 1, digest="d2", sequence=2), held=(H1,), kernel={}),
            [LOAD1],
            {"p": Reason.AWAITING_RENDER},
            id="of a newer contract, drifted",
        ),
        pytest.param(
            planned(revision(facts="other")), [], {"p": Reason.AWAITING_RENDER}, id="no text for this node"
        ),
        pytest.param(
            planned(revision(facts="other"), held=(holding(digest="d0"),)),
            [],
            {"p": Reason.AWAITING_RENDER},
            id="no text for this node, which holds an older one",
        ),
        pytest.param(
            planned(revision(), held=(H1,), kernel=kernel_of(H1) | {"p//old": Loaded("enforce")}),
            [("prune", "p", "d1")],
            {},
            id="a child left behind",
        ),
        pytest.param(
            planned(
                revision(), held=(replace(H1, former=["q"]),), kernel=kernel_of(H1) | {"q": Loaded("enforce")}
            ),
            [("prune", "p", "d1")],
            {},
            id="a name given up",
        ),
        pytest.param(
            planned(revision(), held=(replace(H1, former=["q"]),)),
            [("prune", "p", "d1")],
            {},
            id="a name given up that went by itself: forgotten",
        ),
        pytest.param(
            planned(
                revision(),
                held=(replace(H1, former=["q"]),),
                kernel=kernel_of(H1) | {"q": Loaded("enforce")},
                unrecorded=("p",),
            ),
            [("prune", "p", "d1")],
            {},
            id="a name given up goes before the record is written",
        ),
        pytest.param(
            planned(
                revision(),
                held=(replace(H1, former=["q"]),),
                kernel=kernel_of(H1) | {"q": Loaded("enforce")},
                unrecorded=("p",),
                refused={Key("prune", "p", "d1"): problem("d1", Reason.IN_USE)},
            ),
            [("persist", "p", "d1")],
            {},
            id="a name given up and in use keeps nothing from the disk",
        ),
        pytest.param(
            planned(
                revision(),
                held=(replace(H1, former=["q"]),),
                kernel=kernel_of(H1) | {"q": Loaded("enforce")},
                refused={Key("prune", "p", "d1"): problem("d1", Reason.IN_USE)},
            ),
            [],
            {"p": Reason.IN_USE},
            id="a name given up and in use",
        ),
        pytest.param(
            planned(
                revision("b", withdrawn=True),
                revision("a"),
                held=(holding("b"),),
                kernel={"b": Loaded("enforce", "sha-d1")},
            ),
            [("remove", "b", "d1"), ("load", "a", "d1")],
            {},
            id="what goes away goes first",
        ),
    ],
)
def test_a_situation_has_its_steps(
    decided: Plan, steps: list[tuple[str, str, str]], problems: dict[str, Reason]
):
    assert kinds(decided) == steps
    assert {name: one.reason for name, one in decided.problems.items()} == problems


R1 = replace(H1, released=True, boots=False)
A1 = replace(H1, adopted=True)
T1 = replace(H1, allow_attachment=True)
IN_USE = {Key(*REMOVE1): problem("d1", Reason.IN_USE)}
RELEASE1 = ("release", "p", "d1")
PERSIST1 = ("persist", "p", "d1")


@pytest.mark.parametrize(
    ("decided", "steps", "orphans"),
    [
        # --- the end of a profile that nobody heard of ---
        pytest.param(planned(held=(H1,)), [], {"p"}, id="no revision: an orphan, which stays"),
        pytest.param(planned(held=(H1,), kernel={}), [LOAD1], {"p"}, id="an orphan is repaired"),
        pytest.param(planned(held=(H1,), files={}), [PERSIST1], {"p"}, id="an orphan is kept for the boot"),
        pytest.param(planned(revision(), held=(H1,)), [], set(), id="with a revision: none"),
        pytest.param(
            planned(revision("q"), held=(H1,)),
            [("load", "q", "d1")],
            {"p"},
            id="others' words are not for it",
        ),
        pytest.param(planned(tombstone(), held=(H1,)), [REMOVE1], set(), id="a tombstone of its uid"),
        pytest.param(planned(tombstone()), [], set(), id="a tombstone of what is not held"),
        pytest.param(
            planned(tombstone(uid="other"), held=(H1,)), [], {"p"}, id="a tombstone of another uid: an orphan"
        ),
        pytest.param(
            planned(tombstone(uid="other"), held=(H1,), kernel={}),
            [LOAD1],
            {"p"},
            id="a tombstone of another uid: repaired",
        ),
        pytest.param(
            planned(tombstone(), revision(uid="new", digest="d2"), held=(H1,)),
            [("load", "p", "d2")],
            set(),
            id="a live revision of another uid wins over a tombstone",
        ),
        pytest.param(
            planned(tombstone(), revision(uid="new"), held=(replace(H1, uid="new"),)),
            [],
            set(),
            id="a tombstone of the one before is not for the one that is held",
        ),
        pytest.param(
            planned(tombstone(), revision(uid="new", selector=ELSEWHERE), held=(H1,)),
            [REMOVE1],
            set(),
            id="a live one that is not for this node",
        ),
        pytest.param(
            planned(revision(uid="other", withdrawn=True), held=(H1,)),
            [],
            {"p"},
            id="withdrawn, of another uid: an orphan",
        ),
        # --- one withdrawn revision speaks for all of its uid ---
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2, withdrawn=True), held=(H1,)),
            [REMOVE1],
            set(),
            id="the newer is withdrawn: the older goes",
        ),
        pytest.param(
            planned(revision(withdrawn=True), revision(digest="d2", sequence=2), held=(H1,)),
            [REMOVE1],
            set(),
            id="the older is withdrawn: the newer is not loaded",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2, withdrawn=True)),
            [],
            set(),
            id="nothing older is loaded for it",
        ),
        pytest.param(
            planned(revision(), tombstone()),
            [],
            set(),
            id="a tombstone beside a revision that is still there",
        ),
        pytest.param(
            planned(
                revision(withdrawn=True), revision(uid="new", digest="d2"), revision(uid="new", digest="d3")
            ),
            [("load", "p", "d2")],
            set(),
            id="of the new one nothing is withdrawn",
        ),
        # --- by force ---
        pytest.param(
            planned(revision(withdrawn=True, force=True), held=(H1,)),
            [REMOVE1],
            set(),
            id="force: first without",
        ),
        pytest.param(
            planned(revision(withdrawn=True, force=True), held=(H1,), refused=IN_USE),
            [RELEASE1],
            set(),
            id="force: in use",
        ),
        pytest.param(
            planned(tombstone(force=True), held=(H1,), refused=IN_USE),
            [RELEASE1],
            set(),
            id="force: a tombstone",
        ),
        pytest.param(
            planned(
                revision(withdrawn=True),
                revision(digest="d2", withdrawn=True, force=True),
                held=(H1,),
                refused=IN_USE,
            ),
            [RELEASE1],
            set(),
            id="force: said by one of its revisions",
        ),
        pytest.param(
            planned(
                revision(withdrawn=True),
                revision(uid="other", digest="d2", withdrawn=True, force=True),
                held=(H1,),
                refused=IN_USE,
            ),
            [],
            set(),
            id="force: said of another uid",
        ),
        pytest.param(
            planned(
                revision(withdrawn=True, force=True),
                held=(H1,),
                refused={Key(*REMOVE1): problem("d1", Reason.STATE_UNWRITABLE)},
            ),
            [],
            set(),
            id="force: met something else than a use",
        ),
        pytest.param(
            planned(revision(force=True), held=(H1,), refused=IN_USE), [], set(), id="force: not withdrawn"
        ),
        pytest.param(
            planned(revision(selector=ELSEWHERE, force=True), held=(H1,), refused=IN_USE),
            [],
            set(),
            id="force: only not for this node",
        ),
        # --- power over the host ---
        pytest.param(
            planned(revision(), held=(A1,)), [REMOVE1], set(), id="adopted, and the word is taken back"
        ),
        pytest.param(planned(revision(adopt=True), held=(A1,)), [], set(), id="adopted, and may be"),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2, adopt=True), held=(A1,), refused=REFUSED2),
            [],
            set(),
            id="adopted, and the wanted one may, though it is refused",
        ),
        pytest.param(
            planned(revision(suspend=True), held=(A1,)),
            [REMOVE1],
            set(),
            id="adopted: suspending keeps no power",
        ),
        pytest.param(planned(held=(A1,)), [], {"p"}, id="adopted, and nobody says anything: an orphan"),
        pytest.param(
            planned(revision(uid="new", digest="d2"), held=(T1,)),
            [REMOVE1],
            set(),
            id="attached, and another's text may not be",
        ),
        pytest.param(
            planned(revision(uid="new", digest="d2"), held=(T1,), refused=IN_USE),
            [],
            set(),
            id="attached, in use, and another's text may not be",
        ),
        pytest.param(
            planned(revision(digest="d2", sequence=2), held=(T1,)),
            [("load", "p", "d2")],
            set(),
            id="attached, and its own next text is not",
        ),
        pytest.param(
            planned(revision(), held=(replace(A1, released=True),), unrecorded=("p",)),
            [PERSIST1],
            set(),
            id="adopted and released: recorded before it goes",
        ),
        # --- what was released ---
        pytest.param(planned(held=(R1,)), [REMOVE1], set(), id="released: removed, and no orphan"),
        pytest.param(planned(held=(R1,), refused=IN_USE), [], set(), id="released: in use"),
        pytest.param(planned(held=(R1,), kernel={}), [REMOVE1], set(), id="released: not repaired"),
        pytest.param(
            planned(held=(R1,), kernel={}, boot="boot-2"), [REMOVE1], set(), id="released: not after a reboot"
        ),
        pytest.param(
            planned(revision(withdrawn=True, force=True), held=(R1,), refused=IN_USE),
            [],
            set(),
            id="released: not once more",
        ),
        pytest.param(
            planned(held=(R1,), unrecorded=("p",)), [PERSIST1], set(), id="released: recorded before it goes"
        ),
        pytest.param(
            planned(
                held=(R1,),
                unrecorded=("p",),
                refused={Key(*PERSIST1): problem("d1", Reason.STATE_UNWRITABLE)},
            ),
            [REMOVE1],
            set(),
            id="released: goes although the disk takes no record",
        ),
        pytest.param(
            planned(revision(uid="new", digest="d2"), held=(R1,)),
            [("load", "p", "d2")],
            set(),
            id="released: replaced by a live one",
        ),
        pytest.param(
            planned(revision(), held=(R1,)),
            [LOAD1],
            set(),
            id="released: replaced by the same one, were it live",
        ),
        pytest.param(
            planned(revision(suspend=True), held=(R1,)),
            [LOAD1],
            set(),
            id="released: replaced by a suspended one",
        ),
        pytest.param(
            planned(revision(selector=ELSEWHERE), held=(R1,)), [REMOVE1], set(), id="released: live elsewhere"
        ),
        pytest.param(
            planned(revision(digest="d2"), held=(R1,), kernel={}, refused=REFUSED2),
            [REMOVE1],
            set(),
            id="released: no last good one for a text that is refused",
        ),
        pytest.param(
            planned(revision(), revision(digest="d2", sequence=2), held=(R1,), refused=REFUSED2),
            [LOAD1],
            set(),
            id="released: an older live one is tried instead",
        ),
        pytest.param(
            planned(revision(digest="d2", contract=CONTRACT + 1), held=(R1,), kernel={}),
            [REMOVE1],
            set(),
            id="released: no last good one for a newer contract",
        ),
    ],
)
def test_what_is_deleted_goes_and_what_is_absent_stays(
    decided: Plan, steps: list[tuple[str, str, str]], orphans: set[str]
):
    assert kinds(decided) == steps
    assert decided.orphans == orphans


@pytest.mark.parametrize(
    ("shown", "adopts"),
    [
        ((revision(adopt=True),), True),
        ((revision(),), False),
        ((revision(adopt=True), revision(digest="d2", sequence=2)), False),
        ((revision(), revision(digest="d2", sequence=2, adopt=True)), True),
    ],
)
def test_the_wanted_revision_says_whether_the_hosts_names_are_taken(
    shown: tuple[ProfileRevision, ...], adopts: bool
):
    assert [step.adopt for step in planned(*shown).steps if isinstance(step, Load)] == [adopts]


def test_a_fallback_takes_over_what_the_wanted_one_may():
    decided = planned(revision(), revision(digest="d2", sequence=2, adopt=True), refused=REFUSED2)
    assert [(step.revision, step.adopt) for step in decided.steps if isinstance(step, Load)] == [("d1", True)]


def test_a_repair_takes_nothing_over():
    decided = planned(revision(adopt=True), held=(H1,), kernel={})
    assert [step.adopt for step in decided.steps if isinstance(step, Load)] == [False]


def test_a_load_has_what_its_revision_says():
    one = revision(text="x", mode="Complain", adopt=True)
    content = replace(one.spec.content, allow_attachment=True)
    one = replace(one, spec=replace(one.spec, content=content, installation="here"))
    assert planned(one).steps == (
        Load("p", "uid-p", "d1", "Complain", "x", "here", allow_attachment=True, adopt=True),
    )


def test_a_repair_has_what_its_record_says():
    one = replace(H1, mode="Complain", installation="there", allow_attachment=True, uid="gone")
    assert planned(held=(one,), kernel={}).steps == (
        Load(
            *("p", "gone", "d1", "Complain", "p", "there"),
            allow_attachment=True,
            drift="the kernel does not hold p",
        ),
    )


def test_a_record_of_another_installation_is_written_anew():
    """So that a tombstone of the installation that is here may speak of it; the kernel holds it already."""
    one = revision()
    one = replace(one, spec=replace(one.spec, installation="here"))
    assert kinds(planned(one, held=(H1,))) == [LOAD1]
    assert kinds(planned(one, held=(replace(H1, installation="here"),))) == []


@pytest.mark.parametrize(
    ("kernel", "boot", "drift"),
    [
        ({}, BOOT, "the kernel does not hold p"),
        ({"p": Loaded("complain", "sha-d1")}, BOOT, "the kernel holds p in mode complain instead of enforce"),
        ({"p": Loaded("enforce", "x")}, BOOT, "the kernel holds another policy under the name p"),
        ({}, "boot-2", ""),
        ({"p": Loaded("enforce", "what the boot compiled")}, "boot-2", ""),
        ({"p": Loaded("enforce")}, "boot-2", ""),
    ],
)
def test_only_what_changed_since_it_was_loaded_is_drift(kernel: dict[str, Loaded], boot: str, drift: str):
    (step,) = planned(revision(), held=(H1,), kernel=kernel, boot=boot).steps
    assert isinstance(step, Load)
    assert step.drift == drift


def test_a_new_text_is_no_drift():
    (step,) = planned(revision(digest="d2", sequence=2), held=(H1,), kernel={}).steps
    assert isinstance(step, Load)
    assert step.drift == ""


def test_steps_have_an_order():
    """What goes makes room for what comes, and the kernel does not wait for the disk."""
    gone, used, pruned, unwritten = (holding(name) for name in ("gone", "used", "pruned", "unwritten"))
    pruned = replace(pruned, former=["old"])
    decided = planned(
        revision("new"),
        revision("unwritten"),
        revision("pruned"),
        revision("used", withdrawn=True, force=True),
        revision("gone", withdrawn=True),
        held=(unwritten, pruned, used, gone),
        kernel=kernel_of(unwritten, pruned, used, gone) | {"old": Loaded("enforce")},
        files={"pruned": "d1"},
        refused={Key("remove", "used", "d1"): problem("d1", Reason.IN_USE)},
    )
    assert [type(step) for step in decided.steps] == [Remove, Release, Prune, Load, Persist]


def test_a_problem_is_about_the_revision_that_is_wanted():
    decided = planned(revision(contract=CONTRACT + 1, digest="d2", sequence=2), held=(H1,))
    assert decided.problems["p"].revision == "d2"
    assert "update the agent" in decided.problems["p"].message


OWN, OTHER = a_text("own", "own"), a_text("other", "other")


def of_kinds(*texts: Text, unrendered: list[Unrendered] | None = None) -> ProfileRevision:
    one = revision()
    spec = replace(
        one.spec, content=replace(one.spec.content, texts=list(texts)), unrendered=unrendered or []
    )
    return replace(one, spec=spec)


@pytest.mark.parametrize(
    ("texts", "held", "load", "reason", "other"),
    [
        ([OWN, OTHER], "", "own", "", False),
        ([OWN, OTHER], "own", "", "", False),
        ([OWN, OTHER], "other", "own", "", True),  # the node changed
        ([OTHER], "", "", "AwaitingRender", False),
        ([OTHER], "other", "", "AwaitingRender", True),  # what it holds it keeps
        ([], "", "", "AwaitingRender", False),
    ],
)
def test_a_node_takes_the_text_for_its_kind(
    texts: list[Text], held: str, load: str, reason: str, other: bool
):
    holdings = {"p": holding(text=held)} if held else {}
    snapshot = Snapshot(
        (of_kinds(*texts),),
        HERE,
        holdings,
        kernel_of(*holdings.values()),
        BOOT,
        boot_files={"p": "d1"},
        kind="own",
    )
    decided = plan(snapshot)
    assert [step.text for step in decided.steps if isinstance(step, Load)] == ([load] if load else [])
    assert [one.reason for one in decided.problems.values()] == ([reason] if reason else [])
    assert decided.of_other_kind == ({"p"} if other else set())


def test_why_a_kind_of_node_gets_no_text_is_told_by_its_nodes():
    why = Unrendered(facts=["x", "own"], reason="TemplateRefused", message="line 3: 'x' is not there")
    snapshot = Snapshot((of_kinds(OTHER, unrendered=[why]),), HERE, {}, {}, BOOT, kind="own")
    decided = plan(snapshot)
    assert decided.steps == ()
    assert decided.problems["p"] == Problem(revision="d1", reason=why.reason, message=why.message)


def test_a_text_for_these_facts_comes_before_the_one_for_any():
    one = revision()
    content = replace(
        one.spec.content,
        texts=[a_text("any"), a_text("mine", "mine")],
    )
    given_one = replace(one, spec=replace(one.spec, content=content))
    for facts, text in (("mine", "mine"), ("else", "any")):
        decided = plan(Snapshot((given_one,), HERE, {}, {}, BOOT, kind=facts))
        assert [step.text for step in decided.steps if isinstance(step, Load)] == [text]


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        ({}, "the kernel does not hold p"),
        ({"p": Loaded("enforce", "sha-d1")}, "the kernel does not hold p//c"),
        (
            kernel_of(holding("p", "d1", "p", "p//c")) | {"p": Loaded("kill", "sha-d1")},
            "in mode kill instead of enforce",
        ),
        (
            kernel_of(holding("p", "d1", "p", "p//c")) | {"p//c": Loaded("enforce", "x")},
            "another policy under the name p//c",
        ),
        (kernel_of(holding("p", "d1", "p", "p//c")), ""),
    ],
)
def test_mismatch_says_what_differs(kernel: dict[str, Loaded], told: str):
    said = mismatch(holding("p", "d1", "p", "p//c"), kernel, BOOT)
    assert told in said
    assert bool(told) == bool(said)


def test_stale_names_are_nobody_elses():
    mine, other = holding("p"), holding("q", "d9", "q", "p//theirs")
    kernel = kernel_of(mine, other) | dict.fromkeys(("p//old", "host", "host//x", "pp//x"), Loaded("enforce"))
    assert stale_names(replace(mine, former=["q", "host", "gone"]), {"p": mine, "q": other}, kernel) == (
        "host",
        "p//old",
    )


@pytest.mark.parametrize(
    ("kernel", "others", "foreign"),
    [
        ({}, [], {}),
        ({"p": Loaded("enforce", "sha-d1")}, [], {}),  # ours, its record was lost
        ({"p": Loaded("enforce", "x")}, [], {"p": ""}),
        ({"p": Loaded("enforce")}, [], {"p": ""}),
        ({"p": Loaded("enforce", "x")}, [holding("p", "d0")], {}),
        ({}, [holding("q", "d0", "p")], {"p": "q"}),
        ({}, [replace(holding("q", "d0"), former=["p"])], {"p": "q"}),
    ],
)
def test_names_of_others_are_foreign(
    kernel: dict[str, Loaded], others: list[Holding], foreign: dict[str, str]
):
    assert foreign_names("p", holding(), {one.profile: one for one in others}, kernel) == foreign


# --- what holds for any node, also for one that no history leads to ---

PROFILES = st.sampled_from(["p", "q"])
UIDS = st.sampled_from(["u1", "u2"])
DIGESTS = st.sampled_from(["d1", "d2"])
KERNELS = st.dictionaries(
    st.sampled_from(["p", "q", "p//c", "host"]),
    st.builds(
        Loaded, st.sampled_from(["enforce", "complain"]), st.sampled_from([None, "sha-d1", "sha-d2", "x"])
    ),
)


@st.composite
def held_by(draw: st.DrawFn) -> dict[str, Holding]:
    return {
        profile: replace(
            holding(profile, draw(DIGESTS), *draw(st.sampled_from([(profile,), (profile, f"{profile}//c")]))),
            uid=draw(UIDS),
            former=draw(st.lists(st.sampled_from(["host", "old"]), max_size=1)),
            boot_id=draw(st.sampled_from([BOOT, "boot-0"])),
            boots=draw(st.booleans()),
            released=draw(st.integers(0, 3)) == 0,
            installation=draw(st.sampled_from(["", "here"])),
            adopted=draw(st.integers(0, 3)) == 0,
            allow_attachment=draw(st.integers(0, 3)) == 0,
        )
        for profile in draw(st.sets(PROFILES))
    }


@st.composite
def spoken_of(draw: st.DrawFn) -> tuple[ProfileRevision, ...]:
    return tuple(
        revision(
            profile,
            digest,
            draw(st.integers(1, 3)),
            uid=uid,
            withdrawn=draw(st.booleans()),
            force=draw(st.booleans()),
            suspend=draw(st.booleans()),
            adopt=draw(st.booleans()),
            selector=draw(st.sampled_from([None, None, ELSEWHERE])),
            contract=CONTRACT + draw(st.sampled_from([0, 0, 0, 1])),
        )
        for profile, digest, uid in draw(st.sets(st.tuples(PROFILES, DIGESTS, UIDS), max_size=4))
    )


@st.composite
def nodes(
    draw: st.DrawFn, revisions: st.SearchStrategy[tuple[ProfileRevision, ...]] | None = None
) -> Snapshot:
    kinds = st.sampled_from(["load", "remove", "release", "persist", "prune"])
    reasons = st.sampled_from([Reason.IN_USE, Reason.LOAD_FAILED])
    return Snapshot(
        revisions=draw(spoken_of() if revisions is None else revisions),
        labels=HERE,
        holdings=draw(held_by()),
        kernel=draw(KERNELS),
        boot_id=BOOT,
        boot_files=draw(st.dictionaries(PROFILES, DIGESTS)),
        unrecorded=draw(st.frozensets(PROFILES)),
        refused={
            Key(*key): problem(key[2], reason)
            for key, reason in draw(st.dictionaries(st.tuples(kinds, PROFILES, DIGESTS), reasons)).items()
        },
    )


def removed(decided: Plan) -> list[Holding]:
    return [step.holding for step in decided.steps if isinstance(step, Remove | Release)]


@given(nodes(st.just(())))
def test_absence_is_not_deletion(snapshot: Snapshot):
    """An agent that is told nothing, for whatever reason, unloads nothing that is as it was loaded."""
    decided = plan(snapshot)
    assert all(one.released for one in removed(decided))
    assert not any(isinstance(step, Release) for step in decided.steps)
    assert decided.orphans == {name for name, one in snapshot.holdings.items() if not one.released}


@settings(max_examples=200)
@given(nodes())
def test_only_what_is_deleted_or_not_for_this_node_goes(snapshot: Snapshot):
    gone = {
        (one.spec.profile, one.spec.profile_uid) for one in snapshot.revisions if one.spec.placement.withdrawn
    }
    alive = [one.spec for one in snapshot.revisions if (one.spec.profile, one.spec.profile_uid) not in gone]
    for one in removed(plan(snapshot)):
        wanted = [spec for spec in alive if spec.profile == one.profile]
        elsewhere = wanted and any(spec.placement.node_selector == ELSEWHERE for spec in wanted)
        deleted = (one.profile, one.uid) in gone and not wanted
        guarded = wanted and (
            (one.adopted and not all(spec.placement.adopt for spec in wanted))
            or (one.allow_attachment and any(spec.profile_uid != one.uid for spec in wanted))
        )
        assert one.released or deleted or elsewhere or guarded


@settings(max_examples=200)
@given(nodes())
def test_nothing_of_a_deleted_profile_is_loaded_anew(snapshot: Snapshot):
    gone = {
        (one.spec.profile, one.spec.profile_uid) for one in snapshot.revisions if one.spec.placement.withdrawn
    }
    for step in plan(snapshot).steps:
        if isinstance(step, Load) and (step.profile, step.uid) in gone:
            one = snapshot.holdings[step.profile]  # the last good one, until a live one is
            assert (one.uid, one.revision, one.released) == (step.uid, step.revision, False)
            assert any(
                (other.spec.profile, other.spec.profile_uid) not in gone
                for other in snapshot.revisions
                if other.spec.profile == step.profile
            )


@settings(max_examples=200)
@given(nodes())
def test_a_profile_is_released_only_by_force_and_where_it_is_in_use(snapshot: Snapshot):
    for step in plan(snapshot).steps:
        if isinstance(step, Release):
            one = step.holding
            met = snapshot.refused[Key("remove", one.profile, one.revision)]
            assert met.reason == Reason.IN_USE
            assert not one.released
            assert any(
                other.spec.profile_uid == one.uid
                and other.spec.placement.withdrawn
                and other.spec.placement.force
                for other in snapshot.revisions
                if other.spec.profile == one.profile
            )


@settings(max_examples=200)
@given(nodes())
def test_a_released_profile_is_never_repaired_nor_pruned(snapshot: Snapshot):
    released = {name for name, one in snapshot.holdings.items() if one.released}
    decided = plan(snapshot)
    for step in decided.steps:
        match step:
            case Load() if step.profile in released:
                assert step.drift == ""
                assert (step.text, step.uid) in {
                    (text.text, one.spec.profile_uid)
                    for one in snapshot.revisions
                    for text in one.spec.content.texts
                }
            case Prune(one):
                assert not one.released
            case _:
                pass
    assert not released & decided.orphans


@settings(max_examples=200)
@given(nodes())
def test_a_profile_has_one_step_at_a_time_and_none_that_is_refused(snapshot: Snapshot):
    decided = plan(snapshot)
    profiles = [step.key.profile for step in decided.steps]
    assert len(profiles) == len(set(profiles))
    assert not {step.key for step in decided.steps} & snapshot.refused.keys()
    drifted = [step for step in decided.steps if isinstance(step, Load) and step.drift]
    assert all(snapshot.holdings[step.profile].boot_id == BOOT for step in drifted)
    order = [Remove, Release, Prune, Load, Persist]
    ranks = [order.index(type(step)) for step in decided.steps]
    assert ranks == sorted(ranks)


# --- a model of kernel and disk ---
#
# A text is the names that it defines, separated by commas; one that ends with "!" is refused by every node.


@dataclass
class Node:
    """Kernel, records, boot files, and who loaded a name: None for the host itself."""

    kernel: dict[str, Loaded] = field(default_factory=dict[str, Loaded])
    holdings: dict[str, Holding] = field(default_factory=dict[str, Holding])
    files: dict[str, str] = field(default_factory=dict[str, str])
    refused: dict[Key, Problem] = field(default_factory=dict[Key, Problem])
    in_use: frozenset[str] = frozenset()
    unrecorded: set[str] = field(default_factory=set[str])
    hosts: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=lambda: dict(HERE))
    planner: Planner = field(default_factory=Planner)

    def decide(self, revisions: tuple[ProfileRevision, ...]) -> Plan:
        """Return a plan, which is the same for who remembers the last one."""
        snapshot = Snapshot(
            revisions,
            self.labels,
            self.holdings,
            self.kernel,
            BOOT,
            self.files,
            frozenset(self.unrecorded),
            dict(self.refused),
        )
        decided = plan(snapshot)
        assert self.planner.plan(snapshot) == decided
        return decided

    def settle(self, revisions: tuple[ProfileRevision, ...], rounds: int = 6) -> Plan:
        """Plan and do, as the agent does; return the first plan without steps."""
        for _ in range(rounds):
            decided = self.decide(revisions)
            if not decided.steps:
                return decided
            for step in decided.steps:
                self.do(step)
        raise AssertionError(f"no end in {rounds} rounds: {self.decide(revisions)}")

    def do(self, step: Step) -> None:
        match step:
            case Load():
                self._load(step)
            case Persist(one):
                self.unrecorded.discard(one.profile)
                if one.boots:
                    self.files[one.profile] = one.revision
                else:
                    self.files.pop(one.profile, None)
            case Prune(one, names):
                if self._drop(step.key, names):
                    self._hold(replace(one, former=[]))
            case Release(one):
                names = {name: Loaded("enforce", "permissive") for name in one.modes if name in self.kernel}
                self.kernel |= names
                self._hold(replace(one, released=True, boots=False, digests=["permissive"]))
            case Remove(one):
                if self._drop(step.key, (*one.modes, *stale_names(one, {}, self.kernel))):
                    del self.holdings[one.profile]
                    self.unrecorded.discard(one.profile)
                    self.files.pop(one.profile, None)

    def _hold(self, one: Holding) -> None:
        self.holdings[one.profile] = one
        self.unrecorded.add(one.profile)

    def _load(self, step: Load) -> None:
        names = step.text.split(",")
        before = self.holdings.get(step.profile)
        former = sorted({*before.modes, *before.former} - set(names)) if before else []
        wanted = replace(
            holding(step.profile, step.revision, *names, text=step.text, uid=step.uid), former=former
        )
        if any(name.endswith("!") for name in names):
            self.refused[step.key] = problem(step.revision)
        elif foreign_names(step.profile, wanted, self.holdings, self.kernel):
            self.refused[step.key] = problem(step.revision, Reason.HOST_OWNED)
        else:
            assert not self.hosts & set(names)
            self.kernel |= kernel_of(wanted)
            self._hold(wanted)

    def _drop(self, key: Key, names: tuple[str, ...]) -> bool:
        assert not self.hosts & set(names)
        if self.in_use & set(names):
            self.refused[key] = problem(key.revision, Reason.IN_USE)
            return False
        for name in names:
            self.kernel.pop(name, None)
        return True


NAMES = ("a", "b", "c", "d", "host1", "host2")
TEXTS = st.lists(st.sampled_from([*NAMES, "a//x", "b//y", "bad!"]), min_size=1, max_size=3, unique=True).map(
    ",".join
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[ProfileRevision, ...]]:
    """Return what the API may show one after another: revisions come, go, and change their placement."""
    shown: list[tuple[ProfileRevision, ...]] = []
    for _ in range(draw(st.integers(1, 5))):
        now: list[ProfileRevision] = []
        for profile in draw(st.lists(st.sampled_from("pqr"), unique=True)):
            suspend, withdrawn = draw(st.booleans()), draw(st.integers(0, 3)) == 0
            force, uid = draw(st.booleans()), draw(st.sampled_from(["", "", "another"]))
            selector = draw(st.sampled_from([None, None, ELSEWHERE]))
            for sequence, text in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=2, unique=True))):
                now.append(
                    revision(
                        profile,
                        f"{profile}-{text}",
                        sequence,
                        text=text,
                        suspend=suspend,
                        withdrawn=withdrawn,
                        force=force,
                        uid=uid,
                        selector=selector,
                        contract=CONTRACT + draw(st.sampled_from([0, 0, 0, 1])),
                    )
                )
        ended = draw(st.lists(st.sampled_from("pqr"), max_size=1))
        now += [tombstone(profile, draw(st.sampled_from(["", "another"]))) for profile in ended]
        shown.append(tuple(now))
    return shown


def a_node(in_use: frozenset[str] = frozenset()) -> Node:
    hosts = frozenset({"host1", "host2"})
    return Node(kernel=dict.fromkeys(hosts, Loaded("enforce", "host")), hosts=hosts, in_use=in_use)


@settings(max_examples=120, deadline=None)
@given(history=histories(), in_use=st.frozensets(st.sampled_from(NAMES[:4]), max_size=2))
def test_any_history_settles_and_leaves_the_hosts_profiles(
    history: list[tuple[ProfileRevision, ...]], in_use: frozenset[str]
):
    node = a_node(in_use)
    for shown in history:
        node.refused.clear()  # time passed: all is tried again
        node.settle(shown)
        assert node.decide(shown).steps == ()
        for name in node.hosts:
            assert node.kernel[name] == Loaded("enforce", "host")
        for one in node.holdings.values():
            assert mismatch(one, node.kernel, BOOT) == "" or (one.profile in node.decide(shown).problems)
        assert node.unrecorded == set()


@settings(max_examples=100, deadline=None)
@given(history=histories())
def test_when_nothing_is_listed_nothing_is_unloaded(history: list[tuple[ProfileRevision, ...]]):
    node = a_node()
    for shown in history:
        node.refused.clear()
        node.settle(shown)
        before = dict(node.kernel), dict(node.holdings), dict(node.files)
        node.settle(())
        assert before[0].keys() == node.kernel.keys()
        assert not any(isinstance(step, Remove) for step in node.decide(()).steps)
        assert set(before[1]) == set(node.holdings)


@settings(max_examples=100, deadline=None)
@given(history=histories(), data=st.data())
def test_any_drift_is_repaired(history: list[tuple[ProfileRevision, ...]], data: st.DataObject):
    node = a_node()
    for shown in history:
        node.refused.clear()
        node.settle(shown)
    wanted = {name: mode for one in node.holdings.values() for name, mode in kernel_of(one).items()}
    for name in wanted:
        match data.draw(st.sampled_from(["keep", "unload", "mode", "text", "file"])):
            case "unload":
                del node.kernel[name]
            case "mode":
                node.kernel[name] = Loaded("complain", node.kernel[name].digest)
            case "text":
                node.kernel[name] = Loaded("enforce", "someone's")
            case "file":
                node.files.clear()
            case _:
                pass
    node.refused.clear()
    node.settle(history[-1])
    assert {name: node.kernel[name] for name in wanted} == wanted
    assert node.files == {one.profile: one.revision for one in node.holdings.values()}


def test_a_name_moves_from_one_profile_to_another():
    node = a_node()
    node.settle((revision("p", text="a"),))
    node.settle((revision("p", text="a", withdrawn=True), revision("q", text="a")))
    assert [one.profile for one in node.holdings.values()] == ["q"]
    assert set(node.kernel) == {"a", *node.hosts}


def test_an_update_that_drops_names_leaves_none_behind():
    node = a_node()
    node.settle((revision("p", "d1", 1, text="a,a//x,b"),))
    node.settle((revision("p", "d1", 1, text="a,a//x,b"), revision("p", "d2", 2, text="a")))
    assert set(node.kernel) == {"a", *node.hosts}
    assert node.holdings["p"].former == []


def test_a_name_that_was_given_up_and_went_is_the_hosts_from_then_on():
    """A pod kept it in use until the node rebooted; weeks later a package brings a profile of that name."""
    node = a_node(in_use=frozenset({"b"}))
    node.settle((revision("p", "d1", 1, text="a,b"),))
    node.settle((revision("p", "d2", 2, text="a"),))
    assert node.holdings["p"].former == ["b"]
    del node.kernel["b"]
    node.in_use, node.refused = frozenset(), {}
    node.settle((revision("p", "d2", 2, text="a"),))
    assert node.holdings["p"].former == []
    node.hosts |= {"b"}
    node.kernel["b"] = Loaded("enforce", "host")
    node.settle((revision("p", "d2", 2, text="a"),))
    node.settle((revision("p", "d2", 2, text="a", withdrawn=True),))
    assert set(node.kernel) == set(node.hosts)


def test_a_deletion_leaves_no_former_name_behind():
    node = a_node(in_use=frozenset({"b"}))
    node.settle((revision("p", "d1", 1, text="a,b"),))
    node.settle((revision("p", "d2", 2, text="a"),))  # b is in use: it can't be pruned yet
    node.in_use = frozenset()
    node.settle((revision("p", "d2", 2, text="a", withdrawn=True),))
    assert set(node.kernel) == set(node.hosts)
