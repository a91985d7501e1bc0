"""The backend: the real parser compiles, and what it loads goes into a tree like the kernel's."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from hauberk.crds.errors import Fault, InputFault, NodeFault
from hauberk.crds.reasons import Reason
from hauberk.daemonset.apparmor import AppArmor, boot_file, boot_revision, permissive, refusal
from hauberk.daemonset.cache import Cache
from hauberk.daemonset.holdings import Holding, Records
from hauberk.daemonset.host import Host
from hauberk.daemonset.plan import Load, Persist, Prune, Release, Remove, mismatch
from hauberk.profiles.parser import Parser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.node import BOOT, Loader, Newer, Tree

TEXT = "profile p { profile c { file, } file, }"


@pytest.fixture
def backend(tree: Tree, loader: Loader) -> AppArmor:
    return AppArmor(tree.host, loader, Cache(tree.host, "compiler"))


def step(text: str = TEXT, mode: str = "Enforce", profile: str = "p", *, attach: bool = False) -> Load:
    return Load(
        profile=profile,
        uid=f"uid-{profile}",
        revision=f"d-{hashlib.sha256(text.encode()).hexdigest()[:8]}",
        mode=mode,
        text=text,
        installation="here",
        allow_attachment=attach,
    )


def simple(*profiles: str) -> list[Load]:
    return [step(f"profile {name} {{ file, }}", profile=name) for name in profiles]


async def loaded(
    backend: AppArmor, *steps: Load, held: Mapping[str, Holding] | None = None
) -> tuple[dict[str, Holding], dict[str, Exception]]:
    """Return what came of steps that are loaded at once: records and faults, by profile."""
    ready = [await backend.prepare(one) for one in steps]
    outcome = await backend.load(ready, held or {})
    assert outcome.keys() == {one.key for one in steps}
    records = {key.profile: one for key, one in outcome.items() if isinstance(one, Holding)}
    faults = {key.profile: one for key, one in outcome.items() if not isinstance(one, Holding)}
    return records, faults


async def held(backend: AppArmor, *steps: Load) -> Holding:
    """Return the record of a profile that was loaded and persisted."""
    before, _ = Records(backend.host, "apparmor").read()
    records, faults = await loaded(backend, *steps or [step()], held=before)
    assert faults == {}
    for one in records.values():
        await backend.persist(Persist(one))
    return next(iter(records.values()))


# --- compile -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Enforce", "Complain"])
async def test_what_is_prepared_says_what_the_kernel_will_hold(backend: AppArmor, mode: str):
    made = await backend.prepare(step(mode=mode))
    assert made.holding.modes == dict.fromkeys(("p", "p//c"), mode.lower())
    assert made.holding.digests == sorted(
        [hashlib.sha1(made.compiled.binary).hexdigest(), hashlib.sha256(made.compiled.binary).hexdigest()]  # noqa: S324
    )
    assert (made.holding.profile, made.holding.uid, made.holding.installation) == ("p", "uid-p", "here")
    assert made.holding.boot_id == ""  # it is in no kernel yet
    assert made.holding.boots


async def test_a_text_is_compiled_once(backend: AppArmor, loader: Loader):
    first = await backend.prepare(step())
    again = await backend.prepare(step())
    assert again == first
    assert loader.texts == [TEXT]
    await backend.prepare(step(mode="Complain"))
    assert loader.texts == [TEXT, TEXT]


async def test_a_text_that_is_known_is_judged_all_the_same(backend: AppArmor, loader: Loader):
    """The cache has what compiles; whether it may be loaded is asked each time."""
    attaches = "profile p /usr/bin/p { file, }"
    await backend.prepare(step(attaches, attach=True))
    with pytest.raises(InputFault) as caught:
        await backend.prepare(step(attaches))
    assert caught.value.reason is Reason.ATTACHMENT_REFUSED
    assert loader.texts == [attaches]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("profile p {", Reason.POLICY_REFUSED),
        ("profile p { include /etc/passwd\n }", Reason.INCLUDE_REFUSED),
        ("profile p /bin/x { }", Reason.ATTACHMENT_REFUSED),
        ("profile runc { }", Reason.NAME_PROTECTED),
        ("profile p flags=(unconfined) { }", Reason.MODE_MISMATCH),
        ("profile p flags=(complain) { }", Reason.MODE_MISMATCH),
        ("# nothing", Reason.POLICY_EMPTY),
    ],
)
async def test_a_text_that_is_refused_loads_and_records_nothing(
    tree: Tree, backend: AppArmor, text: str, reason: Reason
):
    with pytest.raises(InputFault) as caught:
        await backend.prepare(step(text))
    assert caught.value.reason is reason
    assert (tree.runs, tree.names, Records(tree.host, "apparmor").announced()) == ([], set(), [])


async def test_a_text_that_is_slow_is_kept_from_the_boot(
    tree: Tree, backend: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    await held(backend)
    monkeypatch.setattr("hauberk.daemonset.apparmor.BOOT_SECONDS", -1.0)
    slow = "profile p { file, capability kill, }"
    one = await held(backend, step(slow))
    assert not one.boots
    assert not (tree.host.policies / "hauberk.p").exists()
    monkeypatch.setattr("hauberk.daemonset.apparmor.BOOT_SECONDS", 100.0)
    assert not (await backend.prepare(step(slow))).holding.boots  # from the cache it is quick, and as slow


# --- load --------------------------------------------------------------------------------------------------


async def test_many_are_loaded(tree: Tree, backend: AppArmor):
    records, faults = await loaded(backend, *simple("a", "b"), step())
    assert faults == {}
    assert tree.runs == [["a"], ["b"], ["p", "p//c"]]
    assert tree.names == {"a", "b", "p", "p//c"}
    for one in records.values():
        assert one.boot_id == BOOT
        assert mismatch(one, tree.host.kernel(), "") == ""


async def test_what_the_disk_took_no_copy_of_is_loaded_too(tree: Tree, backend: AppArmor):
    tree.put(tree.host.state / "cache", "a file where the folder belongs")
    _, faults = await loaded(backend, *simple("a", "b"))
    assert faults == {}
    assert sorted(tree.runs) == [["a"], ["b"]]


@pytest.mark.parametrize("mode", ["Enforce", "Complain"])
async def test_what_the_kernel_holds_already_is_not_loaded(tree: Tree, backend: AppArmor, mode: str):
    tree.take((await backend.prepare(step(mode=mode))).compiled.binary)
    records, faults = await loaded(backend, step(mode=mode), *simple("q"))
    assert faults == {}
    assert records["p"].modes == dict.fromkeys(("p", "p//c"), mode.lower())
    assert records["p"].boot_id == BOOT
    assert tree.runs == [["q"]]
    assert [one.profile for one in Records(tree.host, "apparmor").announced()] == ["q"]


async def test_without_hashes_a_kernel_that_lists_the_names_proves_nothing(tree: Tree, backend: AppArmor):
    tree.hashes = False
    tree.take((await backend.prepare(step())).compiled.binary, hashes=False)
    before = (await backend.prepare(step())).holding
    records, faults = await loaded(backend, step(), held={"p": before})
    assert faults == {}
    assert tree.runs == [["p", "p//c"]]
    assert records["p"].boot_id == BOOT


@pytest.mark.parametrize("position", range(3))
async def test_one_that_the_kernel_refuses_fails_alone(tree: Tree, backend: AppArmor, position: int):
    names = ["a", "b", "c"]
    refused = names[position]
    tree.refused.add(refused)
    records, faults = await loaded(backend, *simple(*names))
    assert set(faults) == {refused}
    assert isinstance(faults[refused], NodeFault)
    assert "Permission denied" in str(faults[refused])
    assert set(records) == tree.names == set(names) - {refused}
    assert tree.runs == [[name] for name in names]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EPROTO, "Protocol error; the policy is not as this kernel reads it"),
        (
            errno.ENOENT,
            "No such file or directory; a profile that one of the policy's is the child of is not loaded",
        ),
        (errno.EFAULT, "Bad address"),
    ],
)
def test_a_refusal_of_the_kernels_says_what_it_means(code: int, said: str):
    assert refusal(OSError(code, os.strerror(code))) == f"the kernel refuses the policy: {said}"


async def test_all_that_a_kernel_refuses_are_told_each(tree: Tree, backend: AppArmor):
    tree.refused.update("ab")
    records, faults = await loaded(backend, *simple("a", "b"))
    assert records == {}
    assert {name: fault.reason for name, fault in faults.items() if isinstance(fault, Fault)} == {
        "a": Reason.LOAD_FAILED,
        "b": Reason.LOAD_FAILED,
    }
    assert tree.names == set()


async def test_a_kernel_that_takes_a_load_and_does_not_hold_it_is_told(
    backend: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(Tree, "take", nothing)
    _, faults = await loaded(backend, *simple("a"))
    assert isinstance(fault := faults["a"], NodeFault)
    assert fault.reason is Reason.NOT_IN_KERNEL
    assert "after the load the kernel does not hold a" in fault.message


async def test_a_refused_update_leaves_what_the_kernel_has(tree: Tree, backend: AppArmor):
    before = await held(backend)
    tree.refused.add("p")
    _, faults = await loaded(backend, step("profile p { capability kill, }"), held={"p": before})
    assert set(faults) == {"p"}
    assert mismatch(before, tree.host.kernel(), BOOT) == ""
    assert Records(tree.host, "apparmor").read() == ({"p": before}, [])


@pytest.mark.parametrize("others", [[], ["a"]])
async def test_without_hashes_a_refused_update_is_no_update(tree: Tree, parser: Parser, others: list[str]):
    """Names and modes are those of the text before: only the kernel's word tells that nothing changed."""
    tree.hashes = False
    backend = AppArmor(tree.host, parser, Cache(tree.host, "compiler"))
    before = await held(backend, *simple("p"))
    tree.refused.add("p")
    update = step("profile p { capability kill, }")
    records, faults = await loaded(backend, update, *simple(*others), held={"p": before})
    assert set(faults) == {"p"}
    assert set(records) == set(others)


