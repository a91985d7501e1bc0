"""Gathers, on a lab that is up, what `compare` judges, and prints it: `python -m tests.corpus.run FOLDER`.

Started by `__main__` inside the lab's network. Texts are applied in small groups of which no two define the
same profile, and each group is gone from the kernels before the next: so texts that define the same names, as
versions of one profile do, can all be in one corpus. Names that a node has already are for Hauberk to refuse.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.corpus.compare import (
    BY_SCHEMA,
    OnNode,
    Outcome,
    Parsed,
    Told,
    Verdict,
    batches,
    compare,
    digests,
    object_names,
    texts,
)
from tests.corpus.show import WIDTH, show
from tests.e2e.cluster import (
    SYSTEM,
    Kernel,
    Said,
    agent_pod,
    condition,
    get,
    kernel,
    kubectl,
    on_node,
    past_the_webhook,
    profile,
    remove,
)
from tests.e2e.prepared import install

GROUP = 8
SETTLE_SECONDS = 120.0
LABEL = {"made-by": "corpus"}
SELECTOR = "--selector=made-by=corpus"
LISTED = "/sys/kernel/security/apparmor/profiles"
# Of the parser alone, in KiB and seconds: above Hauberk's own, which are so met first.
LIMITS = "ulimit -v 1572864; cd /etc/apparmor.d; exec timeout 40 apparmor_parser --base=/etc/apparmor.d"
_ENDED = "command terminated with exit code "


@dataclass(frozen=True)
class Text:
    """One text of the corpus; `unreadable` says why it is no text at all."""

    file: str
    name: str
    policy: str = ""
    unreadable: str = ""


def read(folder: Path) -> list[Text]:
    """Return the texts of a corpus."""
    files = texts(folder)
    names = object_names([file.name for file in files])
    found: list[Text] = []
    for file in files:
        try:
            found.append(Text(file.name, names[file.name], file.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            found.append(Text(file.name, names[file.name], unreadable=str(error)))
    return found


# --- the parser by itself ----------------------------------------------------------------------------------


def ask(node: str, policy: str) -> Parsed:
    """Return what the image's parser says of a text on a node, for that node's kernel."""
    pod = agent_pod(node)

    def parser(options: str) -> tuple[int, bytes, str]:
        done = subprocess.run(
            (
                *("kubectl", "exec", "--stdin", f"--namespace={SYSTEM}", pod, "--"),
                *("sh", "-c", f"{LIMITS} {options}"),
            ),
            # a comment without an end of line is an error of the parser's reader, not of the text
            input=policy.encode() + (b"" if policy.endswith("\n") else b"\n"),
            capture_output=True,
            check=False,
            timeout=120,
        )
        said, _, code = done.stderr.decode(errors="replace").partition(_ENDED)
        if done.returncode and not code:
            raise RuntimeError(f"the parser on {node} could not be asked: {said.strip()}")
        return int(code or 0), done.stdout, said

    code, compiled, said = parser("--skip-kernel-load --skip-cache --stdout --jobs=0")
    if code:
        return Parsed(code, said)
    _, names, _ = parser("--names")
    return Parsed(0, said, tuple(names.decode(errors="surrogateescape").splitlines()), digests(compiled))


def ask_all(found: Iterable[Text], nodes: list[str]) -> dict[str, dict[str, Parsed]]:
    """Return each node's parser's word on each text, by file and node; all nodes are asked at once."""
    readable = [text for text in found if not text.unreadable]
    with ThreadPoolExecutor(len(nodes)) as pool:

        def of_node(node: str) -> dict[str, Parsed]:
            return {text.file: ask(node, text.policy) for text in readable}

        of = dict(zip(nodes, pool.map(of_node, nodes), strict=True))
    return {text.file: {node: of[node][text.file] for node in nodes} for text in readable}


# --- Hauberk ---------------------------------------------------------------------------------------------


def settled(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return SecurityProfiles once nothing is under way for any of them, or as they are when time is over."""
    wanted = set(names)
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        items = get("secprof", SELECTOR)["items"]
        found = {one["metadata"]["name"]: one for one in items}
        if time.monotonic() > end or all(name in found and _is_settled(found[name]) for name in wanted):
            return found
        time.sleep(0.2)


def _is_settled(body: dict[str, Any]) -> bool:
    ready = condition(body, "Ready")
    return (
        ready.get("observedGeneration") == body["metadata"]["generation"]
        and ready["reason"] != "Updating"
        and not body["status"]["nodes"]["updating"]
    )


def told(body: dict[str, Any]) -> Told:
    """Return what a SecurityProfile's status tells."""

    def words(kind: str) -> tuple[str, str, str]:
        found = condition(body, kind)
        if not found:
            return "", "NotSettled", f"no verdict within {SETTLE_SECONDS:g} s"
        return found["status"], found["reason"], found["message"]

    status = body.get("status", {})
    return Told(
        words("Accepted"), words("Ready"), status.get("revision", ""), tuple(status.get("profiles", []))
    )


