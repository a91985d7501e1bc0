"""Parts of the lab that touch this machine, but need neither root nor Kubernetes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import cache, cluster, process
from lab.credentials import ADMIN, Credentials
from lab.errors import FailedError, UnmetError
from lab.state import Node, State

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_stopped_once_and_only_if_it_is_the_one(tmp_path: Path):
    found = process.start(SLEEP, tmp_path / "log")
    assert process.alive(found)
    other = process.Process(found.pid, found.started + 1)
    process.stop(other)
    assert process.alive(found)
    process.stop(found)
    assert not process.alive(found)
    process.stop(found)


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; print(1, flush=True); time.sleep(60)"
    found = process.start([sys.executable, "-c", deaf], tmp_path / "log")
    deadline = time.monotonic() + 10
    while not (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.stop(found, grace=0.2, first=signal.SIGTERM)
    assert not process.alive(found)


def test_a_group_ends_with_all_its_members(tmp_path: Path):
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    leader = process.start([sys.executable, "-c", script], tmp_path / "log")
    deadline = time.monotonic() + 10
    while len(process.members(leader)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    members = process.members(leader)
    assert len(members) == 2
    process.kill_group(leader)
    assert not any(process.alive(one) for one in members)


def test_a_failing_command_says_what_it_said():
    with pytest.raises(FailedError, match="ended with 3: no such thing"):
        process.capture([sys.executable, "-c", "import sys; sys.stderr.write('no such thing'); sys.exit(3)"])
    with pytest.raises(UnmetError, match="not on this machine"):
        process.capture(["no-such-program-here"])


def test_a_half_made_thing_is_never_used(tmp_path: Path):
    target = tmp_path / "thing.img"

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.kept(target, fail)
    assert not target.exists()
    assert cache.kept(target, lambda temporary: _write(temporary, "whole")).read_text() == "whole"
    assert cache.kept(target, fail).read_text() == "whole"


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_folder_is_copied_whole_or_not_at_all(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    (source / "member" / "wal").mkdir(parents=True)
    (source / "member" / "wal" / "0").write_text("one")
    cluster.copy_folder(source, target)
    # what a copy that was cut short had left, and a file that the source has no longer
    (target.parent / "making-target").mkdir()
    (source / "member" / "wal" / "0").rename(source / "member" / "wal" / "1")
    cluster.copy_folder(source, target)
    assert [path.name for path in sorted(target.rglob("*"))] == ["member", "wal", "1"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    with pytest.raises(FileNotFoundError):
        cluster.copy_folder(tmp_path / "not-there", target)
    assert (target / "member" / "wal" / "1").read_text() == "one"


def test_state_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state = State("x")
    assert not state.exists()
    assert state.nodes() == []
    with state.changing():
        state.add_node(Node("b", "debian12", 2))
        state.add_node(Node("a", "selinux", 1))
        state.set_process("etcd", process.Process(1, 2))
        state.set_setting("binaries", "/x")
    again = State("x")
    assert [node.name for node in again.nodes()] == ["a", "b"]
    assert again.processes() == {"etcd": process.Process(1, 2)}
    assert again.setting("binaries") == "/x"
    again.store_folder("before").mkdir(parents=True)
    (again.folder / "stores" / "making-after").mkdir()
    assert state.stores() == ["before"]
    again.set_process("etcd", None)
    again.remove_node("a")
    assert again.processes() == {}
    assert [node.name for node in state.nodes()] == ["b"]
    again.remove()
    assert not state.exists()


def test_certificates_verify_against_their_authority(tmp_path: Path):
    credentials = Credentials(tmp_path)
    certificate, _ = credentials.client(ADMIN)
    serving, _ = credentials.serving("node", ["node"], ["10.0.0.1"])
    for path, purpose in ((certificate, "sslclient"), (serving, "sslserver")):
        verify = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            credentials.authority,
            path,
        ]
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert Credentials(tmp_path).client(ADMIN)[0].read_bytes() == certificate.read_bytes()
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


def test_every_command_explains_itself():
    command = [sys.executable, "-m", "lab", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("up", "down", "exec", "load", "control-plane", "Exit codes"):
        assert word in done.stdout
