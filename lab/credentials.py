"""Keys, certificates and kubeconfigs of one cluster.

Called by controlplane.py and node.py. One authority signs everything: the API server's serving
certificate and one client certificate a user, whose common name is the user and whose organisation
is the group, which is what the API server reads there.
"""

import base64
import datetime as dt
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=365)


@dataclass(frozen=True)
class User:
    """A user of the API: name and group, as a certificate carries them."""

    name: str
    group: str = ""


ADMIN = User("admin", "system:masters")
CONTROLLER_MANAGER = User("system:kube-controller-manager")
SCHEDULER = User("system:kube-scheduler")
KUBE_PROXY = User("system:kube-proxy")


def node_user(name: str) -> User:
    """Return the user that the node authorizer knows as the kubelet of node `name`."""
    return User(f"system:node:{name}", "system:nodes")


def _subject(user: User) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, user.name)]
    if user.group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, user.group))
    return x509.Name(parts)


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # the clocks of node and host may differ by a moment
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


class Credentials:
    """The folder with one cluster's keys; opened again it goes on with those that it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.authority = folder / "ca.crt"
        self.service_account_key = folder / "sa.key"
        self.service_account_public = folder / "sa.pub"
        if not self.service_account_public.exists():
            self._make_authority()
            self._make_service_account_keys()
        self._ca_key = self._load_key(folder / "ca.key")
        self._ca = x509.load_pem_x509_certificate(self.authority.read_bytes())

    @staticmethod
    def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{path} holds another kind of key")
        return key

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject(User("lab"))
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.folder / "ca.key", _key_pem(key))
        _write(self.authority, certificate.public_bytes(serialization.Encoding.PEM))

    def _make_service_account_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write(self.service_account_key, _key_pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # written last: its being there says that the folder is whole
        _write(self.service_account_public, public)

    def _sign(self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, stem: str) -> Path:
        certificate = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
        ).sign(self._ca_key, hashes.SHA256())
        path = self.folder / f"{stem}.crt"
        _write(self.folder / f"{stem}.key", _key_pem(key))
        _write(path, certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def serving(self, stem: str, names: list[str], addresses: list[str]) -> tuple[Path, Path]:
        """Make a server's certificate for these names and addresses; return (certificate, key)."""
        certificate, private = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        if certificate.exists():
            return certificate, private
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = (
            _builder(_subject(User(stem)), self._ca.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        return self._sign(builder, key, stem), private

    def client(self, user: User) -> tuple[Path, Path]:
        """Make a client certificate for `user` (once); return (certificate, key)."""
        stem = user.name.replace(":", "-")
        certificate, private = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        if certificate.exists():
            return certificate, private
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(user), self._ca.subject, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        return self._sign(builder, key, stem), private

    def kubeconfig(self, user: User, server: str, path: Path) -> Path:
        """Write a kubeconfig with everything inside for `user` to `path` and return it."""
        certificate, key = self.client(user)
        _write(path, kubeconfig_text(user, server, self.authority, certificate, key).encode())
        return path


def kubeconfig_text(user: User, server: str, authority: Path, certificate: Path, key: Path) -> str:
    """Return a kubeconfig as JSON (which is YAML) that holds the certificates themselves."""

    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": inline(authority)}
    identity = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user.name, "user": identity}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user.name}}],
            "current-context": "lab",
        },
        indent=1,
    )