async def test_an_update_remembers_the_names_that_it_gave_up(tree: Tree, backend: AppArmor):
    before = await held(backend, step("profile p { file, } profile q { file, } profile r { file, }"))
    records, _ = await loaded(backend, step("profile p { file, } profile q { file, }"), held={"p": before})
    assert records["p"].former == ["r"]
    records, _ = await loaded(backend, step("profile p { file, }"), held=records)
    assert records["p"].former == ["q", "r"]
    records, _ = await loaded(backend, step("profile p { file, } profile r { file, }"), held=records)
    assert records["p"].former == ["q"]
    assert tree.names == {"p", "q", "r"}  # to take them away is a step of its own


# --- names of others ---------------------------------------------------------------------------------------


async def test_a_name_of_the_hosts_is_left_alone(tree: Tree, backend: AppArmor):
    tree.loaded("p", raw_sha256="the host's")
    records, faults = await loaded(backend, step(), *simple("q"))
    assert isinstance(fault := faults["p"], NodeFault)  # tried again: the host may give it up
    assert fault.reason is Reason.HOST_OWNED
    assert set(records) == {"q"}
    assert tree.runs == [["q"]]
    assert tree.removed == b""


async def test_a_name_of_another_profile_is_told_with_its_owner(tree: Tree, backend: AppArmor):
    other = msgspec.structs.replace((await backend.prepare(step())).holding, profile="other")
    _, faults = await loaded(backend, step(), held={"other": other})
    assert isinstance(fault := faults["p"], NodeFault)
    assert fault.reason is Reason.NAME_CLASH
    assert "SecurityProfile other holds the kernel name p here" in fault.message
    assert tree.runs == []


