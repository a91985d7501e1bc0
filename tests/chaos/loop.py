"""`python -m tests.chaos.loop`: runs the rounds on a lab that is up, with Hauberk installed. See `__main__`.

A round: faults at once, healing, waiting until everything is whole, and the verdict on what was seen.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from kubernetes import client, config

from lab.cluster import Lab
from lab.controlplane import CONTROLLER
from lab.progress import Progress
from tests.chaos.choices import Blow, Field, Round, rounds
from tests.chaos.faults import FAULTS, Heal, together
from tests.chaos.histories import MARK, Histories
from tests.chaos.others import NAMES as OTHERS
from tests.chaos.scene import (
    PREFIX,
    PROFILES,
    VARIANTS,
    Complaint,
    Lack,
    Scene,
    expectations,
    within,
)
from tests.chaos.verdict import Limits, Span, Verdict, judge
from tests.chaos.watchers import watching
from tests.e2e.cluster import APPARMOR_NODES, SYSTEM, get, kubectl, lab, ok, remove
from tests.e2e.prepared import install

WHOLE_SECONDS = 150.0
# Kubernetes' own, where the controller manager is not told another.
GRACE_SECONDS = 50.0
# Nodes that the lab may lose by itself in a run before it proves nothing any more.
_MOST_FROZEN = 2
AFTER_GRACE_SECONDS = 10.0
WIDTH = 100
# What was told last arrives within this time; see the measured delays.
_SETTLE_SECONDS = 0.5
_PROBES = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a round ended.

    Attributes:
        label: of the round, or of what was done instead of one.
        happened: in words.
        whole_after: seconds from the healing's beginning until everything was whole; None: it was not.
        verdict: on what was seen.
        complaints: what was not whole in the end.
        seconds: the whole round.
    """

    label: str
    happened: str
    whole_after: float | None
    verdict: Verdict
    complaints: tuple[Complaint, ...] = ()
    seconds: float = 0.0

    def of(self, lack: Lack) -> int:
        """Return the number of complaints of a kind."""
        return sum(one.lack is lack for one in self.complaints)

    @property
    def wrong(self) -> bool:
        """Return whether more was wrong than that somebody was absent."""
        lacks = {one.lack for one in self.complaints}
        return bool(self.verdict.red or self.verdict.red_lost or lacks - {Lack.ABSENT})

    @property
    def good(self) -> bool:
        """Return whether nothing at all was wrong."""
        return not (self.complaints or self.wrong)


