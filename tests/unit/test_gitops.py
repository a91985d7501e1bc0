"""What tools that deploy make of a SecurityProfile: by kstatus' rules, Argo CD's Lua, Flux' expressions.

Of every golden cluster tests/golden/health.yaml has what the three say; `HAUBERK_GOLDEN=write` writes it.
The Lua runs in Lua 5.1, the language of Argo CD's interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import msgspec
import pytest
import yaml
from celpy.adapter import json_to_cel
from hauberk.crds.models import Condition, Metadata, ProfileSpec, ProfileStatus, SecurityProfile, encode
from hypothesis import given, settings
from lupa import lua51

from tests.unit.kstatus import kstatus
from tests.unit.test_deploy import kubectl
from tests.unit.test_desired import CASES, GOLDEN, a_cluster, clusters, status_of

ROOT = Path(__file__).parents[2]
LUA = ROOT / "deploy" / "argocd" / "health.lua"
KEY = "resource.customizations.health.hauberk.dev_SecurityProfile"
FLUX = ROOT / "docs" / "how-to" / "gitops.md"
NOW = "2026-01-01T12:00:00Z"


def argo(thing: dict[str, Any]) -> tuple[str, str]:
    """Return the health and the message that Argo CD shows."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.globals()["obj"] = lua.table_from(thing, recursive=True)
    said: Any = lua.execute(LUA.read_text())
    return said["status"], said["message"]


