"""What the lab needs of the machine, and the Debian package that each of it comes in.

Called by commands.py (`deps`), which `make lab-deps` runs, and by cluster.py before anything is begun.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import process
from lab.errors import UnmetError

Exists = Callable[[str], bool]


@dataclass(frozen=True)
class Need:
    """A program (or, with a slash, a file), the package that holds it, and what for."""

    what: str
    package: str
    why: str


NEEDS = (
    Need("etcd", "etcd-server", "the store of the control plane"),
    Need("linux.uml", "user-mode-linux", "the kernels of the nodes"),
    Need("mmdebstrap", "mmdebstrap", "the nodes' distributions and the base image"),
    Need(
        "/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring", "the packages' signatures"
    ),
    Need("mke2fs", "e2fsprogs", "the nodes' disks"),
    Need("ip", "iproute2", "the lab's network"),
    Need("nsenter", "util-linux", "the way into the lab's network"),
    Need("sysctl", "procps", "forwarding between the nodes' pods"),
    Need("ssh", "openssh-client", "`exec` on a node"),
    Need("busybox", "busybox-static", "the test image"),
    Need("gcc", "gcc", "the pause image"),
    Need("/usr/include/stdlib.h", "libc6-dev", "the pause image"),
    Need("buildah", "buildah", "`build`"),
)


def on_machine(what: str) -> bool:
    """Whether this machine has the program or file; sbin counts, whatever PATH says."""
    if what.startswith("/"):
        return Path(what).exists()
    return shutil.which(what) is not None or (Path("/usr/sbin") / what).exists()


def missing(exists: Exists = on_machine, needs: Sequence[Need] = NEEDS) -> list[Need]:
    """Return what is needed and not there."""
    return [need for need in needs if not exists(need.what)]


def install_command(needs: Sequence[Need]) -> list[str]:
    """Return the command that installs the packages of these needs, without what they recommend."""
    packages = dict.fromkeys(need.package for need in needs)
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def check() -> None:
    """Raise UnmetError that names every missing package, if any is."""
    found = missing()
    if found:
        packages = ", ".join(dict.fromkeys(need.package for need in found))
        raise UnmetError(f"This machine lacks {packages}: run `make lab-deps`, or install them another way.")


def install(needs: Sequence[Need], log: Path, note: Callable[[str], None]) -> None:
    """Install the packages of these needs; raises UnmetError where there is no apt-get."""
    if shutil.which("apt-get") is None:
        names = ", ".join(f"{need.what} ({need.why})" for need in needs)
        raise UnmetError(f"Packages can be installed on Debian and Ubuntu only; this machine lacks {names}.")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    process.stream(["apt-get", "update"], log, env=env, note=note)
    process.stream(install_command(needs), log, env=env, note=note)
