"""Builds a container image without a registry and writes it as an archive that `load` takes.

Called by commands.py (`build`). buildah does the work, with a store of its own in the cache folder, so
that unchanged steps of a Dockerfile are not done again. The base image debian:trixie-slim is made here
from Debian's own packages and stands under its usual name, so a Dockerfile needs no change.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import cache, process
from lab.errors import UsageError

BASE = "docker.io/library/debian:trixie-slim"
BASE_SUITE = "trixie"
# as in the image that it stands in for, for what is installed on top of it too
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
CA_INSIDE = "/run/host-ca.crt"
ENV = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
# nothing is pulled, so there are no signatures to check
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'
REGISTRIES = 'unqualified-search-registries = ["docker.io"]\n'


@dataclass(frozen=True)
class Build:
    """What to build: a Dockerfile over the folder `context`, named `tag`, written to `output`."""

    context: Path
    file: Path
    tag: str
    output: Path


def qualified(tag: str) -> str:
    """Return a tag as the kubelet reads it: `agent:1` is docker.io/library/agent:1."""
    first, slash, _ = tag.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return tag
    return f"docker.io/{tag}" if slash else f"docker.io/library/{tag}"


def pip_conf(index: str | None) -> str:
    """Return pip's configuration inside the build: the machine's authorities, and its index if it has one."""
    return f"[global]\ncert = {CA_INSIDE}\n" + (f"index-url = {index}\n" if index else "")


class Builder:
    """buildah with its store in `folder`."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder = folder
        self.note = note
        self.log = cache.root() / "logs" / "image-build.log"
        folder.mkdir(parents=True, exist_ok=True)
        self._policy = self._write("policy.json", POLICY)
        self._env = {**ENV, "CONTAINERS_REGISTRIES_CONF": str(self._write("registries.conf", REGISTRIES))}

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _buildah(self, *words: str) -> None:
        store = [f"--root={self.folder / 'root'}", f"--runroot={self.folder / 'run'}"]
        process.stream(["buildah", *store, *words], self.log, env=self._env, note=self.note)

    def _image(self, command: str, *words: str) -> None:
        self._buildah(command, f"--signature-policy={self._policy}", *words)

    def base(self) -> None:
        """Make the stand-in for the base image, once."""

        def make(stamp: Path) -> None:
            self.note(f"making {BASE}")
            work = self.folder / "base"
            cache.remove(work)
            work.mkdir()
            tar = work / "base.tar"
            left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
            process.stream(["mmdebstrap", "--variant=minbase", *left_out, BASE_SUITE, str(tar)], self.log)
            (work / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["bash"]\n')
            self._image("bud", "--tag", BASE, str(work))
            cache.remove(work)
            stamp.touch()

        cache.kept(self.folder / f"base-{cache.key([BASE_SUITE, BASE, *LEFT_OUT])}", make)

    def build(self, wanted: Build) -> None:
        """Build an image and write its archive; raises FailedError that names the log."""
        if not wanted.file.is_file():
            raise UsageError(f"{wanted.file} is no file: name the Dockerfile with --file.")
        cache.remove(self.log)
        self.base()
        tag = qualified(wanted.tag)
        self._image(
            *("bud", "--layers", "--pull=never", "--tag", tag, "--file", str(wanted.file)),
            *self._volumes(),
            str(wanted.context),
        )
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = wanted.output.with_name(f".making-{wanted.output.name}")
        cache.remove(temporary)
        self._image("push", "--quiet", tag, f"docker-archive:{temporary}:{tag}")
        temporary.rename(wanted.output)

    def _volumes(self) -> list[str]:
        """Return what is mounted during the build only: the machine's authorities, for pip."""
        authorities = Path(os.environ.get("SSL_CERT_FILE") or SYSTEM_CA)
        conf = self._write("pip.conf", pip_conf(os.environ.get("PIP_INDEX_URL")))
        mounts = {conf: "/etc/pip.conf"}
        if authorities.exists():
            mounts[authorities.resolve()] = CA_INSIDE
        return [word for path, inside in mounts.items() for word in ("--volume", f"{path}:{inside}:ro")]
