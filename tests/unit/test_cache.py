"""Compiled policy on the node's disk: only what is whole and of the very same source is an entry."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from hauberk.daemonset.cache import Cache, Compiled
from hauberk.daemonset.host import Host
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import Tree, contents

TEXT, BINARY = "profile p { }", b"\0compiled\xff"


@pytest.fixture
def cache(tree: Tree) -> Cache:
    return Cache(tree.host, "compiler")


@pytest.mark.parametrize("slow", [True, False])
def test_what_was_put_is_found(cache: Cache, slow: bool):
    put = cache.put(TEXT, "Enforce", BINARY, slow=slow)
    assert list(contents(cache.folder).values()) == [BINARY]
    assert cache.find(TEXT, "Enforce") == put == Compiled(BINARY, slow)
    assert cache.put(TEXT, "Enforce", BINARY, slow=slow) == put
    assert len(contents(cache.folder)) == 1


@given(text=st.text(max_size=30), binary=st.binary(max_size=30), slow=st.booleans())
def test_any_text_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, text: str, binary: bytes, slow: bool
):
    cache = Cache(Host(state=tmp_path_factory.getbasetemp() / "cached"), "compiler")
    cache.keep([])
    assert cache.find(text, "Enforce") is None
    put = cache.put(text, "Enforce", binary, slow=slow)
    assert cache.find(text, "Enforce") == put
    assert put.binary == binary


@pytest.mark.parametrize(
    ("compiler", "text", "mode"),
    [
        ("another", TEXT, "Enforce"),
        ("compiler", TEXT + " ", "Enforce"),
        ("compiler", TEXT, "Complain"),
        ("compiler\0Enforce", TEXT, ""),
        ("", f"{TEXT}", "compiler\0Enforce"),
    ],
)
def test_of_another_source_nothing_is_found(cache: Cache, compiler: str, text: str, mode: str):
    put = cache.put(TEXT, "Enforce", BINARY, slow=False)
    assert Cache(cache.host, compiler).find(text, mode) is None
    assert cache.find(TEXT, "Enforce") == put  # and it was not deleted for that


def spoil(cache: Cache, content: bytes) -> Path:
    cache.put(TEXT, "Enforce", BINARY, slow=False)
    (file,) = cache.folder.iterdir()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    "content", [BINARY[:-1], BINARY + b"\0", BINARY.swapcase(), b"", b"\0" * len(BINARY)]
)
def test_a_torn_or_changed_file_is_no_entry_and_is_deleted(cache: Cache, content: bytes):
    file = spoil(cache, content)
    assert cache.find(TEXT, "Enforce") is None
    assert not file.exists()
    put = cache.put(TEXT, "Enforce", BINARY, slow=False)
    assert cache.find(TEXT, "Enforce") == put


@pytest.mark.parametrize(
    "name",
    [
        *("{key}", "{key}.", "{key}.x", "{key}.x.quick", "{key}.X.quick", "{key} {sha}"),
        *("{key}.{sha}", "{key}.{sha}.x", "{key}.{sha}.QUICK", "{key}.{sha}.quick.x", "{key}x.{sha}.quick"),
    ],
)
def test_a_file_that_is_named_like_no_entry_is_none_and_is_deleted(tree: Tree, cache: Cache, name: str):
    digest = hashlib.sha256(BINARY).hexdigest()
    file = tree.put(cache.folder / name.format(key=cache.key(TEXT, "Enforce"), sha=digest), BINARY)
    assert cache.find(TEXT, "Enforce") is None
    put = cache.put(TEXT, "Enforce", BINARY, slow=False)
    assert cache.find(TEXT, "Enforce") == put
    cache.keep([(TEXT, "Enforce")])
    assert not file.exists()
    assert cache.find(TEXT, "Enforce") == put


@pytest.mark.parametrize("name", ["README", "lost+found", "Ä", "a b", "-"])
def test_a_foreign_file_is_swept_out_and_stops_nothing(tree: Tree, cache: Cache, name: str):
    """To fail over it would end the agent each time that it tidies up."""
    foreign = tree.put(cache.folder / name, "x")
    put = cache.put(TEXT, "Enforce", BINARY, slow=False)
    cache.keep([(TEXT, "Enforce")])
    assert not foreign.exists()
    assert cache.find(TEXT, "Enforce") == put


def test_a_folder_in_the_cache_stops_nothing(cache: Cache):
    (cache.folder / "0").mkdir(parents=True)
    (cache.folder / f"{cache.key(TEXT, 'Enforce')}.x.quick").mkdir()
    assert cache.find(TEXT, "Enforce") is None
    cache.put("other", "Enforce", BINARY, slow=False)
    cache.keep([])
    assert contents(cache.folder) == {}


def test_what_can_not_be_deleted_is_passed_over(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    """On a disk that became read-only a torn entry costs a compilation, not the profile."""
    spoil(cache, b"torn")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    assert cache.find(TEXT, "Enforce") is None
    cache.keep([])


def test_only_what_is_kept_stays(cache: Cache):
    for text in ("a", "b", "c"):
        for mode in ("Enforce", "Complain"):
            cache.put(text, mode, text.encode(), slow=False)
    cache.keep([("a", "Enforce"), ("b", "Complain"), ("unknown", "Enforce")])
    found = {(text, mode) for text in "abc" for mode in ("Enforce", "Complain") if cache.find(text, mode)}
    assert found == {("a", "Enforce"), ("b", "Complain")}
    assert len(contents(cache.folder)) == 2
    cache.keep([])
    assert contents(cache.folder) == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_costs_time_and_nothing_else(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, code: int
):
    def refused(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(Path, "open", refused)
    assert cache.put(TEXT, "Enforce", BINARY, slow=True) == Compiled(BINARY, slow=True)
    monkeypatch.undo()
    assert cache.find(TEXT, "Enforce") is None


def test_without_a_folder_there_is_nothing(cache: Cache):
    assert cache.find(TEXT, "Enforce") is None
    cache.keep([])
    assert not cache.folder.exists()
