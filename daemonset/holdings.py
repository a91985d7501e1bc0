"""What this node's agent has loaded, as recorded on the node's disk: its memory across restarts and reboots.

Written by `apparmor` only after the kernel took a profile, read at the agent's start. A record proves
nothing about the kernel (that is read anew each time); it proves that a name in the kernel is Hauberk's,
and it keeps the last good text where the API can't be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ..crds.errors import NodeFault
from ..crds.names import PROTECTED, top_level
from ..crds.reasons import Reason
from .host import Host

# What is about to be loaded: read again after a crash between the load and the record of it.
_LOADING = "loading.json"


class Holding(msgspec.Struct, frozen=True):
    """One profile that Hauberk loaded here.

    Attributes:
        profile: name of the SecurityProfile.
        uid: the SecurityProfile's UID.
        revision: digest of the content that is loaded.
        mode: Enforce or Complain, as the revision says.
        text: the policy's text.
        modes: the kernel names that it defines, each with the kernel's word for its mode.
        digests: the hashes under which a kernel may list its raw data.
        boot_id: the boot that it was loaded in last.
        boots: whether the node's own boot may load it too.
        former: names that an earlier text of the profile defined and that are still to be removed.
        installation: which store of SecurityProfiles its revision came from.
        allow_attachment: it may attach to programs of the host.
        adopted: it took over what the host owned, which is kept to be given back.
        released: it was deleted by force while in use: a permissive one is loaded and goes when it is unused.
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

    @property
    def names(self) -> list[str]:
        """Return the kernel names, in the text's order."""
        return list(self.modes)


def folder(host: Host) -> Path:
    """Return where the records are."""
    return host.state / "apparmor"


def read(host: Host) -> tuple[dict[str, Holding], list[NodeFault]]:
    """Return the records by profile, and a fault for each file that is not a record.

    Such a file is set aside, never trusted and never fatal.
    """
    host.sweep(folder(host), "")
    found: dict[str, Holding] = {}
    faults: list[NodeFault] = []
    for file in _files(folder(host)):
        try:
            holding = msgspec.json.decode(file.read_bytes(), type=Holding)
        except OSError as error:  # the file may be good, and the next start read it
            faults.append(NodeFault(Reason.STATE_TORN, f"the record {file.name}: {error.strerror}"))
            continue
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            faults.append(_set_aside(host, file, str(error)))
            continue
        if why := _refuse(holding) or _misplaced(holding, file):
            faults.append(_set_aside(host, file, why))
            continue
        found[holding.profile] = holding
    return found, faults


def _misplaced(holding: Holding, file: Path) -> str:
    return "" if file.name == f"{holding.profile}.json" else f"it is a record of {holding.profile}"


def _refuse(holding: Holding) -> str:
    """Return why what reads as a record is none; empty where it is one."""
    if not holding.modes:
        return "it names no profile of the kernel's"
    claimed = {top_level(name) for name in (*holding.modes, *holding.former)}
    if taken := sorted(claimed & PROTECTED):  # to remove these would change every container of the node
        return f"it claims {taken[0]}, which is never Hauberk's"
    return ""


def write(host: Host, holding: Holding) -> None:
    """Record a profile.

    Raises:
        OSError: the disk did not take it.
    """
    host.write(folder(host), f"{holding.profile}.json", msgspec.json.encode(holding))


def delete(host: Host, profile: str) -> None:
    """Forget a profile.

    Raises:
        OSError: the disk is not to be written.
    """
    host.delete(folder(host), f"{profile}.json")


def announce(host: Host, about_to: Iterable[Holding]) -> None:
    """Note what is about to be loaded: a crash before `write` would leave it in the kernel as nobody's.

    Raises:
        OSError: the disk did not take it.
    """
    host.write(host.state, _LOADING, msgspec.json.encode(list(about_to)))


def announced(host: Host) -> list[Holding]:
    """Return what was about to be loaded when this agent's predecessor ended; nothing proves that it was."""
    host.sweep(host.state, "")
    content = host.read(host.state, _LOADING)
    try:
        found = msgspec.json.decode(content, type=list[Holding]) if content else []
    except (msgspec.DecodeError, UnicodeDecodeError):  # torn: then nothing was loaded after it
        return []
    return [one for one in found if not _refuse(one)]


def settle(host: Host) -> None:
    """Forget what was about to be loaded: all of it is recorded, or did not come to be."""
    host.delete(host.state, _LOADING)


def _files(records: Path) -> Iterator[Path]:
    try:
        entries = sorted(records.iterdir())
    except OSError:  # not there yet
        return
    yield from (file for file in entries if file.suffix == ".json")


def _set_aside(host: Host, file: Path, why: str) -> NodeFault:
    host.set_aside(file.parent, file.name)
    return NodeFault(Reason.STATE_TORN, f"the record {file.name} was set aside as {file.stem}.torn: {why}")
