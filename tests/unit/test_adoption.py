"""What the host had under a name that a SecurityProfile takes over: kept before it goes, and given back."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import msgspec
import pytest
from hauberk.crds.errors import Fault, InputFault, NodeFault
from hauberk.crds.names import PROTECTED
from hauberk.crds.reasons import Reason
from hauberk.daemonset import adoption
from hauberk.daemonset.adoption import Original
from hauberk.daemonset.apparmor import AppArmor
from hauberk.daemonset.cache import Cache
from hauberk.daemonset.holdings import Holding, Records
from hauberk.daemonset.host import Host
from hauberk.daemonset.plan import Load, Persist, Prune, Release, Remove, mismatch, stale_names
from hauberk.profiles import compiled

from tests.unit.node import Loader, Newer, Tree

HOSTS = "profile p { capability kill, profile c { file, } }\nprofile other { capability chown, }\n"
OURS = "profile p { file, }"


@pytest.fixture
def backend(tree: Tree, loader: Loader) -> AppArmor:
    return AppArmor(tree.host, loader, Cache(tree.host, "compiler"))


def step(text: str = OURS, profile: str = "ours", *, adopt: bool = True) -> Load:
    return Load(profile, f"uid-{profile}", "d1", "Enforce", text, adopt=adopt)


async def load(backend: AppArmor, *steps: Load) -> dict[str, Holding | Exception]:
    """Return what came of steps that are loaded at once, by profile; what was loaded is persisted."""
    before, _ = Records(backend.host, "apparmor").read()
    ready = [await backend.prepare(one) for one in steps]
    outcome = await backend.load(ready, before)
    for one in outcome.values():
        if isinstance(one, Holding):
            await backend.persist(Persist(one))
    return {key.profile: one for key, one in outcome.items()}


async def adopted(backend: AppArmor, text: str = OURS) -> Holding:
    one = (await load(backend, step(text)))["ours"]
    assert isinstance(one, Holding), one
    return one


def reason(one: Holding | Exception) -> Reason:
    assert isinstance(one, NodeFault), one
    return one.reason


@pytest.fixture
async def theirs(tree: Tree, loader: Loader) -> bytes:
    """Have the host's two profiles loaded in one go; return their policy."""
    policy = await loader.compile(HOSTS, "Enforce")
    tree.take(policy)
    loader.texts.clear()
    return policy


def hashes(tree: Tree) -> dict[str, str | None]:
    return {name: one.digest for name, one in tree.host.kernel().items()}


# --- kept --------------------------------------------------------------------------------------------------


async def test_the_kernels_copy_is_kept_before_it_is_replaced(
    tree: Tree, backend: AppArmor, theirs: bytes, monkeypatch: pytest.MonkeyPatch
):
    kept_by_then: list[list[Original]] = []
    take = Tree.take

    def taken(tree: Tree, policy: bytes, **hashes: bool) -> None:
        kept_by_then.append(adoption.read(tree.host, "ours"))
        take(tree, policy, **hashes)

    monkeypatch.setattr(Tree, "take", taken)
    await adopted(backend)
    (kept,) = adoption.read(tree.host, "ours")
    assert kept.name == "p"
    assert kept.modes == {"p": "enforce", "p//c": "enforce"}
    assert kept.policy == compiled.only(theirs, ["p", "p//c"])  # and no copy of `other`
    assert kept_by_then == [[kept]]


async def test_what_is_taken_over_is_hauberks_and_its_children_go(
    tree: Tree, backend: AppArmor, theirs: bytes
):
    one = await adopted(backend)
    assert mismatch(one, tree.host.kernel(), "") == ""
    stale = stale_names(one, {"ours": one}, tree.host.kernel())
    assert stale == ("p//c",)  # inherited from the host's
    await backend.prune(Prune(one, stale))
    assert tree.names == {"p", "other"}
    assert adoption.read(tree.host, "ours")[0].policy == compiled.only(theirs, ["p", "p//c"])


@pytest.mark.parametrize(("mode", "kernels"), [("Enforce", "enforce"), ("Complain", "complain")])
async def test_without_raw_data_the_hosts_text_is_compiled_and_kept(
    tree: Tree, backend: AppArmor, loader: Loader, mode: str, kernels: str
):
    policy = await loader.compile(HOSTS, mode)
    tree.take(policy, raw=False)
    tree.put(tree.host.policies / "aaa", "no policy {")
    tree.put(tree.host.policies / "bbb", "include <tunables/nowhere>\n")
    tree.put(tree.host.policies / "hosts", f"include <tunables/theirs>\n{HOSTS}")
    tree.put(tree.host.policies / "tunables/theirs", "@{X}=/x\n")  # of the host, not of this machine
    tree.put(tree.host.policies / "zzz", "profile p { }")
    await adopted(backend)
    (kept,) = adoption.read(tree.host, "ours")
    assert kept.policy == compiled.only(policy, ["p", "p//c"])
    assert set(kept.modes.values()) == {kernels}


