"""What the API server did, by its own account: its audit log tells who wrote what, its metrics the rest.

Used by `figures`. Formats: audit.k8s.io/v1 (one event a line), and Prometheus' text format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_ACCOUNT = "system:serviceaccount:hauberk-system:"
_WRITING = ["create", "update", "patch", "delete", "deletecollection"]
# Who keeps a Lease writes it every few seconds, whatever the cluster's size.
LEASES = "leases"
# The API server did not take it up: who asked is told to come again, and that counts.
_TOO_MANY = 429

# Writes by Hauberk's accounts, what answers they got, and nothing of what was written.
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:hauberk-system"], "verbs": _WRITING},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Written:
    """One write that the API server answered: whose account, what verb, which resource, the answer's code."""

    account: str
    verb: str
    resource: str
    code: int


class AuditLog:
    """The API server's audit log, read on from where it was read last."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.policy, self.log = folder / "audit-policy.json", folder / "audit.log"
        self.policy.write_text(json.dumps(POLICY), encoding="utf-8")
        self._at = 0

    @property
    def flags(self) -> list[str]:
        """Return the flags of kube-apiserver that have it write this log."""
        return [f"--audit-policy-file={self.policy}", f"--audit-log-path={self.log}"]

    def read(self) -> list[Written]:
        """Return the writes since the last reading, without those to Leases and those put off (429)."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._at)
            lines = file.readlines()
        if lines and not lines[-1].endswith(b"\n"):  # it is being written
            lines.pop()
        self._at += sum(map(len, lines))
        found = (_written(json.loads(line)) for line in lines)
        return [one for one in found if one.resource != LEASES and one.code != _TOO_MANY]


def _written(event: Mapping[str, Any]) -> Written:
    about = event.get("objectRef") or {}
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    return Written(
        account=event["user"]["username"].removeprefix(_ACCOUNT),
        verb=event["verb"],
        resource=resource,
        code=(event.get("responseStatus") or {}).get("code", 0),
    )


def tally(writes: Iterable[Written]) -> dict[str, int]:
    """Return how many writes there were of each kind: `hauberk-agent patch profilenodes`, most first."""
    words = (f"{one.account} {one.verb} {one.resource}" for one in writes)
    return dict(Counter(words).most_common())


@dataclass(frozen=True)
class Metrics:
    """One reading of the API server's metrics."""

    samples: Mapping[str, list[tuple[Mapping[str, str], float]]]

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """Return the samples of a text by their names."""
        samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                samples.setdefault(one.name, []).append((one.labels, one.value))
        return cls(samples)

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels."""
        return sum(
            value
            for found, value in self.samples.get(name, ())
            if all(found.get(key) == wanted for key, wanted in labels.items())
        )

    @property
    def memory_mib(self) -> float:
        """Return the API server's resident memory."""
        return self.sum("process_resident_memory_bytes") / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time that the API server has used."""
        return self.sum("process_cpu_seconds_total")

    @property
    def store_mib(self) -> float:
        """Return the size of etcd's file, as the API server asks for it now and then."""
        return self.sum("apiserver_storage_size_bytes") / 2**20

    def watched_bytes(self, group: str = "hauberk.dev") -> float:
        """Return the bytes of watch events of a group's kinds that were sent so far."""
        return self.sum("apiserver_watch_events_sizes_sum", group=group)
