"""How a pod reaches the API server, and as whom. Built by `main`, for `api`.

What Kubernetes gives every pod with a ServiceAccount: the address in its environment, a certificate authority
and a token in a folder ("Accessing the Kubernetes API from a Pod" of its documentation). lightkube reads the
same, and much more that no agent needs: it is a tenth of an agent's memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoWayError(Exception):
    """This process was given no way to the API server: it does not run as a pod does."""


@dataclass(frozen=True)
class Way:
    """A way to the API server.

    Attributes:
        server: its URL.
        tls: whom to trust.
        token: returns what to show. Asked before each request: the kubelet replaces it every hour.
        namespace: of the pod.
    """

    server: str
    tls: ssl.SSLContext
    token: Callable[[], str]
    namespace: str


def of_pod(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Way:
    """Return the way that this pod was given.

    Raises:
        NoWayError: it was given none.
    """
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        namespace = (folder / "namespace").read_text().strip()
        if not port.isdecimal():
            raise NoWayError(f"KUBERNETES_SERVICE_PORT is no number: {port}")
    except KeyError as error:
        raise NoWayError(f"{error.args[0]} is not set") from error
    except OSError as error:
        raise NoWayError(str(error)) from error
    address = f"[{host}]" if ":" in host else host
    return Way(f"https://{address}:{port}", tls, lambda: _token(folder / "token"), namespace)


def _token(file: Path) -> str:
    """Return the token as it is now.

    Raises:
        OSError: there is none.
    """
    try:
        return file.read_text(encoding="ascii").strip()
    except UnicodeError as error:
        raise OSError(f"{file} holds no token") from error
