"""The commands that ask a cluster, and their options: status, why, wait, nodes and diff.

Registered on the application of `commands`, and called by `__main__`. Each is a thin rim: `cluster` reads,
`views`, `why`, `waiting` and `differences` say what it means, `tables` writes it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.status import Status
from rich.text import Text

from ..crds.errors import Fault, InputFault
from ..crds.models import SecurityProfile
from ..profiles.check import Judge, check
from ..profiles.parser import Parser, pinned_features
from ..profiles.rendering import Renderer
from . import differences, tables, views, waiting
from .causes import Snapshot, named_profiles
from .cluster import Cluster, connected
from .commands import app
from .differences import Current, Difference
from .podfiles import pods_of
from .pods import Pod
from .sources import Source, UnreadableError, is_manifest, sources
from .states import Seen, State
from .terminal import EXIT_CODES, stderr, texts, wrong_use
from .waiting import Goal, Standing
from .why import Why, uses, why

DIFF_CODES = "Exit codes: 0 no difference, 1 differences, 2 wrong use, 3 as for the other commands."
_NOT_WAITED_FOR = (State.READY, State.REPORTED, State.NOT_SELECTED, State.UNSUPPORTED)
NO_NODES = "you may not list Nodes: states are what the nodes' last reports say"


class Output(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


AsOutput = Annotated[Output, typer.Option("--output", "-o", help="text, json or yaml.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The kubeconfig; else KUBECONFIG, else ~/.kube/config.", show_default=False
    ),
]
Context = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The kubeconfig's context; else its current one.", show_default=False),
]


@app.command("status", epilog=EXIT_CODES)
def status_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="SecurityProfiles.", show_default=False)
    ] = None,
    output: AsOutput = Output.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show profiles, and what they are on each node.

    Of named ones everything: conditions, the reference to paste, every node. Ends with 1 where one of them is
    not Ready, or not there.

    \b
    Examples:
      hauberk status
      hauberk status web
      hauberk status web -o json | jq '.[].nodes[] | select(.state == "failed")'
    """  # noqa: D301
    wanted = names or []

    async def ask() -> tuple[dict[str, SecurityProfile], list[views.ProfileView], Seen]:
        async with connected(kubeconfig, context) as cluster:
            found = await cluster.profiles(wanted)
            looked, seen = await _looked(cluster, [found[name] for name in wanted if name in found])
            _remark(cluster.remarks)
            return found, looked, seen

    found, looked, seen = asyncio.run(ask())
    if not wanted:
        rows = [views.profile_row(one) for _, one in sorted(found.items())]
        _write(rows, output, lambda: [tables.profiles(rows)] if rows else [])
        if not rows:
            _say("no SecurityProfile is there")
        return
    if looked and seen.nodes is None:
        _say(NO_NODES)
    _write(looked, output, lambda: _apart(tables.profile(one) for one in looked))
    missing = [name for name in wanted if name not in found]
    for name in missing:
        _say(f"error: there is no SecurityProfile {name}")
    raise typer.Exit(1 if missing or not all(one.ready for one in looked) else 0)


async def _looked(
    cluster: Cluster, profiles: Sequence[SecurityProfile]
) -> tuple[list[views.ProfileView], Seen]:
    if not profiles:
        return [], Seen({}, {})
    seen = await cluster.seen()
    return [views.profile_view(one, await cluster.wanted(one), seen) for one in profiles], seen


