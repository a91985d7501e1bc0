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
)
from hauberk.crds.names import CONTRACT
from hauberk.crds.reasons import Reason
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.plan import (
    Key,
    Load,
    Persist,
    Plan,
    Prune,
    Remove,
    Snapshot,
    Step,
    foreign_names,
    mismatch,
    plan,
    stale_names,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

BOOT = "boot-1"
HERE = {"kubernetes.io/os": "linux", "pool": "a"}
ELSEWHERE = NodeSelector(match_labels={"pool": "b"})


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
) -> ProfileRevision:
    placement = Placement(
        sequence=sequence, node_selector=selector or NodeSelector(), suspend=suspend, withdrawn=withdrawn
    )
    content = Content(
        digest=digest, mode=mode, texts=[Text(facts=facts, text=text or profile, names=[profile])]
    )
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
) -> Plan:
    """Plan for a node that is as its records say, but for what a test names."""
    return plan(
        Snapshot(
            revisions=revisions,
            labels=HERE,
            holdings={one.profile: one for one in held},
            kernel=kernel_of(*held) if kernel is None else kernel,
            boot_id=BOOT,
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
            planned(revision(contract=CONTRACT + 1, withdrawn=True), held=(H1,)),
            [],
            {"p": Reason.AWAITING_RENDER},
            id="of a newer contract: left alone",
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


def test_a_problem_is_about_the_revision_that_is_wanted():
    decided = planned(revision(contract=CONTRACT + 1, digest="d2", sequence=2), held=(H1,))
    assert decided.problems["p"].revision == "d2"
    assert "update the agent" in decided.problems["p"].message


def test_a_text_for_these_facts_comes_before_the_one_for_any():
    one = revision()
    content = replace(
        one.spec.content,
        texts=[Text(text="any", names=["p"]), Text(facts="mine", text="mine", names=["p"])],
    )
    given_one = replace(one, spec=replace(one.spec, content=content))
    for facts, text in (("mine", "mine"), ("else", "any")):
        decided = plan(Snapshot((given_one,), HERE, {}, {}, BOOT, facts_key=facts))
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
    hosts: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=lambda: dict(HERE))

    def decide(self, revisions: tuple[ProfileRevision, ...]) -> Plan:
        return plan(
            Snapshot(
                revisions,
                self.labels,
                self.holdings,
                self.kernel,
                BOOT,
                self.files,
                refused=dict(self.refused),
            )
        )

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
                self.files[one.profile] = one.revision
            case Prune(one, names):
                if self._drop(step.key, names):
                    self.holdings[one.profile] = replace(one, former=[])
            case Remove(one):
                if self._drop(step.key, (*one.modes, *stale_names(one, {}, self.kernel))):
                    del self.holdings[one.profile]
                    self.files.pop(one.profile, None)

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
            self.holdings[step.profile] = wanted

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
                        selector=selector,
                        contract=CONTRACT + draw(st.sampled_from([0, 0, 0, 1])),
                    )
                )
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


def test_a_deletion_leaves_no_former_name_behind():
    node = a_node(in_use=frozenset({"b"}))
    node.settle((revision("p", "d1", 1, text="a,b"),))
    node.settle((revision("p", "d2", 2, text="a"),))  # b is in use: it can't be pruned yet
    node.in_use = frozenset()
    node.settle((revision("p", "d2", 2, text="a", withdrawn=True),))
    assert set(node.kernel) == set(node.hosts)
