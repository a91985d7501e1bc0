"""What is made once and kept: a folder for each thing, keyed by what went into it.

Used by binaries.py, rootfs.py, images.py and build.py. A thing is made under a temporary name and
renamed when it is whole, so one that was cut short is never used.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def root() -> Path:
    """Return the cache folder: kernel-lab under XDG_CACHE_HOME, which is ~/.cache if unset."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kernel-lab"


def key(parts: Iterable[str | bytes]) -> str:
    """Return 16 hex digits that stand for these parts, their order and their bounds."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()[:16]


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def kept(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`, made by `make(temporary)` if it is not there yet.

    Two commands that want the same thing at the same time make it once: the second waits.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        # the suffix stays, because programs read a format from it
        temporary = path.with_name(f"making-{path.name}")
        remove(temporary)
        make(temporary)
        temporary.rename(path)
    return path
