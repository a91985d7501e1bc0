"""The manifests: they build, they name what the code names, and they grant what the code asks for."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.crds.names import (
    ADMISSION,
    ADMISSION_AUTHORITY,
    AGENT,
    AGENT_SELINUX,
    FORCE_DELETE,
    GATE_ENABLED,
    GROUP,
    LABEL_GATED,
    LABEL_POD_GATE,
    LABEL_UNKNOWN_PROFILE,
    OPERATOR,
    POD_GATE,
    POD_GATE_WEBHOOK,
    UNKNOWN_DENIED,
)
from hauberk.operator.webhook import PODS_DENY_PATH, PODS_PATH, PORT, REVIEW_PATH

from lab import binaries

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KINDS = ("securityprofiles", "profilerevisions", "profilenodes")
# For who runs it elsewhere than in a pod behind its Service.
OUTSIDE = {"WEBHOOK_PORT", "WEBHOOK_NAMES"}
# What is applied by itself: it needs CRDs of others.
APART = {"monitoring"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def documents(*folders: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for folder in folders:
        for file in sorted(folder.glob("*.yaml")):
            if file.name != "kustomization.yaml":
                found += [one for one in yaml.safe_load_all(file.read_text()) if one]
    return found


WITH_THE_OPERATOR = documents(DEPLOY / "operator")
OUTLIVING = documents(DEPLOY / "namespace", DEPLOY / "crds")
OBJECTS = [*WITH_THE_OPERATOR, *OUTLIVING]


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def rules(kind: str, name: str) -> set[tuple[str, str, str]]:
    """Return what a role grants, as group, resource and verb."""
    return {
        (group, resource, verb)
        for rule in one(kind, name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    "folder",
    [DEPLOY, *(DEPLOY / name for name in ("crds", "namespace", "operator", "monitoring")), ROOT / "crds"],
    ids=str,
)
def test_a_kustomization_lists_every_file_beside_it(folder: Path):
    listed = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
    beside = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
    folders = {
        file.parent.name
        for file in folder.glob("*/kustomization.yaml")
        # others name a component in their own
        if yaml.safe_load(file.read_text())["kind"] == "Kustomization"
    } - APART
    assert {name for name in listed if not name.startswith("..")} == beside | folders
    assert all((folder / name).exists() for name in listed)


def kubectl() -> str:
    found = binaries.find()
    own = found / "kubectl" if found else None
    program = str(own) if own and own.exists() else shutil.which("kubectl")
    assert program, "no kubectl: run `python -m lab binaries`"
    return program


def test_kustomize_builds_it_all():
    built = subprocess.run(
        [kubectl(), "kustomize", str(DEPLOY)], capture_output=True, text=True, check=True, timeout=60
    )
    made = [(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(built.stdout)]
    wanted = [(each["kind"], each["metadata"]["name"]) for each in (*OBJECTS, *documents(ROOT / "crds"))]
    assert sorted(made) == sorted(wanted)


def test_what_outlives_the_operator():
    """Deleting deploy/operator leaves the CRDs and their guard, and what the operator leaves with."""
    outliving = {(each["kind"], each["metadata"]["name"]) for each in OUTLIVING}
    assert outliving == {
        ("Namespace", "hauberk-system"),
        ("ServiceAccount", OPERATOR),
        ("ClusterRole", "hauberk-let-go"),
        ("ClusterRoleBinding", "hauberk-let-go"),
        ("ValidatingAdmissionPolicy", "hauberk-own-gate-only"),
        ("ValidatingAdmissionPolicyBinding", "hauberk-own-gate-only"),
        ("ValidatingAdmissionPolicy", "hauberk-guarded-flags"),
        ("ValidatingAdmissionPolicyBinding", "hauberk-guarded-flags"),
    }
    going = {(each["kind"], each["metadata"]["name"]) for each in WITH_THE_OPERATOR}
    assert not going & outliving
    assert "CustomResourceDefinition" not in {kind for kind, _ in going}


def test_an_operator_that_leaves_may_take_its_finalizers_and_gates_off_and_nothing_else():
    assert rules("ClusterRole", "hauberk-let-go") == {
        (GROUP, "securityprofiles", "list"),
        (GROUP, "securityprofiles", "patch"),
        ("", "pods", "list"),
        ("", "pods", "patch"),
    }
    (bound,) = one("ClusterRoleBinding", "hauberk-let-go")["subjects"]
    assert bound == {"kind": "ServiceAccount", "name": OPERATOR, "namespace": "hauberk-system"}


@pytest.mark.parametrize(
    ("deployment", "name", "module"),
    [
        (OPERATOR, "operator", "hauberk.operator.main"),  # agents.py finds its image by this name
        (ADMISSION, "admission", "hauberk.operator.admission"),
    ],
)
def test_the_image_is_of_the_projects_version(deployment: str, name: str, module: str):
    (container,) = one("Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{VERSION}")
    assert container["name"] == name
    assert container["args"] == [module]
    assert f":{VERSION}\n" in (ROOT / "Makefile").read_text()


def test_service_accounts_are_called_as_in_the_code():
    accounts = {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "ServiceAccount"}
    assert accounts == {AGENT, OPERATOR, ADMISSION}
    for name in (OPERATOR, ADMISSION):
        assert one("Deployment", name)["spec"]["template"]["spec"]["serviceAccountName"] == name


def test_every_binding_has_its_role_and_account():
    roles = {(each["kind"], each["metadata"]["name"]) for each in OBJECTS if each["kind"].endswith("Role")}
    for each in OBJECTS:
        if each["kind"].endswith("Binding") and "roleRef" in each:
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in roles
            for subject in each["subjects"]:
                assert (subject["name"], subject["namespace"]) in {
                    (AGENT, "hauberk-system"),
                    (OPERATOR, "hauberk-system"),
                    (ADMISSION, "hauberk-system"),
                }


def test_all_is_in_the_operators_namespace():
    spaces = {each["metadata"].get("namespace") for each in OBJECTS} - {None}
    assert spaces == {"hauberk-system"}
    (namespace,) = [each for each in OBJECTS if each["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == "hauberk-system"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_an_agent_may_do_no_more_than_it_does():
    assert rules("ClusterRole", AGENT) == {
        (GROUP, "profilerevisions", "list"),
        (GROUP, "profilerevisions", "watch"),
        (GROUP, "profilenodes", "get"),
        (GROUP, "profilenodes", "create"),
        (GROUP, "profilenodes", "patch"),
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
        ("", "pods", "list"),
    }
    assert rules("Role", AGENT) == {("apps", "daemonsets", "get")}
    (counting,) = one("Role", AGENT)["rules"]
    assert counting["resourceNames"] == [AGENT, AGENT_SELINUX]


def test_the_operator_may_do_what_its_code_does():
    granted = rules("ClusterRole", OPERATOR)
    for kind in ("securityprofiles", "profilerevisions", "profilenodes"):
        assert {(GROUP, kind, "list"), (GROUP, kind, "watch")} <= granted
    assert (
        not {(GROUP, "profilerevisions", verb) for verb in ("create", "patch", "update", "delete")} & granted
    )
    assert {(GROUP, "securityprofiles", "patch"), (GROUP, "securityprofiles/status", "patch")} <= granted
    assert {(kind, verb) for group, kind, verb in granted if group == ""} == {
        *(("nodes", verb) for verb in ("get", "list", "watch", "patch")),
        *(("pods", verb) for verb in ("list", "watch", "patch")),
        ("namespaces", "list"),
        ("events", "create"),
    }
    assert ("apps", "deployments", "get") in rules("Role", OPERATOR)
    leases = {
        tuple(each["verbs"]): each.get("resourceNames")
        for each in one("Role", OPERATOR)["rules"]
        if each["resources"] == ["leases"]
    }
    assert leases == {("create",): None, ("get", "update"): [OPERATOR], ("get",): [ADMISSION]}
    (definitions,) = [
        each
        for each in one("ClusterRole", OPERATOR)["rules"]
        if "customresourcedefinitions" in each["resources"]
    ]
    assert definitions["verbs"] == ["get"]
    assert set(definitions["resourceNames"]) == {
        each["metadata"]["name"] for each in documents(ROOT / "crds")
    }


def named(kind: str, name: str) -> dict[tuple[str, str], list[str] | None]:
    """Return the objects that each resource and verb of a role is bound to; None: all."""
    return {
        (resource, verb): rule.get("resourceNames")
        for rule in one(kind, name)["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_admission_may_publish_and_keep_its_authority_and_nothing_else():
    reads = {(GROUP, kind, verb) for kind in KINDS for verb in ("get", "list", "watch")}
    assert rules("ClusterRole", ADMISSION) == {
        *reads,
        *((GROUP, "profilerevisions", verb) for verb in ("create", "patch", "delete")),
        (GROUP, "securityprofiles/status", "patch"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "get"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "get"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get"),
    }
    assert named("Role", ADMISSION) == {
        ("secrets", "get"): [ADMISSION],
        ("secrets", "patch"): [ADMISSION],
        ("configmaps", "get"): [ADMISSION_AUTHORITY],
        ("configmaps", "patch"): [ADMISSION_AUTHORITY],
        ("leases", "create"): None,
        ("leases", "get"): [ADMISSION],
        ("leases", "update"): [ADMISSION],
    }
    assert named("ClusterRole", ADMISSION)["validatingwebhookconfigurations", "get"] == [ADMISSION]
    assert named("ClusterRole", ADMISSION)["mutatingwebhookconfigurations", "get"] == [POD_GATE_WEBHOOK]
    # who may write it can have every object of the cluster sent to it: not where hostile texts are
    assert named("ClusterRole", OPERATOR)["validatingwebhookconfigurations", "patch"] == [ADMISSION]
    assert named("ClusterRole", OPERATOR)["mutatingwebhookconfigurations", "patch"] == [POD_GATE_WEBHOOK]


def test_the_webhook_is_where_its_configuration_says():
    (webhook,) = one("ValidatingWebhookConfiguration", ADMISSION)["webhooks"]
    service = one("Service", ADMISSION)
    pod = one("Deployment", ADMISSION)["spec"]["template"]
    assert webhook["clientConfig"]["service"] == {
        "namespace": service["metadata"]["namespace"],
        "name": service["metadata"]["name"],
        "path": REVIEW_PATH,
        "port": service["spec"]["ports"][0]["port"],
    }
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    port, _ = pod["spec"]["containers"][0]["ports"]
    assert port == {"name": service["spec"]["ports"][0]["targetPort"], "containerPort": PORT}
    assert webhook["failurePolicy"] == "Fail"
    (rule,) = webhook["rules"]
    assert (rule["apiGroups"], rule["resources"]) == ([GROUP], ["securityprofiles"])


def test_pods_are_held_up_by_nobody_who_is_away():
    webhooks = one("MutatingWebhookConfiguration", POD_GATE_WEBHOOK)["webhooks"]
    service = one("ValidatingWebhookConfiguration", ADMISSION)["webhooks"][0]["clientConfig"]["service"]
    paths = {}
    for each in webhooks:
        assert each["failurePolicy"] == "Ignore"
        assert each["timeoutSeconds"] == 3
        assert each["sideEffects"] == "None"
        assert each["reinvocationPolicy"] == "IfNeeded"
        assert {(rule["operations"][0], *rule["resources"], rule["scope"]) for rule in each["rules"]} == {
            ("CREATE", "pods", "Namespaced"),
            ("UPDATE", "pods/ephemeralcontainers", "Namespaced"),
        }
        assert all(rule["apiGroups"] == [""] and len(rule["operations"]) == 1 for rule in each["rules"])
        assert [one["name"] for one in each["matchConditions"]] == ["is-to-be-scheduled", "names-a-profile"]
        selector = each["namespaceSelector"]
        assert selector["matchLabels"] == {LABEL_POD_GATE: GATE_ENABLED}
        (unknown,) = selector["matchExpressions"]
        assert (unknown["key"], unknown["values"]) == (LABEL_UNKNOWN_PROFILE, [UNKNOWN_DENIED])
        paths[unknown["operator"]] = each["clientConfig"]["service"]
    assert paths == {"NotIn": {**service, "path": PODS_PATH}, "In": {**service, "path": PODS_DENY_PATH}}


def test_the_operator_opens_its_own_gate():
    """What the rules do is tried in tests/kube/test_guards.py; here, that they name what the code names."""
    policy = one("ValidatingAdmissionPolicy", "hauberk-own-gate-only")["spec"]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert (rule["operations"], rule["resources"]) == (["UPDATE"], ["pods"])
    (condition,) = policy["matchConditions"]
    assert f":{OPERATOR}'" in condition["expression"]
    (check,) = policy["validations"]
    assert f"name == '{POD_GATE}'" in check["expression"]
    assert f"key == '{LABEL_GATED}'" in check["expression"]


LIFTING = {"adopt", "allow-attachment", "allow-host-types", "force-delete"}


def test_each_role_of_people_takes_in_the_one_before():
    viewer, author, admin = (
        rules("ClusterRole", f"hauberk-{name}") for name in ("viewer", "author", "admin")
    )
    kinds = ("securityprofiles", "profilerevisions", "profilenodes")
    assert viewer == {(GROUP, kind, verb) for kind in kinds for verb in ("get", "list", "watch")}
    writing = ("create", "update", "patch", "delete")
    assert author - viewer == {(GROUP, "securityprofiles", verb) for verb in writing}
    assert admin - author == {(GROUP, "securityprofiles", verb) for verb in LIFTING}
    assert viewer < author < admin


def test_nobody_becomes_an_author_or_an_admin_by_a_role_of_the_clusters():
    aggregated = {
        each["metadata"]["name"]: set(each["metadata"]["labels"])
        for each in OBJECTS
        if each["kind"] == "ClusterRole" and "labels" in each["metadata"]
    }
    assert aggregated == {"hauberk-viewer": {"rbac.authorization.k8s.io/aggregate-to-view"}}


def test_no_program_has_a_verb_that_lifts_a_guard():
    for name in (OPERATOR, ADMISSION, AGENT, "hauberk-let-go"):
        assert not LIFTING & {verb for _, _, verb in rules("ClusterRole", name)}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ClusterRole", OPERATOR),
        ("Role", OPERATOR),
        ("ClusterRole", ADMISSION),
        ("ClusterRole", AGENT),
        ("Role", AGENT),
        ("ClusterRole", "hauberk-let-go"),
        ("ClusterRole", "hauberk-viewer"),
        ("ClusterRole", "hauberk-author"),
        ("ClusterRole", "hauberk-admin"),
    ],
)
def test_nobody_may_everything(kind: str, name: str):
    granted = rules(kind, name)
    assert not any("*" in part for rule in granted for part in rule)
    resources = {resource for _, resource, _ in granted}
    assert not resources & {
        "secrets",
        "pods/exec",
        "clusterroles",
        "clusterrolebindings",
        "serviceaccounts/token",
    }


def test_an_agent_writes_only_its_own_node():
    policy = one("ValidatingAdmissionPolicy", "hauberk-own-node-only")["spec"]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert {"CREATE", "UPDATE"} <= set(rule["operations"])
    assert rule["resources"] == ["profilenodes"]
    (condition,) = policy["matchConditions"]
    assert f":{AGENT}'" in condition["expression"]


def test_each_flag_that_lifts_a_guard_has_its_verb():
    """What the rules do is tried in tests/kube/test_guards.py; here it is that none is missing."""
    policy = one("ValidatingAdmissionPolicy", "hauberk-guarded-flags")["spec"]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert set(rule["operations"]) == {"CREATE", "UPDATE"}
    assert rule["resources"] == ["securityprofiles"]  # and not their status, which is the operator's
    assert "matchConditions" not in policy  # nobody is excepted
    checks = [each["expression"] for each in policy["validations"]]
    assert [verb for check in checks for verb in re.findall(r"check\('([a-z-]+)'\)", check)] == [
        "adopt",
        "allow-attachment",
        "allow-host-types",
        "force-delete",
    ]
    for each in policy["validations"]:
        assert each["reason"] == "Forbidden"
        assert each["message"].startswith("hauberk: ")
    variables = {each["name"]: each["expression"] for each in policy["variables"]}
    assert f"'{FORCE_DELETE}'" in variables["forced"]
    assert f"'{FORCE_DELETE}'" in variables["wasForced"]
    assert "oldObject.spec" in variables["adopted"]
    assert "oldObject.spec" in variables["attached"]
    assert "oldObject.spec" in variables["ofHostTypes"]


def test_every_policy_is_in_force():
    policies = {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "ValidatingAdmissionPolicy"}
    assert policies == {
        "hauberk-own-node-only",
        "hauberk-own-labels-only",
        "hauberk-own-gate-only",
        "hauberk-guarded-flags",
        "hauberk-accepted-only",
    }
    for name in policies:
        assert one("ValidatingAdmissionPolicy", name)["spec"]["failurePolicy"] == "Fail"
        binding = one("ValidatingAdmissionPolicyBinding", name)["spec"]
        assert binding == {"policyName": name, "validationActions": ["Deny"]}


def test_the_page_on_security_names_what_is_granted():
    page = (ROOT / "docs/explanation/security.md").read_text()
    for rule in one("ClusterRole", AGENT)["rules"] + one("Role", AGENT)["rules"]:
        assert f"| {', '.join(rule['verbs'])} `{rule['resources'][0]}` |" in page
    roles = {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "ClusterRole"} - {
        AGENT,
        OPERATOR,
        ADMISSION,
    }
    policies = {
        file.name
        for kustomization in DEPLOY.glob("*/kustomization.yaml")
        for file in kustomization.parent.glob("*.yaml")
        if any(each["kind"] == "ValidatingAdmissionPolicy" for each in yaml.safe_load_all(file.read_text()))
    }
    assert policies == {
        "own-node-only.yaml",
        "own-labels-only.yaml",
        "own-gate-only.yaml",
        "guarded-flags.yaml",
        "accepted-only.yaml",
    }
    for name in roles | policies | LIFTING:
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", [OPERATOR, ADMISSION])
def test_the_pods_of_deployments_are_confined(name: str):
    spec = one("Deployment", name)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all("emptyDir" in volume for volume in spec.get("volumes", []))


@pytest.mark.parametrize("name", [OPERATOR, ADMISSION])
def test_two_of_each_are_on_different_nodes(name: str):
    spec = one("Deployment", name)["spec"]
    assert spec["replicas"] == 2
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
    assert (spread["whenUnsatisfiable"], spread["maxSkew"]) == ("DoNotSchedule", 1)
    # nodes that are lost or closed are not counted: the last one that is left takes both
    assert spread["nodeTaintsPolicy"] == "Honor"


@pytest.mark.parametrize(
    ("name", "files"), [(OPERATOR, ("main.py", "agent_settings.py")), (ADMISSION, ("admission.py",))]
)
def test_each_is_given_every_setting_that_it_reads(name: str, files: tuple[str, ...]):
    (container,) = one("Deployment", name)["spec"]["template"]["spec"]["containers"]
    reads = {"os.environ.get": 0, "environment.get": 0, "number": 0, "settings.port": 1}  # which word is it
    read = {
        word.value
        for file in files
        for call in ast.walk(ast.parse((ROOT / "operator" / file).read_text()))
        if isinstance(call, ast.Call) and (at := reads.get(ast.unparse(call.func))) is not None
        if isinstance(word := call.args[at], ast.Constant)
    }
    assert read - OUTSIDE == {each["name"] for each in container["env"]}
