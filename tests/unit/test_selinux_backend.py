"""The SELinux backend: one transaction for all that is due, blame where it belongs, and a reading back."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hauberk.crds.errors import InputFault, NodeFault
from hauberk.crds.names import SELINUX
from hauberk.crds.reasons import Reason
from hauberk.daemonset.backend import Outcome, Prepared
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.plan import Load, Persist, Release, Remove, mismatch
from hauberk.daemonset.selinux import BLOCK, SELinux
from hauberk.profiles.secilc import Secilc
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.node import BOOT, Tree
from tests.unit.selinux_node import FakeStore, Kernel, a_store, someone_installs, someone_removes

BAD = "(block {} (type process) (allow process nope_t (file (read))))"
BASE = "(block {0} (blockabstract {0}))"


def text_of(profile: str) -> str:
    return f"(block {profile} (type process) (type data) (allow process data (file (read))))"


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def backend(tree: Tree) -> SELinux:
    return a_backend(tree)


def a_backend(tree: Tree) -> SELinux:
    root = tree.host.state.parent
    kernel = Kernel(root)
    return SELinux(replace(tree.host, selinux=kernel), kernel, a_store(root, kernel))


def store_of(backend: SELinux) -> FakeStore:
    assert isinstance(backend.store, FakeStore)
    return backend.store


def step(profile: str = "p", text: str = "", mode: str = "Enforce", **more: object) -> Load:
    text = text or text_of(profile)
    made = Load(
        profile=profile,
        uid=f"uid-{profile}",
        revision=hash_of(text + mode)[:10],
        mode=mode,
        text=text,
        installation="here",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def bad(profile: str) -> Load:
    return step(profile, BAD.format(profile))


async def carried_out(
    backend: SELinux, *steps: Load | Remove | Release, held: Mapping[str, Holding] | None = None
) -> Outcome:
    loads = [await backend.prepare(one) for one in steps if isinstance(one, Load)]
    away = [one for one in steps if not isinstance(one, Load)]
    outcome = await backend.carry_out(away, loads, held or {})
    assert outcome.keys() == {one.key for one in steps}
    assert not list((backend.host.state / "modules").glob("*"))  # nothing is left of what semodule read
    return outcome


async def held_ones(backend: SELinux, *steps: Load) -> dict[str, Holding]:
    """Return the records of modules that are installed."""
    outcome = await carried_out(backend, *steps)
    found = {key.profile: one for key, one in outcome.items() if isinstance(one, Holding)}
    assert len(found) == len(steps)
    for one in found.values():
        await backend.persist(Persist(one))
    backend.settle(found.values(), [])
    return found


async def fault_of(
    backend: SELinux, one: Load | Remove | Release, held: Mapping[str, Holding] | None = None
) -> NodeFault:
    fault = (await carried_out(backend, one, held=held))[one.key]
    assert isinstance(fault, NodeFault)
    return fault


def wrong(backend: SELinux, holding: Holding) -> str:
    """Return how the node differs from what is held."""
    return mismatch(holding, backend.loaded({holding.profile: holding}), BOOT)


# --- load --------------------------------------------------------------------------------------------------


async def test_a_module_is_installed_and_read_back_from_store_and_kernel(backend: SELinux):
    holding = (await held_ones(backend, step()))["p"]
    assert (holding.type, holding.modes, holding.digests, holding.boot_id) == (
        SELINUX,
        {"p.process": "enforcing", "p.data": "enforcing"},
        [hash_of(text_of("p"))],
        BOOT,
    )
    assert backend.store.modules() == {"hauberk_p": {400: holding.digests[0]}}
    assert backend.loaded({"p": holding}) == {
        name: Loaded("enforcing", holding.digests[0]) for name in ("p.process", "p.data")
    }
    assert wrong(backend, holding) == ""
    assert (backend.type, backend.boot_files(), backend.set_aside()) == (SELINUX, {}, [])


async def test_what_is_asked_for_is_in_the_record(backend: SELinux):
    await held_ones(backend, step("base", BASE.format("base")))
    one = step("p", allow_host_types=True, requires=("base",))
    holding = (await carried_out(backend, one))[one.key]
    assert isinstance(holding, Holding)
    assert (holding.requires, holding.allow_host_types) == (["base"], True)


async def test_a_module_is_judged_again_on_the_node(backend: SELinux):
    with pytest.raises(InputFault, match="is about init_t, which the module does not declare"):
        await backend.prepare(step(text="(block p (type t) (allow init_t t (file (read))))"))
    await backend.prepare(
        step(text="(block p (type t) (allow init_t t (file (read))))", allow_host_types=True)
    )
    with pytest.raises(NodeFault, match="can't be started"):
        await replace(backend, secilc=Secilc(program="nope")).prepare(step())


async def test_all_that_is_due_is_one_transaction(backend: SELinux):
    held = await held_ones(backend, step("old"), step("older"), step("q"))
    store_of(backend).runs.clear()
    steps = [step("a"), step("b"), step("q", text_of("q") + "\n"), Remove(held["old"]), Remove(held["older"])]
    outcome = await carried_out(backend, *steps, held=held)
    assert not [one for one in outcome.values() if isinstance(one, Exception)]
    ((*options,),) = store_of(backend).runs
    assert options[:2] == ["-X", "400"]
    pairs = sorted(zip(options[2::2], options[3::2], strict=True))
    assert pairs == [
        *(("-i", f"/state/modules/hauberk_{name}.cil") for name in "abq"),
        ("-r", "hauberk_old"),
        ("-r", "hauberk_older"),
    ]
    assert backend.store.modules().keys() == {"hauberk_a", "hauberk_b", "hauberk_q"}
    assert backend.records.read()[0].keys() == {"q"}


async def test_what_is_installed_already_costs_no_run(backend: SELinux):
    held = await held_ones(backend, step())
    store_of(backend).runs.clear()
    outcome = await carried_out(backend, step(), held=held)
    assert list(outcome.values()) == [held["p"]]
    outcome = await carried_out(backend, step())  # the record of it was lost
    assert list(outcome.values()) == [held["p"]]
    assert store_of(backend).runs == []


@pytest.mark.parametrize("priority", [100, 400, 999])
async def test_a_module_of_someone_else_is_refused_whatever_its_priority(backend: SELinux, priority: int):
    someone_installs(store_of(backend), priority, "hauberk_p", "(block p (type theirs))")
    fault = await fault_of(backend, step())
    assert fault.reason is Reason.HOST_OWNED
    assert f"has a module hauberk_p at priority {priority} that Hauberk did not install" in fault.message
    assert store_of(backend).runs == []
    assert backend.records.announced() == []


@pytest.mark.parametrize(("priority", "in_force"), [(100, True), (999, False)])
async def test_of_two_modules_of_one_name_the_one_in_force_counts(
    backend: SELinux, priority: int, in_force: bool
):
    """One of a higher priority takes the place of Hauberk's: what Hauberk wrote is in the store, and idle."""
    holding = (await held_ones(backend, step()))["p"]
    theirs = text_of("p") + "(typepermissive p.nothing)"
    someone_installs(store_of(backend), priority, "hauberk_p", theirs)
    told = wrong(backend, holding)
    assert told == ("" if in_force else "the kernel holds another policy under the name p.process")
    if not in_force:
        fault = await fault_of(backend, step(drift=told), {"p": holding})
        assert fault.reason is Reason.HOST_OWNED