@app.command("why", epilog=EXIT_CODES)
def why_command(  # noqa: PLR0913, PLR0917 - its options
    name: Annotated[str | None, typer.Argument(metavar="[POD]", help="A pod.", show_default=False)] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--filename",
            "-f",
            metavar="FILE|DIR",
            help="Pods, and what makes pods, before they are there; `-` is standard input.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", metavar="NAME", help="The pod's; else the context's.", show_default=False
        ),
    ] = None,
    output: AsOutput = Output.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show why a pod does not start, or is not confined as you think, and what to do.

    Looks at what its containers name, at the SecurityProfiles behind that, at its node, and at what
    Kubernetes says of it. Ends with 0 where nothing is wrong: then it shows what confines the pod, as its
    node read it back. Ends with 1 where a cause was found, or there is no such pod.

    \b
    Examples:
      hauberk why web-0
      hauberk why -n shop web-0 -o json | jq -r '.causes[].reason'
      hauberk why -f deployment.yaml
    """  # noqa: D301
    if (name is None) == (not files):
        wrong_use("name a pod, or files with -f")
    given = _pods_in(files or [])

    async def ask() -> list[Why] | None:
        async with connected(kubeconfig, context) as cluster:
            pods = given
            if name is not None:
                pod = await cluster.pod(name.rpartition("/")[2], namespace or cluster.namespace)
                if pod is None:
                    return _remark(cluster.remarks)
                pods = [pod]
            explained = await _explained(cluster, pods)
            _remark(cluster.remarks)
            return explained

    found = asyncio.run(ask())
    if found is None:
        raise typer.Exit(1)
    _write(found[0] if name else found, output, lambda: _apart(tables.explanation(one) for one in found))
    raise typer.Exit(0 if all(one.fine for one in found) else 1)


async def _explained(cluster: Cluster, pods: Sequence[Pod]) -> list[Why]:
    profiles, seen = await asyncio.gather(cluster.profiles(), cluster.seen())
    if seen.nodes is None:
        _say(NO_NODES)
    those = named_profiles((use for pod in pods for use in uses(pod)), profiles)
    wanted = {one.metadata.name: await cluster.wanted(one) for one in those}
    revisions = {name: one for name, one in wanted.items() if one}
    events = [await cluster.events(pod) if pod.metadata.uid else [] for pod in pods]
    return [
        why(Snapshot(pod, profiles, revisions, seen, told)) for pod, told in zip(pods, events, strict=True)
    ]


def _pods_in(paths: list[str]) -> list[Pod]:
    """Return the pods of files; ends with 2 where one can't be read as one, or there is none."""
    found: list[Pod] = []
    for file, text in texts(paths):
        if not is_manifest(file, text):
            continue  # a folder of manifests may hold other files
        try:
            found += pods_of(text)
        except UnreadableError as error:
            wrong_use(f"{file}:{error.line}: {error}")
    if paths and not found:
        wrong_use(f"no pod, and nothing that makes pods, in {', '.join(paths)}")
    return found


