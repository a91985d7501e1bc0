"""A profile that is cut out of a load of several, on real kernels: by itself it is the same profile."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator

import pytest
from hauberk.profiles import compiled

from tests.e2e.cluster import APPARMOR_NODES, eventually, exec_on, kernel_files, on_node, shell_words

KERNEL = "/sys/kernel/security/apparmor"
KEPT = ("cut-kept", "cut-kept//child", "cut-kept//hat")
OTHERS = ("cut-first", "cut-first//hat", "cut-last")
# None but the first stands where it would stand alone: match tables are found by their place in the load.
TEXT = (
    "profile cut-first { /first r, ^hat { /first/hat rw, } }\n"
    "profile cut-kept flags=(attach_disconnected) {\n"
    "  /kept/** r, capability chown, network inet stream,\n"
    "  ^hat { /kept/hat/{a,bc}* rw, deny /kept/hat/no w, }\n"
    "  profile child flags=(complain) { /kept/child/** rwk, /bin/* px, }\n"
    "}\n"
    "profile cut-last { /last r, }\n"
)


def load(node: str, policy: bytes) -> None:
    """Load compiled policy on a node, all of it in one write to the kernel."""
    command = shell_words(node, "apparmor_parser", "--replace", "--binary", "--skip-cache")
    subprocess.run(command, input=policy, check=True, capture_output=True, timeout=30)


def compile_on(node: str, text: str) -> bytes:
    command = shell_words(node, "apparmor_parser", "-QKS", "-j0")
    return subprocess.run(command, input=text.encode(), check=True, capture_output=True, timeout=30).stdout


def held(node: str) -> dict[str, dict[str, str]]:
    """Return what a kernel tells of the profiles of this test, by full name."""
    found = kernel_files(node, "mode", "attach", "sha1", "raw_sha1")
    return {name: one for name, one in found.items() if name in (*KEPT, *OTHERS)}


def raw(node: str, name: str) -> bytes:
    """Return what the kernel was given in the load that a top-level profile came with."""
    script = f"base64 {KERNEL}/policy/profiles/{name}.*/raw_data"
    return base64.b64decode(on_node(node, "sh", "-c", script))


def unload(node: str, *names: str) -> None:
    script = "".join(f"printf %s '{name}' > {KERNEL}/.remove; " for name in names)
    exec_on(node, "sh", "-c", f"{script} true")


@pytest.fixture(params=APPARMOR_NODES)
def node(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    unload(request.param, "cut-first", "cut-kept", "cut-last")


def test_a_profile_comes_back_from_the_kernels_own_copy_of_a_load_of_several(node: str):
    load(node, compile_on(node, TEXT))
    before = held(node)
    assert before.keys() == {*KEPT, *OTHERS}
    whole = raw(node, "cut-kept")
    assert whole == raw(node, "cut-first"), "it was one load"

    part = compiled.only(whole, KEPT)
    unload(node, "cut-first", "cut-kept", "cut-last")
    eventually(lambda: not held(node))
    load(node, part)

    after = held(node)
    assert after.keys() == set(KEPT)
    # sha1 is the kernel's hash of the one profile, raw_sha1 that of all that was loaded with it
    for name in KEPT:
        assert after[name] == before[name] | {"raw_sha1": hashlib.sha1(part).hexdigest()}  # noqa: S324
    assert after["cut-kept//child"]["mode"] == "complain"
    assert len({one["sha1"] for one in after.values()}) == len(KEPT)
    assert raw(node, "cut-kept") == part
