"""The authority that the API server knows the webhook by, and the certificates it signs. No I/O, no clock.

Called by `trust`. An authority is renewed long before its end, and its forerunner stays trusted beside it
until then, so that no replica and no API server has to change at the same moment as another.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=365)
SERVING_LIFE = timedelta(days=30)
# Clocks of other machines may be behind.
_EARLIER = timedelta(hours=1)


def split(certificates: bytes) -> list[bytes]:
    """Return the certificates of a PEM file, each in PEM; none where it holds something else."""
    try:
        return [_pem(one) for one in x509.load_pem_x509_certificates(certificates)]
    except ValueError:
        return []


def is_due(certificate: bytes, now: datetime) -> bool:
    """Return whether a certificate (PEM) is to be replaced: two thirds of its time are over."""
    one = x509.load_pem_x509_certificate(certificate)
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    return now >= begin + (end - begin) * 2 / 3


def unexpired(certificates: Sequence[bytes], now: datetime) -> list[bytes]:
    """Return those certificates (PEM) that are still good."""
    return [one for one in certificates if now < x509.load_pem_x509_certificate(one).not_valid_after_utc]


def matches(certificate: bytes, key: bytes) -> bool:
    """Return whether a private key (PEM) is that of a certificate (PEM)."""
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except ValueError:
        return False
    return private.public_key() == x509.load_pem_x509_certificate(certificate).public_key()


def new_authority(now: datetime) -> tuple[bytes, bytes]:
    """Return the certificate and the private key of a new authority, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Told apart by when they began: a chain is found by the subject.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hauberk-admission {now:%Y-%m-%dT%H:%M:%SZ}")])
    built = (
        _begun(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(built), _key_pem(key)


def serving(authority: bytes, key: bytes, names: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
    """Return a certificate for a server of these DNS names and its key, in PEM, signed by an authority."""
    issuer = x509.load_pem_x509_certificate(authority)
    signing = serialization.load_pem_private_key(key, password=None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)  # noqa: S101 - `new_authority` made it
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hauberk-admission")])
    built = (
        _begun(subject, issuer.subject, own.public_key(), now, SERVING_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
        .sign(signing, hashes.SHA256())
    )
    return _pem(built), _key_pem(own)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + life)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
