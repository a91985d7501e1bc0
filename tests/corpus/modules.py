"""Holds Hauberk against others' modules and seccomp profiles: `python -m tests.corpus.modules FOLDER`.

Started by `__main__` inside the lab's network. Blocks that others inherit (udica's templates) come first,
each a SecurityProfile of its own; what inherits them requires those. Where several modules have a
block of one name, which no node can have twice, the later ones get a number. Whatever is Ready has to be on
its nodes as these themselves list it, and gone after its deletion; what is refused has to say why.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hauberk.crds.errors import InputFault
from hauberk.profiles import cil, selinux
from rich.console import Console
from rich.table import Table

from tests.corpus.compare import object_names
from tests.corpus.show import WIDTH
from tests.e2e.cluster import (
    NODES,
    SELINUX_NODE,
    condition,
    get,
    kubectl,
    ok,
    on_node,
    seccomp_profile,
    selinux_profile,
)
from tests.e2e.prepared import install

SETTLE_SECONDS = 300.0
# What udica's templates name of Fedora's container-selinux and Debian's policy lacks: the node's
# administrator adds it for the run, or every module that inherits from them would only wait.
FEDORAS = "(typeattribute svirt_sandbox_domain)"


@dataclass
class Text:
    """One text of the corpus, and what came of it."""

    file: str
    name: str
    policy: str
    blocks: frozenset[str] = frozenset()
    inherits: frozenset[str] = frozenset()
    requires: list[str] = field(default_factory=list[str])
    reason: str = ""
    message: str = ""
    wrong: list[str] = field(default_factory=list[str])
    host_types: bool = False

    @property
    def is_filter(self) -> bool:
        """Return whether it is a seccomp profile."""
        return self.file.endswith(".json")

    def document(self) -> dict[str, Any]:
        """Return its SecurityProfile."""
        if self.is_filter:
            return seccomp_profile(self.name, self.policy)
        block = {"allowHostTypes": True} if self.host_types else {}
        return selinux_profile(self.name, self.policy, requires=self.requires, **block)


def read(folder: Path) -> list[Text]:
    """Return the texts of a folder and of those in it."""
    files = sorted(one for one in folder.rglob("*") if one.suffix in (".cil", ".json"))
    names = object_names([one.name for one in files])
    found = [_read(one, names[one.name]) for one in files]
    taken: set[str] = set()
    for number, text in enumerate(found):
        for block in sorted(text.blocks & taken):
            text.policy = text.policy.replace(f"(block {block}", f"(block {block}{number}")
            text.blocks = text.blocks - {block} | {f"{block}{number}"}
        taken |= text.blocks
    return found


def _read(file: Path, name: str) -> Text:
    text = Text(file.name, name, file.read_text())
    if text.is_filter:
        return text
    try:
        module = selinux.judge(cil.read(text.policy), allow_host_types=True)
    except InputFault:  # the cluster will say so
        return text
    text.blocks, text.inherits = frozenset(module.blocks), frozenset(module.inherits)
    return text


def in_order(texts: Iterable[Text]) -> list[list[Text]]:
    """Return the texts in groups, each after what it inherits from, with what it requires."""
    waiting, done, groups = list(texts), dict[str, str](), list[list[Text]]()
    known = {block for text in waiting for block in text.blocks}
    while waiting:
        group = [text for text in waiting if (text.inherits & known) - text.blocks <= done.keys()] or waiting
        for text in group:
            text.requires = sorted({done[block] for block in text.inherits & done.keys()})
        groups.append(group)
        waiting = [text for text in waiting if text not in group]
        done |= {block: text.name for text in group for block in text.blocks}
    return groups


def apply(text: Text) -> None:
    """Apply a text, and take note of what the API server says where it does not take it.

    One that asks for `allowHostTypes` gets it, as it would from whoever has the right.
    """
    said = kubectl("apply", "--server-side", "--filename=-", given=text.document())
    if said.code and "allowHostTypes lifts this" in said.stderr:
        text.host_types = True
        said = kubectl("apply", "--server-side", "--filename=-", given=text.document())
    if not said.code:
        return
    text.reason, text.message = "refused at apply", said.stderr.partition("denied the request: ")[2].strip()
    if not text.message:
        text.wrong.append(f"refused without a word: {said.stderr.strip()}")


def settle(texts: Iterable[Text]) -> None:
    """Wait until nothing is under way for any of these, and take note of what their statuses say.

    What only waits for another one is settled once its status says so: those were settled before.
    """
    end = time.monotonic() + SETTLE_SECONDS
    waiting = {text.name: text for text in texts if not text.reason}
    while waiting and time.monotonic() < end:
        for body in get("secprof")["items"]:
            text, ready = waiting.get(body["metadata"]["name"]), condition(body, "Ready")
            settled = ready.get("observedGeneration") == body["metadata"]["generation"]
            failures = body.get("status", {}).get("failures", [])
            if text and settled and ready["reason"] not in ("Updating", "Progressing"):
                text.reason, text.message = ready["reason"], ready["message"]
            elif text and settled and failures and failures[0]["reason"] == "AwaitingRequired":
                text.reason, text.message = failures[0]["reason"], failures[0]["message"]
            else:
                continue
            del waiting[text.name]
            print(f"{text.file}: {text.reason}", flush=True)  # noqa: T201 - each takes a while
        time.sleep(1)
    for text in waiting.values():
        text.reason = "NotSettled"
        text.wrong.append(f"no verdict within {SETTLE_SECONDS:g} s")


def held(text: Text) -> list[str]:
    """Return what is wrong with what nodes have of a text that is called Ready, or refused."""
    wanted = hashlib.sha256(text.policy.encode()).hexdigest()
    if text.is_filter:
        path = f"/var/lib/kubelet/seccomp/hauberk/{text.name}.json"
        sums = {node: on_node(node, "sh", "-c", f"sha256sum {path} 2>&1 || true") for node in NODES}
    else:
        sums = {SELINUX_NODE: _listed().get(f"hauberk_{text.name}", "nothing")}
    there = [node for node, said in sums.items() if wanted in said]
    if text.reason == "Ready":
        return [f"{node} does not hold it: {said}" for node, said in sums.items() if node not in there]
    return [f"{node} holds it" for node in there]


def _listed() -> dict[str, str]:
    """Return the modules in the node's store with their checksums, by the node's own semodule."""
    lines = on_node(SELINUX_NODE, "semodule", "-lfull", "-m").splitlines()
    words = (line.split() for line in lines)
    return {one[1]: one[-1] for one in words if len(one) > 1}


@contextlib.contextmanager
def fedoras_names() -> Generator[None]:
    """Have the node know FEDORAS for as long as the context lasts."""
    given = "cat > /tmp/fedoras_names.cil && semodule -i /tmp/fedoras_names.cil"
    on_node(SELINUX_NODE, "sh", "-c", given, given=FEDORAS)
    try:
        yield
    finally:
        on_node(SELINUX_NODE, "semodule", "-r", "fedoras_names")


def show(console: Console, texts: Iterable[Text]) -> None:
    """Print what came of each text."""
    table = Table(box=None, pad_edge=False, header_style="bold", width=WIDTH)
    table.add_column("TEXT", no_wrap=True)
    table.add_column("REQUIRES")
    table.add_column("HOST TYPES", no_wrap=True)
    table.add_column("HAUBERK", no_wrap=True)
    for text in texts:
        leave = "allowed" if text.host_types else ""
        table.add_row(
            text.file, ", ".join(text.requires), leave, f"{'✗ ' if text.wrong else ''}{text.reason}"
        )
    console.print(table)
    for text in texts:
        if text.reason != "Ready" or text.wrong:
            console.print(
                f"\n{text.file}\n  {text.message}", *(f"\n  ✗ {one}" for one in text.wrong), markup=False
            )


def main(folder: Path) -> int:
    """Apply every text of a folder, hold the nodes against it, delete all; return 0 if nothing was wrong."""
    install(restart=True)
    ok(kubectl("delete", "secprof", "--all", "--timeout=300s", timeout=400))
    texts = read(folder)
    with fedoras_names():
        for group in in_order(texts):
            for text in group:
                apply(text)
            settle(group)
        for text in texts:
            text.wrong += held(text)
        ok(kubectl("delete", "secprof", "--all", "--timeout=600s", timeout=700))
    left: Mapping[str, str] = {name: one for name, one in _listed().items() if name.startswith("hauberk_")}
    files = [on_node(node, "find", "/var/lib/kubelet/seccomp/hauberk", "-type", "f") for node in NODES]
    show(Console(width=WIDTH, highlight=False), texts)
    wrong = sum(bool(text.wrong) for text in texts)
    print(f"\n{len(texts)} texts, {wrong} wrong; left after the deletion: {[*left, *filter(None, files)]}")  # noqa: T201
    return int(bool(wrong or left or any(files)))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