@app.command("wait", epilog=EXIT_CODES)
def wait_command(  # noqa: PLR0913, PLR0917 - its options
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="SecurityProfiles.")],
    goal: Annotated[Goal, typer.Option("--for", help="Ready, Available or delete.")] = Goal.READY,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Such as 90s or 5m; 0 looks once.")] = "60s",
    output: AsOutput = Output.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Wait until profiles are Ready, Available or gone.

    Believes a status only if it is of the profile's present generation. A profile that is not there yet is
    waited for. One whose policy is refused ends the wait at once: it would not come without a change.

    \b
    Examples:
      kubectl apply -f web.yaml && hauberk wait web
      hauberk wait web db --timeout 5m
      kubectl delete secprof web --wait=false && hauberk wait web --for delete
    """  # noqa: D301
    try:
        seconds = waiting.seconds(timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from error
    names = list(dict.fromkeys(names))

    async def ask() -> tuple[list[Standing], list[views.ProfileView]]:
        async with connected(kubeconfig, context) as cluster:
            with stderr.status(tables.words(f"waiting for {', '.join(names)}")) as progress:
                found, profiles = await _waited(cluster, names, goal, seconds, _teller(progress))
            failed = [profiles[one.name] for one in found if not one.reached and one.name in profiles]
            try:
                looked, _ = await _looked(cluster, failed if goal is not Goal.DELETE else [])
            except Fault:  # the API went away meanwhile: that it was not reached is known all the same
                looked = []
            _remark(cluster.remarks)
            return found, looked

    found, looked = asyncio.run(ask())
    _write(found, output, lambda: [tables.standing(one, goal) for one in found if one.reached])
    if output is Output.TEXT:
        _print(stderr, [tables.standing(one, goal) for one in found if not one.reached])
        for view in looked:
            wrong = [one for one in view.nodes if one.state not in _NOT_WAITED_FOR]
            _print(stderr, tables.why(wrong)[1:])
    raise typer.Exit(0 if all(one.reached for one in found) else 1)


def _teller(progress: Status) -> Callable[[list[Text]], None]:
    """Return what shows how far it is: on a terminal in place, in a log each change once."""
    told: list[Text] = []

    def tell(lines: list[Text]) -> None:
        if stderr.is_terminal:
            progress.update(Text("\n  ").join(lines))
            return
        _print(stderr, [tables.exactly(f"waiting for {line.plain}") for line in lines if line not in told])
        told[:] = lines

    return tell


async def _waited(
    cluster: Cluster,
    names: Sequence[str],
    goal: Goal,
    seconds: float,
    tell: Callable[[list[Text]], None],
) -> tuple[list[Standing], Mapping[str, SecurityProfile]]:
    """Return how far profiles are once waiting has an end, and the profiles as they were then."""
    found: list[Standing] = []
    profiles: Mapping[str, SecurityProfile] = {}
    uids: dict[str, str] = {}
    try:
        async with asyncio.timeout(seconds or None), aclosing(cluster.follow(names)) as following:
            async for profiles in following:
                for name in profiles.keys() - uids.keys():
                    uids[name] = profiles[name].metadata.uid
                found = [waiting.standing(one, profiles.get(one), goal, uids.get(one, "")) for one in names]
                if waiting.settled(found) or not seconds:
                    break
                tell([tables.standing(one, goal) for one in found if not one.reached])
    except TimeoutError:
        if not found:
            found = [waiting.unanswered(one) for one in names]
    return found, profiles


@app.command("nodes", epilog=EXIT_CODES)
def nodes_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A node.", show_default=False)] = None,
    output: AsOutput = Output.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show the nodes, what they can hold, and what they do.

    Ends with 1 where a named node has problems, or a report that is not of now.

    \b
    Examples:
      hauberk nodes
      hauberk nodes worker-1
      hauberk nodes -o json | jq '.[] | select(.problems > 0).node'
    """  # noqa: D301

    async def ask() -> Seen:
        async with connected(kubeconfig, context) as cluster:
            seen = await cluster.seen()
            _remark(cluster.remarks)
            return seen

    seen = asyncio.run(ask())
    if seen.nodes is None:
        _say("you may not list Nodes: only those that have reported are shown, as they last did")
    if name is None:
        rows = views.node_rows(seen)
        _write(rows, output, lambda: [tables.nodes(rows)] if rows else [])
        if not rows:
            _say("no node is there")
        return
    detail = views.node_detail(name, seen)
    if detail is None:
        _say(f"error: there is no node {name}" + (" that has reported" if seen.nodes is None else ""))
        raise typer.Exit(1)
    _write(detail, output, lambda: [tables.node(detail)])
    raise typer.Exit(0 if detail.fine else 1)


