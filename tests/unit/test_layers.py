"""The folders are layers: each imports only what is below it, and only some modules touch the world."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = {
    "crds": {"crds"},
    "profiles": {"profiles", "crds"},
    "operator": {"operator", "profiles", "crds"},
    # profiles too: the parser's runner and the reader of compiled policy serve both
    "daemonset": {"daemonset", "profiles", "crds"},
    "cli": {"cli", "profiles", "crds"},
    "lab": {"lab"},
    # the pages' own tools: they read the product's files and run none of it
    "docs": {"docs"},
}
PRODUCT = ("crds", "profiles", "operator", "daemonset", "cli")

# What only some modules may import; `main` of a folder constructs what the others are handed.
ONLY = {
    "subprocess": set[str](),
    "multiprocessing": set[str](),
    "kopf": {"operator/handlers.py"},
    "lightkube": {
        *("operator/cluster.py", "operator/operators_cluster.py", "operator/admissions_cluster.py"),
        *("operator/main.py", "operator/admission.py", "operator/gated_pods.py"),
        "cli/cluster.py",
    },
    "aiohttp": {"operator/webhook.py", "operator/probes.py"},
    "prometheus_client": {"crds/exporter.py"},
    "cryptography": {"operator/certificates.py"},
    "kubernetes": set[str](),
    "httpx2": {
        *("operator/cluster.py", "operator/operators_cluster.py", "operator/admissions_cluster.py"),
        *("operator/gated_pods.py", "cli/cluster.py"),
    },
    # agents go without the rest of httpx2
    "httpcore2": {"daemonset/api.py"},
    "jinja2": {"profiles/template.py", "operator/agents.py"},
    # of each other, in one machine; and the kernel's notices
    "socket": {"profiles/rendering.py", "profiles/zygote.py", "daemonset/selinuxfs.py"},
    "asyncinotify": {"daemonset/seccomp.py"},
}
# Who counts. The rims and the loops tell them; decisions don't.
COUNTS = {"crds.metrics", "crds.exporter", "operator.measures"}
STARTS_PROCESSES = {"profiles/sandbox.py", "profiles/rendering.py", "profiles/zygote.py"}
TOUCHES_THE_HOST = {"daemonset/host.py", "daemonset/selinuxfs.py", "daemonset/semodule.py"}

PURE = {
    *("crds/models.py", "crds/names.py", "crds/reasons.py", "crds/errors.py", "crds/facts.py"),
    *("crds/nodes.py", "crds/pods.py", "crds/metrics.py"),
    *("profiles/compiled.py", "profiles/quoting.py", "profiles/kinds.py", "profiles/cil.py"),
    *("profiles/blocks.py", "profiles/classes.py", "profiles/statements.py"),
    *(
        "daemonset/news.py",
        "daemonset/turns.py",
        "daemonset/plan.py",
        "daemonset/report.py",
        "daemonset/resting.py",
        "daemonset/revisions.py",
    ),
    *("operator/desired.py", "operator/publish.py", "operator/rollout.py", "operator/aggregate.py"),
    *(
        "operator/snapshot.py",
        "operator/agents.py",
        "operator/agent_settings.py",
        "operator/writes.py",
        "operator/finalizers.py",
    ),
    *("operator/acceptance.py", "operator/certificates.py", "operator/node_labels.py"),
    *("operator/deltas.py", "operator/pace.py", "operator/sharing.py"),
    *("operator/gating.py", "operator/pod_review.py", "operator/answers.py", "operator/gates.py"),
    "operator/taints.py",
    *("cli/states.py", "cli/views.py", "cli/waiting.py", "cli/differences.py", "cli/tables.py"),
    *("cli/why.py", "cli/causes.py", "cli/naming.py", "cli/spelling.py", "cli/pods.py", "cli/podfiles.py"),
}
IMPURE = {
    "asyncio",
    "os",
    "time",
    "subprocess",
    "lightkube",
    "kopf",
    "httpx2",
    "httpcore2",
    "random",
    "pathlib",
    "threading",
}

_STARTERS = {"create_subprocess_exec", "create_subprocess_shell", "system", "popen", "posix_spawn", "fork"}
_HOST_PATHS = ("/sys/", "/proc", "/host/", "/etc/apparmor.d", "/var/lib/")


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imports(text: str, folder: str) -> Iterator[tuple[int, str]]:
    """Yield the line and name of each import, those of the product by their folder (`crds.models`)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, _absolute(alias.name)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            named = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, f"{folder}.{name}") for name in named)
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "hauberk"):
            # `from .. import x`, `from ..x.y import z`, `from hauberk import x`
            whole = [alias.name for alias in node.names]
            named = [node.module] if node.level and node.module else whole
            if node.level and node.module in LAYERS:  # y may be a module
                named = [f"{node.module}.{name}" for name in whole]
            yield from ((node.lineno, name) for name in named)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, _absolute(node.module or "")


def _absolute(module: str) -> str:
    """Return an absolute import's name; a bare `operator` is the standard library's and no folder of ours."""
    if module.split(".", 1)[0] == "operator":
        return f"standard.{module}"
    return module.removeprefix("hauberk.")


def wrong_layers(text: str, folder: str, name: str) -> list[str]:
    """Return each import that an arrow forbids, with file and line."""
    known = {*LAYERS, "tests", "demo", "bench"}
    return [
        f"{name}:{line}: {folder} may not import {top}"
        for line, module in imports(text, folder)
        if (top := module.split(".", 1)[0]) in known - LAYERS[folder]
    ]


