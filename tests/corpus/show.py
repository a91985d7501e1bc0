"""Prints what came of a corpus: a line for each text, what is to be said of some of them, and the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tests.corpus.compare import Outcome, Parsed, Verdict

WIDTH = 100
NAMES = 22


def show(
    console: Console,
    outcomes: Mapping[str, Outcome],
    parsed: Mapping[str, Mapping[str, Parsed]],
    nodes: Sequence[str],
) -> None:
    """Print it; what no parser was asked about has no entry in `parsed`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("TEXT", no_wrap=True, max_width=44, overflow="ellipsis")
    for node in nodes:
        table.add_column(node.upper(), no_wrap=True)
    table.add_column("HAUBERK", no_wrap=True)
    table.add_column("NAMES", no_wrap=True, max_width=NAMES, overflow="ellipsis")
    for file, outcome in outcomes.items():
        words = (parsed[file][node].word if file in parsed else "-" for node in nodes)
        mark = "[red]✗[/] " if outcome.disagreements else ""
        table.add_row(escape(file), *words, f"{mark}{outcome.reason}", escape(_names(outcome)))
    console.print(table)
    shortened = {file: one for file, one in outcomes.items() if one.names and _names(one) not in one.names}
    _details(console, "Names in full", {file: ", ".join(one.names) for file, one in shortened.items()})
    for verdict in (Verdict.BY_POLICY, Verdict.BY_PARSER, Verdict.NEITHER):
        of_verdict = {file: one for file, one in outcomes.items() if one.verdict is verdict}
        said = {file: f"{one.reason}: {one.message}" for file, one in of_verdict.items()}
        _details(console, verdict[0].upper() + verdict[1:], said)
    wrong = {file: "; ".join(one.disagreements) for file, one in outcomes.items() if one.disagreements}
    _details(console, "Disagreements", wrong)
    found = [one.verdict for one in outcomes.values()]
    counts = [f"{found.count(verdict)} {verdict}" for verdict in Verdict if verdict in found]
    console.print(f"\n{len(outcomes)} texts on {', '.join(nodes)}: {', '.join(counts)}", markup=False)
    console.print(f"{len(wrong)} disagree." if wrong else "All agree with the parser.")


def _names(outcome: Outcome) -> str:
    """Return what the table has room for: one name, and how many more there are."""
    if not outcome.names:
        return "-"
    more = f" +{len(outcome.names) - 1}" if len(outcome.names) > 1 else ""
    first, room = min(outcome.names), NAMES - len(more)
    return (first if len(first) <= room else f"{first[: room - 1]}…") + more


def _details(console: Console, title: str, said: Mapping[str, str]) -> None:
    """Print a section with a sentence for each text."""
    if said:
        console.print(f"\n[bold]{title}[/]")
    for file, words in said.items():
        console.print(Padding(Text(file), (0, 0, 0, 2), expand=False))
        console.print(Padding(Text(words), (0, 0, 0, 4), expand=False))
