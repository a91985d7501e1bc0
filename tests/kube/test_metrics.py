"""A scrape of operator and admission as they run, and what their probes say."""

from __future__ import annotations

import httpx2
from hauberk.crds.metrics import ADMISSION, DRIFT_REPAIRS, OPERATOR, PROBLEMS, of

from tests.kube.conftest import Kubectl
from tests.kube.operating import Cluster, eventually, publish
from tests.kube.test_admission import apply, document
from tests.scraped import check, samples

PROFILE = {"profile": "measured", "type": "AppArmor"}


def get(cluster: Cluster, module: str, path: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{cluster.probes[module]}{path}", trust_env=False)


def is_well(cluster: Cluster, module: str, path: str) -> bool:
    """Return whether a program answers that it is; one that does not listen yet is not."""
    try:
        return get(cluster, module, path).is_success
    except httpx2.TransportError:
        return False


def scrape(cluster: Cluster, module: str) -> str:
    said = get(cluster, module, "/metrics")
    assert said.status_code == 200
    return said.text


def told(cluster: Cluster, module: str, name: str, **labels: str) -> float:
    return samples(scrape(cluster, module)).get((f"hauberk_{name}", frozenset(labels.items())), 0.0)


def test_the_operator_tells_what_the_cluster_is_like(cluster: Cluster):
    def seen(name: str, **labels: str) -> float:
        return told(cluster, "main", name, **labels)

    digest = publish(cluster, "measured")
    eventually(lambda: seen("profile_ready", **PROFILE, reason="Ready") == 1)
    assert seen("profile_nodes_targeted", **PROFILE) == 2
    assert seen("profile_nodes", **PROFILE, state="ready") == 2
    assert seen("profiles", type="AppArmor", reason="Ready") == 1
    assert seen("leader", component="operator") == 1
    assert seen("agents", state="missing") == 2  # nobody makes pods here
    done = {"component": "operator", "result": "done"}
    written = seen("api_writes_total", kind="SecurityProfileStatus", **done)
    assert written >= 1
    assert seen("api_writes_total", kind="SecurityProfile", **done) >= 1  # its finalizer
    assert seen("api_writes_total", kind="Lease", **done) >= 1
    rounds = seen("round_duration_seconds_count", component="operator")
    events = seen("watch_events_total", component="operator", kind="ProfileNode")
    assert min(rounds, events) >= 1

    problem = {"revision": digest, "reason": "LoadFailed", "message": "no"}
    cluster.tell(
        "one",
        {"appArmor": {"enabled": True}},
        appArmor={
            "profiles": {},
            "problems": {"measured": problem},
            "orphans": {},
            "repairs": {"measured": {"count": 3, "message": "it was removed"}},
        },
    )
    eventually(lambda: seen("profile_ready", **PROFILE, reason="NodesFailed") == 0)
    eventually(lambda: seen("profile_nodes", **PROFILE, state="failed") == 1)
    assert seen("problems", type="AppArmor", reason="LoadFailed") == 1
    eventually(lambda: seen("drift_repairs_total", **PROFILE) == 3)
    assert seen("profiles", type="AppArmor", reason="Ready") == 0
    assert seen("api_writes_total", kind="SecurityProfileStatus", **done) > written
    assert seen("round_duration_seconds_count", component="operator") > rounds
    assert seen("watch_events_total", component="operator", kind="ProfileNode") > events


def test_the_operator_exports_what_the_table_says(cluster: Cluster):
    publish(cluster, "listed")
    problem = {"revision": "r", "reason": "LoadFailed", "message": "no"}
    section = {"profiles": {}, "problems": {"listed": problem}, "orphans": {}, "repairs": {}}
    cluster.tell("one", {"appArmor": {"enabled": True}}, appArmor=section)
    eventually(lambda: f"\n{PROBLEMS.name}{{" in scrape(cluster, "main"))
    text = scrape(cluster, "main")
    assert check(text, of(OPERATOR)) == {one.name for one in of(OPERATOR)}
    assert "process_resident_memory_bytes" in text


def test_the_admission_counts_its_answers(webhook: Cluster, kubectl: Kubectl):
    def answers(verdict: str) -> float:
        of_profiles = {"kind": "SecurityProfile", "verdict": verdict}
        return told(webhook, "admission", "webhook_answers_total", **of_profiles)

    def answered() -> float:
        return told(webhook, "admission", "webhook_duration_seconds_count", kind="SecurityProfile")

    before, refused, took = answers("allowed"), answers("refused"), answered()
    assert apply(kubectl, document("allowed")).code == 0
    assert apply(kubectl, document("refused", "profile refused {\n  bogus\n}\n")).code == 1
    assert (answers("allowed"), answers("refused"), answered()) == (before + 1, refused + 1, took + 2)
    done = {"component": "admission", "kind": "ProfileRevision", "result": "done"}
    eventually(lambda: told(webhook, "admission", "api_writes_total", **done) >= 1)
    assert told(webhook, "admission", "leader", component="admission") == 1
    text = scrape(webhook, "admission")
    assert check(text, of(ADMISSION)) == {one.name for one in of(ADMISSION)}
    assert "refused" not in {value for key in samples(text) for name, value in key[1] if name == "profile"}


def test_what_waits_tells_of_itself_alone(cluster: Cluster):
    """Two that tell of the cluster would have it count double."""
    publish(cluster, "told-once")
    other = Cluster(cluster.api, cluster.core, cluster.folder)
    other.pod = "another"
    other.operator = other.run("main", "hauberk-operator", cluster.folder / "other.log")
    try:
        eventually(lambda: is_well(other, "main", "/readyz"))
        text = scrape(other, "main")
        assert told(other, "main", "leader", component="operator") == 0
        cluster_wide = {one.name for one in of(OPERATOR) if one.by == (OPERATOR,)}
        assert DRIFT_REPAIRS.name in cluster_wide
        assert check(text, of(OPERATOR)) == {one.name for one in of(OPERATOR)} - cluster_wide
    finally:
        other.stop_operator()


def test_probes_say_what_is_so(cluster: Cluster):
    eventually(lambda: is_well(cluster, "main", "/readyz"))
    assert is_well(cluster, "main", "/livez")
    assert is_well(cluster, "admission", "/livez")
    # The API server has no configuration that would know its certificate: nobody should ask this one yet.
    asked = f"https://localhost:{cluster.port}/readyz"
    eventually(lambda: httpx2.get(asked, verify=False, trust_env=False).status_code == 503)


def test_the_admission_is_ready_once_it_is_trusted(webhook: Cluster):
    asked = f"https://localhost:{webhook.port}/readyz"
    eventually(lambda: httpx2.get(asked, verify=False, trust_env=False).is_success)
