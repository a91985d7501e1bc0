"""The admission as a process behind a real API server: what `kubectl apply` says, and who may what."""

from __future__ import annotations

import base64
import signal
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hauberk.crds.names import ADMISSION, ADMISSION_AUTHORITY, OPERATOR
from hauberk.operator import certificates
from kubernetes import client

from tests.kube.accounts import SYSTEM, Accounts
from tests.kube.conftest import Kubectl, Said
from tests.kube.operating import GROUP, POLICY, VERSION, Cluster, eventually, publish

DENIED = 'admission webhook "securityprofiles.hauberk.dev" denied the request: '
QUIET = (
    "profile {name} flags=(attach_disconnected) {{\n  file,\n  signal (receive) peer=runc,\n"
    "  signal (receive) peer=crun,\n  signal (receive) peer=unconfined,\n}}\n"
)


def document(name: str, policy: str = "", **spec: Any) -> dict[str, Any]:
    mode = spec.pop("mode", "Enforce")
    text = policy or QUIET.format(name=name)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": {"type": "AppArmor", "appArmor": {"policy": text, "mode": mode}, **spec},
    }


def apply(kubectl: Kubectl, body: dict[str, Any], *options: str) -> Said:
    return kubectl("apply", *options, "-f", "-", given=body)


# --- what is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--dry-run=server",), ("--server-side",)], ids=str)
def test_a_bad_text_is_refused_with_the_parsers_line(
    webhook: Cluster, kubectl: Kubectl, options: tuple[str, ...]
):
    said = apply(kubectl, document("bad", "profile bad {\n  file,\n  bogus rule,\n}\n"), *options)
    assert said.code == 1
    assert f"{DENIED}apparmor_parser refuses the policy: line 3: syntax error" in said.stderr
    assert webhook.is_gone("securityprofiles", "bad")


def test_a_bad_update_is_refused_and_a_good_one_published(webhook: Cluster, kubectl: Kubectl):
    first = publish(webhook, "updated")
    said = apply(kubectl, document("updated", "profile updated {\n"))
    assert DENIED in said.stderr
    assert webhook.ready("updated") == ("True", "Ready")
    apply_ok(kubectl, document("updated"))
    eventually(lambda: webhook.revisions("updated")[0]["spec"]["content"]["digest"] != first)


def apply_ok(kubectl: Kubectl, body: dict[str, Any], *options: str) -> str:
    said = apply(kubectl, body, *options)
    assert said.code == 0, said.stderr
    return said.stderr


def test_what_is_probably_not_meant_is_warned_of(webhook: Cluster, kubectl: Kubectl):
    assert webhook.port
    assert apply_ok(kubectl, document("quiet")) == ""
    said = apply_ok(kubectl, document("loud", "profile loud {\n  file,\n}\n", mode="Complain"))
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 3
    assert "no rule lets the runtime stop a pod" in said
    assert "lacks flags=(attach_disconnected)" in said
    assert "mode Complain denies nothing" in said


MODULE = "(block web (type process) (type data) (allow process data (file (read))))"
FILTER = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'


def of_type(kind: str, name: str, policy: str, **block: Any) -> dict[str, Any]:
    key = {"SELinux": "selinux", "Seccomp": "seccomp"}[kind]
    return document(name) | {"spec": {"type": kind, key: {"policy": policy, **block}}}


@pytest.mark.parametrize(
    ("kind", "policy", "names", "accepted"),
    [
        ("SELinux", MODULE, ["web.process", "web.data"], "the policy defines 2 types"),
        ("SELinux", "(block base (blockabstract base))", ["base"], "the policy defines 1 "),
        ("Seccomp", FILTER, [], ""),
    ],
)
def test_each_type_is_taken_and_published(
    webhook: Cluster, kubectl: Kubectl, *, kind: str, policy: str, names: list[str], accepted: str
):
    assert apply_ok(kubectl, of_type(kind, "typed", policy)) == ""
    (revision,) = eventually(lambda: webhook.revisions("typed"))
    assert revision["spec"]["type"] == kind
    (text,) = revision["spec"]["content"]["texts"]
    assert (text["text"], text["names"]) == (policy, names)
    assert accepted in webhook.message("typed", "Accepted")
    # no node of this cluster can hold it, and that is no fault of the profile's
    eventually(lambda: webhook.ready("typed") == ("False", "NoNodes"))