@pytest.mark.parametrize(
    "file", ["", "profile else { }", "profile p {", "profile p { }", "\udcff", OURS, "profile p//c { }"]
)
async def test_what_can_not_be_given_back_is_not_taken(
    tree: Tree, backend: AppArmor, loader: Loader, file: str
):
    """None of these texts gives the host's p back with its child."""
    tree.take(await loader.compile(HOSTS, "Enforce"), raw=False)
    tree.put(tree.host.policies / "hosts", file.encode(errors="surrogateescape"))
    before = hashes(tree)
    outcome = await load(backend, step(), step("profile q { }", "q"))
    assert reason(outcome["ours"]) is Reason.ADOPT_REFUSED
    assert isinstance(outcome["q"], Holding)
    assert {name: one for name, one in hashes(tree).items() if name != "q"} == before
    assert adoption.read(tree.host, "ours") == []
    assert [run for run in tree.runs if "p" in run] == []


async def test_children_of_another_load_are_kept_from_where_they_were_loaded(
    tree: Tree, backend: AppArmor, loader: Loader
):
    """The kernel's copy of a parent lacks a child that an earlier text of the host's had."""
    first = await loader.compile(HOSTS, "Enforce")
    second = await loader.compile("profile p { capability kill, }", "Enforce")
    tree.take(first)
    tree.take(second)
    one = await adopted(backend)
    (kept,) = adoption.read(tree.host, "ours")
    assert kept.policy == compiled.only(second, ["p"]) + compiled.only(first, ["p//c"])
    await backend.remove(Remove(one), {})
    assert tree.names == {"p", "p//c", "other"}


async def test_a_copy_that_can_not_be_cut_stops_only_who_would_take_it_over(
    tree: Tree, backend: AppArmor, loader: Loader
):
    tree.take(await loader.compile(HOSTS, "Enforce"))
    for file in tree.host.apparmor.rglob("raw_data"):
        file.write_bytes(b"no policy")
    outcome = await load(backend, step(), step("profile q { }", "q"))
    assert reason(outcome["ours"]) is Reason.ADOPT_REFUSED
    assert isinstance(outcome["q"], Holding)
    tree.put(tree.host.policies / "hosts", HOSTS)
    await adopted(backend)
    assert set(adoption.read(tree.host, "ours")[0].modes) == {"p", "p//c"}


@pytest.mark.usefixtures("theirs")
async def test_without_the_word_nothing_is_taken(tree: Tree, backend: AppArmor):
    outcome = await load(backend, step(adopt=False))
    assert reason(outcome["ours"]) is Reason.HOST_OWNED
    assert adoption.read(tree.host, "ours") == []


async def test_what_is_byte_for_byte_the_same_is_not_the_hosts(tree: Tree, backend: AppArmor):
    """A record was lost: there is nothing to give back."""
    tree.take((await backend.prepare(step())).compiled.binary)
    await adopted(backend)
    assert adoption.read(tree.host, "ours") == []


@pytest.mark.parametrize("name", sorted(PROTECTED))
async def test_a_runtimes_profile_is_never_taken(tree: Tree, backend: AppArmor, name: str):
    tree.loaded(name)
    with pytest.raises(InputFault) as caught:
        await backend.prepare(dataclasses.replace(step(f"profile {name} {{ }}"), allow_attachment=True))
    assert caught.value.reason in (Reason.NAME_PROTECTED, Reason.POLICY_REFUSED)


@pytest.mark.usefixtures("theirs")
async def test_another_profiles_name_is_not_adopted(tree: Tree, backend: AppArmor):
    await adopted(backend)
    outcome = await load(backend, step("profile p { capability kill, } profile other { }", "second"))
    assert reason(outcome["second"]) is Reason.NAME_CLASH
    assert adoption.read(tree.host, "second") == []


@pytest.mark.usefixtures("theirs")
async def test_a_full_disk_takes_nothing_over_and_loads_all_else(
    tree: Tree, backend: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    before = hashes(tree)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Host, "write", full)
    ready = [await backend.prepare(one) for one in (step(), step("profile q { }", "q"))]
    outcome = {key.profile: one for key, one in (await backend.load(ready, {})).items()}
    assert reason(outcome["ours"]) is Reason.STATE_UNWRITABLE
    assert isinstance(outcome["q"], Holding)
    after = hashes(tree)
    del after["q"]
    assert after == before


