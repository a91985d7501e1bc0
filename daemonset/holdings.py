"""What this node's agent has loaded, as recorded on the node's disk: its memory across restarts and reboots.

Written by a backend only after a profile was read back, read at the agent's start. A record proves
nothing about the kernel (that is read anew each time); it proves that a name in the kernel is Hauberk's,
and it keeps the last good text where the API can't be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from ..crds.errors import NodeFault
from ..crds.names import APPARMOR, PROTECTED, top_level
from ..crds.reasons import Reason
from .host import Host

log = structlog.get_logger()

# What is about to be loaded: read again after a crash between the load and the record of it.
_LOADING = "loading"
_FINISHED = ".json"


class Holding(msgspec.Struct, frozen=True):
    """One profile that Hauberk loaded here.

    Attributes:
        profile: name of the SecurityProfile.
        uid: the SecurityProfile's UID.
        revision: digest of the content that is loaded.
        mode: Enforce or Complain, as the revision says.
        text: the policy's text.
        modes: the names that it defines, each with the word for its mode as it is read back.
        digests: the hashes that may be read back for what was loaded.
        boot_id: the boot that it was loaded in last.
        boots: whether the node's own boot may load it too.
        former: names that an earlier text of the profile defined and that are still to be removed.
        installation: which store of SecurityProfiles its revision came from.
        allow_attachment: it may attach to programs of the host.
        adopted: it took over what the host owned, which is kept to be given back.
        released: it was deleted by force while in use: a permissive one is loaded and goes when it is unused.
        type: of the SecurityProfile.
        requires: profiles that must be there as long as this one is.
        allow_host_types: its SELinux module may speak of types that it does not declare.
    """

    profile: str
    uid: str
    revision: str
    mode: str
    text: str
    modes: dict[str, str]
    digests: list[str]
    boot_id: str
    boots: bool
    former: list[str] = []
    installation: str = ""
    allow_attachment: bool = False
    adopted: bool = False
    released: bool = False
    type: str = APPARMOR
    requires: list[str] = []
    allow_host_types: bool = False

    @property
    def names(self) -> list[str]:
        """Return the names, in the text's order."""
        return list(self.modes)


@dataclass(frozen=True)
class Records:
    """The records of one backend.

    Attributes:
        host: whose disk they are on.
        kind: the name of their folder: `apparmor`, `selinux`, `seccomp`.
    """

    host: Host
    kind: str

    @property
    def folder(self) -> Path:
        """Return where the records are."""
        return self.host.state / self.kind

    @property
    def _note(self) -> tuple[Path, str]:
        return self.host.state / _LOADING, f"{self.kind}{_FINISHED}"

    def read(self) -> tuple[dict[str, Holding], list[NodeFault]]:
        """Return the records by profile, and a fault for each file that is not a record.

        Such a file is set aside, never trusted and never fatal.
        """
        self.host.sweep(self.folder, "")
        found: dict[str, Holding] = {}
        faults: list[NodeFault] = []
        for file in _files(self.folder):
            try:
                holding = msgspec.json.decode(file.read_bytes(), type=Holding)
            except OSError as error:  # the file may be good, and the next start read it
                faults.append(NodeFault(Reason.STATE_TORN, f"the record {file.name}: {error.strerror}"))
                continue
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                faults.append(self._set_aside(file, str(error)))
                continue
            if why := _refuse(holding) or _misplaced(holding, file):
                faults.append(self._set_aside(file, why))
                continue
            found[holding.profile] = holding
        return found, faults

    def write(self, holding: Holding) -> None:
        """Record a profile.

        Raises:
            OSError: the disk did not take it.
        """
        self.host.write(self.folder, f"{holding.profile}{_FINISHED}", msgspec.json.encode(holding))

    def delete(self, profile: str) -> None:
        """Forget a profile.

        Raises:
            OSError: the disk is not to be written.
        """
        self.host.delete(self.folder, f"{profile}{_FINISHED}")

    def torn(self) -> set[str]:
        """Return the profiles whose records were set aside."""
        return {Path(name).stem for name in self.host.names(self.folder, "") if name.endswith(".torn")}

    def announce(self, about_to: Iterable[Holding]) -> None:
        """Note what is about to be loaded: a crash before `write` would leave it there as nobody's.

        With what was noted before. A disk that takes no note does not keep it from being loaded; `persist`
        will tell of the disk.
        """
        noted = {one.profile: one for one in (*self.announced(), *about_to)}
        try:
            self.host.write(*self._note, msgspec.json.encode(list(noted.values())))
        except OSError as error:
            log.warning("the disk takes no note of a load", error=error.strerror)

    def announced(self) -> list[Holding]:
        """Return what was about to be loaded when this agent's predecessor ended; nothing proves it was."""
        self.host.sweep(self.host.state / _LOADING, self.kind)
        content = self.host.read(*self._note)
        try:
            found = msgspec.json.decode(content, type=list[Holding]) if content else []
        except (msgspec.DecodeError, UnicodeDecodeError):  # torn: then nothing was loaded after it
            return []
        return [one for one in found if not _refuse(one)]

    def settle(self) -> None:
        """Forget what was about to be loaded: all of it is recorded, or did not come to be.

        Raises:
            OSError: the disk is not to be written.
        """
        self.host.delete(*self._note)

    def _set_aside(self, file: Path, why: str) -> NodeFault:
        self.host.set_aside(file.parent, file.name)
        return NodeFault(
            Reason.STATE_TORN, f"the record {file.name} was set aside as {file.stem}.torn: {why}"
        )


def _misplaced(holding: Holding, file: Path) -> str:
    return "" if file.name == f"{holding.profile}{_FINISHED}" else f"it is a record of {holding.profile}"


def _refuse(holding: Holding) -> str:
    """Return why what reads as a record is none; empty where it is one."""
    if not holding.modes:
        return "it names no profile of the kernel's"
    claimed = {top_level(name) for name in (*holding.modes, *holding.former)}
    if holding.type == APPARMOR and (taken := sorted(claimed & PROTECTED)):
        # to remove these would change every container of the node
        return f"it claims {taken[0]}, which is never Hauberk's"
    return ""


def _files(records: Path) -> Iterator[Path]:
    try:
        entries = sorted(records.iterdir())
    except OSError:  # not there yet
        return
    yield from (file for file in entries if file.suffix == _FINISHED)