def apply(text: Text) -> Told | None:
    """Apply a text; return what the API server told where it refuses it."""
    document = profile(text.name, text.policy)
    document["metadata"]["labels"] = LABEL
    said: Said = kubectl("apply", "--server-side", "--filename=-", given=document)
    if not said.code:
        return None
    refused = ("False", BY_SCHEMA, said.stderr.strip())
    return Told(refused, refused)


def kernels(nodes: list[str]) -> dict[str, Kernel]:
    """Return what each node's kernel holds."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        return dict(zip(nodes, pool.map(kernel, nodes), strict=True))


def listed(node: str) -> frozenset[str]:
    """Return the names in a kernel's list, where container runtimes look a profile up."""
    return frozenset(line.rpartition(" (")[0] for line in on_node(node, "cat", LISTED).splitlines())


def judge(
    group: list[Text], parsed: Mapping[str, Mapping[str, Parsed]], nodes: list[str]
) -> dict[str, Outcome]:
    """Apply a group of texts, compare each, and delete them; return what came of each, by file."""
    before = kernels(nodes)
    by_schema = {text.file: refused for text in group if (refused := apply(text))}
    bodies = settled(text.name for text in group if text.file not in by_schema)
    reports = {one["metadata"]["name"]: one for one in get("profilenodes")["items"]}
    boots = {one["metadata"]["name"]: one["status"]["nodeInfo"]["bootID"] for one in get("nodes")["items"]}
    after, lists = kernels(nodes), {node: listed(node) for node in nodes}
    found: dict[str, Outcome] = {}
    expected: set[str] = set()
    for text in group:
        names = {name for one in parsed[text.file].values() for name in one.names}
        expected |= names
        on: dict[str, OnNode] = {}
        for node in nodes:
            status = reports.get(node, {}).get("status", {})
            backend = status.get("appArmor", {})
            problem = backend.get("problems", {}).get(text.name)
            on[node] = OnNode(
                parsed=parsed[text.file][node],
                report=backend.get("profiles", {}).get(text.name, ""),
                problem=(problem["reason"], problem["message"]) if problem else None,
                listed=lists[node],
                before=_of(before[node], names),
                held=_of(after[node], names),
                fresh=status.get("bootID") == boots[node],
            )
        found[text.file] = compare(by_schema.get(text.file) or told(bodies.get(text.name, {})), on)
    remove("secprof", SELECTOR)
    wrong = [
        *_strays("appeared", before, after, expected),
        *_strays("stayed after the deletion", before, gone(before), set()),
    ]
    return {file: _with(outcome, wrong) for file, outcome in found.items()}


def gone(before: Mapping[str, Kernel], seconds: float = 30) -> dict[str, Kernel]:
    """Return the kernels once they hold what they did before, or as they are when time is over."""
    end = time.monotonic() + seconds
    while True:
        now = kernels(list(before))
        if now == before or time.monotonic() > end:
            return now
        time.sleep(0.5)


def _of(held: Kernel, names: set[str]) -> Kernel:
    tops = {name.split("//", 1)[0] for name in names}
    return {name: one for name, one in held.items() if name.split("//", 1)[0] in tops}


def _strays(
    what: str, before: Mapping[str, Kernel], after: Mapping[str, Kernel], expected: set[str]
) -> list[str]:
    return [
        f"{node}: {name} {what}"
        for node, held in after.items()
        for name in sorted(held.keys() - before[node].keys() - expected)
    ]


def _with(outcome: Outcome, wrong: list[str]) -> Outcome:
    """Return an outcome with what is wrong with the whole group: nobody can tell whose it is."""
    return Outcome(
        outcome.verdict, outcome.reason, outcome.message, outcome.names, (*outcome.disagreements, *wrong)
    )


def nodes_with_apparmor() -> list[str]:
    """Return the nodes of the cluster whose agents say that their kernel has AppArmor."""
    return sorted(
        one["metadata"]["name"]
        for one in get("profilenodes")["items"]
        if one.get("status", {}).get("facts", {}).get("appArmor", {}).get("enabled")
    )


def note(text: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"{text}\n")


def main(folder: Path) -> int:
    """Compare every text of a folder; return 0 if all agree, else 1."""
    install(restart=True)
    remove("secprof", SELECTOR)  # of a run that was cut short
    nodes = nodes_with_apparmor()
    found = read(folder)
    note(f"asking the parsers on {', '.join(nodes)} about {len(found)} texts")
    parsed = ask_all(found, nodes)
    defined = {file: {name for one in of.values() for name in one.names} for file, of in parsed.items()}
    by_file = {text.file: text for text in found}
    outcomes = {
        text.file: Outcome(Verdict.BY_POLICY, "NotText", text.unreadable, (), ())
        for text in found
        if text.unreadable
    }
    # Past the webhook, so that each refusal is one that the nodes and the status have to show.
    with past_the_webhook():
        for group in batches(defined, GROUP):
            note(f"applying {', '.join(group)}")
            outcomes |= judge([by_file[file] for file in group], parsed, nodes)
    show(
        Console(width=WIDTH, highlight=False),
        {text.file: outcomes[text.file] for text in found},
        parsed,
        nodes,
    )
    return int(any(outcome.disagreements for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
