"""Which names a text seems to define before anyone parsed it."""

from __future__ import annotations

import pytest
from hauberk.crds.declared import declared
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX
from hypothesis import given
from hypothesis import strategies as st

LENGTH = 131_072


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ("", set[str]()),
        ("profile web { }", {"web"}),
        ("profile web flags=(attach_disconnected) {\n  file,\n}", {"web"}),
        ("\tprofile web /usr/bin/web {\n}", {"web"}),
        ('profile "my web" { }\nprofile b{ }', {"my web", "b"}),
        ("/usr/bin/web { }", {"/usr/bin/web"}),
        ('"/usr/bin/a web" flags=(complain) { }', {"/usr/bin/a web"}),
        ("#include <tunables/global>\nprofile a { /etc/b r, signal peer=c, }", {"a"}),
    ],
)
def test_profiles_are_declared_at_the_head_of_a_block(policy: str, names: set[str]):
    assert declared(APPARMOR, policy) == names


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ("(block web (type process))", {"web"}),
        ("(block\n web)(block shop_b (block inner))", {"web", "shop_b", "inner"}),
        ("(blockinherit container)(allow web.process self (file (read)))", set[str]()),
    ],
)
def test_blocks_are_declared_by_their_word(policy: str, names: set[str]):
    assert declared(SELINUX, policy) == names


def test_seccomp_profiles_declare_nothing():
    assert declared(SECCOMP, '{"profile x {": 1}') == frozenset()


@pytest.mark.parametrize(
    "piece", ["profile ", "profile a ", "\n", "\n ", " ", '"', "(block ", "( ", "a", "profile a\t"]
)
@pytest.mark.parametrize("kind", [APPARMOR, SELINUX])
def test_no_text_keeps_the_search_busy(kind: str, piece: str):
    """It would be seen by the time that the whole takes: a square of the length is minutes."""
    declared.__wrapped__(kind, (piece * LENGTH)[:LENGTH])


@given(st.text(), st.sampled_from([APPARMOR, SELINUX]))
def test_any_text_is_read(policy: str, kind: str):
    assert "" not in declared(kind, policy)