def test_what_a_module_is_asked_to_be_is_published(webhook: Cluster, kubectl: Kubectl):
    asked = {"mode": "Permissive", "requires": ["base", "more"], "allowHostTypes": True}
    said = apply_ok(kubectl, of_type("SELinux", "asked", MODULE, **asked))
    assert "Warning: spec.selinux.mode is Permissive: what the policy does not allow is logged" in said
    (revision,) = eventually(lambda: webhook.revisions("asked"))
    content = revision["spec"]["content"]
    assert {key: content[key] for key in asked} == asked


@pytest.mark.parametrize(
    ("kind", "policy", "block", "sentence"),
    [
        ("SELinux", "(block x (type t)", {}, "line 1"),
        (
            "SELinux",
            "(block x (type t)\n  (allow init_t t (file (read))))",
            {},
            "line 2: allow is about init_t, which the module does not declare",
        ),
        ("SELinux", "(typepermissive init_t)", {}, "typepermissive"),
        (
            "SELinux",
            "(block x (blockabstract x))",
            {"mode": "Permissive"},
            "the module declares no type that could be permissive; leave spec.selinux.mode out",
        ),
        ("Seccomp", "{", {}, "the seccomp profile is refused: no JSON: line 1"),
        (
            "Seccomp",
            FILTER.replace("mkdir", "mkdri"),
            {},
            "the seccomp profile is refused: there is no system call mkdri",
        ),
        ("Seccomp", '{"defaultAction": "SCMP_ACT_ALLOW"}', {}, "the policy filters nothing"),
    ],
)
def test_each_types_judge_is_heard(
    webhook: Cluster, kubectl: Kubectl, *, kind: str, policy: str, block: dict[str, Any], sentence: str
):
    said = apply(kubectl, of_type(kind, "judged", policy, **block))
    assert said.code == 1
    assert DENIED in said.stderr
    assert sentence in said.stderr
    assert webhook.is_gone("securityprofiles", "judged")


def test_what_came_past_the_webhook_is_judged_whatever_its_type(cluster: Cluster):
    bad = FILTER.replace("mkdir", "mkdri")
    cluster.api.create_cluster_custom_object(
        GROUP, VERSION, "securityprofiles", of_type("Seccomp", "past-too", bad)
    )
    eventually(lambda: cluster.ready("past-too") == ("False", "PolicyRefused"))
    assert "there is no system call mkdri" in cluster.message("past-too", "Accepted")
    assert not cluster.revisions("past-too")


def test_names_are_taken_within_a_type_alone(webhook: Cluster, kubectl: Kubectl):
    apply_ok(kubectl, document("web.process", "profile web.process flags=(attach_disconnected) { file, }"))
    apply_ok(kubectl, of_type("SELinux", "module", MODULE))
    for name in ("web.process", "module"):
        eventually(lambda name=name: webhook.revisions(name))
    said = apply(kubectl, of_type("SELinux", "other", "(block web (type process))"))
    assert f"{DENIED}SecurityProfile module already holds the kernel name web.process" in said.stderr
    assert "a kernel has one type of a name" in said.stderr


def test_a_template_is_judged_for_the_nodes_that_there_are(webhook: Cluster, kubectl: Kubectl):
    policy = QUIET.format(name="kinds") + "# {{ values.none }}\n"
    said = apply(kubectl, document("kinds", policy, template={}))
    assert f"{DENIED}for an unknown system" in said.stderr
    assert "jinja2 refuses the template: line 7: 'none' is not there" in said.stderr
    assert webhook.is_gone("securityprofiles", "kinds")


