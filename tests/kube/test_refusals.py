"""What `kubectl apply` says of each file in tests/golden: rejected by the schema, or left to Hauberk."""

from __future__ import annotations

import pytest

from tests.golden_files import Case, accepted, rejected
from tests.kube.conftest import Kubectl


@pytest.mark.parametrize("case", rejected("schema"), ids=lambda case: case.name)
def test_the_api_server_refuses_it_in_words_that_help(kubectl: Kubectl, case: Case):
    said = kubectl("apply", "--dry-run=server", "-f", str(case.file))
    assert said.code == 1, said.stdout
    assert case.expect in said.stderr


@pytest.mark.parametrize("case", rejected("webhook"), ids=lambda case: case.name)
def test_the_api_server_has_nothing_against_what_hauberk_has_to_refuse(kubectl: Kubectl, case: Case):
    kubectl.ok("apply", "--dry-run=server", "-f", str(case.file))


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
def test_the_api_server_takes_what_hauberk_takes(kubectl: Kubectl, case: Case):
    kubectl.ok("apply", "--dry-run=server", "-f", str(case.file))
