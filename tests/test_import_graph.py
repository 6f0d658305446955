"""The import graph of the architecture: who may import whom, and the one importer of each outside service."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SWEEP = ROOT / "sweep"

MAY_IMPORT = {
    "validation": set(),
    "tracebacks": set(),
    "core": set(),
    "forking": set(),
    "durable": set(),
    "output": set(),
    "schedules": {"core", "validation"},
    "components": {"tracebacks", "validation"},
    "config": {"components", "schedules", "validation"},
    "space": {"config", "core", "validation"},
    "database": {"validation"},
    "checkpoints": {"core", "durable", "validation"},
    "data": {"components", "config", "validation"},
    "training": {"components", "config", "core", "data", "forking", "output", "schedules", "tracebacks", "validation"},
    "proposals": {"config", "core", "database", "space", "validation"},
    "study": {"core"},
    "tracking": {"config", "core", "database", "durable", "validation"},
    "comparison": {"core"},
    "report": {"comparison", "core", "schedules"},
    "cli": {
        "checkpoints", "comparison", "components", "config", "core", "data", "database", "durable", "forking", "output",
        "proposals", "report", "schedules", "space", "study", "tracking", "training", "validation",
    },
    "__main__": {"cli"},
}  # fmt: skip

ONLY_IMPORTER = {
    "optuna": "proposals",
    "mlflow": "tracking",
    "hydra": "cli",
    "omegaconf": "cli",
    "matplotlib": "report",
}


def imported(path: Path) -> set[str]:
    """The modules a file imports when it runs or a function of it does; not those for type checking alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms() -> list[str]:
    """The rooms of the house: packages and modules directly below sweep."""
    entries = [path for path in SWEEP.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return sorted(path.stem for path in entries if path.stem != "__init__")


def files(room: str) -> list[Path]:
    return sorted((SWEEP / room).rglob("*.py")) or [SWEEP / f"{room}.py"]


def test_every_room_is_in_the_graph() -> None:
    assert rooms() == sorted(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_graph_allows(room: str) -> None:
    own = {name.split(".")[1] for path in files(room) for name in imported(path) if name.startswith("sweep.")}
    assert own - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("service", ONLY_IMPORTER)
def test_an_outside_service_has_one_importer(service: str) -> None:
    importers = {
        room for room in rooms() for path in files(room) if service in {n.split(".")[0] for n in imported(path)}
    }
    assert importers == {ONLY_IMPORTER[service]}


def test_models_import_nothing_of_sweep() -> None:
    names = {name.split(".")[0] for path in (ROOT / "models").glob("*.py") for name in imported(path)}
    assert names <= {"torch", "collections", "math", "typing"}


def test_the_graph_has_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, needs in MAY_IMPORT.items() if room not in done and needs <= done}
        assert ready, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= ready


def test_every_package_is_installed() -> None:
    """`conf` and `models` are installed below `sweep`, where they replace no package of a user's."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sweep").rglob("__init__.py")}
    assert set(declared["packages"]) == found | set(declared["package-dir"])
    assert declared["package-dir"] == {"sweep.conf": "conf", "sweep.models": "models"}
