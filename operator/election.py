"""Which of several processes writes: the one that holds the Lease. The others know all it knows, and wait.

The operators have one Lease, the admissions another. Started by `handlers`; `loop` asks it before it decides,
and before it writes for each profile. Like Kubernetes' own controllers (client-go, tools/leaderelection) it
compares no clocks of two machines: a Lease is free when its record has not changed for as long as it says,
seen by the one who waits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ..crds.errors import ClusterFault
from .cluster import Cluster, Held

log = structlog.get_logger()

# A node that is lost is called so after 40 s and more (node-monitor-grace-period): if the leader was on it,
# another one has to be there by then.
LEASE_SECONDS = 12
RENEW_SECONDS = 3.0
# Who could not renew for so long stops to write, well before anyone else may begin.
GIVE_UP_SECONDS = 8.0
ROUND_SECONDS = 4.0


def may_take(lease: Held | None, identity: str, unchanged: float) -> bool:
    """Return whether a process may write its name into a Lease that has not changed for so many seconds."""
    return lease is None or lease.holder in ("", identity) or unchanged > lease.seconds


@dataclass
class Election:
    """One process's part in it.

    Attributes:
        cluster: the API.
        identity: of this process, the same after its container was started again.
        changed: called when this process begins or ceases to lead; with True where another one may have led
            since it last did.
        now: seconds that only go forward.
    """

    cluster: Cluster
    identity: str
    changed: Callable[[bool], None] = lambda _: None
    now: Callable[[], float] = time.monotonic
    _seen: Held | None = None
    _seen_at: float = 0.0
    _renewed_at: float | None = None
    _led: bool | None = None
    _retired: bool = False
    # How often the holder had changed: when this one last led, and when that was told.
    _reign: int | None = None
    _told_reign: int | None = None

    def leads(self) -> bool:
        """Return whether this process may write now."""
        return self._renewed_at is not None and self.now() - self._renewed_at < GIVE_UP_SECONDS

    async def run(self) -> None:
        """Stand for election, and renew when elected, until cancelled."""
        while True:
            if self._led and not self.leads():  # lapsed
                self._tell()
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self.stand()
            except ClusterFault as fault:
                log.warning("the lease can't be kept", message=fault.message)
            except TimeoutError:
                log.warning("the lease can't be kept", message=f"no answer in {ROUND_SECONDS:g} s")
            self._tell()
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311

    async def stand(self) -> None:
        """Take or renew the Lease if it is this process's to take.

        Raises:
            ClusterFault: the API can't be read, or did not take it.
        """
        if self._retired:
            return
        lease = await self.cluster.lease()
        if lease != self._seen:
            self._seen, self._seen_at = lease, self.now()
        if not may_take(lease, self.identity, self.now() - self._seen_at):
            self._renewed_at = None
            return
        # Counted from before the write: nobody may take it for longer than its holder believes to have it.
        asked = self.now()
        taken = await self.cluster.take_lease(lease, self.identity, LEASE_SECONDS)
        if self._retired:  # just before it was taken
            await self.release()
            return
        self._renewed_at = asked if taken else None
        if taken:
            changed_hands = lease is not None and lease.holder != self.identity
            self._reign = (lease.transitions if lease else 0) + changed_hands

    async def retire(self) -> None:
        """Let another one begin at once, and stand no more."""
        self._retired = True
        await self.release()

    async def release(self) -> None:
        """Let another one begin at once; where the API does not take that, when the Lease runs out."""
        self._renewed_at = None
        try:
            lease = await self.cluster.lease()
            if lease and lease.holder == self.identity:
                await self.cluster.take_lease(lease, "", 1)
        except ClusterFault as fault:
            log.warning("the lease is not released", message=fault.message)

    def _tell(self) -> None:
        if self._led != self.leads():
            self._led = self.leads()
            log.info("leads" if self._led else "waits", identity=self.identity)
            anew = self._led and self._reign != self._told_reign
            self._told_reign = self._reign if self._led else self._told_reign
            self.changed(anew)
