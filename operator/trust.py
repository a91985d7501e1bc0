"""Keeps the webhook's certificate: the authority in the Secret that all replicas share, and each one's own.

Started by `admission`, on top of `certificates`. Who finds the authority missing or old makes another one; of
two who do so at once the API takes one. The operator has the API server trust what is shown here, and no
certificate by a new authority is served before that.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from ..crds.errors import ClusterFault
from ..crds.reasons import Reason
from . import certificates
from .admissions_cluster import AdmissionsCluster, Kept

log = structlog.get_logger()

LOOK_SECONDS = 10.0
# Until there is what the API server trusts, nobody can apply a profile.
HURRY_SECONDS = 1.0


@dataclass
class Trust:
    """One replica's certificate.

    Attributes:
        cluster: the API.
        names: the DNS names that the API server calls the webhook by.
        context: gets the certificate; connections that are made afterwards use it.
        now: the time.
        is_trusted: whether the API server knows the authority of the certificate that is served.
    """

    cluster: AdmissionsCluster
    names: tuple[str, ...]
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    is_trusted: bool = False
    served: bytes = b""
    served_by: bytes = b""

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            try:
                await self.keep()
            except ClusterFault as fault:
                log.warning("the certificate can't be kept", message=fault.message)
            seconds = LOOK_SECONDS if self.is_trusted else HURRY_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311

    async def begin(self) -> None:
        """Get the first certificate.

        Raises:
            ClusterFault: the API can't be read, did not take a write, or took another replica's first.
        """
        await self.keep()
        if not self.served:
            raise ClusterFault(Reason.PROGRESSING, "another replica made the authority just now")

    async def keep(self) -> None:
        """Bring authority and certificate to what they should be.

        Raises:
            ClusterFault: the API can't be read, or did not take a write.
        """
        kept = await self.cluster.kept_authority()
        known = certificates.split(kept.certificates)
        now = self.now()
        usable = bool(known) and certificates.matches(known[0], kept.key)
        if not usable or certificates.is_due(known[0], now):
            made, key = certificates.new_authority(now)
            others = certificates.unexpired(known, now) if usable else []
            kept = Kept(b"".join([made, *others]), key, kept.version)
            if not await self.cluster.keep_authority(kept):
                return  # someone else made one just now: read it at the next look
            log.info("new authority")
            known = [made, *others]
        await self.cluster.show_authority(kept.certificates)
        trusted = certificates.split(await self.cluster.trusted())
        if self._is_another_due(known[0], trusted, now):
            self._serve(*certificates.serving(known[0], kept.key, self.names, now), known[0])
        self.is_trusted = self.served_by in trusted

    def _is_another_due(self, authority: bytes, trusted: Collection[bytes], now: datetime) -> bool:
        """Return whether to serve a certificate by this authority now, in the place of what is served."""
        if not self.served:
            return True
        if self.served_by in trusted and authority not in trusted:
            # The operator is away: what is served is better for as long as it lasts.
            return not certificates.unexpired([self.served], now)
        return self.served_by != authority or certificates.is_due(self.served, now)

    def _serve(self, certificate: bytes, key: bytes, authority: bytes) -> None:
        # OpenSSL reads them from a file only; the pod has a folder in memory for it.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + key)
            file.flush()
            self.context.load_cert_chain(file.name)
        self.served, self.served_by = certificate, authority
        log.info("new certificate")