@dataclass
class Chaos:
    """The loop.

    Attributes:
        scene: the cluster.
        limits: how long Ready may be wrong.
        patience: seconds within which everything has to be whole after a round's healing.
        results: of the rounds so far.
    """

    scene: Scene
    limits: Limits
    patience: float = WHOLE_SECONDS
    results: list[Result] = field(default_factory=list[Result])

    def run(self, one: Round) -> Result:
        """Do the faults of a round, heal them, wait and judge."""
        scene = self.scene
        scene.begin()
        began = time.monotonic()
        heals = strike(scene, one.blows)
        healing = time.monotonic()
        for heal in heals:
            attempted(scene, heal)
        lacking: list[Complaint] = []

        def whole() -> bool:
            lacking[:] = scene.lacking()
            return not lacking

        whole_after = time.monotonic() - healing if within(self.patience, whole) else None
        time.sleep(_SETTLE_SECONDS)
        scene.catch_up()
        during = Span(began, time.monotonic())
        struck = [blow.node for blow in one.blows if FAULTS[blow.fault].unloads]
        result = Result(
            label=one.label,
            happened=", ".join(scene.happened),
            whole_after=whole_after,
            verdict=judge(scene.seen(during, struck), during, self.measured(began)),
            complaints=(*scene.complaints, *(lacking if whole_after is None else ())),
            seconds=during.seconds,
        )
        self.results.append(result)
        return result

    def measured(self, began: float) -> Limits:
        """Return the limits with the tolerance that the watchers' delays ask for on a busy machine."""
        slowest = max(self.limits.tolerance, self.scene.delay_since(began))
        return replace(self.limits, tolerance=slowest)

    def restart(self) -> bool:
        """Start all of Hauberk anew after a round that did not end well; return whether it is whole then."""
        kubectl("delete", "pods", "--all", f"--namespace={SYSTEM}", "--timeout=60s")
        return bool(within(WHOLE_SECONDS, lambda: not self.scene.lacking()))

    def thaw(self, result: Result) -> list[str]:
        """Restart nodes that the lab lost by itself, and return them: such a round is void.

        See docs/how-to/lab.md: a program in it spins, and nothing else runs, not even its ssh server. Only
        where nothing but somebody's absence was wrong is that taken for the reason.
        """
        if result.whole_after is not None or result.wrong:
            return []
        nodes = [one["metadata"]["name"] for one in get("nodes")["items"]]
        frozen = [node for node in nodes if not answers(node)]
        for node in frozen:
            ok(lab("crash", node))  # it hears nothing of an orderly end
            ok(lab("reboot", node))
        if frozen:
            self.results.remove(result)
        return frozen

    def end(self) -> Result:
        """Delete every profile and return what is left of them."""
        scene = self.scene
        scene.begin()
        began = time.monotonic()
        for name in PROFILES:
            scene.delete(name)
        for name in sorted(scene.others.wanted):
            scene.delete_other(name)
        left: list[Complaint] = []

        def gone() -> bool:
            left[:] = scene.lacking()
            return not left

        after = time.monotonic() - began if within(WHOLE_SECONDS, gone) else None
        during = Span(began, time.monotonic())
        result = Result(
            "the end",
            "deleted all profiles",
            after,
            judge(scene.seen(during, ()), during, self.measured(began)),
            tuple(left),
            during.seconds,
        )
        self.results.append(result)
        return result


