"""What a pod names: by the kubelet's rules, in fields and in the old annotations."""

from __future__ import annotations

from typing import Any

import pytest
from hauberk.crds.models import decode
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX
from hauberk.crds.pods import APPARMOR_ANNOTATION, Choice, Named, PodObject, choices, named
from hypothesis import given
from hypothesis import strategies as st

SORTS = ("initContainers", "containers", "ephemeralContainers")
# Each type's field with a way to name `web` in it, and where the name then stands.
FIELDS = {
    APPARMOR: ("appArmorProfile", {"type": "Localhost", "localhostProfile": "web"}, "localhostProfile"),
    SELINUX: ("seLinuxOptions", {"type": "web", "level": "s0:c1"}, "type"),
    SECCOMP: ("seccompProfile", {"type": "Localhost", "localhostProfile": "web"}, "localhostProfile"),
}
TYPES = pytest.mark.parametrize("kind", [APPARMOR, SELINUX, SECCOMP])


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> PodObject:
    return decode(PodObject, {"metadata": {"annotations": annotations or {}}, "spec": spec})


def context(kind: str, said: dict[str, Any] | None = None) -> dict[str, Any]:
    field, naming, _ = FIELDS[kind]
    return {"securityContext": {field: said or naming}}


def container(name: str, *contexts: dict[str, Any]) -> dict[str, Any]:
    together = {key: value for one in contexts for key, value in one["securityContext"].items()}
    return {"name": name, "securityContext": together} if contexts else {"name": name}


def where(kind: str, path: str) -> str:
    field, _, end = FIELDS[kind]
    return f"{path}.securityContext.{field}.{end}"


def app_armor(name: str) -> dict[str, Any]:
    return {"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": name}}}


def test_a_pod_that_names_nothing():
    assert named(PodObject()) == []
    assert named(pod(containers=[{"name": "a", "securityContext": None}], initContainers=None)) == []
    assert choices(pod(containers=[{"name": "a"}])) == [
        Choice("a", kind) for kind in (APPARMOR, SELINUX, SECCOMP)
    ]


@TYPES
@pytest.mark.parametrize("sort", SORTS)
def test_a_container_of_any_sort_names_its_own(kind: str, sort: str):
    spec: dict[str, Any] = {sort: [container("first"), container("a", context(kind))]}
    found = named(pod(**spec))
    assert found == [Named("a", kind, "web", where(kind, f"spec.{sort}[1]"))]


@TYPES
def test_what_the_pod_names_is_for_every_container_that_does_not_choose(kind: str):
    of_all = pod(**context(kind), containers=[container("a"), container("b")])
    assert named(of_all) == [Named("", kind, "web", where(kind, "spec"))]
    assert [(one.container, one.inherited) for one in choices(of_all) if one.name] == [
        ("a", True),
        ("b", True),
    ]


@pytest.mark.parametrize("kind", [APPARMOR, SECCOMP])
@pytest.mark.parametrize("how", ["Unconfined", "RuntimeDefault"])
def test_a_container_overrides_its_pod(kind: str, how: str):
    own = container("a", context(kind, {"type": how}))
    assert named(pod(**context(kind), containers=[own])) == []
    assert named(pod(**context(kind), containers=[own, container("b")])) == [
        Named("", kind, "web", where(kind, "spec"))
    ]
    (chosen,) = [one for one in choices(pod(**context(kind), containers=[own])) if one.type == kind]
    assert (chosen.how, chosen.name, chosen.inherited) == (how, "", False)


def test_selinux_options_replace_the_pods_as_a_whole_and_the_sandbox_keeps_them():
    own = container("a", context(SELINUX, {"level": "s0:c2"}))
    one = pod(**context(SELINUX), containers=[own])
    assert Choice("a", SELINUX) in choices(one)
    assert named(one) == [Named("", SELINUX, "web", where(SELINUX, "spec"))]


def test_all_types_at_once_and_the_same_name_twice():
    every = container("a", *(context(kind) for kind in FIELDS))
    found = named(pod(containers=[every], initContainers=[container("b", context(APPARMOR))]))
    assert {(one.container, one.type) for one in found} == {
        ("b", APPARMOR),
        ("a", APPARMOR),
        ("a", SELINUX),
        ("a", SECCOMP),
    }
    assert {one.name for one in found} == {"web"}


@pytest.mark.parametrize(
    ("value", "name", "how"),
    [
        ("localhost/web", "web", "Localhost"),
        ("localhost/a/b", "a/b", "Localhost"),
        ("localhost/localhost/web", "localhost/web", "Localhost"),
        ("runtime/default", "", "RuntimeDefault"),
        ("unconfined", "", "Unconfined"),
        ("localhost/", "", ""),
        ("web", "", ""),
        ("", "", ""),
    ],
)
def test_the_old_annotation(value: str, name: str, how: str):
    key = f"{APPARMOR_ANNOTATION}a"
    (one, *_) = choices(
        pod({key: value, f"{APPARMOR_ANNOTATION}other": "localhost/x"}, containers=[{"name": "a"}])
    )
    assert (one.name, one.how, one.inherited) == (name, how, False)
    assert one.field == (f"metadata.annotations[{key}]" if how else "")


def test_a_field_goes_before_the_annotation_and_that_before_the_pods_field():
    key = f"{APPARMOR_ANNOTATION}a"
    spec = {**app_armor("of-the-pod"), "containers": [{"name": "a"}]}
    assert [one.name for one in named(pod(containers=[container("a", app_armor("field"))]))] == ["field"]
    annotated = {key: "localhost/annotated"}
    both = pod(annotated, containers=[container("a", app_armor("field"))])
    assert [one.name for one in named(both)] == ["field"]
    assert [one.name for one in named(pod(annotated, **spec))] == ["annotated"]
    assert [one.name for one in named(pod({key: "no form"}, **spec))] == ["of-the-pod"]


def test_the_prefix_of_the_annotation_is_taken_off_the_field_too():
    (one, *_) = choices(pod(containers=[container("a", app_armor("localhost/web"))]))
    assert (one.name, one.given) == ("web", "localhost/web")
    seccomp = {"type": "Localhost", "localhostProfile": "localhost/web"}
    (other,) = named(pod(containers=[container("a", context(SECCOMP, seccomp))]))
    assert other.name == "localhost/web"  # which is a path


@given(
    st.lists(
        st.tuples(st.sampled_from(SORTS), st.sampled_from([*FIELDS, ""])),
        min_size=1,
        max_size=8,
        unique=False,
    ),
    st.sampled_from([*FIELDS, ""]),
)
def test_every_name_that_counts_is_found_with_its_place(several: list[tuple[str, str]], pods: str):
    spec: dict[str, Any] = context(pods) if pods else {}
    for number, (sort, kind) in enumerate(several):
        own = container(f"c{number}", context(kind)) if kind else container(f"c{number}")
        spec.setdefault(sort, []).append(own)
    found = named(pod(**spec))
    assert len(found) == len(set(found))
    assert {one.container for one in found} - {""} == {
        f"c{number}" for number, (_, kind) in enumerate(several) if kind
    }
    inherits = any(kind != pods for _, kind in several)
    assert ("" in {one.container for one in found}) == bool(pods and (inherits or pods == SELINUX))
    for one in found:
        place: Any = spec
        for step in one.field.removeprefix("spec.").replace("[", ".").replace("]", "").split("."):
            place = place[int(step)] if step.isdecimal() else place[step]
        assert place == one.name
