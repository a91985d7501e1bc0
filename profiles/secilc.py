"""Has secilc, the compiler of SELinux's CIL, read a module in the sandbox. The only module that starts it.

Called by `selinux`. A module alone can't be compiled: the types that its rules speak of are those of a node's
policy. secilc reads a file, builds the tree of its statements, and only then looks names up: what it says of
the first two is a verdict on the text, that it finds no name is not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from ..crds.errors import InputFault, NodeFault
from ..crds.reasons import Reason
from . import sandbox
from .parser import plain
from .sandbox import Limits

# libsepol, cil/src/cil.c: cil_compile_nopdb() builds, then resolves.
_UNREAD = re.compile(r"^(Failure adding|Failed to build AST)", re.MULTILINE)
_UNRESOLVED = "Failed to resolve AST"
_SUMMARY = re.compile(r"^(Failed to|Failure|Error: Failed)")


@dataclass(frozen=True)
class Secilc:
    """A secilc, found by PATH, and the limits of each run."""

    program: str = "secilc"
    limits: Limits = field(default_factory=Limits)

    async def read(self, text: str) -> None:
        """Return if the text is well-formed CIL.

        Raises:
            InputFault: it is not, or secilc meets a limit over it; the message has the line.
            NodeFault: secilc can't be run.
        """
        # It asks for the size of its file, so a pipe will not do. This one has no name for others.
        file = os.memfd_create("module")
        try:
            os.write(file, text.encode())
            name = f"/dev/fd/{file}"
            run = await sandbox.run(
                self.program,
                *("--output=/dev/null", "--filecontext=/dev/null", name),
                limits=self.limits,
                pass_fds=(file,),
            )
        finally:
            os.close(file)
        if run.exceeded:
            raise InputFault(Reason.POLICY_TOO_SLOW, f"secilc gave up: {run.exceeded}")
        if run.code == 1:  # libsepol, cil/src/cil_mem.c: it ends without a word where it gets no memory
            raise InputFault(
                Reason.POLICY_TOO_SLOW, f"secilc gave up: the policy took over {self.limits.memory >> 20} MiB"
            )
        if run.crash:
            raise InputFault(Reason.POLICY_REFUSED, f"secilc crashes on the policy ({run.crash})")
        if _UNREAD.search(run.stderr):
            raise InputFault(Reason.POLICY_REFUSED, f"secilc refuses the policy: {words(run.stderr, name)}")
        if run.code and _UNRESOLVED not in run.stderr:
            raise NodeFault(Reason.LOAD_FAILED, f"secilc ended with {run.code}: {words(run.stderr, name)}")


def words(stderr: str, name: str) -> str:
    """Return what secilc said of the file `name`: `line 3: Bad allow rule`, one line, at most 1 KiB."""
    said: list[str] = []
    for line in stderr.splitlines():
        if _SUMMARY.match(line):
            continue
        at = re.match(
            rf"(?P<words>.*?) at (?:line (?P<first>\d+) of )?{re.escape(name)}(?::(?P<second>\d+))?", line
        )
        if at:
            said.append(f"line {at['first'] or at['second']}: {at['words']}")
        elif line.strip():
            said.append(line.replace(name, "the policy").strip())
    return plain("; ".join(said)) or "no reason was given"
