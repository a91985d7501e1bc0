"""The disks that nodes start from: Debian as its own packages make it, on ext4, labelled for SELinux.

Called by cluster.py. Two steps, both cached: `tree` (the distribution, by mmdebstrap, about 25 s) and
`disk` (with the kernel's modules, Kubernetes' programs and the lab's init, as a file system; about 5 s).
A node writes to a copy-on-write file of its own over that disk, see node.py.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import cache, images, process
from lab.errors import UnmetError, UsageError

COMMON = (
    *("containerd", "runc", "containernetworking-plugins", "dropbear-bin", "iproute2", "iptables"),
    *("kmod", "mount", "util-linux", "procps", "ca-certificates"),
)
SELINUX = ("selinux-policy-default", "policycoreutils", "selinux-utils", "semodule-utils")
# Of the policy's 351 modules: what a node with containers needs, and what these need. Each change of a policy
# links all of it anew, which takes a quarter of the time with just these.
POLICY_MODULES = frozenset(
    {
        *(
            "base",
            "clock",
            "container",
            "cron",
            "daemontools",
            "docker",
            "getty",
            "hostname",
            "ipsec",
            "iptables",
        ),
        *("kubernetes", "lvm", "netutils", "ssh", "staff", "su", "sudo", "unconfined", "unprivuser", "xdg"),
        "xserver",
    }
)
# nothing on a node reads these, and half of the files are theirs
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
UML_MODULES = Path("/usr/lib/uml/modules")
NODE_FILES = Path(__file__).parent / "node"
NODE_SCRIPTS = ("init", "halt", "lab.cil")
NODE_PROGRAMS = ("kubelet", "kube-proxy")
DISK_SIZE = "8G"


@dataclass(frozen=True)
class Kind:
    """A kind of node: its distribution and its security module."""

    name: str
    suite: str
    selinux: bool
    packages: tuple[str, ...]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("debian12", "bookworm", selinux=False, packages=(*COMMON, "apparmor")),
        Kind("debian13", "trixie", selinux=False, packages=(*COMMON, "apparmor")),
        # Debian 12's policy has no container module, so SELinux is Debian 13 only
        Kind("selinux", "trixie", selinux=True, packages=(*COMMON, *SELINUX)),
    )
}


def kind(name: str) -> Kind:
    """Return the kind of this name; raises UsageError that lists them all."""
    if name not in KINDS:
        raise UsageError(f"{name} is no kind of node: take one of {', '.join(KINDS)}.")
    return KINDS[name]


def bootstrap_command(wanted: Kind, folder: Path) -> list[str]:
    """Return the command that makes the distribution's tree."""
    return [
        *("mmdebstrap", "--variant=minbase", f"--include={','.join(wanted.packages)}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *(wanted.suite, str(folder)),
    ]


def disk_command(tree: Path, disk: Path, label: str) -> list[str]:
    """Return the command that makes an ext4 file system of a tree, extended attributes included."""
    return [
        *("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", str(tree)),
        *("-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", str(disk), DISK_SIZE),
    ]


def tree(wanted: Kind, note: Callable[[str], None]) -> Path:
    """Return the cached tree of the distribution."""

    def make(folder: Path) -> None:
        note(f"fetching the packages of {wanted.name} ({wanted.suite})")
        process.stream(bootstrap_command(wanted, folder), cache.root() / "logs" / f"{wanted.name}.log")

    parts = [*bootstrap_command(wanted, Path("-"))]
    return cache.kept(cache.root() / "trees" / f"{wanted.name}-{cache.key(parts)}", make)


def kernel_release() -> str:
    """Return the release of the user-mode kernel, such as 6.1.176, by the folder of its modules."""
    releases = sorted(path.name for path in UML_MODULES.iterdir()) if UML_MODULES.exists() else []
    if not releases:
        raise UnmetError("The user-mode kernel is missing: install the package user-mode-linux.")
    return releases[-1]


def disk(wanted: Kind, binaries: Path, note: Callable[[str], None]) -> Path:
    """Return the cached disk of this kind with these programs."""
    source = tree(wanted, note)
    seed = images.ensure()
    release = kernel_release()
    programs = [(binaries / name).resolve() for name in NODE_PROGRAMS]
    stamps = [f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in programs]
    parts = [source.name, seed.name, release, *stamps, Path(__file__).read_bytes()]
    parts += [(NODE_FILES / name).read_bytes() for name in NODE_SCRIPTS]

    def make(target: Path) -> None:
        note(f"making the disk of {wanted.name}")
        work = target.with_name(f"{target.name}.tree")
        cache.remove(work)
        try:
            process.capture(["cp", "--archive", "--reflink=auto", str(source), str(work)])
            _furnish(work, programs, seed, release)
            if wanted.selinux:
                _label(work)
            process.capture(disk_command(work, target, wanted.name), timeout=300)
        finally:
            cache.remove(work)

    return cache.kept(cache.root() / "disks" / f"{wanted.name}-{cache.key(parts)}.img", make)


def _label(work: Path) -> None:
    inside = ["chroot", str(work)]
    modules = sorted(path.name for path in (work / "var/lib/selinux/default/active/modules/100").iterdir())
    # removed rather than disabled: semodule goes through the whole store for each module that it installs
    needless = [word for name in modules if name not in POLICY_MODULES for word in ("--remove", name)]
    # --noreload: the policy is for the node, not for this machine's kernel
    changes = ["--priority=100", *needless, "--priority=400", "--install", "/lab/lab.cil"]
    process.capture([*inside, "semodule", "--noreload", *changes], timeout=300)
    process.capture([*inside, "setfiles", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/"])


def _furnish(work: Path, programs: list[Path], seed: Path, release: str) -> None:
    for folder in ("lab/host", "lab/images", "usr/lib/modules", "etc/cni/net.d", "etc/kubernetes"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("containerd", "kubelet", "cni"):
        (work / "var/lib" / folder).mkdir(exist_ok=True)
    process.capture(["cp", "--archive", str(UML_MODULES / release), str(work / "usr/lib/modules")])
    for name in NODE_SCRIPTS:
        shutil.copy2(NODE_FILES / name, work / "lab" / name)
    for program in programs:
        shutil.copy2(program, work / "usr/bin" / program.name)
    for archive in seed.iterdir():
        shutil.copy2(archive, work / "lab/images" / archive.name)
    # where the policy expects plug-ins, so that they get their own label
    (work / "opt/cni").mkdir(parents=True)
    (work / "usr/lib/cni").rename(work / "opt/cni/bin")
    # this kernel has no nft_nat, which the newer iptables would want
    for name in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            link = work / "etc/alternatives" / f"{name}{suffix}"
            link.unlink()
            link.symlink_to(f"/usr/sbin/{name}-legacy{suffix}")
    # each node makes its own at its first boot
    (work / "etc/machine-id").write_text("")
