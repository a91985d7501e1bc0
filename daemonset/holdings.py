"""What this node's agent has loaded, as recorded on the node's disk: its memory across restarts and reboots.

Written by `apparmor` only after the kernel took a profile, read at the agent's start. A record proves
nothing about the kernel (that is read anew each time); it proves that a name in the kernel is Hauberk's,
and it keeps the last good text where the API can't be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..crds.errors import NodeFault
from ..crds.reasons import Reason
from .host import Host


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
    found: dict[str, Holding] = {}
    faults: list[NodeFault] = []
    for file in _files(folder(host)):
        try:
            holding = msgspec.json.decode(file.read_bytes(), type=Holding)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            faults.append(_set_aside(file, str(error)))
            continue
        if not holding.modes:
            faults.append(_set_aside(file, "it names no profile of the kernel's"))
            continue
        if file.name != f"{holding.profile}.json":
            faults.append(_set_aside(file, f"it is a record of {holding.profile}"))
            continue
        found[holding.profile] = holding
    return found, faults


def write(host: Host, holding: Holding) -> None:
    """Record a profile.

    Raises:
        OSError: the disk did not take it.
    """
    host.write(folder(host), f"{holding.profile}.json", msgspec.json.encode(holding).decode())


def delete(host: Host, profile: str) -> None:
    """Forget a profile."""
    host.delete(folder(host), f"{profile}.json")


def _files(records: Path) -> Iterator[Path]:
    if records.is_dir():
        yield from sorted(file for file in records.iterdir() if file.suffix == ".json")


def _set_aside(file: Path, why: str) -> NodeFault:
    file.replace(file.with_suffix(".torn"))
    return NodeFault(Reason.STATE_TORN, f"the record {file.name} was set aside as {file.stem}.torn: {why}")