@pytest.mark.parametrize("mode", ["Enforce", "Permissive"])
async def test_a_mode_is_read_back(backend: SELinux, mode: str):
    holding = (await held_ones(backend, step(mode=mode)))["p"]
    word = {"Enforce": "enforcing", "Permissive": "permissive"}[mode]
    assert backend.kernel.mode("p.process") == backend.kernel.mode("p.data") == word
    assert set(holding.modes.values()) == {word}
    assert holding.text == text_of("p")  # the text is the user's, whatever its mode
    assert wrong(backend, holding) == ""
    store_of(backend).kernel.types["p.data"] = {"Enforce": "permissive", "Permissive": "enforcing"}[mode]
    assert wrong(backend, holding).startswith("the kernel holds p.data in mode ")


async def test_a_change_of_the_mode_is_another_module(backend: SELinux):
    held = await held_ones(backend, step())
    one = step(mode="Permissive")
    outcome = await carried_out(backend, one, held=held)
    assert isinstance(outcome[one.key], Holding)
    assert backend.kernel.mode("p.process") == "permissive"


@pytest.mark.parametrize("mode", ["Enforce", "Permissive"])
async def test_a_module_of_blocks_alone_is_read_back_from_the_store(backend: SELinux, mode: str):
    one = step("base", BASE.format("base") + BASE.format("more"), mode)
    holding = (await held_ones(backend, one))["base"]
    assert holding.modes == {"base": BLOCK, "more": BLOCK}
    assert wrong(backend, holding) == ""
    someone_removes(store_of(backend), 400, "hauberk_base")
    assert wrong(backend, holding) == "the kernel does not hold base"
    outcome = await carried_out(backend, replace(one, drift="it went"), held={"base": holding})
    assert outcome[one.key] == holding