def strike(scene: Scene, blows: Sequence[Blow]) -> list[Heal]:
    """Let the faults happen, each at its moment, and return what heals them, in the order to do it.

    One that lasts is healed here, when its time is over: the other may wait for what it took away.
    """
    heals: list[tuple[int, Heal]] = []

    def one(blow: Blow) -> None:
        time.sleep(blow.delay)
        fault = FAULTS[blow.fault]
        heal = attempted(scene, lambda: fault.do(scene, blow))
        if heal and fault.lasts:
            time.sleep(blow.hold)
            attempted(scene, heal)
        elif heal:
            heals.append((fault.rank, heal))

    threads = [threading.Thread(target=one, args=(blow,)) for blow in blows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [heal for _, heal in sorted(heals, key=lambda one: one[0])]


def answers(node: str) -> bool:
    """Return whether a node runs a command within some seconds, tried for half a minute."""

    def runs() -> bool:
        try:
            return lab("exec", node, "--", "true", timeout=10).code == 0
        except subprocess.TimeoutExpired:
            return False

    return bool(within(30, runs))


def attempted(scene: Scene, what: Callable[[], T]) -> T | None:
    """Return what a function returns; where it fails, complain and go on: the round is red, not the last."""
    try:
        return what()
    except (AssertionError, KeyError, subprocess.TimeoutExpired) as error:
        scene.complaints.append(Complaint(Lack.ABSENT, f"{type(error).__name__}: {error}"[:300]))
        return None


@contextmanager
def chaos(nodes: tuple[str, ...], *, mixed: bool) -> Generator[Chaos]:
    """Make the profiles, watch, and yield the loop once everything is whole; `mixed`: of all types.

    Raises:
        AssertionError: it does not become whole.
    """
    remove("secprof", *PROFILES, *OTHERS)
    limits = Limits(away=grace_seconds() + AFTER_GRACE_SECONDS)
    histories = Histories(nodes)
    with watching(histories, PREFIX) as kernels:
        scene = Scene(histories, kernels)
        scene.expected = expectations(nodes)
        for number, name in enumerate(PROFILES):
            scene.ask(name, VARIANTS[number % len(VARIANTS)])
        for name in OTHERS if mixed else ():
            scene.ask_other(name, 0)
        assert within(WHOLE_SECONDS, lambda: not scene.lacking()), scene.lacking()
        yield Chaos(scene, limits)


def grace_seconds() -> float:
    """Return how long a silent node stays Ready, by the controller manager's own arguments."""
    found = Lab(os.environ["LAB_NAME"], Progress(terminal=False)).state.process(CONTROLLER)
    words = Path(f"/proc/{found.pid}/cmdline").read_bytes().decode().split("\0") if found else []
    values = [word.partition("=")[2] for word in words if word.startswith("--node-monitor-grace-period=")]
    return float(values[0].removesuffix("s")) if values else GRACE_SECONDS


def api_delays(scene: Scene) -> list[float]:
    """Return how long writes take to arrive at the watch of the API, each from before it was sent."""
    api = client.CustomObjectsApi(config.new_client_from_config())
    delays: list[float] = []
    for number in range(_PROBES):
        mark, began = f"{secrets.token_hex(4)}-{number}", time.monotonic()
        body = {"metadata": {"annotations": {MARK: mark}}}
        api.patch_cluster_custom_object("hauberk.dev", "v1alpha1", "securityprofiles", PROFILES[0], body)
        if arrived := within(5, lambda mark=mark: scene.histories.annotated(mark)):
            delays.append(arrived - began)
    return delays


# --- what is printed --------------------------------------------------------------------------------------


def say(text: str, indent: str = "") -> None:
    """Print a line, folded where it is too long."""
    print("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent=indent + "  ", initial_indent=indent)))  # noqa: T201
    sys.stdout.flush()


def tell(where: str, result: Result) -> None:
    """Print how a round ended."""
    say(f"{where} {result.label}: {result.happened}")
    whole = "NOT whole" if result.whole_after is None else f"whole after {result.whole_after:.1f} s"
    verdict = result.verdict
    wrong = f"Ready wrong for {verdict.largest:.2f} s at most"
    say(f"{whole}; {wrong}; {'good' if result.good else 'RED'}; {result.seconds:.0f} s", "     ")
    if verdict.limits.tolerance > Limits().tolerance:
        say(f"the watchers were slow: tolerance {verdict.limits.tolerance:.2f} s", "     ")
    for one in verdict.red:
        say(
            f"WRONG READY of {one.profile} on {one.node}: {one.span.seconds:.2f} s, "
            f"{one.uncovered:.2f} s of them not allowed",
            "     ",
        )
    for one in verdict.red_lost:
        say(f"LOST {one.profile} on {one.node} for {one.span.seconds:.2f} s", "     ")
    for complaint in result.complaints:
        say(f"{complaint.lack.upper()}: {complaint.text}", "     ")


def table(results: Iterable[Result]) -> list[str]:
    """Return the lines of the table with a row for each kind of round, and their sum."""
    by: dict[str, list[Result]] = {}
    for one in results:
        by.setdefault(one.label, []).append(one)
    rows = [_row(label, several) for label, several in sorted(by.items())]
    rows.append(_row("all", [one for several in by.values() for one in several]))
    head = ("fault", "rounds", "whole s", "max", "wrong Ready s", "red", "lost", "left", "unsaid")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]


def _row(label: str, several: list[Result]) -> tuple[str, ...]:
    took = [one.whole_after for one in several if one.whole_after is not None]
    counts = (
        sum(len(one.verdict.red) for one in several),
        sum(len(one.verdict.red_lost) + one.of(Lack.LOST) for one in several),
        sum(one.of(Lack.LEFT) for one in several),
        sum(one.of(Lack.UNSAID) + one.of(Lack.ABSENT) for one in several),
    )
    return (
        label,
        str(len(several)),
        f"{sum(took) / len(took):.1f}" if took else "-",
        f"{max(took):.1f}" if took else "-",
        f"{max(one.verdict.largest for one in several):.2f}",
        *map(str, counts),
    )


def delays_told(name: str, delays: Sequence[float]) -> str:
    """Return a sentence about measured delays, in seconds."""
    if not delays:
        return f"{name}: not measured"
    ordered = sorted(delays)
    middle, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return (
        f"{name}: median {middle:.3f}, 99th percentile {high:.3f}, most {ordered[-1]:.3f} s of {len(ordered)}"
    )


# --- the program ------------------------------------------------------------------------------------------


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, read."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Does faults to a cluster on real kernels; proves that no status says more than is true.",
        epilog="examples:\n"
        "  python -m tests.chaos --rounds 50\n"
        "  python -m tests.chaos --rounds 10 --seed 7 --faults update,agent\n"
        "  python -m tests.chaos --planted\n"
        f"\nfaults: {', '.join(FAULTS)}\n"
        "exit code: 0 only without a lost profile, a wrong Ready, or anything left over",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="how many rounds (20)")
    parser.add_argument("--seed", type=int, help="what repeats a run's choices; random and printed without")
    parser.add_argument(
        "--planted", action="store_true", help="instead: show that the loop finds what is planted"
    )
    parser.add_argument("--faults", default="", help="only these, by commas; pairs are made of them too")
    read = parser.parse_args(words)
    read.faults = [word for word in read.faults.split(",") if word] or list(FAULTS)
    if unknown := set(read.faults) - set(FAULTS):
        parser.error(f"{', '.join(sorted(unknown))}: no such fault; there are {', '.join(FAULTS)}")
    if read.seed is None:
        read.seed = secrets.randbelow(1 << 31)
    return read