def test_a_name_that_another_profile_holds_is_refused(webhook: Cluster, kubectl: Kubectl):
    publish(webhook, "holder")
    said = apply(kubectl, document("other", POLICY.format(name="holder", folder="/x")))
    assert f"{DENIED}SecurityProfile holder already holds the kernel name holder" in said.stderr


def test_what_leaves_the_spec_as_it_is_is_not_asked_about(webhook: Cluster, kubectl: Kubectl):
    """Finalizers come off, labels go on, and deletions complete, whoever is there to ask."""
    publish(webhook, "labelled")
    webhook.stop_admission()
    kubectl.ok("label", "secprof", "labelled", "team=web")
    kubectl.ok("annotate", "secprof", "labelled", "note=yes")
    said = apply(kubectl, document("labelled"))
    assert "failed calling webhook" in said.stderr  # closed: nobody would have looked at it
    kubectl.ok("delete", "secprof", "labelled", "--wait=false")
    change = {"metadata": {"finalizers": None}}
    webhook.api.patch_cluster_custom_object(GROUP, VERSION, "securityprofiles", "labelled", change)
    eventually(lambda: webhook.is_gone("securityprofiles", "labelled"))
    webhook.start()


def test_a_large_update_fits_into_a_question(webhook: Cluster, kubectl: Kubectl):
    """Both objects, each with kubectl's copy of it: more than the mebibyte that servers take by default."""
    long = "  # " + '"quoted" \\ and escaped\\n' * 4 + "\n"
    filler = long * ((118 * 1024) // len(long))
    for number in range(2):
        body = document(
            "large", QUIET.format(name="large").replace("{\n", "{\n" + filler, 1) + f"# {number}\n"
        )
        apply_ok(kubectl, body)
    assert len(webhook.get("securityprofiles", "large")["spec"]["appArmor"]["policy"]) > 110 * 1024


def test_a_text_that_was_let_in_is_judged_no_second_time_to_be_published(webhook: Cluster, kubectl: Kubectl):
    apply_ok(kubectl, document("once"))
    eventually(lambda: webhook.revisions("once"))
    assert webhook.message("once", "Accepted") == "the policy defines 1 profile"


# --- what came past it -----------------------------------------------------------------------------


def test_what_came_past_the_webhook_is_refused_in_the_status(cluster: Cluster):
    cluster.apply("past", policy="profile past {\n  bogus\n}\n")
    eventually(lambda: cluster.ready("past") == ("False", "PolicyRefused"))
    assert cluster.message("past", "Accepted").startswith("apparmor_parser refuses the policy: line 3: ")
    assert not cluster.revisions("past")


def test_nothing_is_published_without_the_admission_and_all_of_it_afterwards(cluster: Cluster):
    cluster.stop_admission(signal.SIGKILL)
    cluster.apply("waiting")
    eventually(lambda: cluster.message("waiting") == "the policy is being checked")
    cluster.start()
    eventually(lambda: cluster.revisions("waiting"))


def test_a_deletion_waits_for_the_admission_to_withdraw(cluster: Cluster):
    digest = publish(cluster, "leaving")
    cluster.stop_admission(signal.SIGKILL)
    cluster.delete("securityprofiles", "leaving")
    eventually(lambda: cluster.ready("leaving") == ("False", "Terminating"))
    for node in ("one", "two"):
        cluster.report(node)  # as if an agent had unloaded it: the object stays all the same
    assert not cluster.is_gone("securityprofiles", "leaving")
    assert cluster.revisions("leaving")[0]["spec"]["content"]["digest"] == digest
    cluster.start()
    eventually(lambda: cluster.is_gone("securityprofiles", "leaving"))
    eventually(lambda: not cluster.revisions("leaving"))


# --- its authority ---------------------------------------------------------------------------------


def kept(cluster: Cluster) -> tuple[list[bytes], bytes]:
    """Return the authorities that the Secret has, the current one first, and its key."""
    secret: Any = cluster.core.read_namespaced_secret(ADMISSION, SYSTEM)
    data = {name: base64.b64decode(value) for name, value in (secret.data or {}).items()}
    return certificates.split(data.get("ca.crt", b"")), data.get("ca.key", b"")


def shown(cluster: Cluster) -> list[bytes]:
    """Return the authorities that the operator is shown, without a key."""
    found: Any = cluster.core.read_namespaced_config_map(ADMISSION_AUTHORITY, SYSTEM)
    assert found.data.keys() == {"ca.crt"}
    return certificates.split(found.data["ca.crt"].encode())


def keep(cluster: Cluster, authorities: list[bytes], key: bytes) -> None:
    data = {"ca.crt": b"".join(authorities), "ca.key": key}
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    cluster.core.patch_namespaced_secret(ADMISSION, SYSTEM, {"data": encoded})


def served(cluster: Cluster) -> bytes:
    return ssl.get_server_certificate(("localhost", cluster.port), timeout=5).encode()


def is_asked(kubectl: Kubectl) -> bool:
    return DENIED in apply(kubectl, document("probe", "broken"), "--dry-run=server").stderr


def test_an_old_authority_is_replaced_without_a_moment_of_distrust(webhook: Cluster, kubectl: Kubectl):
    old, key = certificates.new_authority(datetime.now(UTC) - timedelta(days=300))
    webhook.stop_admission()
    keep(webhook, [old], key)
    webhook.start()
    # it began with the old one? no: it made its successor at once, and shows both
    (new, before) = eventually(lambda: len(found := kept(webhook)[0]) == 2 and found)
    assert before == old
    eventually(lambda: shown(webhook) == [new, old])
    eventually(lambda: is_asked(kubectl))
    first = served(webhook)

    # someone else, another replica, makes the next one: this one goes over to it once it is trusted
    newer, key = certificates.new_authority(datetime.now(UTC))
    keep(webhook, [newer, new], key)
    refused = 0
    while served(webhook) == first:
        refused += not is_asked(kubectl)
    assert refused == 0
    eventually(lambda: is_asked(kubectl))


def test_a_secret_with_nonsense_in_it_is_made_anew(webhook: Cluster, kubectl: Kubectl):
    webhook.stop_admission()
    keep(webhook, [b"nonsense"], b"nonsense")
    webhook.start()
    eventually(lambda: len(kept(webhook)[0]) == 1 and is_asked(kubectl))


def test_two_replicas_share_one_authority(webhook: Cluster, kubectl: Kubectl, tmp_path_factory: Any):
    authorities, _ = kept(webhook)
    other = Cluster(webhook.api, webhook.core, webhook.folder)
    other.admission_log = tmp_path_factory.mktemp("other") / "admission.log"
    settings = {
        "WEBHOOK_PORT": str(other.port),
        "WEBHOOK_NAMES": "localhost",
        "POD_NAME": "another",
        "LINGER_SECONDS": "0",
    }
    other.admission = other.run("admission", ADMISSION, other.admission_log, **settings)
    try:
        certificate = eventually(lambda: served(other) if listens(other) else b"")
        assert kept(webhook)[0] == authorities
        assert certificate != served(webhook)
        # the one that leads is killed: the other one publishes, after the time that a Lease lasts
        webhook.stop_admission(signal.SIGKILL)
        kubectl.ok("delete", f"validatingwebhookconfiguration/{ADMISSION}")
        eventually(lambda: apply(kubectl, document("taken-over")).code == 0)
        eventually(lambda: webhook.revisions("taken-over"))
        assert "Traceback" not in other.admission_log.read_text()
    finally:
        other.stop_admission()
        shipped = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        kubectl("create", "-f", "-", given={**shipped, "metadata": {"name": ADMISSION}})


def listens(cluster: Cluster) -> bool:
    try:
        served(cluster)
    except OSError:
        return False
    return True


# --- who may what ----------------------------------------------------------------------------------

HAUBERK = f"/apis/{GROUP}/{VERSION}"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
# Everything that would be worth having to who got out of the parser or the renderer.
NOT_FOR_THE_ADMISSION = [
    ("POST", f"/api/v1/namespaces/{SYSTEM}/pods"),
    ("POST", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets"),
    ("PATCH", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/hauberk-agent"),
    ("PATCH", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{ADMISSION}"),
    ("POST", f"/api/v1/namespaces/{SYSTEM}/secrets"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/other"),
    ("DELETE", f"/api/v1/namespaces/{SYSTEM}/secrets/{ADMISSION}"),
    ("GET", "/api/v1/secrets"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/pods"),
    ("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{OPERATOR}/token"),
    ("POST", "/api/v1/namespaces/default/events"),
    ("POST", f"{HAUBERK}/securityprofiles"),
    ("PATCH", f"{HAUBERK}/securityprofiles/any"),
    ("DELETE", f"{HAUBERK}/securityprofiles/any"),
    ("PATCH", f"{HAUBERK}/profilenodes/any"),
    ("PATCH", f"{WEBHOOKS}/{ADMISSION}"),
    ("POST", WEBHOOKS),
]
NOT_FOR_THE_OPERATOR = [
    ("POST", f"{HAUBERK}/profilerevisions"),
    ("PATCH", f"{HAUBERK}/profilerevisions/any"),
    ("PUT", f"{HAUBERK}/profilerevisions/any"),
    ("DELETE", f"{HAUBERK}/profilerevisions/any"),
    ("DELETE", f"{HAUBERK}/profilerevisions"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/{ADMISSION}"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets"),
    ("PATCH", f"{WEBHOOKS}/other"),
    ("POST", WEBHOOKS),
]


@pytest.mark.parametrize(
    ("account", "asked"),
    [(ADMISSION, NOT_FOR_THE_ADMISSION), (OPERATOR, NOT_FOR_THE_OPERATOR)],
    ids=[ADMISSION, OPERATOR],
)
def test_what_is_not_for_it_is_refused(accounts: Accounts, account: str, asked: list[tuple[str, str]]):
    token = accounts.token(account, SYSTEM)
    eventually(lambda: accounts.ask(token, "GET", f"{HAUBERK}/securityprofiles") == 200)
    assert {one: accounts.ask(token, *one) for one in asked} == dict.fromkeys(asked, 403)


def test_the_admission_reads_its_own_secret(accounts: Accounts):
    token = accounts.token(ADMISSION, SYSTEM)
    path = f"/api/v1/namespaces/{SYSTEM}/secrets/{ADMISSION}"
    eventually(lambda: accounts.ask(token, "GET", path) == 200)


def test_the_admission_calls_no_profile_ready(cluster: Cluster, accounts: Accounts):
    cluster.apply("lied-about")
    eventually(lambda: cluster.revisions("lied-about") and cluster.message("lied-about", "Ready"))
    custom = client.CustomObjectsApi(accounts.connect(accounts.token(ADMISSION, SYSTEM)))
    body = cluster.get("securityprofiles", "lied-about")
    now = body["status"]["conditions"][0]["lastTransitionTime"]
    said = {"status": "True", "reason": "Ready", "message": "", "lastTransitionTime": now}
    conditions = [one for one in body["status"]["conditions"] if one["type"] != "Ready"]
    lies = [
        {"conditions": [*conditions, {"type": "Ready", **said}]},
        {"conditions": [one for one in body["status"]["conditions"] if one["type"] == "Accepted"]},
        {"summary": {"ready": "9/9"}},
        {"nodes": {"ready": 9}},
        {"reference": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}},
        {"observedGeneration": 9},
    ]
    for lie in lies:
        with pytest.raises(client.ApiException) as caught:
            custom.patch_cluster_custom_object_status(
                GROUP, VERSION, "securityprofiles", "lied-about", {"status": lie}
            )
        assert "the admission may write the condition Accepted and nothing else" in str(caught.value.body)
