"""The webhook's certificates over the years, and two replicas that share an authority."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from hauberk.crds.errors import ClusterFault
from hauberk.crds.reasons import Reason
from hauberk.operator import certificates
from hauberk.operator.admissions_cluster import AdmissionsCluster, Kept
from hauberk.operator.trust import Trust

NAME = "hauberk-admission.hauberk-system.svc"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Api:
    """A Secret, what is shown of it, and an operator that has the API server trust that, or is away."""

    def __init__(self) -> None:
        self.kept = Kept(b"", b"", "1")
        self.shown = b""
        self.trusts = b""
        self.operator_is_there = True
        self.behind = False  # what was read is older than what is stored
        self.refused = False

    async def kept_authority(self) -> Kept:
        if self.refused:
            raise ClusterFault(Reason.PROGRESSING, "can't be read")
        return dataclasses.replace(self.kept, version="0") if self.behind else self.kept

    async def keep_authority(self, kept: Kept) -> bool:
        if kept.version != self.kept.version:
            return False
        self.kept = dataclasses.replace(kept, version=str(int(kept.version) + 1))
        return True

    async def show_authority(self, certificates: bytes) -> None:
        self.shown = certificates
        if self.operator_is_there:
            self.trusts = certificates

    async def trusted(self) -> bytes:
        return self.trusts


def replica(api: Api, clock: list[datetime]) -> Trust:
    return Trust(cast("AdmissionsCluster", api), (NAME,), now=lambda: clock[0])


def is_good(trust: Trust, authorities: bytes, now: datetime) -> bool:
    """Return whether a client that trusts these authorities takes the certificate that is served."""
    roots = x509.load_pem_x509_certificates(authorities)
    verifier = PolicyBuilder().store(Store(roots)).time(now).build_server_verifier(x509.DNSName(NAME))
    try:
        verifier.verify(x509.load_pem_x509_certificate(trust.served), [])
    except x509.verification.VerificationError:
        return False
    return True


async def test_two_replicas_make_one_authority():
    api, clock = Api(), [BEGIN]
    one, other = replica(api, clock), replica(api, clock)
    await one.keep()
    await other.keep()
    assert len(certificates.split(api.kept.certificates)) == 1
    for each in (one, other):
        assert is_good(each, api.trusts, BEGIN)
        assert each.is_trusted
    assert one.served != other.served


async def test_of_two_who_make_one_at_once_the_second_reads_the_firsts():
    api, clock = Api(), [BEGIN]
    late = replica(api, clock)
    api.behind = True
    with pytest.raises(ClusterFault):
        await late.begin()
    assert api.kept.certificates == b""
    await_first = replica(api, clock)
    api.behind = False
    await await_first.begin()
    await late.begin()
    assert late.served_by == await_first.served_by


@pytest.mark.parametrize("away", [False, True], ids=["operator-there", "operator-away-for-two-weeks"])
async def test_for_years_each_certificate_is_one_that_is_trusted(away: bool):
    api, clock = Api(), [BEGIN]
    replicas = [replica(api, clock), replica(api, clock)]
    authorities: set[bytes] = set()
    for day in range(0, 1100, 5):
        clock[0] = BEGIN + timedelta(days=day)
        api.operator_is_there = not (away and 240 < day < 256)
        for each in replicas:
            await each.keep()
            assert is_good(each, api.trusts, clock[0]), f"day {day}"
        assert len(certificates.split(api.kept.certificates)) <= 2
        authorities.add(certificates.split(api.kept.certificates)[0])
    assert len(authorities) == 5


async def test_what_the_key_does_not_fit_is_made_anew():
    api, clock = Api(), [BEGIN]
    await replica(api, clock).keep()
    _, key = certificates.new_authority(BEGIN)
    api.kept = dataclasses.replace(api.kept, key=key)
    trust = replica(api, clock)
    await trust.keep()
    assert certificates.matches(certificates.split(api.kept.certificates)[0], api.kept.key)
    assert is_good(trust, api.trusts, BEGIN)


async def test_nobody_is_asked_before_the_api_server_trusts_it():
    api, clock = Api(), [BEGIN]
    api.operator_is_there = False
    trust = replica(api, clock)
    await trust.begin()
    assert trust.served
    assert not trust.is_trusted
    api.trusts = api.shown
    await trust.keep()
    assert trust.is_trusted


@pytest.mark.parametrize("nonsense", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_nonsense_is_no_certificate(nonsense: bytes):
    assert certificates.split(nonsense) == []


def test_a_certificate_is_for_its_names_alone():
    authority, key = certificates.new_authority(BEGIN)
    certificate, _ = certificates.serving(authority, key, (NAME,), BEGIN)
    roots = Store(x509.load_pem_x509_certificates(authority))
    verifier = PolicyBuilder().store(roots).time(BEGIN).build_server_verifier(x509.DNSName("other.svc"))
    with pytest.raises(x509.verification.VerificationError):
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
