"""Runs apparmor_parser in the sandbox and turns its words into verdicts. The only module that starts it.

Called by `check` (may this text be published?) and by the agent (compile and load it here). No text ever
touches a file or a command line here: it goes through the parser's standard input and output. Files are named
for loading only: policy that was compiled before.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..crds.errors import Fault, InputFault, NodeFault
from ..crds.reasons import Reason
from . import sandbox
from .sandbox import Limits, Run

MESSAGE_BYTES = 1024
# What Debian's parser compiles for where there is no kernel to ask.
_PINNED_FEATURES = Path("/usr/share/apparmor-features/features")

# What the parser says about its surroundings and not about the text.
_NOISE = re.compile(r"^(Cache read/write disabled|Warning from|Warning: |\s*$)")
# "AppArmor parser error for F in profile P at line 4: words", with the middle parts optional: the form
# changed between 3.0 and 4.1 and depends on where the text came from.
_AT_LINE = re.compile(r"^AppArmor parser error.*? at line (?P<line>\d+): (?P<words>.*)$")
_IN_INCLUDE = re.compile(r" in (?:profile )?(?P<file>\S+) at line ")
# What its scanner (flex) dies of, with the code that stands for "no such file" otherwise.
_SCANNER = re.compile(r"input buffer overflow|push-back overflow")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ABSOLUTE = re.compile(r"(?<![\w>])/(?:[\w.+-]+/)+[\w.+-]+")


def pinned_features() -> Path | None:
    """Return the feature file to compile for where no kernel is asked; None where the machine has none."""
    return _PINNED_FEATURES if _PINNED_FEATURES.exists() else None


@dataclass(frozen=True)
class Parser:
    """An apparmor_parser and what it compiles for.

    Attributes:
        program: the parser to run, found by PATH.
        base: the folder of abstractions and tunables that `include <...>` may reach.
        features: a feature file to compile for; None compiles for the running kernel.
        limits: of each run.
    """

    program: str = "apparmor_parser"
    base: Path = Path("/etc/apparmor.d")
    features: Path | None = None
    limits: Limits = field(default_factory=Limits)

    async def version(self) -> str:
        """Return the parser's version, such as `4.1.0`.

        Raises:
            NodeFault: it can't be run.
        """
        run = await self._run("--version")
        found = re.search(r"version (\S+)", run.stdout.decode(errors="replace"))
        if run.code or not found:
            raise NodeFault(Reason.LOAD_FAILED, f"{self.program} does not tell its version")
        return found[1]

    async def fingerprint(self) -> str:
        """Return a digest of everything but the text and the kernel that decides what a text compiles to.

        Raises:
            NodeFault: the parser can't be run.
        """
        found = hashlib.sha256((await self.version()).encode())
        for file in sorted(path for path in self.base.rglob("*") if path.is_file()):
            found.update(f"\0{file.relative_to(self.base)}\0".encode(errors="surrogateescape"))
            found.update(hashlib.sha256(file.read_bytes()).digest())
        if self.features:
            found.update(hashlib.sha256(self.features.read_bytes()).digest())
        return found.hexdigest()

    async def names(self, text: str) -> list[str]:
        """Return the kernel names that a text defines, the parser's order, children as `parent//child`.

        Raises:
            InputFault: the parser refuses the text.
        """
        run = await self._judge("--names", text=text.encode())
        return [line for line in run.stdout.decode(errors="replace").splitlines() if line]

    async def compile(self, text: str, mode: str) -> bytes:
        """Return the text compiled to the kernel's binary form; `mode` Complain overrides its flags.

        Raises:
            InputFault: the parser refuses the text, or meets a limit on the way.
        """
        forced = ["--Complain"] if mode == "Complain" else []
        run = await self._judge(
            "--skip-kernel-load", "--skip-cache", "--jobs=0", "--stdout", *forced, text=text.encode()
        )
        return run.stdout

    async def flatten(self, text: str) -> str:
        """Return the text with its includes put in place, which compiles to the same policy anywhere.

        Raises:
            InputFault: the parser refuses the text.
        """
        run = await self._judge("--skip-kernel-load", "--skip-cache", "--preprocess", text=text.encode())
        return run.stdout.decode(errors="replace")

    async def _judge(self, *options: str, text: bytes) -> Run:
        features = [f"--kernel-features={self.features}"] if self.features else []
        unended = b"#" in text.rpartition(b"\n")[2]  # the parser refuses a comment whose line has no end
        run = await self._run(*options, *features, stdin=text + b"\n" if unended else text)
        if run.exceeded:
            raise InputFault(Reason.POLICY_TOO_SLOW, f"apparmor_parser gave up: {run.exceeded}")
        if run.crash:  # of the text's making, and made again each time
            raise InputFault(Reason.POLICY_REFUSED, f"apparmor_parser crashes on the policy ({run.crash})")
        if run.code == 2 and _SCANNER.search(run.stderr):
            raise InputFault(
                Reason.POLICY_REFUSED,
                "apparmor_parser refuses the policy: a word, a quoted text or a run of blanks in it is "
                "too long, 8 KiB are fine; split it up",
            )
        if run.code < 0 or run.code == 2:  # killed, or "no such file": not the text's verdict
            raise NodeFault(Reason.LOAD_FAILED, f"apparmor_parser ended with {run.code}: {words(run.stderr)}")
        if run.code:
            said = words(run.stderr, text.decode()) or f"exit code {run.code}"
            raise InputFault(Reason.POLICY_REFUSED, f"apparmor_parser refuses the policy: {said}")
        return run

    async def _run(self, *options: str, stdin: bytes = b"") -> Run:
        # a relative include leads nowhere else
        return await sandbox.run(
            self.program, f"--base={self.base}", *options, limits=self.limits, stdin=stdin, cwd=self.base
        )


def words(stderr: str, policy: str = "") -> str:
    """Return what the parser said about the text: `line 4: syntax error, ...`, one line, at most 1 KiB.

    Its remarks on its surroundings, control characters and absolute paths are left out: the text is the
    user's, the folders are not. A path that stands in the policy is the user's too.
    """

    def shown(path: re.Match[str]) -> str:
        return path[0] if path[0] in policy else path[0].rsplit("/", 1)[1]

    said: list[str] = []
    for line in stderr.splitlines():
        if _NOISE.match(line):
            continue
        if at := _AT_LINE.match(line):
            include = _IN_INCLUDE.search(line)
            file = include["file"] if include else ""
            where = f"{file}, " if file.startswith(("abstractions/", "tunables/")) else ""
            said.append(f"{where}line {at['line']}: {at['words']}")
        else:
            said.append(line.strip())
    return plain(_ABSOLUTE.sub(shown, "; ".join(said)))


def plain(message: str) -> str:
    """Return a message fit for a status, an Event or a terminal: one line, no control characters, 1 KiB."""
    message = message.encode(errors="replace").decode()  # names in compiled policy need not be text
    text = _CONTROL.sub("?", message).replace("\n", "; ")
    return text.encode()[:MESSAGE_BYTES].decode(errors="ignore")


def fault_message(fault: Fault) -> str:
    """Return the sentence of a fault as users see it."""
    return plain(fault.message)
