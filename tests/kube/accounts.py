"""Ways to the API server with the rights of a ServiceAccount: none of the tests' own, who may everything."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from hauberk.daemonset.api import Api
from hauberk.daemonset.way import Way
from kubernetes import client
from kubernetes.client import CoreV1Api
from lightkube import KubeConfig

from lab.controlplane import ControlPlane
from lab.tokens import kubeconfig

Object = dict[str, Any]

SYSTEM = "hauberk-system"


@dataclass(frozen=True)
class Accounts:
    """Makes clients with the tokens of ServiceAccounts."""

    control_plane: ControlPlane
    core: CoreV1Api

    def token(self, account: str, namespace: str, pod: client.V1Pod | None = None) -> str:
        """Return a token as the kubelet would put it into `pod`, or one that is bound to nothing."""
        bound = None
        if pod and pod.metadata:
            name, uid = pod.metadata.name, pod.metadata.uid
            bound = client.V1BoundObjectReference(api_version="v1", kind="Pod", name=name, uid=uid)
        spec = client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600, bound_object_ref=bound)
        asked: Any = self.core.create_namespaced_service_account_token(
            account, namespace, client.AuthenticationV1TokenRequest(spec=spec)
        )
        return asked.status.token

    def connect(self, token: str) -> client.ApiClient:
        """Return a client that shows a token and nothing else."""
        settings = client.Configuration(host=self.control_plane.at.server)
        settings.ssl_ca_cert = str(self.control_plane.credentials.authority)
        settings.api_key = {"authorization": f"Bearer {token}"}
        return client.ApiClient(settings)

    def ask(self, token: str, method: str, path: str) -> int:
        """Send a bare request and return the status; who may not send it is told so before it is read."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"authorization": f"Bearer {token}", "Content-Type": kind}
        url = f"{self.control_plane.at.server}{path}"
        body = None if method == "GET" else {}
        return self.connect(token).call_api(method, url, header_params=headers, body=body).status

    def config(self, token: str) -> KubeConfig:
        """Return the same for the client library that Hauberk itself uses."""
        return KubeConfig.from_dict(self.kubeconfig(token))

    def agents_api(self, token: str) -> Api:
        """Return the API server as agents ask it."""
        tls = ssl.create_default_context(cafile=str(self.control_plane.credentials.authority))
        return Api.open(Way(self.control_plane.at.server, tls, lambda: token, SYSTEM))

    def kubeconfig(self, token: str) -> Object:
        """Return the same for kubectl."""
        return kubeconfig(self.control_plane.at.server, self.control_plane.credentials.authority, token)