async def test_what_the_kernel_does_not_have_is_not_called_loaded(backend: SELinux):
    """The store has it, and the policy that was made of it was not loaded."""
    store_of(backend).flags.add("not loaded")
    fault = await fault_of(backend, step())
    assert (fault.reason, fault.message) == (
        Reason.NOT_IN_KERNEL,
        "after the load the kernel does not hold p.process",
    )
    assert backend.store.modules().keys() == {"hauberk_p"}


async def test_what_someone_changes_is_told(backend: SELinux):
    held = await held_ones(backend, step())
    someone_installs(store_of(backend), 400, "hauberk_p", text_of("p") + "\n")
    assert wrong(backend, held["p"]) == "the kernel holds another policy under the name p.process"
    someone_removes(store_of(backend), 400, "hauberk_p")
    assert wrong(backend, held["p"]) == "the kernel does not hold p.process"
    store_of(backend).kernel.types.update(dict.fromkeys(held["p"].modes, "enforcing"))  # not loaded since
    told = wrong(backend, held["p"])
    assert told == "the kernel holds p.process, and the node's store lacks the module hauberk_p"
    outcome = await carried_out(backend, step(drift=told), held=held)
    assert list(outcome.values()) == [held["p"]]
    assert wrong(backend, held["p"]) == ""


# --- blame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["named", "quiet"])
async def test_the_one_to_blame_is_left_out_and_told(backend: SELinux, how: str):
    held = await held_ones(backend, step("old"))
    store_of(backend).runs.clear()
    store_of(backend).flags.add(how)
    steps = [step("a"), bad("b"), step("c"), Remove(held["old"])]
    outcome = await carried_out(backend, *steps, held=held)
    fault = outcome[steps[1].key]
    assert isinstance(fault, NodeFault)
    assert fault.reason is Reason.LOAD_FAILED
    assert fault.message == (
        "semodule refuses it: line 1: Failed to resolve allow statement"
        if how == "named"
        else "semodule refuses it: libsepol: policy could not be linked"
    )
    assert outcome[steps[3].key] is None  # what goes does not wait for what is wrong with another
    assert backend.store.modules().keys() == {"hauberk_a", "hauberk_c"}
    if how == "named":
        assert len(store_of(backend).runs) == 3  # all, all but one, that one


