"""Ways to an API server with a bearer token, such as a ServiceAccount's. Pure."""

from pathlib import Path
from typing import Any


def kubeconfig(server: str, authority: Path, token: str) -> dict[str, Any]:
    """Return a kubeconfig that shows a token and nothing else."""
    cluster = {"server": server, "certificate-authority": str(authority)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "who", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "here", "user": "who"}}],
        "current-context": "it",
    }
