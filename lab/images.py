"""The two images that every node has from its first boot: pause and busybox.

Called by rootfs.py, which puts them on the node's disk. They are written here as docker-archives, by
hand, because a registry is not to be had: the same input always gives the same bytes.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import cache, process
from lab.errors import UnmetError

PAUSE = "docker.io/library/pause:lab"
BUSYBOX = "docker.io/library/busybox:lab"
PAUSE_SOURCE = Path(__file__).parent / "node" / "pause.c"
# the moment of every file and image here: a build's time is no part of what it makes
EPOCH = "1970-01-01T00:00:00Z"

Entry = bytes | str
"""A file of an image: its content, or the target of a symbolic link; None would be a folder."""


def _member(name: str, entry: Entry | None) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    if entry is None:
        info.type = tarfile.DIRTYPE
        info.mode = 0o1777 if name == "tmp" else 0o755
    elif isinstance(entry, str):
        info.type, info.linkname = tarfile.SYMTYPE, entry
    else:
        info.size = len(entry)
        return info, entry
    return info, b""


def layer(files: Mapping[str, Entry | None]) -> bytes:
    """Return a tar of these files: bytes are a program, a word is a link's target, None a folder."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, entry in files.items():
            info, content = _member(name, entry)
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()


def archive(tag: str, files: Mapping[str, Entry | None], command: Sequence[str]) -> bytes:
    """Return a docker-archive with one image of one layer that runs `command`."""
    content = layer(files)
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{digest}.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": [layer_name]}]).encode()
    return layer({layer_name: content, config_name: config, "manifest.json": manifest})


def pause_archive(program: bytes) -> bytes:
    """Return the image that holds a pod's namespaces."""
    return archive(PAUSE, {"pause": program}, ["/pause"])


def busybox_archive(program: bytes, applets: Sequence[str]) -> bytes:
    """Return the image for tests: busybox under all its names, and a shell as the default command."""
    folders: dict[str, Entry | None] = dict.fromkeys(
        ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"]
    )
    links: dict[str, Entry | None] = {
        f"bin/{name}": "busybox" for name in sorted(applets) if name != "busybox"
    }
    users: dict[str, Entry | None] = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    }
    return archive(BUSYBOX, {**folders, "bin/busybox": program, **links, **users}, ["/bin/sh"])


def ensure() -> Path:
    """Return the cached folder with pause.tar and busybox.tar."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise UnmetError("busybox is not on this machine: install the package busybox-static.")
    program = Path(busybox).read_bytes()
    source = PAUSE_SOURCE.read_bytes()
    code = Path(__file__).read_bytes()

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        pause = folder / "pause"
        process.capture(
            ["gcc", "-Os", "-s", "-static", "-Wall", "-Wextra", "-o", str(pause), str(PAUSE_SOURCE)]
        )
        (folder / "pause.tar").write_bytes(pause_archive(pause.read_bytes()))
        pause.unlink()
        applets = process.capture([busybox, "--list"]).split()
        (folder / "busybox.tar").write_bytes(busybox_archive(program, applets))

    return cache.kept(cache.root() / "images" / cache.key([program, source, code]), make)
