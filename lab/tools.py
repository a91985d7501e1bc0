"""Programs in Go that tests run on manifests: found in the cache, or built from their pinned modules.

Called by commands.py (ensure) and by tests (find). Each has a folder here with its go.mod. helm's pins the
client libraries of the very release that binaries.py builds, so that most of it is compiled already.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from lab import binaries, cache, process

# the package that is built, by the program's name
TOOLS: Mapping[str, str] = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "promtool": "github.com/prometheus/prometheus/cmd/promtool",
}
# What a program is built without: of Prometheus the ways to find targets at forty clouds.
TAGS: Mapping[str, str] = {"promtool": "remove_all_sd"}
_FOLDER = Path(__file__).parent


def linker_flags(tool: str) -> str:
    """Return -ldflags: no symbol table, and for helm the Kubernetes that charts are rendered for."""
    flags = ["-s", "-w"]
    if tool == "helm":
        release = binaries.version((binaries.MODULE / "go.mod").read_text())
        major, minor, _ = release.removeprefix("v").split(".")
        for package in ("pkg/chartutil", "pkg/lint/rules"):
            base = f"helm.sh/helm/v3/{package}"
            flags += [f"-X {base}.k8sVersionMajor={major}", f"-X {base}.k8sVersionMinor={minor}"]
    return " ".join(flags)


def _tags(tool: str) -> list[str]:
    return [TAGS[tool]] if tool in TAGS else []


def cached(tool: str) -> Path:
    """Return the cache's folder for a tool as it is pinned; it need not be there."""
    parts = [(_FOLDER / tool / name).read_bytes() for name in ("go.mod", "go.sum")]
    key = cache.key([*parts, TOOLS[tool], linker_flags(tool), *_tags(tool)])
    return cache.root() / "tools" / f"{tool}-{key}"


def find(tool: str) -> Path | None:
    """Return the program if it was built, else None."""
    program = cached(tool) / tool
    return program if program.exists() else None


def ensure(tool: str, note: Callable[[str], None]) -> Path:
    """Return the program, building it if need be; `note` is told so."""

    def build(folder: Path) -> None:
        folder.mkdir(parents=True)
        go = binaries.go(note)
        note(f"building {tool}")
        process.stream(
            [
                *("env", "-C", str(_FOLDER / tool), go, "build", "-mod=readonly", "-trimpath"),
                *(argument for tags in _tags(tool) for argument in ("-tags", tags)),
                *("-ldflags", linker_flags(tool), "-o", str(folder / tool), TOOLS[tool]),
            ],
            cache.root() / "logs" / f"{tool}-build.log",
            env=binaries.GO_ENVIRONMENT,
        )

    return cache.kept(cached(tool), build) / tool