async def test_an_update_keeps_what_was_taken_first(tree: Tree, backend: AppArmor, theirs: bytes):
    """What is in the kernel by then is Hauberk's: saved as the host's, it would be given back for ever."""
    await adopted(backend)
    await adopted(backend, "profile p { capability setuid, } profile other { file, }")
    kept = {one.name: one.policy for one in adoption.read(tree.host, "ours")}
    assert kept == {"p": compiled.only(theirs, ["p", "p//c"]), "other": compiled.only(theirs, ["other"])}


@pytest.mark.parametrize("torn", [b"", b"[", b"{}", b"\xff", b'[{"name": "p"}]'])
def test_a_torn_original_is_none_and_is_set_aside_and_told(tree: Tree, torn: bytes):
    good = Original("a", {"a": "enforce"}, b"x")
    adoption.write(tree.host, "good", [good])
    folder = adoption.folder(tree.host)
    tree.put(folder / "ours.json", torn)
    assert adoption.read(tree.host, "ours") == []

    (fault,) = adoption.set_aside(tree.host)
    assert fault.reason is Reason.STATE_TORN
    assert "set aside as adopted/ours.torn" in fault.message
    assert (folder / "ours.torn").read_bytes() == torn
    assert adoption.set_aside(tree.host) == []
    adoption.keep(tree.host, ["good"])  # and stays for who wants to look at it
    assert sorted(file.name for file in folder.iterdir()) == ["good.json", "ours.torn"]
    assert adoption.read(tree.host, "good") == [good]


def test_originals_are_read_as_they_were_written(tree: Tree):
    one = Original("a b", {"a b": "enforce", "a b//c": "complain"}, b"\0\xff")
    adoption.write(tree.host, "ours", [one])
    assert adoption.read(tree.host, "ours") == [one]
    assert adoption.read(tree.host, "theirs") == []
    adoption.write(tree.host, "ours", [])
    adoption.write(tree.host, "ours", [])
    assert list(adoption.folder(tree.host).iterdir()) == []


# --- given back --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("theirs")
async def test_a_removal_gives_it_back(tree: Tree, backend: AppArmor):
    one = await adopted(backend, "profile p { file, } profile new { }")
    await backend.remove(Remove(one), {})
    assert tree.runs[-1] == ["p", "p//c"]
    assert tree.names == {"p", "p//c", "other"}
    assert adoption.read(tree.host, "ours") == []
    assert Records(tree.host, "apparmor").read() == ({}, [])
    assert tree.removed == b"new"  # the host's are never out of the kernel


@pytest.mark.usefixtures("theirs")
async def test_what_is_given_back_is_again_the_hosts(tree: Tree, backend: AppArmor):
    before = hashes(tree)["p"]
    await backend.remove(Remove(await adopted(backend)), {})
    assert hashes(tree)["p"] not in (None, before)  # cut out: the same policy, in a load of its own
    outcome = await load(backend, step(adopt=False))
    assert reason(outcome["ours"]) is Reason.HOST_OWNED


@pytest.mark.usefixtures("theirs")
async def test_a_name_that_a_text_gives_up_is_given_back(tree: Tree, backend: AppArmor):
    await adopted(backend, "profile p { file, } profile other { file, }")
    one = await adopted(backend, "profile other { file, }")
    assert one.former == ["p"]
    pruned = await backend.prune(Prune(one, stale_names(one, {"ours": one}, tree.host.kernel())))
    assert pruned.former == []
    assert tree.names == {"p", "p//c", "other"}
    assert mismatch(pruned, tree.host.kernel(), "") == ""  # `other` is held still, and not given back
    assert stale_names(pruned, {"ours": pruned}, tree.host.kernel()) == ()
    await backend.remove(Remove(pruned), {})
    assert tree.names == {"p", "p//c", "other"}
    assert tree.removed == b""


@pytest.mark.usefixtures("theirs")
async def test_a_profile_is_adopted_for_as_long_as_it_has_a_name_of_the_hosts(tree: Tree, backend: AppArmor):
    """Else one that gave all of it back would be unloaded when its right to take it is."""
    one = await adopted(backend, "profile p { file, } profile new { }")
    assert one.adopted
    one = await adopted(backend, "profile new { file, }")
    pruned = await backend.prune(Prune(one, ("p",)))
    assert not pruned.adopted
    assert tree.names == {"p", "p//c", "new", "other"}
    mine = (await load(backend, step("profile mine { }", "mine")))["mine"]
    assert isinstance(mine, Holding)
    assert not mine.adopted