async def test_what_another_module_needs_is_said_to_be_in_that_module(backend: SELinux):
    """A line of a text that is not the user's own says nothing without its module."""
    inherits = "(block web (type process) (blockinherit base))"
    held = await held_ones(backend, step("base", BASE.format("base")), step("web", inherits))
    expected = (
        "semodule refuses it: in the module hauberk_web: line 1: Failed to resolve blockinherit statement"
    )
    fault = await fault_of(backend, step("base", BASE.format("another")), held)
    assert (fault.reason, fault.message) == (Reason.LOAD_FAILED, expected)
    fault = await fault_of(backend, Remove(held["base"]), held)
    assert (fault.reason, fault.message) == (Reason.LOAD_FAILED, expected)
    assert wrong(backend, held["base"]) == wrong(backend, held["web"]) == ""


async def test_what_is_needed_and_what_needs_it_go_in_one_transaction(backend: SELinux):
    inherits = "(block web (type process) (blockinherit base))"
    held = await held_ones(backend, step("base", BASE.format("base")), step("web", inherits))
    store_of(backend).runs.clear()
    outcome = await carried_out(backend, Remove(held["base"]), Remove(held["web"]), held=held)
    assert set(outcome.values()) == {None}
    assert len(store_of(backend).runs) == 1


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_any_set_of_bad_modules_leads_to_just_these_being_refused(
    tmp_path_factory: pytest.TempPathFactory, are_good: list[bool], quiet: bool, with_removal: bool
):
    asyncio.run(refused_exactly(tmp_path_factory.mktemp("node"), are_good, quiet, with_removal))


async def refused_exactly(folder: Path, are_good: list[bool], quiet: bool, with_removal: bool) -> None:
    tree = Tree(folder)
    try:
        backend = a_backend(tree)
        held = await held_ones(backend, step("old")) if with_removal else {}
        if quiet:
            store_of(backend).flags.add("quiet")
        named = {f"p{number}": good for number, good in enumerate(are_good)}
        steps = [step(name) if good else bad(name) for name, good in named.items()]
        # without secilc: this is about what comes after it
        loads = [Prepared(one, of_text(one)) for one in steps]
        away = [Remove(one) for one in held.values()]
        outcome = await backend.carry_out(away, loads, held)
        refused = {key.profile for key, one in outcome.items() if isinstance(one, NodeFault)}
        assert refused == {name for name, good in named.items() if not good}
        good = {name for name, good in named.items() if good}
        assert {key.profile for key, one in outcome.items() if isinstance(one, Holding)} == good
        assert backend.store.modules().keys() == {f"hauberk_{name}" for name in good}
    finally:
        tree.close()
        shutil.rmtree(folder)


def of_text(one: Load) -> Holding:
    return Holding(
        profile=one.profile,
        uid=one.uid,
        revision=one.revision,
        mode=one.mode,
        text=one.text,
        modes={f"{one.profile}.process": "enforcing"},
        digests=[hash_of(one.text)],
        boot_id="",
        boots=False,
        type=SELINUX,
    )


# --- in use ------------------------------------------------------------------------------------------------


def confined(tree: Tree, pid: int, name: str) -> None:
    tree.task(pid, f"system_u:system_r:{name}:s0:c1,c2\0", "attr/current")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["p.process"], "1 task runs as p.process"),
        (["p.process", "p.process", "p.data"], "3 tasks run as p.data, p.process"),
    ],
)
async def test_what_tasks_run_as_is_not_removed(backend: SELinux, tree: Tree, names: list[str], told: str):
    held = await held_ones(backend, step())
    store_of(backend).runs.clear()
    for pid, name in enumerate(names, 7):
        confined(tree, pid, name)
    confined(tree, 99, "p.process_but_longer")
    fault = await fault_of(backend, Remove(held["p"]), held)
    assert (fault.reason, fault.message) == (Reason.IN_USE, told)
    assert store_of(backend).runs == []
    for pid in range(7, 7 + len(names)):
        tree.end_task(pid)
    assert list((await carried_out(backend, Remove(held["p"]), held=held)).values()) == [None]