def foreign_imports(text: str, name: str) -> list[str]:
    folder = name.split("/", 1)[0]
    found: list[str] = []
    for line, module in imports(text, folder):
        top = module.split(".", 1)[0]
        if top in ONLY and name not in ONLY[top]:
            found.append(f"{name}:{line}: only {sorted(ONLY[top]) or 'nobody'} may import {top}")
        if name in PURE and module in COUNTS:
            found.append(f"{name}:{line}: this module is pure and counts nothing")
        if name in PURE and top in IMPURE:
            found.append(f"{name}:{line}: this module is pure and may not import {top}")
    return found


def deeds(text: str, name: str) -> list[str]:
    """Return where a module starts a process or names a path of the host without being meant to."""
    tree = ast.parse(text)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name | ast.Attribute)
            and node.attr in _STARTERS
            and name not in STARTS_PROCESSES
        ):
            found.append(
                f"{name}:{node.lineno}: only the runners of the parser and of templates start processes"
            )
        if (
            name.startswith("daemonset/")
            and name not in TOUCHES_THE_HOST
            and isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and node.value.startswith(_HOST_PATHS)
        ):
            found.append(f"{name}:{node.lineno}: only host.py knows paths of the host: {node.value}")
    return found


def relative_name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", sources(*LAYERS), ids=relative_name)
def test_imports_follow_the_arrows(file: Path):
    name = relative_name(file)
    assert wrong_layers(file.read_text(), name.split("/", 1)[0], name) == []


@pytest.mark.parametrize("file", sources(*PRODUCT), ids=relative_name)
def test_only_some_modules_touch_the_world(file: Path):
    name, text = relative_name(file), file.read_text()
    assert foreign_imports(text, name) + deeds(text, name) == []


def test_every_pure_module_is_there():
    assert {name for name in PURE if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize(
    ("folder", "text", "line"),
    [
        ("crds", "import os\nfrom ..profiles import check\n", 2),
        ("crds", "from .. import profiles\n", 1),
        ("profiles", "from ..operator.snapshot import Snapshot\n", 1),
        ("profiles", "from hauberk.daemonset import host\n", 1),
        ("profiles", "from hauberk import operator\n", 1),
        ("daemonset", "def f():\n    from ..operator import desired\n", 2),
        ("daemonset", "import hauberk.operator.desired\n", 1),
        ("operator", "from ..daemonset.host import Host\n", 1),
        ("operator", "from lab import node\n", 1),
        ("lab", "from hauberk.crds import names\n", 1),
        ("lab", "import crds.names\n", 1),
        ("daemonset", "import demo\n", 1),
    ],
)
def test_a_planted_import_is_found(folder: str, text: str, line: int):
    found = wrong_layers(text, folder, f"{folder}/planted.py")
    assert [one.split(": ")[0] for one in found] == [f"{folder}/planted.py:{line}"]


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("daemonset", "import operator\nfrom operator import itemgetter\n"),
        ("daemonset", "from ..profiles import compiled\nfrom . import plan\n"),
        ("operator", "from ..crds.models import Condition\nfrom .snapshot import Snapshot\n"),
        ("lab", "from .node import Node\nfrom lab import cache\n"),
    ],
)
def test_a_right_import_is_let_through(folder: str, text: str):
    assert wrong_layers(text, folder, "x.py") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("operator/aggregate.py", "import time\n"),
        ("operator/aggregate.py", "from asyncio import sleep\n"),
        ("daemonset/plan.py", "import os.path\n"),
        ("daemonset/agent.py", "import lightkube\n"),
        ("operator/controller.py", "import kopf\n"),
        ("operator/controller.py", "import prometheus_client\n"),
        ("operator/aggregate.py", "from ..crds.metrics import PROFILES\n"),
        ("operator/aggregate.py", "from ..crds import metrics\n"),
        ("daemonset/plan.py", "from ..crds.exporter import Metrics\n"),
        ("daemonset/plan.py", "from ..crds import exporter\n"),
        ("profiles/parser.py", "import subprocess\n"),
        ("daemonset/agent.py", "import os\nos.system('x')\n"),
        ("daemonset/apparmor.py", "import asyncio\nasyncio.create_subprocess_exec('x')\n"),
        ("daemonset/apparmor.py", "X = '/sys/kernel/security'\n"),
    ],
)
def test_a_planted_deed_is_found(name: str, text: str):
    assert len(foreign_imports(text, name) + deeds(text, name)) == 1


def test_the_standard_librarys_operator_stays_reachable():
    assert not (ROOT / "operator/__init__.py").exists()
    assert not (ROOT / "tests/operator").exists()
    for folder in ("crds", "profiles", "daemonset", "lab"):
        assert (ROOT / folder / "__init__.py").exists()


def test_the_operator_has_nothing_that_reads_texts():
    """Hostile texts and powerful tokens are kept apart: the admission parses and renders."""
    code = "import sys, hauberk.operator.main; print([n for n in sys.modules if '.profiles' in n])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == "[]"


def test_folders_of_the_product_are_flat():
    """A sub-package that setup does not list would vanish from the wheel."""
    nested = [file for file in sources(*PRODUCT) if len(file.relative_to(ROOT).parts) > 2]
    assert nested == []