async def test_what_the_host_changed_after_it_got_it_back_is_not_touched_again(
    tree: Tree, backend: AppArmor, loader: Loader, theirs: bytes
):
    assert theirs
    await adopted(backend, "profile p { file, } profile other { file, }")
    one = await adopted(backend, "profile other { file, }")
    pruned = await backend.prune(Prune(one, ("p",)))
    newer = await loader.compile("profile p { capability setgid, }", "Enforce")
    tree.take(newer)
    await backend.remove(Remove(pruned), {})
    digest = tree.host.kernel()["p"].digest
    assert digest in compiled.digests(newer)


@pytest.mark.usefixtures("theirs")
async def test_nothing_is_given_back_while_something_else_is_in_use(tree: Tree, backend: AppArmor):
    """A removal that is refused has changed nothing: else each further try would load the host's anew."""
    one = await adopted(backend, "profile p { file, } profile new { }")
    before, runs = hashes(tree), len(tree.runs)
    tree.task(7, "new (enforce)")
    for _ in range(2):
        with pytest.raises(NodeFault) as caught:
            await backend.remove(Remove(one), {})
        assert caught.value.reason is Reason.IN_USE
    assert (hashes(tree), len(tree.runs)) == (before, runs)
    former = msgspec.structs.replace(one, modes={"p": "enforce"}, former=["new"])
    with pytest.raises(NodeFault):
        await backend.prune(Prune(former, ("new",)))
    assert (hashes(tree), len(tree.runs)) == (before, runs)


@pytest.mark.usefixtures("theirs")
async def test_tasks_of_an_adopted_profile_do_not_hold_it(tree: Tree, backend: AppArmor):
    """They go on under the host's: it is replaced, not removed."""
    one = await adopted(backend)
    tree.task(7, "p (enforce)")
    await backend.remove(Remove(one), {})
    assert tree.names == {"p", "p//c", "other"}


@pytest.mark.usefixtures("theirs")
async def test_a_kernel_that_does_not_take_it_back_keeps_the_record(tree: Tree, backend: AppArmor):
    one = await adopted(backend)
    tree.refused.add("p//c")
    with pytest.raises(Fault):
        await backend.remove(Remove(one), {})
    assert set(Records(tree.host, "apparmor").read()[0]) == {"ours"}
    assert "p" in tree.names
    tree.refused.clear()
    await backend.remove(Remove(one), {})
    assert tree.names == {"p", "p//c", "other"}


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(("refused", "other"), [("p", "other"), ("other", "p")])
async def test_what_one_refusal_keeps_back_is_that_one_alone(
    tree: Tree, backend: AppArmor, refused: str, other: str
):
    before = hashes(tree)
    one = await adopted(backend, "profile p { capability kill, } profile other { capability kill, }")
    tree.refused.add(refused)
    with pytest.raises(NodeFault, match="Permission denied"):
        await backend.remove(Remove(one), {})
    assert tree.host.kernel()[refused].digest in one.digests
    assert tree.host.kernel()[other].digest not in one.digests
    tree.refused.clear()
    await backend.remove(Remove(one), {})
    assert tree.names == before.keys()


@pytest.mark.parametrize("stop", ["_keep_from_boot", "delete"])
@pytest.mark.usefixtures("theirs")
async def test_a_removal_that_was_cut_off_goes_on_and_takes_nothing_of_the_hosts(
    tree: Tree, backend: AppArmor, monkeypatch: pytest.MonkeyPatch, stop: str
):
    one = await adopted(backend, "profile p { file, } profile new { }")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((AppArmor, stop, killed) if stop.startswith("_") else (Records, stop, killed)))
        with pytest.raises(KeyboardInterrupt):
            await backend.remove(Remove(one), {})
    assert Records(tree.host, "apparmor").read() == ({"ours": one}, [])
    await backend.remove(Remove(one), {})
    assert tree.names == {"p", "p//c", "other"}
    assert Records(tree.host, "apparmor").read() == ({}, [])


# --- by force ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("theirs")
async def test_by_force_the_hosts_is_given_back_and_only_hauberks_is_made_permissive(
    tree: Tree, backend: AppArmor, loader: Loader
):
    """A permissive profile under the host's name would free the host's own programs."""
    host = Path(tree.host.policies).parent
    assert host.exists()
    one = await adopted(backend, "profile p { file, } profile new { }")
    tree.task(7, "new (enforce)")
    tree.task(8, "p (enforce)")
    old = AppArmor(tree.host, Newer(features=loader.features), backend.cache)
    released = await old.release(Release(one), {})
    assert set(released.modes) == {"new"}
    originals = adoption.read(tree.host, "ours")
    assert tree.host.kernel()["p"].digest in compiled.digests(originals[0].policy)
    tree.end_task(7)
    await old.remove(Remove(released), {})
    assert tree.names == {"p", "p//c", "other"}
    assert tree.host.kernel()["p"].digest in compiled.digests(originals[0].policy)