def main() -> int:
    """Run the rounds; return 0 only if all was good."""
    asked = arguments()
    install(restart=True)
    with chaos(APPARMOR_NODES, mixed=True) as loop:
        field_ = Field(asked.faults, together, loop.scene.nodes, PROFILES, grace_seconds())
        say(f"seed {asked.seed}; {asked.rounds} rounds on {', '.join(loop.scene.nodes)}")
        limits = loop.limits
        say(
            f"Ready may be wrong for {limits.drift:g} s after drift, {limits.away:g} s after a node is gone "
            f"(grace {grace_seconds():g} s; {limits.leaderless:g} s more with the nodes of both operators), "
            f"else not at all; tolerance of measuring {limits.tolerance:g} s"
        )
        say(delays_told("delay of the API's watch", api_delays(loop.scene)))
        frozen: list[str] = []
        for one in rounds(asked.seed, asked.rounds, field_):
            result = loop.run(one)
            tell(f"{one.number}/{asked.rounds} seed {asked.seed}", result)
            if lost := loop.thaw(result):
                frozen += lost
                say(f"void: {', '.join(lost)} had stopped by itself, and was restarted", "     ")
            elif result.whole_after is None and not loop.restart():
                say(f"not whole even after a restart, so no further rounds: {loop.scene.lacking()}")
                break
            if len(frozen) > _MOST_FROZEN:
                say("the lab loses too many nodes by itself, so no further rounds")
                break
        tell(f"seed {asked.seed}", loop.end())
        for node, kernel in loop.scene.kernels.items():
            say(delays_told(f"delay of {node}'s watcher, there and back", kernel.delays_since()))
    return summed_up(loop.results, asked.seed, frozen)


def summed_up(results: Sequence[Result], seed: int, frozen: Sequence[str]) -> int:
    """Print the table and return the exit code."""
    print(*table(results), sep="\n")  # noqa: T201
    good = all(one.good for one in results) and len(frozen) <= _MOST_FROZEN
    if frozen:
        say(f"void rounds, for nodes that the lab lost by itself: {len(frozen)}")
    took = [one.seconds for one in results]
    say(f"seed {seed}: {'all good' if good else 'RED'}; {sum(took) / len(took):.1f} s a round")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