@app.command("diff", epilog=DIFF_CODES)
def diff_command(  # noqa: PLR0913, PLR0917 - its options
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR...", help="Files or folders; `-` is standard input.")
    ],
    output: AsOutput = Output.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    parser: Annotated[str, typer.Option(metavar="PROGRAM", help="The parser.")] = "apparmor_parser",
    base: Annotated[
        Path, typer.Option(metavar="DIR", help="Abstractions and tunables that includes may name.")
    ] = Path("/etc/apparmor.d"),
) -> None:
    """Show what applying files would change, and where.

    Policies are checked as the operator would, and templates rendered for the kinds of nodes that the cluster
    has, and held against what was published. Nothing is written.

    \b
    Examples:
      hauberk diff web.yaml
      hauberk diff profiles/ && echo "nothing to apply"
      kustomize build . | hauberk diff -
    """  # noqa: D301
    found = _profiles_in(paths)
    real = Parser(program=parser, base=base, features=pinned_features())

    async def ask() -> list[Difference]:
        async with connected(kubeconfig, context) as cluster:
            there = await cluster.profiles()
            seen = await cluster.seen()
            current = {
                name: Current(one, await cluster.wanted(one))
                for name, one in there.items()
                if name in {source.name for source in found}
            }
            _remark(cluster.remarks)
        if seen.nodes is None:
            _say("you may not list Nodes: which of them are selected is told as far as their reports allow")
        return await _compared(found, current, there, seen, real)

    compared = asyncio.run(ask())
    changed = [one for one in compared if one.change != "unchanged"]
    _write(compared, output, lambda: _apart(tables.difference(one) for one in changed))
    if output is Output.TEXT:
        same = len(compared) - len(changed)
        _say(f"{len(changed)} to change, {same} unchanged" if compared else "no SecurityProfile in there")
    raise typer.Exit(1 if changed else 0)


async def _compared(
    found: Sequence[Source],
    current: Mapping[str, Current],
    there: Mapping[str, SecurityProfile],
    seen: Seen,
    parser: Parser,
) -> list[Difference]:
    """Return what each profile of the files would change; what would change nothing is not judged."""
    compared: list[Difference] = []
    async with Renderer() as renderer:
        judge = Judge(parser, renderer)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            for source in progress.track(found, description="comparing"):
                has = current.get(source.name, Current())
                if differences.same(source, has):
                    compared.append(Difference(source.name, source.file, "unchanged"))
                    continue
                try:
                    judged = await check(source.spec, judge, seen.kinds(source.spec.type))
                    judged = differences.clash(source, judged, there) or judged
                except InputFault as fault:
                    judged = fault
                compared.append(differences.difference(source, has, judged, seen))
    return compared


def _profiles_in(paths: list[str]) -> list[Source]:
    """Return the SecurityProfiles of files; ends with 2 where one can't be read as what it should be."""
    found: list[Source] = []
    for file, text in texts(paths):
        if not is_manifest(file, text):
            if file in paths:
                _say(f"error: {file}: no SecurityProfile in YAML, which is what can be applied")
                raise typer.Exit(2)
            continue  # a folder of manifests may hold other files
        try:
            found += sources(file, text)
        except UnreadableError as error:
            _say(f"error: {file}:{error.line}: {error}")
            raise typer.Exit(2) from error
    return found


def _write(result: Any, output: Output, text: Callable[[], Sequence[RenderableType]]) -> None:
    """Write a result to standard output: for people as `text` gives it, else with all that it has."""
    match output:
        case Output.TEXT:
            _print(Console(file=sys.stdout), text())
        case Output.JSON:
            sys.stdout.write(json.dumps(msgspec.to_builtins(result), indent=2) + "\n")
        case Output.YAML:
            sys.stdout.write(yaml.safe_dump(msgspec.to_builtins(result), sort_keys=False))


def _print(console: Console, parts: Sequence[RenderableType]) -> None:
    console.file.write(tables.written(console, parts))


def _apart(several: Iterable[list[RenderableType]]) -> list[RenderableType]:
    """Return the renderables of several results with an empty line between them."""
    found: list[RenderableType] = []
    for one in several:
        found += ["", *one] if found else one
    return found


def _remark(remarks: Sequence[str]) -> None:
    for one in remarks:
        _say(one)


def _say(sentence: str) -> None:
    """Tell what is no result; names in it may come from the cluster."""
    stderr.print(tables.words(sentence), soft_wrap=True)
