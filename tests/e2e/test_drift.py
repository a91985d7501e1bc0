"""What others do to a profile in a node's kernel or on its disk is undone, told and counted."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.cluster import (
    apply,
    deny_write,
    events,
    eventually,
    files,
    kernel,
    load_by_hand,
    on_node,
    policy_revision,
    profile,
    ready,
    report,
    unload_by_hand,
    wait_ready,
)

NODE = "debian12"
# Removes a profile and waits on the node itself until it is back; prints the milliseconds.
REMOVED_UNTIL_BACK = """
cd /sys/kernel/security/apparmor
printf %s "$1" > .remove
began=$(date +%s%N)
until grep --quiet "^$1 (" profiles; do :; done
echo $((($(date +%s%N) - began) / 1000000))
"""


def test_what_is_removed_by_hand_is_back_before_anyone_notices():
    apply(profile("removed", deny_write("removed")))
    wait_ready("removed")
    held = kernel(NODE)["removed"]

    took = int(on_node(NODE, "timeout", "20", "sh", "-c", REMOVED_UNTIL_BACK, "sh", "removed"))

    sys.stderr.write(f"back after {took} ms\n")
    eventually(lambda: kernel(NODE)["removed"] == held)
    eventually(lambda: events("removed", "DriftRepaired"))
    assert events("removed", "DriftRepaired")[0].startswith(
        f"{NODE}: the kernel does not hold removed; it is loaded again (1 time since"
    )
    assert report(NODE)["repairs"]["removed"]["count"] == 1
    eventually(lambda: ready("removed")[0] == "True")


@pytest.mark.parametrize(
    ("by_hand", "words"),
    [
        ("profile changed flags=(complain) { file, }", "holds changed in mode complain instead of enforce"),
        ("profile changed { /etc/passwd r, }", "holds another policy under the name changed"),
    ],
    ids=["mode", "text"],
)
def test_what_is_replaced_by_hand_is_put_back(by_hand: str, words: str):
    apply(profile("changed", deny_write("changed")))
    wait_ready("changed")
    held = kernel(NODE)["changed"]

    load_by_hand(NODE, by_hand)

    eventually(lambda: kernel(NODE).get("changed") == held, within=10)
    eventually(lambda: any(words in message for message in events("changed", "DriftRepaired")))
    eventually(lambda: ready("changed")[0] == "True")


def test_a_child_that_someone_adds_goes_away():
    apply(profile("parent", deny_write("parent")))
    wait_ready("parent")

    load_by_hand(NODE, "profile parent//added { file, }")

    eventually(lambda: "parent//added" not in kernel(NODE))
    assert kernel(NODE)["parent"] == kernel("debian13")["parent"]


@pytest.mark.long
def test_a_fight_is_spaced_out_and_told_and_ends_well():
    apply(profile("contested", deny_write("contested")))
    wait_ready("contested")

    def undone() -> bool:
        """The agent has had enough of it."""
        if "contested" in kernel(NODE):
            unload_by_hand(NODE, "contested")
        return report(NODE)["problems"].get("contested", {}).get("reason") == "Contested"

    eventually(undone, within=60)
    unload_by_hand(NODE, "contested") if "contested" in kernel(NODE) else None
    eventually(lambda: ready("contested")[1] == "NodesFailed")
    assert "Contested: something else on the node keeps changing it" in ready("contested")[2]
    before = policy_revision(NODE)
    assert "contested" not in kernel(NODE)
    assert policy_revision(NODE) == before

    # the pause ends, and nobody removes it any more
    eventually(lambda: kernel(NODE).get("contested") == kernel("debian13")["contested"], within=60)
    eventually(lambda: ready("contested")[0] == "True")


def test_a_boot_file_that_someone_edits_or_deletes_is_written_anew():
    apply(profile("on-disk", deny_write("on-disk"), mode="Complain"))
    wait_ready("on-disk")
    file, link = "/etc/apparmor.d/hauberk.on-disk", "/etc/apparmor.d/force-complain/hauberk.on-disk"
    eventually(lambda: file in files(NODE) and link in files(NODE))
    written = on_node(NODE, "cat", file)

    on_node(NODE, "sh", "-c", f"echo '# edited' >> {file}; rm {link}")
    # nothing tells of a changed file: the next look at the node finds it
    unload_by_hand(NODE, "on-disk")

    eventually(lambda: on_node(NODE, "cat", file) == written)
    eventually(lambda: link in files(NODE))
