"""The one place that runs programs and sends signals.

Called by every module that needs the machine. A program that outlives the command is known by its
process id and its start time, because the kernel hands out ids again; it is signalled through a
pidfd, so that what was checked is what gets the signal.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lab.errors import FailedError, UnmetError

Command = Sequence[str | os.PathLike[str]]

# a killed process may still have to give back a gigabyte of memory
KILL_SECONDS = 20.0

# Children of this very process, kept so that they are reaped once they end.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """A running program: its id and the kernel's clock ticks at its start."""

    pid: int
    started: int


def parse_start(stat: str) -> tuple[str, int]:
    """Return (state letter, start in ticks) from the text of /proc/PID/stat, see proc(5)."""
    # the program's name stands in parentheses and may hold spaces and parentheses itself
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def identify(pid: int) -> Process | None:
    """Return the process that has this id now; None if there is none or it is a zombie."""
    try:
        state, started = parse_start(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else Process(pid, started)


def alive(process: Process) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def start(argv: Command, log: Path, *, env: Mapping[str, str] | None = None, tied: bool = False) -> Process:
    """Start a program in a session of its own, its output appended to `log`.

    A `tied` one is killed by the kernel when the calling thread ends, however it ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["setpriv", "--pdeathsig", "KILL", *argv] if tied else list(argv)
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if env is None else {**os.environ, **env},
            )
        except FileNotFoundError as error:
            raise UnmetError(f"{command[0]} is not on this machine: run `python -m lab deps`.") from error
    _children[child.pid] = child
    return Process(child.pid, parse_start(Path(f"/proc/{child.pid}/stat").read_text())[1])


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def stop(process: Process, *, grace: float = 10.0, first: signal.Signals = signal.SIGTERM) -> None:
    """End a process: `first`, then SIGKILL after `grace` seconds; returns once it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        _reap(process.pid)
        return
    try:
        if not alive(process):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, first)
            if not select.select([descriptor], [], [], grace)[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], KILL_SECONDS)
    finally:
        os.close(descriptor)
        _reap(process.pid)


def members(leader: Process) -> list[Process]:
    """Return what runs in the process group that `leader` made, also when it itself has ended."""
    found: list[Process] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        one = identify(int(entry.name))
        with contextlib.suppress(ProcessLookupError):
            if one and os.getpgid(one.pid) == leader.pid and one.started >= leader.started:
                found.append(one)
    return found


def kill_group(leader: Process) -> None:
    """Kill a process and what it started; returns once all are gone."""
    for one in members(leader):
        stop(one, first=signal.SIGKILL, grace=KILL_SECONDS)


def wait_end(process: Process, seconds: float) -> bool:
    """Wait until a process has ended; False if it runs on after that many seconds."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return not alive(process) or bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
        _reap(process.pid)


def ancestors() -> set[int]:
    """Return the ids of this process and of those above it."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0:
        found.add(pid)
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return found


def parse_memory_mib(status: str) -> int:
    """Return the resident memory in MiB from the text of /proc/PID/status, see proc(5)."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def memory_mib(pid: int) -> int:
    """Return the memory that a process holds, 0 if it is gone."""
    try:
        return parse_memory_mib(Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def become(argv: Command, env: Mapping[str, str]) -> NoReturn:
    """Replace this process by a program, with these additions to its environment."""
    words = [os.fspath(word) for word in argv]
    sys.stdout.flush()
    try:
        os.execvpe(words[0], words, {**os.environ, **env})  # noqa: S606 - no shell is wanted
    except FileNotFoundError as error:
        raise UnmetError(f"{words[0]} is not on this machine: run `python -m lab deps`.") from error


def tail(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log on one line, for an error's sentence."""
    try:
        found = log.read_text(errors="replace").strip().splitlines()[-lines:]
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in found)


def capture(argv: Command, *, given: bytes | None = None, timeout: float = 120) -> str:
    """Run a program to its end and return what it printed; `given` is its input.

    Raises FailedError with the last lines that it printed when its exit code is not 0.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            check=False,
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise UnmetError(f"{argv[0]} is not on this machine: run `python -m lab deps`.") from error
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"{os.fspath(argv[0])} did not end within {timeout:.0f} s.") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-3:]
        shown = " ".join(os.fspath(word) for word in argv)
        raise FailedError(f"`{shown}` ended with {done.returncode}: {' | '.join(said)}")
    return done.stdout.decode(errors="replace")


def succeeds(argv: Command, *, timeout: float = 60) -> bool:
    """Whether a program ends with exit code 0; a program that hangs does not."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def stream(
    argv: Command,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Run a program to its end, its output in `log`; each line also goes to `note` if given.

    Raises FailedError, naming the log, when its exit code is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise UnmetError(f"{argv[0]} is not on this machine: run `python -m lab deps`.") from error
    with child, log.open("a") as output:
        if child.stdout is not None:
            for line in child.stdout:
                output.write(line)
                if note:
                    note(line.rstrip())
    if child.returncode:
        raise FailedError(
            f"{Path(argv[0]).name} ended with {child.returncode}, all it said is in {log}: {tail(log)}"
        )
