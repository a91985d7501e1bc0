"""What deploy/monitoring asks, warns of and shows: as the table of metrics and as Prometheus sees it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.crds.metrics import METRICS
from hauberk.crds.names import AGENT, AGENT_SELINUX
from hauberk.operator.agents import Settings, manifests

from lab import tools
from tests.unit.test_deploy import kubectl, one
from tests.unit.test_pages import anchors

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
SITE = "https://hauberk.dev/"
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
CASES: dict[str, Any] = yaml.safe_load((ROOT / "tests/monitoring/alerts.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
# What Prometheus puts on every series of a pod that the PodMonitor finds.
OF_THE_TARGET = {"namespace", "pod", "node"}
_SELECTED = re.compile(r"(hauberk_\w+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def promtool() -> str:
    found = tools.find("promtool")
    assert found, "no promtool: run `python -m lab tools`"
    return str(found)


def labels_of(series: str) -> set[str]:
    """Return the labels of a series as it is asked for; fails where nobody exports it."""
    for metric in METRICS:
        if series == metric.name and metric.type in ("counter", "gauge"):
            return {*metric.labels}
        if metric.type in ("histogram", "summary"):
            if series in (f"{metric.name}_sum", f"{metric.name}_count"):
                return {*metric.labels}
            if series == f"{metric.name}_bucket" and metric.type == "histogram":
                return {*metric.labels, "le"}
    raise AssertionError(f"nobody exports {series}")


def wrong(expression: str) -> list[str]:
    """Return what an expression asks for that there is not."""
    found: list[str] = []
    there: set[str] = set()
    for series, selectors in _SELECTED.findall(expression):
        try:
            own = labels_of(series)
        except AssertionError as error:
            found.append(str(error))
            continue
        there |= own
        found += [
            f"{series} has no {one}" for one in re.findall(r"(\w+)\s*[=!]", selectors) if one not in own
        ]
    grouped = {one.strip() for several in _GROUPED.findall(expression) for one in several.split(",")}
    return found + [f"no {one} in {expression}" for one in grouped - there - OF_THE_TARGET]


# --- what is asked for is there ----------------------------------------------------------------------------


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_it_asks_for_what_is_exported(expression: str):
    assert "hauberk_" in expression
    assert wrong(expression) == []


@pytest.mark.parametrize(
    "expression",
    [
        "hauberk_profile == 0",
        "rate(hauberk_drift_repairs[5m])",
        "hauberk_agent_round_duration_seconds_bucket",
        'hauberk_leader{kind="a"}',
        "sum by (profile) (hauberk_agents)",
    ],
)
def test_what_is_not_exported_is_found(expression: str):
    assert len(wrong(expression)) == 1


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_are_left(panel: dict[str, Any]):
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = {one.strip() for several in _GROUPED.findall(target["expr"]) for one in several.split(",")}
        assert named <= grouped


def test_every_metric_is_shown():
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    assert [one.name for one in METRICS if one.name not in shown] == []


# --- the dashboard -----------------------------------------------------------------------------------------


def test_the_dashboard_takes_its_source_from_a_variable():
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"], variable["name"]) == (
        "datasource",
        "prometheus",
        "datasource",
    )
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources)


def test_panels_have_names_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(set(titles)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells


# --- the alerts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_the_matter_and_what_to_do(alert: dict[str, Any]):
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert all(
        text.rstrip().endswith((".", "secprof")) for name, text in told.items() if name != "runbook_url"
    )
    assert alert["labels"]["severity"] in ("warning", "critical")
    page, _, anchor = told["runbook_url"].removeprefix(SITE).partition(".html#")  # as mkdocs makes them
    assert anchor in anchors(ROOT / "docs" / f"{page}.md")


def test_the_page_has_every_alert():
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    told = re.findall(r"^\| `(Hauberk\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert told == [(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_there_is_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: dict[str, Any]):
    asked = [case for test in CASES["tests"] for case in test["alert_rule_test"]]
    fires = {bool(case.get("exp_alerts")) for case in asked if case["alertname"] == alert["alert"]}
    assert fires == {True, False}


def test_values_are_read_as_promtool_reads_them():
    values = [series["values"] for case in CASES["tests"] for series in case["input_series"]]
    assert [one for one in values if not isinstance(one, str)] == []


def rules_file(folder: Path, *annotations: str) -> Path:
    """Write the rules as Prometheus reads them, with some of their annotations."""
    spec = json.loads(json.dumps(RULES["spec"]))
    for group in spec["groups"]:
        for rule in group["rules"]:
            rule["annotations"] = {name: rule["annotations"][name] for name in annotations}
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def test_prometheus_reads_the_rules(tmp_path: Path):
    file = rules_file(tmp_path, "summary", "description", "runbook_url")
    said = subprocess.run(
        [promtool(), "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"{len(ALERTS)} rules found" in said.stdout


def alerts_tested(folder: Path, cases: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    rules_file(folder, "summary")  # the description's wording is nothing to hold twice
    file = folder / "alerts.yaml"
    file.write_text(yaml.safe_dump(cases))
    return subprocess.run(
        [promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path):
    said = alerts_tested(tmp_path, CASES)
    assert said.returncode == 0, said.stdout + said.stderr


def test_an_alert_that_is_wrongly_expected_is_found(tmp_path: Path):
    """A test of the test: without the expectation of what fires, it fails."""
    cases = json.loads(json.dumps(CASES))
    (fires,) = [case for case in cases["tests"][0]["alert_rule_test"] if case.get("exp_alerts")]
    del fires["exp_alerts"]
    said = alerts_tested(tmp_path, cases)
    assert said.returncode == 1
    assert "HauberkProfileNotReady" in said.stdout + said.stderr


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_prometheus_reads_each_expression(expression: str):
    # Grafana's own variable is put in place before Prometheus sees it
    said = subprocess.run(
        [promtool(), "--experimental", "promql", "format", expression.replace("$__rate_interval", "5m")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr


# --- the objects -------------------------------------------------------------------------------------------


def test_kustomize_builds_them_apart_from_the_rest():
    built = subprocess.run(
        [kubectl(), "kustomize", str(MONITORING)], capture_output=True, text=True, check=True, timeout=60
    )
    made = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    assert set(made) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert {each["metadata"]["namespace"] for each in made.values()} == {"hauberk-system"}
    assert json.loads(made["ConfigMap"]["data"]["dashboard.json"]) == DASHBOARD
    assert made["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    listed = yaml.safe_load((ROOT / "deploy/kustomization.yaml").read_text())["resources"]
    assert "monitoring" not in listed


def test_the_pod_monitor_finds_every_pod_at_a_port_that_it_has():
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    agents = manifests(Settings("n", "i", "u"))
    pods = [one("Deployment", f"hauberk-{name}") for name in ("operator", "admission")]
    pods += [agents[AGENT], agents[AGENT_SELINUX]]
    for owner in pods:
        template = owner["spec"]["template"]
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        assert [port["name"] for port in container["ports"]].count(endpoint["port"]) == 1
