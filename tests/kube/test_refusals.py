"""`kubectl apply` of every file in tests/golden/rejected and tests/golden/accepted, as authors would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.golden_files import Case, cases
from tests.kube.conftest import Kubectl, Said
from tests.kube.operating import Cluster

DENIED = 'admission webhook "securityprofiles.hauberk.dev" denied the request: '
ACCEPTED = cases("accepted")


@pytest.mark.parametrize("case", cases("rejected", by="schema"), ids=lambda case: case.name)
def test_the_wrong_shape_is_refused(kubectl: Kubectl, case: Case):
    said = kubectl("apply", "--dry-run=server", "-f", str(case.path))
    assert said.code == 1
    assert case.said["expect"] in said.stderr


def test_a_bad_policy_is_refused(webhook: Cluster, kubectl: Kubectl):
    """All in one test, and several at once: starting what answers takes longer than any of the answers."""
    assert webhook.port
    asked = cases("rejected", by="webhook")

    def refused(case: Case) -> Said:
        return kubectl("apply", "-f", str(case.path))

    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip((case.name for case in asked), pool.map(refused, asked), strict=True))
    wrong = {
        case.name: answers[case.name].stderr or answers[case.name].stdout
        for case in asked
        if not (DENIED in answers[case.name].stderr and case.said["expect"] in answers[case.name].stderr)
    }
    assert wrong == {}
    assert kubectl.ok("get", "secprof", "-o", "name").stdout == ""


def test_a_good_policy_is_taken(webhook: Cluster, kubectl: Kubectl):
    kubectl.ok("apply", *(word for case in ACCEPTED for word in ("-f", str(case.path))))
    for case in ACCEPTED:
        stored = webhook.get("securityprofiles", case.name)
        assert stored["spec"]["appArmor"]["mode"] in ("Enforce", "Complain")  # what is not said is filled in
        assert stored["spec"]["suspend"] is False