async def test_a_new_text_has_to_have_the_types_that_tasks_run_as(backend: SELinux, tree: Tree):
    held = await held_ones(backend, step())
    confined(tree, 7, "p.data")
    lacking, having = step(text="(block p (type process))"), step(text="(block p (type data))")
    fault = await fault_of(backend, lacking, held)
    assert (fault.reason, fault.message) == (
        Reason.IN_USE,
        "1 task runs as p.data, and the new policy lacks it",
    )
    assert wrong(backend, held["p"]) == ""
    outcome = await carried_out(backend, having, held=held)
    assert isinstance(outcome[having.key], Holding)


async def test_what_is_in_use_holds_up_no_other_step(backend: SELinux, tree: Tree):
    held = await held_ones(backend, step("used"), step("unused"))
    confined(tree, 7, "used.process")
    steps = [Remove(held["used"]), Remove(held["unused"]), step("new")]
    outcome = await carried_out(backend, *steps, held=held)
    assert isinstance(outcome[steps[0].key], NodeFault)
    assert outcome[steps[1].key] is None
    assert isinstance(outcome[steps[2].key], Holding)


# --- by force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Enforce", "Permissive"])
async def test_by_force_its_types_become_permissive_and_stay_until_they_are_unused(
    backend: SELinux, tree: Tree, mode: str
):
    held = await held_ones(backend, step(mode=mode))
    confined(tree, 7, "p.process")
    outcome = await carried_out(backend, Release(held["p"]), held=held)
    (released,) = outcome.values()
    assert isinstance(released, Holding)
    assert released.released
    assert backend.kernel.mode("p.process") == "permissive"
    assert wrong(backend, released) == ""
    assert released.digests == [backend.store.modules()["hauberk_p"][400]]
    fault = await fault_of(backend, Remove(released), {"p": released})
    assert fault.reason is Reason.IN_USE
    tree.end_task(7)
    assert list((await carried_out(backend, Remove(released), held={"p": released})).values()) == [None]
    assert (backend.store.modules(), backend.records.read()) == ({}, ({}, []))


async def test_what_was_released_is_taken_by_who_wants_it_anew(backend: SELinux):
    held = await held_ones(backend, step())
    released = (await carried_out(backend, Release(held["p"]), held=held))[Release(held["p"]).key]
    assert isinstance(released, Holding)
    outcome = await carried_out(backend, step(), held={"p": released})
    assert list(outcome.values()) == [held["p"]]
    assert backend.kernel.mode("p.process") == "enforcing"


async def test_a_module_of_blocks_alone_has_nothing_to_be_permissive(backend: SELinux):
    held = await held_ones(backend, step("base", BASE.format("base")))
    assert list((await carried_out(backend, Release(held["base"]), held=held)).values()) == [None]
    assert backend.store.modules() == {}


# --- removal -----------------------------------------------------------------------------------------------


async def test_what_is_gone_already_is_forgotten_without_a_run(backend: SELinux):
    held = await held_ones(backend, step())
    someone_removes(store_of(backend), 400, "hauberk_p")
    store_of(backend).runs.clear()
    assert list((await carried_out(backend, Remove(held["p"]), held=held)).values()) == [None]
    assert (store_of(backend).runs, backend.records.read()) == ([], ({}, []))


async def test_what_someone_else_has_under_its_name_is_left_alone(backend: SELinux):
    """Theirs stands at another priority, where semodule would find nothing of Hauberk's to remove."""
    held = await held_ones(backend, step())
    someone_installs(store_of(backend), 500, "hauberk_p", "(block p (type theirs))")
    someone_removes(store_of(backend), 400, "hauberk_p")
    assert list((await carried_out(backend, Remove(held["p"]), held=held)).values()) == [None]
    assert backend.store.modules().keys() == {"hauberk_p"}
    assert backend.kernel.mode("p.theirs") == "enforcing"


async def test_what_the_kernel_still_has_is_not_forgotten(backend: SELinux):
    held = await held_ones(backend, step())
    store_of(backend).flags.add("not loaded")
    fault = await fault_of(backend, Remove(held["p"]), held)
    assert (fault.reason, fault.message) == (
        Reason.NOT_IN_KERNEL,
        "after the removal the kernel still holds p.process",
    )
    assert backend.records.read()[0].keys() == {"p"}
    store_of(backend).load()
    assert list((await carried_out(backend, Remove(held["p"]), held=held)).values()) == [None]