async def test_of_two_in_one_run_with_one_name_the_first_has_it(tree: Tree, backend: AppArmor):
    first = step("profile shared { file, }", profile="a")
    second = step("profile shared { capability kill, } profile b { file, }", profile="b")
    records, faults = await loaded(backend, first, second)
    assert set(records) == {"a"}
    assert isinstance(fault := faults["b"], NodeFault)
    assert fault.reason is Reason.NAME_CLASH
    assert "SecurityProfile a holds the kernel name shared" in fault.message
    assert tree.runs == [["shared"]]
    assert tree.names == {"shared"}


async def test_a_name_given_up_in_the_same_run_is_not_free_yet(backend: AppArmor):
    before = await held(backend, step("profile p { file, } profile q { file, }"))
    update = step("profile p { capability kill, }")
    records, faults = await loaded(backend, update, *simple("q"), held={"p": before})
    assert records["p"].former == ["q"]
    assert isinstance(fault := faults["q"], NodeFault)
    assert fault.reason is Reason.NAME_CLASH
    pruned = await backend.prune(Prune(records["p"], ("q",)))
    _, faults = await loaded(backend, *simple("q"), held={"p": pruned})
    assert faults == {}


# --- a crash on the way ------------------------------------------------------------------------------------


async def test_a_load_is_announced_before_the_kernel_has_it(
    tree: Tree, backend: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    announced: list[Sequence[str]] = []
    take = Tree.take

    def taken(tree: Tree, policy: bytes, **hashes: bool) -> None:
        announced.append([one.profile for one in Records(tree.host, "apparmor").announced()])
        take(tree, policy, **hashes)

    monkeypatch.setattr(Tree, "take", taken)
    records, _ = await loaded(backend, *simple("a", "b"))
    assert announced == [["a", "b"], ["a", "b"]]
    assert Records(tree.host, "apparmor").announced() == list(records.values())
    assert Records(tree.host, "apparmor").read() == ({}, [])  # nothing is recorded by a load


async def test_announcements_add_up_until_they_are_settled(tree: Tree, backend: AppArmor):
    first, _ = await loaded(backend, *simple("a"))
    await loaded(backend, *simple("b"), held=first)
    assert [one.profile for one in Records(tree.host, "apparmor").announced()] == ["a", "b"]
    backend.settle([], [])
    assert Records(tree.host, "apparmor").announced() == []


async def test_a_disk_that_takes_no_announcement_does_not_stop_a_load(tree: Tree, backend: AppArmor):
    tree.put(tree.host.state, "a file where the folder belongs")
    records, faults = await loaded(backend, *simple("a"))
    assert faults == {}
    assert tree.names == set(records) == {"a"}


async def test_what_is_settled_keeps_the_compiled_texts_that_are_held_or_wanted(
    backend: AppArmor, loader: Loader
):
    records, _ = await loaded(backend, *simple("a", "b", "c"))
    wanted = simple("b")[0]
    backend.settle([records["a"]], [(wanted.text, wanted.mode)])
    loader.texts.clear()
    for one in simple("a", "b", "c"):
        await backend.prepare(one)
    assert loader.texts == [simple("c")[0].text]


async def test_an_opened_backend_has_swept_what_was_half_written(tree: Tree, loader: Loader):
    for file in (
        "apparmor.d/.hauberk.p.new",
        "apparmor.d/force-complain/.hauberk.p.new",
        "state/cache/.x.new",
    ):
        tree.put(tree.host.policies.parent / file, "half")
    theirs = tree.put(tree.host.policies / ".their.new", "theirs")
    await AppArmor.open(tree.host, loader)
    left = [file for file in tree.host.policies.parent.rglob(".*.new") if file != theirs]
    assert left == []
    assert theirs.exists()


async def test_another_kernel_has_a_cache_of_its_own(tree: Tree, loader: Loader):
    await (await AppArmor.open(tree.host, loader)).prepare(step())
    await (await AppArmor.open(tree.host, loader)).prepare(step())
    assert loader.texts == [TEXT]
    tree.put(tree.host.apparmor / "features/file/mask", "more")
    await (await AppArmor.open(tree.host, loader)).prepare(step())
    assert loader.texts == [TEXT, TEXT]


# --- the disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Enforce", "Complain"])
async def test_what_is_persisted_is_known_again_and_forgotten(
    tree: Tree, backend: AppArmor, loader: Loader, mode: str
):
    assert backend.boot_files() == {}
    one = await held(backend, step(mode=mode))
    assert backend.boot_files() == {"p": one.revision}
    assert Records(tree.host, "apparmor").read() == ({"p": one}, [])
    link = tree.host.policies / "force-complain/hauberk.p"
    assert link.is_symlink() is (mode == "Complain")
    text = (tree.host.policies / "hauberk.p").read_text()
    assert text.startswith(
        f"# Written by Hauberk for SecurityProfile p, revision {one.revision}, mode {mode}.\n"
    )
    assert await loader.compile(text, mode) == await loader.compile(TEXT, mode)
    await backend.remove(Remove(one), {})
    assert (backend.boot_files(), link.is_symlink()) == ({}, False)
    assert Records(tree.host, "apparmor").read() == ({}, [])
    assert tree.names == set()


async def test_a_mode_that_changes_takes_its_link_with_it(tree: Tree, backend: AppArmor):
    folder = tree.host.policies / "force-complain"
    await held(backend, step(mode="Complain"))
    assert [file.name for file in folder.iterdir()] == ["hauberk.p"]
    one = await held(backend, step(mode="Enforce"))
    assert list(folder.iterdir()) == []
    assert backend.boot_files() == {"p": one.revision}


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "the body": lambda text: text.replace(b"file", b"mount"),
    "more at its end": lambda text: text + b"\n",
    "the body's hash": lambda text: text.replace(b"sha256 ", b"sha256 0", 1),
    "the mode": lambda text: text.replace(b"mode Enforce", b"mode Complain"),
    "whose it is": lambda text: text.replace(b"SecurityProfile p,", b"SecurityProfile q,"),
    "no header": lambda text: text.split(b"\n", 2)[2],
    "a header and no more": lambda text: b"\n".join(text.split(b"\n", 2)[:2]),
    "another line first": lambda text: b"\n" + text,
    "no text": lambda _: b"\xff\xfe",
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("edit", EDITS)
async def test_a_boot_file_that_someone_changed_is_none(tree: Tree, backend: AppArmor, edit: str):
    one = await held(backend)
    file = tree.host.policies / "hauberk.p"
    changed = EDITS[edit](file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    assert backend.boot_files() == {"p": ""}
    await backend.persist(Persist(one))  # what the plan says then
    assert backend.boot_files() == {"p": one.revision}


async def test_a_revision_that_someone_wrote_into_a_boot_file_is_not_the_one_held(
    tree: Tree, backend: AppArmor
):
    one = await held(backend)
    file = tree.host.policies / "hauberk.p"
    file.write_bytes(file.read_bytes().replace(one.revision.encode(), b"d-other"))
    assert backend.boot_files()["p"] != one.revision


@pytest.mark.parametrize(
    ("mode", "link"),
    [
        ("Enforce", "../hauberk.p"),  # the boot would load it in complain mode
        ("Enforce", "../other"),
        ("Enforce", None),  # a file is as good as a link there
        ("Complain", ""),  # the boot would enforce it
        ("Complain", "../other"),
        ("Complain", "hauberk.p"),
        ("Complain", None),
    ],
)
async def test_a_link_for_complain_mode_that_is_not_as_it_was_made_makes_the_file_none(
    tree: Tree, backend: AppArmor, mode: str, link: str | None
):
    one = await held(backend, step(mode=mode))
    file = tree.host.policies / "force-complain/hauberk.p"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if link:
        file.symlink_to(link)
    elif link is None:
        tree.put(file, "x")
    assert backend.boot_files() == {"p": ""}
    await backend.persist(Persist(one))
    assert backend.boot_files() == {"p": one.revision}


async def test_boot_files_are_read_again_only_when_they_changed(
    tree: Tree, backend: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    for one in (step(mode="Complain"), *simple("a", "b")):
        await held(backend, one)
    read: list[str] = []
    original = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    first = backend.boot_files()
    assert sorted(read) == ["hauberk.a", "hauberk.b", "hauberk.p"]
    read.clear()
    assert backend.boot_files() == first
    assert read == []
    tree.put(tree.host.policies / "hauberk.a", "x")
    (tree.host.policies / "force-complain/hauberk.p").unlink()
    (tree.host.policies / "hauberk.b").unlink()
    assert backend.boot_files() == {"a": "", "p": ""}
    assert sorted(read) == ["hauberk.a", "hauberk.p"]


async def test_what_takes_a_boot_files_place_without_being_one_is_none(tree: Tree, backend: AppArmor):
    one = await held(backend)
    file = tree.host.policies / "hauberk.p"
    copy = file.rename(file.with_name("elsewhere"))
    file.symlink_to(copy.name)
    assert backend.boot_files().get("p", "") == ""
    await backend.persist(Persist(one))
    assert not file.is_symlink()
    assert backend.boot_files() == {"p": one.revision}


@given(
    flat=st.text(max_size=80),
    mode=st.sampled_from(["Enforce", "Complain"]),
    cut=st.integers(0, 400),
)
def test_a_boot_file_is_known_whole_and_never_in_part(flat: str, mode: str, cut: int):
    flat = flat.encode(errors="replace").decode()
    one = Holding("p", "u", "d1", mode, "", {"p": "enforce"}, [], "", boots=True)
    made = boot_file(one, flat)
    link = "../hauberk.p" if mode == "Complain" else ""
    assert boot_revision(made, link, "hauberk.p") == "d1"
    assert boot_revision(made[:cut], link, "hauberk.p") == ("d1" if cut >= len(made) else "")


@pytest.mark.parametrize(
    ("file", "consequence"),
    [("state/apparmor", "took no record of it"), ("apparmor.d", "not written to the node's apparmor.d")],
)
async def test_a_disk_that_takes_no_record_is_told(
    tree: Tree, backend: AppArmor, file: str, consequence: str
):
    tree.put(tree.host.policies.parent / file, "a file where the folder belongs")
    records, faults = await loaded(backend, step())
    assert faults == {}
    with pytest.raises(NodeFault, match=consequence) as caught:
        await backend.persist(Persist(records["p"]))
    assert caught.value.reason is Reason.STATE_UNWRITABLE
    assert tree.names == {"p", "p//c"}


# --- unload ------------------------------------------------------------------------------------------------


async def test_a_removal_takes_children_first_and_what_earlier_texts_left(tree: Tree, backend: AppArmor):
    one = msgspec.structs.replace(await held(backend), former=["old", "gone"])
    tree.loaded("old")
    tree.loaded("host")
    await backend.remove(Remove(one), {})
    removed = tree.removed.decode()
    assert removed.startswith("p//c")
    assert sorted(removed.replace("p//c", "p//c ").replace("old", " old ").split()) == ["old", "p", "p//c"]
    assert tree.names == {"host"}


async def test_a_removal_takes_children_that_no_text_of_its_own_had(tree: Tree, backend: AppArmor):
    one = await held(backend, *simple("p"))
    entry = next(file for file in tree.host.apparmor.rglob("name") if file.read_text() == "p\n").parent
    tree.loaded("inherited", parent=entry)
    await backend.remove(Remove(one), {})
    assert tree.names == set()


@pytest.mark.parametrize("label", ["p (enforce)", "p//c (enforce)", "x//&p (enforce)", "old (enforce)"])
async def test_nothing_is_removed_while_a_task_is_confined(tree: Tree, backend: AppArmor, label: str):
    one = msgspec.structs.replace(await held(backend), former=["old"])
    tree.loaded("old")
    tree.task(7, label)
    tree.task(8, label)
    with pytest.raises(NodeFault, match="2 tasks are confined by ") as caught:
        await backend.remove(Remove(one), {})
    assert caught.value.reason is Reason.IN_USE
    assert tree.removed == b""
    assert set(Records(tree.host, "apparmor").read()[0]) == {"p"}
    assert backend.boot_files() == {"p": one.revision}
    tree.end_task(7)
    tree.end_task(8)
    await backend.remove(Remove(one), {})
    assert tree.names == set()


async def test_what_is_not_there_is_removed_already(tree: Tree, backend: AppArmor):
    one = await held(backend)
    tree.reboot()
    await backend.remove(Remove(one), {})
    assert tree.removed == b""
    assert (Records(tree.host, "apparmor").read(), backend.boot_files()) == (({}, []), {})


async def test_a_prune_removes_only_what_it_was_told(tree: Tree, backend: AppArmor):
    one = msgspec.structs.replace(await held(backend), former=["old"])
    tree.loaded("old")
    pruned = await backend.prune(Prune(one, ("old",)))
    assert tree.removed == b"old"
    assert pruned.former == []
    await backend.persist(Persist(pruned))
    assert Records(tree.host, "apparmor").read() == ({"p": pruned}, [])


async def test_a_disk_that_keeps_the_file_is_told(backend: AppArmor, monkeypatch: pytest.MonkeyPatch):
    """Else the node's boot would load what is said to be gone."""
    one = await held(backend)

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Host, "delete", read_only)
    with pytest.raises(NodeFault, match="can't be deleted, so the node's boot would load it again") as caught:
        await backend.remove(Remove(one), {})
    assert caught.value.reason is Reason.STATE_UNWRITABLE


# --- release -----------------------------------------------------------------------------------------------


@pytest.fixture
def releasing(tree: Tree, parser: Parser) -> AppArmor:
    return AppArmor(tree.host, Newer(features=parser.features), Cache(tree.host, "compiler"))


async def test_what_is_in_use_is_released_under_each_of_its_names(tree: Tree, releasing: AppArmor):
    one = await held(releasing, step("profile p { profile c { file, } } profile q { }"))
    tree.task(7, "p//c (enforce)")
    released = await releasing.release(Release(one), {})
    assert released.released
    assert set(released.modes) == {"p", "p//c", "q"} == tree.names
    assert released.modes.keys() == one.modes.keys()
    assert mismatch(released, tree.host.kernel(), BOOT) == ""
    assert mismatch(one, tree.host.kernel(), BOOT) != ""
    assert tree.removed == b""


async def test_a_released_profile_does_not_come_back_at_the_boot(tree: Tree, releasing: AppArmor):
    one = await held(releasing)
    assert (tree.host.policies / "hauberk.p").exists()
    released = await releasing.release(Release(one), {})
    await releasing.persist(Persist(released))
    assert not (tree.host.policies / "hauberk.p").exists()
    assert Records(tree.host, "apparmor").read() == ({"p": released}, [])
    await releasing.remove(Remove(released), {})
    assert (tree.names, Records(tree.host, "apparmor").read()) == (set(), ({}, []))


async def test_what_earlier_texts_left_in_use_is_released_too(tree: Tree, releasing: AppArmor):
    one = msgspec.structs.replace(await held(releasing), former=["old", "gone"])
    tree.loaded("old")
    entry = next(file for file in tree.host.apparmor.rglob("name") if file.read_text() == "p\n").parent
    tree.loaded("inherited", parent=entry)
    released = await releasing.release(Release(one), {})
    assert set(released.modes) == {"p", "p//c", "p//inherited", "old"} == tree.names
    await releasing.remove(Remove(released), {})
    assert tree.names == set()


async def test_where_nothing_is_left_nothing_is_released(tree: Tree, releasing: AppArmor):
    one = await held(releasing)
    tree.reboot()
    with pytest.raises(NodeFault, match="nothing of it is left") as caught:
        await releasing.release(Release(one), {})
    assert caught.value.reason is Reason.NOT_IN_KERNEL
    assert tree.names == set()


async def test_a_name_that_the_parser_reads_otherwise_is_not_released(
    tree: Tree, releasing: AppArmor, monkeypatch: pytest.MonkeyPatch
):
    """What takes another name leaves the one in use as it is, and nobody's."""
    one = await held(releasing)
    before = tree.host.kernel()

    def another(_: object) -> str:
        return "profile x {\n  all,\n}\n"

    monkeypatch.setattr("hauberk.daemonset.apparmor.permissive", another)
    with pytest.raises(NodeFault, match="can't be spelled"):
        await releasing.release(Release(one), {})
    assert tree.host.kernel() == before


async def test_only_names_that_the_kernel_has_are_released(tree: Tree, releasing: AppArmor):
    one = await held(releasing, step("profile p { } profile q { }"))
    tree.host.remove("q")
    released = await releasing.release(Release(one), {})
    assert set(released.modes) == tree.names == {"p"}


async def test_a_kernel_that_refuses_a_release_is_told(tree: Tree, releasing: AppArmor):
    one = await held(releasing)
    tree.refused = {"p"}
    with pytest.raises(NodeFault) as caught:
        await releasing.release(Release(one), {})
    assert caught.value.reason is Reason.LOAD_FAILED
    assert mismatch(one, tree.host.kernel(), BOOT) == ""


@pytest.mark.parametrize(
    "name",
    [
        *(
            "p",
            "p//c",
            "x//y//z",
            "a b",
            "a (enforce)",
            'a"b',
            "a'b",
            "a,b",
            "a#b",
            "a=b",
            "a:b",
            "-a",
            "$a",
            "ä",
        ),
        *("a{b", "a[b]*?", "@{HOME}", "/usr/**", "/usr/bin/{a,b}"),
    ],
)
async def test_what_takes_a_profiles_place_has_its_name(parser: Parser, name: str):
    assert await names_of_permissive(parser, name) == [name]


@pytest.mark.parametrize(
    "source",
    [r"a\\b", r"a\qb", r"a\[b", r"a\"b", r"a\\\"b", r"\\", r"a\134", r"a\\\\b", r"\134\*", r"a\\134"],
)
async def test_a_name_with_backslashes_is_kept_as_the_parser_reads_it(parser: Parser, source: str):
    """The parser keeps a backslash before what its patterns know, and one before what nobody knows."""
    (name,) = await parser.names(f'profile "{source}" {{ }}\n') if source != r"\\" else ["\\\\"]
    assert await names_of_permissive(parser, name) == [name]


@settings(max_examples=60, deadline=None)
@given(
    source=st.text(
        st.one_of(st.sampled_from('\\"*[]{}()@^,# a1n/'), st.characters(exclude_categories=["C"])),
        min_size=1,
        max_size=12,
    )
)
async def test_whatever_a_text_defines_is_released_by_its_name(parser: Parser, source: str):
    try:
        found = await parser.names(f'profile "{source}" {{ }}\n')
    except InputFault:
        return
    assert len(found) <= 1
    for name in found:
        if name.isprintable():
            assert await names_of_permissive(parser, name) == [name]


async def names_of_permissive(parser: Parser, name: str) -> list[str]:
    """Return the names that the text defines; `all,` is left out, which only newer parsers know."""
    text = permissive([name])
    assert text.count("  all,\n") == 1
    return await parser.names(text.replace("  all,\n", ""))


async def test_the_text_that_takes_a_profiles_place_compiles(parser: Parser):
    try:
        await parser.compile("profile a { all, }", "Enforce")
    except InputFault:
        pytest.skip(f"apparmor_parser {await parser.version()} does not know the rule `all,`")
    await parser.compile(permissive(["p", "p//c", 'a "b"']), "Enforce")
