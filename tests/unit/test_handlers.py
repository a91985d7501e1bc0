"""What is asked of kopf, and what it is spared."""

from __future__ import annotations

from typing import Any

import kopf
from hauberk.operator import handlers
from hauberk.operator.cluster import PAGE


def test_it_lists_in_pages_and_lets_go_of_bodies_soon():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert settings.watching.chunk_size == PAGE
    assert settings.queueing.idle_timeout < 1


def test_it_copies_nothing_to_compare_with_and_writes_nothing_into_objects():
    settings, patch = kopf.OperatorSettings(), kopf.Patch()
    handlers.configure(settings)
    storage = settings.persistence.diffbase_storage
    body: Any = {"metadata": {"name": "n", "annotations": {"kopf.zalando.org/x": "y"}}, "spec": {"a": "b"}}
    assert storage.build(body=body) == {}
    assert storage.fetch(body=body) is None
    storage.store(body=body, patch=patch, essence={"spec": {}})
    assert dict(patch) == {}