# --- what can't be done ------------------------------------------------------------------------------------


async def test_without_a_store_each_is_told_why_and_nothing_ends(backend: SELinux, tree: Tree):
    held = await held_ones(backend, step(), step("used"))
    confined(tree, 7, "used.process")
    shutil.rmtree(backend.store.folder)
    assert wrong(backend, held["p"]).endswith("the node's store lacks the module hauberk_p")
    steps = [step("new"), Remove(held["p"]), Remove(held["used"])]
    outcome = await carried_out(backend, *steps, held=held)
    for one in steps[:2]:
        fault = outcome[one.key]
        assert isinstance(fault, NodeFault)
        assert "module store can't be read in targeted/active" in fault.message
    used = outcome[steps[2].key]
    assert isinstance(used, NodeFault)
    assert used.reason is Reason.IN_USE  # what was found out about it before stays said


async def test_without_semodule_each_is_told(backend: SELinux):
    store_of(backend).flags.add("missing")
    fault = await fault_of(backend, step())
    assert fault.message.startswith("the node's semodule can't be run: ")


async def test_a_disk_that_does_not_take_the_module_is_told(
    backend: SELinux, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    held = await held_ones(backend, step())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tree.host), "write", full)
    fault = await fault_of(backend, step(text=text_of("p") + "\n"), held)
    assert (fault.reason, fault.message) == (
        Reason.STATE_UNWRITABLE,
        "not installed, for the node's disk did not take the module: No space left on device",
    )
    assert wrong(backend, held["p"]) == ""
    with pytest.raises(NodeFault, match="the node's disk took no record of it"):
        await backend.persist(Persist(held["p"]))


# --- records -----------------------------------------------------------------------------------------------


async def test_it_is_announced_before_it_is_installed_and_recorded_afterwards(backend: SELinux):
    store = store_of(backend)
    store.gate.clear()
    loads = [await backend.prepare(step())]
    running = asyncio.create_task(backend.carry_out([], loads, {}))
    await store.begun.wait()
    assert [one.profile for one in backend.records.announced()] == ["p"]
    assert backend.records.read() == ({}, [])
    store.gate.set()
    (holding,) = (await running).values()
    assert isinstance(holding, Holding)
    assert backend.records.announced() == [holding]
    assert backend.records.read() == ({}, [])
    await backend.persist(Persist(holding))
    assert backend.records.read() == ({"p": holding}, [])
    backend.settle([holding], [])
    assert backend.records.announced() == []


async def test_who_is_ended_while_it_is_installed_finds_it_announced_and_installed(backend: SELinux):
    store = store_of(backend)
    store.gate.clear()
    loads = [await backend.prepare(step())]
    running = asyncio.create_task(backend.carry_out([], loads, {}))
    await store.begun.wait()
    running.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    (announced,) = backend.records.announced()
    assert wrong(backend, announced) == ""
    assert not list((backend.host.state / "modules").glob("*"))


async def test_a_record_says_what_a_reboot_brings_back(backend: SELinux):
    """The node boots with its store: nothing has to be loaded again, and the checksum proves it."""
    held = await held_ones(backend, step())
    (record,) = backend.records.read()[0].values()
    assert record == held["p"]
    assert mismatch(msgspec.structs.replace(record, boot_id=""), backend.loaded(held), "boot-2") == ""


@pytest.mark.parametrize(("took", "quiet"), [(0.0, 1.5), (3.0, 1.5), (9.0, 3.0), (60.0, 5.0)])
def test_a_slow_node_waits_longer_for_what_could_go_in_with_it(
    backend: SELinux, monkeypatch: pytest.MonkeyPatch, took: float, quiet: float
):
    monkeypatch.setattr(FakeStore, "last_seconds", took)
    assert backend.quiet_seconds == quiet
