"""Reads what compiled AppArmor policy defines: names, modes and attachments. Pure.

Called by `check` and by the agent, which compares it with what the kernel lists: the binary is what the
kernel will act on, so nothing that a text can spell in a clever way escapes it. The agent also cuts a profile
out of what a kernel was given, to be able to give it back.

Format: security/apparmor/policy_unpack.c in the kernel. Everything is little endian; an element is an
optional name (tag 4, u16 length, bytes with their NUL) and then a tag with its value.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

_NAME, _STRING, _BLOB, _STRUCT, _STRUCT_END, _LIST, _LIST_END, _ARRAY, _ARRAY_END = range(4, 13)
_INTEGER = {0: "<B", 1: "<H", 2: "<I", 3: "<Q"}
_LENGTH = {_NAME: "<H", _STRING: "<H", _BLOB: "<I", _ARRAY: "<H"}

# PACKED_MODE_* of policy_unpack.c, in the words of the kernel's `mode` files.
_MODES: dict[object, str] = {0: "enforce", 1: "complain", 2: "kill", 3: "unconfined", 4: "prompt"}
# FORCE_COMPLAIN_FLAG of policy_unpack.c, in the version number: what `apparmor_parser --Complain` sets.
_FORCED = 0x800
# PATH_CONNECT_PATH of include/path.h: what flags=(attach_disconnected) sets in `path_flags`.
_CONNECT_PATH = 0x4


@dataclass(frozen=True)
class Defined:
    """One profile in compiled policy.

    Attributes:
        name: as the kernel lists it, children as `parent//child`.
        mode: the kernel's word: enforce, complain, kill, unconfined or prompt.
        attaches: whether it takes programs of the host by their path.
        namespace: the policy namespace it asks for; empty for the current one.
        disconnected: whether files from outside of a container's mount namespace have a path for it.
    """

    name: str
    mode: str
    attaches: bool = False
    namespace: str = ""
    disconnected: bool = field(default=False, compare=False)  # advice rests on it, and no verdict


@dataclass(frozen=True)
class _Element:
    """A tag with its value; `start` is where its name, or where it has none its tag, begins."""

    tag: int
    name: str
    value: int | bytes | None
    depth: int
    start: int
    end: int


@dataclass(frozen=True)
class _Piece:
    """One profile of compiled policy: its header and its struct, as they stand from `start` to `end`.

    `version` is the element that the kernel reads it by where it has none of its own: an earlier profile's.
    """

    defined: Defined
    start: int
    end: int
    version: bytes


def read(compiled: bytes) -> list[Defined]:
    """Return the profiles that compiled policy defines, in its order.

    Raises:
        ValueError: the bytes are not compiled policy.
    """
    return [piece.defined for piece in _pieces(compiled)]


def only(compiled: bytes, names: Collection[str]) -> bytes:
    """Return the part of compiled policy that defines just these profiles, in its order and byte for byte.

    A kernel hands out policy as it was loaded, perhaps with others in the same load. What comes back loads
    by itself (`apparmor_parser --replace --binary`): each profile has its header, and its match tables are
    found wherever they come to stand (policy_unpack.c, unpack_dfa, looks from a table's end).

    A name is that of `Defined.name`, a child's (`parent//child`) too: children do not come with their parent.

    Raises:
        ValueError: the bytes are not compiled policy, do not define one of the names, define it twice, or are
            of a policy namespace: which one a kernel puts such a load into depends on the kernel.
    """
    pieces = _pieces(compiled)
    if any(piece.defined.namespace for piece in pieces):
        raise ValueError("compiled policy is of a policy namespace and can't be cut apart")
    there = [piece.defined.name for piece in pieces]
    for name in names:
        if there.count(name) != 1:
            raise ValueError(f"compiled policy defines {name!a} {there.count(name)} times")
    return b"".join(
        piece.version + compiled[piece.start : piece.end] for piece in pieces if piece.defined.name in names
    )


def digests(compiled: bytes) -> frozenset[str]:
    """Return the hashes a kernel may list for this policy's raw data: SHA-1, and SHA-256 since 6.6."""
    return frozenset({hashlib.sha1(compiled).hexdigest(), hashlib.sha256(compiled).hexdigest()})  # noqa: S324


def _pieces(compiled: bytes) -> list[_Piece]:
    """Return the profiles of compiled policy with where they stand; everything before one is its header."""
    found: list[_Piece] = []
    namespace = ""
    version = inherited = b""
    forced = False
    elements = _elements(compiled)
    at = start = 0
    while at < len(elements):
        element = elements[at]
        if element.name == "version" and element.depth == 0 and isinstance(element.value, int):
            forced = bool(element.value & _FORCED)
            version, inherited = compiled[element.start : element.end], b""
        if element.name == "namespace" and element.depth == 0:
            namespace = _text(element)
        if element.tag == _STRUCT and element.name == "profile" and element.depth == 0:
            last = next(i for i in range(at + 1, len(elements)) if elements[i].depth == 0)
            defined = _profile(elements[at + 1 : last], namespace, forced=forced)
            found.append(_Piece(defined, start, elements[last].end, inherited))
            namespace, inherited = "", version
            at, start = last, elements[last].end
        at += 1
    return found


def _profile(body: list[_Element], namespace: str, *, forced: bool) -> Defined:
    starts = [i for i, element in enumerate(body) if element.tag == _STRUCT and element.name == "flags"]
    if not starts or len(body) < starts[0] + 3:
        raise ValueError("compiled policy has a profile without flags")
    flags = starts[0]
    mode = 1 if forced else body[flags + 2].value  # flags, mode, audit: three u32
    name = _text(body[0])
    # An attachment is a string `attach`, a match table before the flags, or the name itself (policy.c,
    # find_attach); a child's name never is one: its parent has to ask for it.
    attaches = any(element.name == "attach" or element.tag == _BLOB for element in body[:flags])
    attaches = "//" not in name and (attaches or name.startswith("/"))
    said = next((one.value for one in body if one.name == "path_flags"), 0)
    disconnected = isinstance(said, int) and bool(said & _CONNECT_PATH)
    return Defined(name, _MODES.get(mode, f"mode {mode!r}"), attaches, namespace, disconnected)


def _text(element: _Element) -> str:
    if not isinstance(element.value, bytes):
        raise ValueError("compiled policy holds a number where a name belongs")  # noqa: TRY004 - bad input
    return element.value.rstrip(b"\0").decode(errors="surrogateescape")


def _elements(data: bytes) -> list[_Element]:
    """Return the elements of compiled policy, flat, each with the number of structs and lists around it."""
    found: list[_Element] = []
    at = start = depth = 0
    name = ""
    while at < len(data):
        tag = data[at]
        value, at = _value(tag, data, at + 1)
        if tag == _NAME:
            name = (value if isinstance(value, bytes) else b"").rstrip(b"\0").decode(errors="replace")
            continue
        depth -= tag in (_STRUCT_END, _LIST_END, _ARRAY_END)
        found.append(_Element(tag, name, value, depth, start, at))
        depth += tag in (_STRUCT, _LIST, _ARRAY)
        name, start = "", at
    if depth:
        raise ValueError("compiled policy ends within a struct")
    return found


def _value(tag: int, data: bytes, at: int) -> tuple[int | bytes | None, int]:
    """Return the value that follows a tag, None for one without, and where the next tag is."""
    try:
        if tag in _INTEGER:
            (number,) = struct.unpack_from(_INTEGER[tag], data, at)
            return number, at + struct.calcsize(_INTEGER[tag])
        if tag in _LENGTH:
            (length,) = struct.unpack_from(_LENGTH[tag], data, at)
            at += struct.calcsize(_LENGTH[tag])
            if tag == _ARRAY:
                return length, at  # its elements follow
            if at + length > len(data):
                raise ValueError("compiled policy ends within a value")
            return data[at : at + length], at + length
    except struct.error as error:
        raise ValueError("compiled policy ends within a number") from error
    if tag not in (_STRUCT, _STRUCT_END, _LIST, _LIST_END, _ARRAY_END):
        raise ValueError(f"compiled policy holds an unknown tag {tag}")
    return None, at
