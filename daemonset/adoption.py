"""Keeps what the host had loaded under a name that a SecurityProfile with `adopt` took over.

Used by `apparmor`: written to the node's disk before the host's profile is replaced, read when it is given
back.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from ..crds.errors import NodeFault
from ..crds.reasons import Reason
from .host import Host

_TORN = (msgspec.DecodeError, UnicodeDecodeError)


class Original(msgspec.Struct, frozen=True):
    """One top-level profile of the host's, with its children.

    Attributes:
        name: as the kernel lists it.
        modes: the names that it defines, each with the kernel's word for its mode.
        policy: what gives exactly it back when it is loaded.
    """

    name: str
    modes: dict[str, str]
    policy: bytes


def folder(host: Host) -> Path:
    """Return where the originals are."""
    return host.state / "adopted"


def read(host: Host, profile: str) -> list[Original]:
    """Return what a SecurityProfile took over from the host; nothing where the file was torn."""
    try:
        return _decoded(host, profile)
    except _TORN:
        return []


def _decoded(host: Host, profile: str) -> list[Original]:
    content = host.read(folder(host), f"{profile}.json")
    return msgspec.json.decode(content, type=list[Original]) if content is not None else []


def set_aside(host: Host) -> list[NodeFault]:
    """Rename what is no list of originals, never trusted and never fatal; return a fault for each."""
    faults: list[NodeFault] = []
    for name in (name for name in host.names(folder(host), "") if name.endswith(".json")):
        profile = name.removesuffix(".json")
        try:
            _decoded(host, profile)
        except _TORN as error:
            host.set_aside(folder(host), name)
            message = (
                f"what {profile} took over from the host can't be given back, its file was set aside as "
                f"adopted/{profile}.torn: {error}"
            )
            faults.append(NodeFault(Reason.STATE_TORN, message))
    return faults


def write(host: Host, profile: str, originals: list[Original]) -> None:
    """Keep what a SecurityProfile takes over; none: nothing is left to give back.

    Raises:
        OSError: the disk did not take it.
    """
    if originals:
        host.write(folder(host), f"{profile}.json", msgspec.json.encode(originals))
    else:
        host.delete(folder(host), f"{profile}.json")


def keep(host: Host, profiles: Collection[str]) -> None:
    """Forget what others than these took over: a crash left it behind after it was given back.

    Raises:
        OSError: the disk is not to be written.
    """
    for name in host.names(folder(host), ""):
        profile = name.removesuffix(".json")
        if profile not in profiles and not name.endswith(".torn"):
            host.delete(folder(host), name)
