"""The admission's loop: whenever something changed, judge, decide, publish.

Started and fed by `handlers`, on top of `loop`; the decisions are `desired` and `acceptance`, the judgements
`judging`, the writes `admissions_cluster`. `review` answers the webhook from the same memory. It knows of
nodes what their agents report, and nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from ..crds.errors import Fault
from ..crds.metrics import Reading
from ..crds.models import Facts, SecurityProfile
from ..crds.names import PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from . import measures
from .acceptance import acceptance, said
from .admissions_cluster import AdmissionsCluster
from .desired import collected, desired, publishes, tombstones
from .judging import Judging
from .loop import RETRY_SECONDS, Loop
from .publish import Judged, content_digest, judged_text, judgement, name_owners, unjudged_kinds
from .writes import CreateRevision, DeleteRevision, Write

log = structlog.get_logger()


@dataclass
class Publisher(Loop[AdmissionsCluster]):
    """The admission's memory and loop.

    Attributes:
        judging: the judgements on texts.
        asked: what is being judged for this loop, by content digest.
        news: set, and replaced by another, when it may have changed who owns a name.
    """

    judging: Judging = field(kw_only=True)
    asked: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, "asyncio.Task[None]"])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _owners: dict[tuple[str, str], str] | None = None
    kinds: Collection[str] = (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES)
    # Nodes tell what may be taken away, and of new kinds of nodes: nobody who publishes waits for that.
    patient: Collection[str] = (PROFILE_NODES,)

    def snapshot(self) -> Judged:
        """Return what is known now."""
        return Judged(
            profiles=dict(self.profiles),
            revisions=dict(self.revisions),
            reports=dict(self.reports),
            nodes={},
            agents={},
            now=datetime.now(UTC),
            store=self.store,
            judgements=dict(self.judging.judgements),
        )

    def readings(self) -> list[Reading]:
        """Return what this process is about, in figures."""
        return measures.of_process(leads=self.leads(), pending={"judging": len(self.judging.running)})

    def owners(self) -> Mapping[tuple[str, str], str]:
        """Return the SecurityProfile that owns each name, by type and name; made once after each change."""
        if self._owners is None:
            self._owners = name_owners(self.snapshot())
        return self._owners

    def _forget_owners(self) -> None:
        self._owners = None
        self.news.set()
        self.news = asyncio.Event()

    def note(self, plural: str, name: str, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take note of an object as it is now."""
        super().note(plural, name, body, deleted=deleted)
        if plural != PROFILE_NODES:
            self._forget_owners()

    async def reconcile(self) -> None:
        """Bring the revisions and what is said of texts to what they should be, as far as is known.

        Raises:
            ClusterFault: a write was not taken; all others were made all the same.
        """
        snapshot = self.snapshot()
        asked = {content_digest(profile) for profile in snapshot.profiles.values()}
        there = {key for kinds in snapshot.kinds.values() for key in kinds}
        self.judging.forget(asked, there)  # also while waiting: the webhook is asked of all
        if not self.leads():
            return
        self._judge(snapshot)
        owners = name_owners(snapshot)
        await self.look_at_store(
            publishing=any(publishes(one, snapshot, owners) for one in snapshot.profiles.values())
        )
        snapshot = dataclasses.replace(snapshot, store=self.store)
        faults = await self.keep_each(
            snapshot.profiles, lambda name, profile: self._keep_profile(name, profile, snapshot, owners)
        )
        if faults is None:
            return
        faults += await self.carry_out_each(collected(snapshot) + tombstones(snapshot))
        if faults:
            raise faults[0]

    async def _keep_profile(
        self, name: str, profile: SecurityProfile, snapshot: Judged, owners: Mapping[tuple[str, str], str]
    ) -> None:
        await self.carry_out(desired(profile, snapshot, owners))
        judged = judgement(profile, snapshot, owners)
        if judged is None or profile.metadata.deletion_timestamp:
            return
        condition = acceptance(profile, judged, snapshot.now)
        if condition == said(profile):
            return
        await self.write(self.cluster.write_acceptance(name, condition))
        log.info("accepted", profile=name, status=condition.status, reason=condition.reason)
        others = [one for one in profile.status.conditions if one.type != condition.type]
        status = msgspec.structs.replace(profile.status, conditions=[condition, *others])
        self.remember(profile, msgspec.structs.replace(profile, status=status))

    def carried_out(self, write: Write) -> None:
        """Take note of a revision that is there now, or no more: the watch tells of it later."""
        self._forget_owners()
        match write:
            case CreateRevision(revision):
                self.revisions.setdefault(revision.metadata.name, revision)
            case DeleteRevision(name):
                self.revisions.pop(name, None)
            case _:
                pass

    def _judge(self, snapshot: Judged) -> None:
        """Start to judge the texts that nobody has judged yet.

        A template is judged again, for those alone, when kinds of nodes come that it was never rendered for.
        """
        wanted: dict[str, tuple[SecurityProfile, dict[str, Facts]]] = {}
        for profile in snapshot.profiles.values():
            if profile.metadata.deletion_timestamp is not None:
                continue
            there = snapshot.kinds[profile.spec.type]
            kinds = {key: there[key] for key in unjudged_kinds(profile, snapshot)}
            digest = content_digest(profile)
            if self.judging.is_due_again(digest):
                wanted.setdefault(digest, (profile, there))
            elif kinds or judged_text(profile, snapshot) is None:
                wanted.setdefault(digest, (profile, kinds))
        for digest, (profile, kinds) in wanted.items():
            if digest not in self.asked:
                self.asked[digest] = asyncio.create_task(self._judge_one(digest, profile, kinds))

    async def _judge_one(self, digest: str, profile: SecurityProfile, kinds: Mapping[str, Facts]) -> None:
        """Judge a text and wake the loop; a parser that can't be run is tried again."""
        try:
            await self.judging.judged(profile, kinds, again=self.judging.is_due_again(digest))
        except Fault as fault:
            log.error("can't judge", profile=profile.metadata.name, message=fault.message)
            await asyncio.sleep(RETRY_SECONDS[1] * random.uniform(0.1, 1))  # noqa: S311
        except Exception:  # a bug that one text meets must not make the loop spin
            log.exception("bug", profile=profile.metadata.name)
            await asyncio.sleep(RETRY_SECONDS[1])
        finally:
            self.asked.pop(digest, None)
            self._forget_owners()
            self.wake.set()
