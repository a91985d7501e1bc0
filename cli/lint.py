"""Checks files as the cluster would: the same code, the same parser's verdicts, without a cluster.

Called by `commands`. Profiles are judged side by side, one for each processor: the parser is all the work.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from ..crds.errors import InputFault
from ..crds.facts import facts_key
from ..crds.reasons import Reason
from ..profiles.check import Judge, check, described
from ..profiles.kinds import COMMON_OF
from ..profiles.parser import Parser, fault_message
from ..profiles.rendering import Renderer
from .findings import Finding, line_of
from .sources import Source


async def lint(
    found: Iterable[Source], parser: Parser, done: Callable[[], None] = lambda: None
) -> list[Finding]:
    """Return what is wrong with profiles, in their order.

    Templates are rendered for the common kinds of nodes that hold their type. `done` is called after each.
    Raises NodeFault where the parser can't be run.
    """
    slots = asyncio.Semaphore(os.cpu_count() or 1)
    async with Renderer() as renderer:
        judge = Judge(parser, renderer)

        async def one(source: Source) -> list[Finding]:
            async with slots:
                findings = await _judged(source, judge)
            done()
            return findings

        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(source)) for source in found]
        except ExceptionGroup as group:  # all for the same reason
            raise group.exceptions[0] from None
    return [finding for task in running for finding in task.result()]


async def _judged(source: Source, judge: Judge) -> list[Finding]:
    kinds = {facts_key(one): one for one in COMMON_OF[source.spec.type]}
    try:
        accepted = await check(source.spec, judge, kinds)
    except InputFault as fault:
        return [_finding(source, "error", fault.reason, fault_message(fault))]
    partly = [
        _finding(source, "warning", one.reason, f"for {described(kinds[one.facts[0]])}: {one.message}")
        for one in accepted.unrendered
    ]
    return partly + [_finding(source, "warning", Reason.ADVICE, one) for one in accepted.advice]


def _finding(source: Source, level: str, reason: str, message: str) -> Finding:
    # A template's lines are those of what it became.
    first = source.line if source.spec.template is None else 0
    return Finding(
        source.file,
        line_of(message, first) if first else max(source.line, 1),
        level,
        reason,
        message,
        source.name,
    )
