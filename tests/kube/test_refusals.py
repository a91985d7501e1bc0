"""What `kubectl apply` says of each file in tests/golden: rejected by the schema, or by the admission."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.golden_files import Case, accepted, rejected
from tests.kube.conftest import Kubectl, Said
from tests.kube.operating import Cluster, eventually

DENIED = 'admission webhook "securityprofiles.hauberk.dev" denied the request: '


@pytest.mark.parametrize("case", rejected("schema"), ids=lambda case: case.name)
def test_the_api_server_refuses_it_in_words_that_help(kubectl: Kubectl, case: Case):
    said = kubectl("apply", "--dry-run=server", "-f", str(case.file))
    assert said.code == 1, said.stdout
    assert case.expect in said.stderr


def test_the_admission_refuses_the_others_in_words_that_help(webhook: Cluster, kubectl: Kubectl):
    """All in one test, and several at once: starting what answers takes longer than most of the answers."""
    assert webhook.port
    asked = rejected("webhook")

    def answer(case: Case) -> Said:
        return kubectl("apply", "-f", str(case.file))

    with ThreadPoolExecutor(4) as pool:
        answers = list(zip(asked, pool.map(answer, asked), strict=True))
    wrong = {
        case.name: said.stderr or said.stdout
        for case, said in answers
        if DENIED not in said.stderr or case.expect not in said.stderr
    }
    assert wrong == {}
    assert kubectl.ok("get", "secprof", "-o", "name").stdout == ""


def test_what_is_good_is_taken_and_published(webhook: Cluster, kubectl: Kubectl):
    kubectl.ok("apply", *(word for case in accepted() for word in ("-f", str(case.file))))
    for case in accepted():
        (revision,) = eventually(lambda case=case: webhook.revisions(case.name))
        published = {name for text in revision["spec"]["content"]["texts"] for name in text["names"]}
        assert published == set(case.names)
        spec = webhook.get("securityprofiles", case.name)["spec"]
        assert spec["appArmor"]["mode"] in ("Enforce", "Complain")  # what is not said is filled in
        assert spec["suspend"] is False
