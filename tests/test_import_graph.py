"""Tests the import graph: allowed imports between packages, no cycles, one importer for each outside service."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SWEEP = ROOT / "sweep"

FOR_ALL = {
    "passwords": set(),
    "targets": set(),
    "plurals": set(),
    "errors": {"passwords", "targets"},
    "validation": {"errors", "targets"},
}
"""Modules that every package may import."""

MAY_IMPORT = {
    "tracebacks": set(),
    "forking": set(),
    "atomic": set(),
    "output": set(),
    "given": set(),
    "components": {"given", "tracebacks"},
    "schedules": {"components"},
    "tasks": {"components"},
    "loops": {"components"},
    "augmentations": {"components"},
    "identity": {"augmentations"},
    "config": {"augmentations", "components", "identity", "loops", "schedules", "tasks"},
    "core": {"config", "schedules"},
    "space": {"config", "core"},
    "database": set(),
    "checkpoints": {"core", "atomic"},
    "messages": {"config", "loops"},
    "weights": {"core", "atomic", "messages"},
    "arrays": set(),
    "data": {"arrays", "components", "config", "messages", "tracebacks"},
    "training": {
        "augmentations", "components", "config", "core", "data", "forking", "messages", "output", "schedules", "tasks",
        "tracebacks",
    },
    "integrations": {"training"},
    "pool": {"arrays", "components", "config", "core", "forking", "given", "messages", "tasks", "training"},
    "proposals": {"config", "core", "database", "schedules", "space"},
    "study": {"core", "schedules"},
    "tracking": {"config", "core", "database", "atomic", "schedules"},
    "comparison": {"core"},
    "report": {"augmentations", "comparison", "config", "core", "given", "schedules"},
    "app": {
        "checkpoints", "comparison", "config", "core", "database", "atomic", "messages", "pool", "proposals",
        "report", "schedules", "space", "study", "tracking", "weights",
    },
    "requests": {
        "app", "augmentations", "components", "config", "given", "identity", "loops", "pool", "proposals", "report",
        "schedules", "space", "tasks",
    },
    "terminal": {"app", "core", "forking", "report", "schedules"},
    "cli": {
        "app", "comparison", "config", "core", "database", "forking", "output", "proposals", "report", "requests",
        "schedules", "terminal", "tracking",
    },
    "api": {
        "app", "arrays", "augmentations", "comparison", "config", "core", "forking", "given", "report", "requests",
        "schedules", "terminal", "tracking",
    },
    "__main__": {"cli"},
}  # fmt: skip

ONLY_IMPORTER = {
    "optuna": "proposals",
    "mlflow": "tracking",
    "hydra": "requests",
    "omegaconf": "requests",
    "matplotlib": "report",
    "transformers": "integrations",
    "lightning": "integrations",
}


def imported(path: Path) -> set[str]:
    """Return the modules and names that a file imports, also within functions and for type checking."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages() -> list[str]:
    """Return the names of the packages and modules directly below sweep."""
    entries = [path for path in SWEEP.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return sorted(path.stem for path in entries if path.stem != "__init__")


def files(package: str) -> list[Path]:
    """Return the files of a package or module directly below sweep."""
    return sorted((SWEEP / package).rglob("*.py")) or [SWEEP / f"{package}.py"]


def file_graph() -> dict[Path, set[Path]]:
    """Return file -> the files of sweep that it imports."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SWEEP.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {}
    for path in modules.values():
        targets = {modules.get(name) or modules.get(name.rpartition(".")[0]) for name in imported(path)}
        graph[path] = {target for target in targets if target not in (None, path)}
    return graph


def test_every_package_is_in_the_graph() -> None:
    assert packages() == sorted(FOR_ALL | MAY_IMPORT)


@pytest.mark.parametrize("package", FOR_ALL | MAY_IMPORT)
def test_a_package_imports_only_what_the_graph_allows(package: str) -> None:
    own = {name.split(".")[1] for path in files(package) for name in imported(path) if name.startswith("sweep.")}
    allowed = FOR_ALL[package] if package in FOR_ALL else MAY_IMPORT[package] | FOR_ALL.keys()
    assert own - {package} <= allowed


@pytest.mark.parametrize("service", ONLY_IMPORTER)
def test_an_outside_service_has_one_importer(service: str) -> None:
    importers = {
        package
        for package in packages()
        for path in files(package)
        if service in {name.partition(".")[0] for name in imported(path)}
    }
    assert importers == {ONLY_IMPORTER[service]}


def test_the_graph_of_packages_has_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {package for package, needs in MAY_IMPORT.items() if package not in done and needs <= done}
        assert ready, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= ready


def test_no_files_import_each_other_in_a_cycle() -> None:
    left = file_graph()
    assert sum(map(len, left.values())) > 300, "the graph is not empty"
    while ready := [path for path, needs in left.items() if not needs & left.keys()]:
        for path in ready:
            del left[path]
    assert not left, f"a cycle among {sorted(str(path.relative_to(ROOT)) for path in left)}"


def test_models_import_nothing_of_sweep() -> None:
    names = {name.split(".")[0] for path in (ROOT / "models").glob("*.py") for name in imported(path)}
    assert names <= {"torch", "collections", "math", "typing"}


def test_every_package_is_installed() -> None:
    """`conf` and `models` are installed in `sweep`, where they do not replace a user's package."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sweep").rglob("__init__.py")}
    assert set(declared["packages"]) == found | set(declared["package-dir"])
    assert declared["package-dir"] == {"sweep.conf": "conf", "sweep.models": "models"}
