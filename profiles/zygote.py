"""The process that renders templates: `python -m hauberk.profiles.zygote SECONDS`, started by `rendering`.

It knows nothing but jinja2 and the shipped fragments, and has no credentials: its environment is empty. For
each job it forks a child, so that a job starts in milliseconds and leaves nothing behind. The child can't
open a file or a connection, nor start anything, and has little time and memory (setrlimit(2)); what it can do
is answer.

Standard input is a socket of packets, each with one descriptor: the job's own stream socket. From there the
child reads the job (JSON, to the end) and writes the answer; after its end the zygote adds a line: how it
ended.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .template import RefusedError, TooLargeError, render, warm

# Of each job. What a child has to begin with is not counted. A busy machine may leave a job waiting for its
# processor: that is no fault of the template's, and takes as long as an answer may at most.
SECONDS = 15.0
CPU_SECONDS = 2
MEMORY = 96 << 20
# How a job that was ended for its time is told, in the place of an exit code.
LATE = "late"


@dataclass
class _Child:
    """A job at work: its process, its socket, and until when."""

    process: int  # a descriptor of it, readable when it has ended
    sock: socket.socket
    deadline: float
    late: bool = False


def main(seconds: float) -> int:
    """Serve until the other end of standard input is closed, each job for so long at most; return 0."""
    warm()
    gc.freeze()  # what is there by now stays shared with the children
    control = socket.socket(fileno=sys.stdin.fileno())
    children: dict[int, _Child] = {}
    while True:
        if _wait(control, children) and not _begin(control, children, seconds):
            break
        _reap(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return 0


def _wait(control: socket.socket, children: dict[int, _Child]) -> bool:
    """Wait until there is something to do, or a child's time is over; return whether a job is waiting."""
    deadlines = [one.deadline for one in children.values() if not one.late]
    waiting = select.poll()  # not epoll, whose descriptor the children would share
    for descriptor in (control.fileno(), *(one.process for one in children.values())):
        waiting.register(descriptor, select.POLLIN)
    left = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    ready = waiting.poll(None if left is None else left * 1000 + 1)
    return any(descriptor == control.fileno() for descriptor, _ in ready)


def _begin(control: socket.socket, children: dict[int, _Child], seconds: float) -> bool:
    """Fork a child for the job that waits; return False where no more will come."""
    packet, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    if not packet:
        return False
    sock = socket.socket(fileno=descriptors[0])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            control.close()
            for other in children.values():
                os.close(other.process)
                other.sock.close()
            _work(sock)
            code = 0
        finally:
            os._exit(code)
    children[pid] = _Child(os.pidfd_open(pid), sock, time.monotonic() + seconds)
    return True


def _reap(children: dict[int, _Child]) -> None:
    """End what took too long, and tell of every child that ended how it did."""
    now = time.monotonic()
    for pid, child in list(children.items()):
        if not child.late and now > child.deadline:
            child.late = True
            os.kill(pid, signal.SIGKILL)
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            continue
        del children[pid]
        os.close(child.process)
        ended = LATE if child.late else str(os.waitstatus_to_exitcode(status))
        with child.sock, contextlib.suppress(OSError):  # nobody may be there to hear it
            child.sock.setblocking(False)
            child.sock.sendall(f"\n{ended}\n".encode())


def _work(sock: socket.socket) -> None:
    """Do one job, within limits that nothing in it can lift."""
    base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    pieces: list[bytes] = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    job = json.loads(b"".join(pieces))
    limits = {
        resource.RLIMIT_AS: base + MEMORY,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,  # last: from here on nothing can be opened
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    answer = _answer(job)
    sock.sendall(json.dumps(answer).encode())


def _answer(job: Any) -> Any:
    """Return what became of a job: a text, or why not, for each context."""
    texts: list[dict[str, str]] = []
    for context in job["contexts"]:
        try:
            texts.append({"text": render(job["source"], context, job["most"])})
        except RefusedError as error:
            texts.append({"refused": str(error)[: 4 << 10]})
        except TooLargeError:
            texts.append({"exceeded": "size"})
        except MemoryError:
            texts.append({"exceeded": "memory"})
    return texts


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
