"""One SecurityProfile, a text of its own for each kind of node, in each node's kernel."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import (
    apply,
    eventually,
    expected_hash,
    get,
    kernel,
    kubectl,
    lab,
    ok,
    past_the_webhook,
    pod,
    profile,
    ready,
    refused,
    start,
    wait_ready,
)

POLICY = """{% from 'apparmor.j2' import runtime %}
profile NAME flags=(attach_disconnected) {
  file,
  network,
  capability,
{{ runtime() }}
{% if 'network_v8' in apparmor.features %}
  deny network raw,
{% endif %}
  deny {{ values.folders[node.os.version] | aa_path('/**') }} w,
}
"""
FOLDERS = {"12": "/tmp", "13": "/var/tmp"}


def templated(name: str, **values: object) -> dict[str, object]:
    return profile(name, POLICY.replace("NAME", name), template={"values": values})


def text_of(name: str, node: str) -> str:
    """Return the text that a revision has for a node, found by what the kernel of the node should hold."""
    (revision,) = get("profrev", f"--selector=hauberk.dev/profile={name}")["items"]
    texts = [one["text"] for one in revision["spec"]["content"]["texts"]]
    folder = FOLDERS[{"debian12": "12", "debian13": "13"}[node]]
    (found,) = [one for one in texts if f'"{folder}/**"' in one]
    return found


def test_each_node_holds_the_text_for_its_kind():
    apply(templated("many", folders=FOLDERS))
    body = wait_ready("many")
    assert body["status"]["nodes"]["ready"] == 2
    for node in ("debian12", "debian13"):
        assert kernel(node)["many"] == ("enforce", expected_hash(node, text_of("many", node)))
    assert kernel("debian12")["many"] != kernel("debian13")["many"]
    facts = get("profilenode", "debian13")["status"]["facts"]
    assert facts["os"]["version"] == "13"
    assert "network_v8" in facts["appArmor"]["features"]
    assert facts["runtime"]["name"] == "containerd"

    start(pod("on-12", "debian12", "many"), pod("on-13", "debian13", "many"))
    for name, denied, free in (("on-12", "/tmp/x", "/var/tmp/x"), ("on-13", "/var/tmp/x", "/tmp/x")):
        ok(kubectl("exec", name, "--", "sh", "-c", "mkdir -p /var/tmp"))
        said = kubectl("exec", name, "--", "touch", denied)
        assert f"touch: {denied}: Permission denied" in said.stderr
        ok(kubectl("exec", name, "--", "touch", free))


@pytest.mark.long
def test_a_node_of_a_new_kind_gets_its_own_text():
    """The first text is for one kind only: the other node counts as a new one when its kind is let in."""
    apply(templated("later", folders=FOLDERS))
    wait_ready("later")
    name = ok(lab("add", "debian13")).strip().splitlines()[-1]
    try:
        ok(lab("load", "build/image.tar"))
        eventually(lambda: get("secprof", "later")["status"]["nodes"]["ready"] == 3, within=120)
        assert kernel(name)["later"] == kernel("debian13")["later"]
        assert kernel(name)["later"] != kernel("debian12")["later"]
    finally:
        ok(lab("remove", name))


def test_a_template_that_fails_for_one_kind_of_node_fails_for_its_nodes_only():
    apply(templated("partly", folders=FOLDERS))
    wait_ready("partly")
    before = kernel("debian12")["partly"]
    apply(templated("partly", folders={"13": "/srv"}))
    eventually(lambda: ready("partly")[:2] == ("False", "NodesFailed"))
    eventually(lambda: get("secprof", "partly")["status"]["nodes"]["ready"] == 1)
    status = get("secprof", "partly")["status"]
    (failure,) = status["failures"]
    assert (failure["node"], failure["reason"]) == ("debian12", "TemplateRefused")
    assert "'12' is not there" in failure["message"]
    assert kernel("debian12")["partly"] == before  # the last good stays

    apply(templated("partly", folders={"12": "/srv", "13": "/srv"}))
    wait_ready("partly")
    assert kernel("debian12")["partly"] != before


def test_a_hostile_template_is_refused_in_its_time():
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert "took over 2 seconds" in refused(profile("endless", endless, template={}))
    with past_the_webhook():
        apply(profile("endless", endless, template={}))
    apply(templated("meanwhile", folders=FOLDERS))
    wait_ready("meanwhile")
    eventually(lambda: ready("endless")[:2] == ("False", "PolicyTooSlow"))