@cache
def expressions() -> dict[str, Any]:
    """Return the expressions of Flux' page, ready to run."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", FLUX.read_text(), re.MULTILINE | re.DOTALL)
    documents = [one for block in blocks for one in yaml.safe_load_all(block)]
    (check,) = [
        check for one in documents for check in one.get("spec", {}).get("healthCheckExprs", []) if check
    ]
    assert (check["apiVersion"], check["kind"]) == ("hauberk.dev/v1alpha1", "SecurityProfile")
    cel = celpy.Environment()
    return {name: cel.program(cel.compile(check[name])) for name in ("inProgress", "failed", "current")}


def flux(thing: dict[str, Any]) -> str:
    """Return which of those expressions holds of an object: one at most, so their order means nothing."""
    known = {name: json_to_cel(value) for name, value in thing.items()}
    holding = [name for name, program in expressions().items() if program.evaluate(known)]
    assert len(holding) <= 1
    return holding[0] if holding else "inProgress"


def as_object(profile: SecurityProfile, status: ProfileStatus) -> dict[str, Any]:
    """Return a SecurityProfile as the API has it, with its defaults."""
    whole = encode(msgspec.structs.replace(profile, status=status))
    whole["status"].setdefault("observedGeneration", 0)
    return whole


def found(case: str) -> dict[str, dict[str, Any]]:
    """Return the profiles of a golden cluster, with the status that follows."""
    snapshot = a_cluster(yaml.safe_load((GOLDEN / case / "in.yaml").read_text()))
    return {name: as_object(one, status_of(one, snapshot)) for name, one in snapshot.profiles.items()}


def told(thing: dict[str, Any]) -> dict[str, str]:
    health, message = argo(thing)
    return {"kstatus": kstatus(thing), "Argo CD": health, "Flux": flux(thing), "message": message}


def ready(thing: dict[str, Any]) -> bool:
    """Return whether Ready is True, and of the generation that the object is of."""
    generation = thing["metadata"]["generation"]
    return any(
        one["type"] == "Ready" and one["status"] == "True" and one["observedGeneration"] == generation
        for one in thing["status"].get("conditions", [])
    )


def no_node(thing: dict[str, Any]) -> bool:
    conditions = thing["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["reason"] == "NoNodes" for one in conditions)


def is_honest(thing: dict[str, Any]) -> None:
    """Nobody calls a profile good that is not; where no node is targeted, two of the three go on."""
    deleted = "deletionTimestamp" in thing["metadata"]
    assert (kstatus(thing) == "Current") == (ready(thing) and not deleted)
    good = (ready(thing) or no_node(thing)) and not deleted
    assert (argo(thing)[0] == "Healthy") == good
    assert deleted or (flux(thing) == "current") == good


@pytest.mark.parametrize("case", CASES)
def test_golden_clusters(case: str):
    for thing in found(case).values():
        is_honest(thing)


def test_what_each_says_of_golden_clusters():
    file = GOLDEN / "health.yaml"
    made = {case: {name: told(one) for name, one in found(case).items()} for case in CASES}
    made = {case: one for case, one in made.items() if one}
    if os.environ.get("HAUBERK_GOLDEN") == "write":
        file.write_text(yaml.safe_dump(made, sort_keys=False, width=110, allow_unicode=True))
    assert made == yaml.safe_load(file.read_text())


def test_every_answer_is_among_them():
    made = yaml.safe_load((GOLDEN / "health.yaml").read_text())
    said = [one for profiles in made.values() for one in profiles.values()]
    assert {one["kstatus"] for one in said} == {"Current", "InProgress", "Failed", "Terminating"}
    assert {one["Argo CD"] for one in said} == {"Healthy", "Progressing", "Degraded", "Suspended"}
    assert all(one["message"] for one in said)


@given(clusters())
@settings(max_examples=50, deadline=None)
def test_any_cluster(snapshot: Any):
    for profile in snapshot.profiles.values():
        is_honest(as_object(profile, status_of(profile, snapshot)))


# --- moments between the writes ---


def a_profile(generation: int = 1) -> SecurityProfile:
    return SecurityProfile(
        metadata=Metadata(name="p", uid="u", generation=generation), spec=ProfileSpec(type="AppArmor")
    )


def said(kind: str, status: str, generation: int) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=kind,
        message=f"{kind} is {status}",
        observed_generation=generation,
        last_transition_time=NOW,
    )


def test_the_schema_gives_a_new_object_a_status():
    """Without one, kstatus calls it Current: nothing says that it is not."""
    (version,) = yaml.safe_load((ROOT / "crds/securityprofiles.yaml").read_text())["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert status["default"] == {}
    assert status["properties"]["observedGeneration"]["default"] == 0
    bare = {"metadata": {"name": "p", "generation": 1}}
    assert kstatus(bare) == "Current"
    assert kstatus({**bare, "status": {"observedGeneration": 0}}) == "InProgress"


@pytest.mark.parametrize(
    ("generation", "status"),
    [
        (1, ProfileStatus()),
        (1, ProfileStatus(conditions=[said("Accepted", "True", 1)])),
        (1, ProfileStatus(conditions=[said("Accepted", "False", 1)])),
        (2, ProfileStatus(observed_generation=1, conditions=[said("Ready", "True", 1)])),
        (
            2,
            ProfileStatus(
                observed_generation=1, conditions=[said("Accepted", "True", 2), said("Ready", "True", 1)]
            ),
        ),
    ],
    ids=["new", "accepted", "refused", "changed", "changed and accepted"],
)
def test_what_the_operator_has_not_looked_at_is_in_progress(generation: int, status: ProfileStatus):
    thing = as_object(a_profile(generation), status)
    assert kstatus(thing) == "InProgress"
    assert argo(thing) == ("Progressing", "waiting for hauberk-operator to look at it")
    assert flux(thing) == "inProgress"


def test_argo_reads_an_object_without_a_status():
    """As the API has it where the CRD is an older one."""
    assert argo({"metadata": {"name": "p", "generation": 1}})[0] == "Progressing"


# --- how the Lua gets to Argo CD ---

ARGO = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  labels: {app.kubernetes.io/part-of: argocd}
data:
  url: https://argocd.example.org
"""


def test_the_component_adds_the_lua_to_argo_cds_configuration(tmp_path: Path):
    (tmp_path / "argocd").mkdir()
    (tmp_path / "component").mkdir()
    for file in LUA.parent.iterdir():
        (tmp_path / "component" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "argocd" / "argocd-cm.yaml").write_text(ARGO)
    (tmp_path / "argocd" / "kustomization.yaml").write_text(
        "namespace: argocd\nresources: [argocd-cm.yaml]\ncomponents: [../component]\n"
    )
    built = subprocess.run(
        [kubectl(), "kustomize", str(tmp_path / "argocd")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    made = yaml.safe_load(built.stdout)
    assert made["metadata"]["name"] == "argocd-cm"
    assert made["data"] == {"url": "https://argocd.example.org", KEY: LUA.read_text()}
