"""Correct the paths of artifacts in a SQLite database whose folder was moved, renamed or copied."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sweep.plurals import plural

ROOT = "mlruns"
"""Folder below which MLflow stores artifacts by default. Its database has absolute paths."""


def relocate_artifacts(file: Path) -> str | None:
    """Correct the locations of artifacts in a database that was moved or copied with the folder `mlruns` beside it.

    Only a local path below another folder `mlruns` is changed, and only if the same path exists below the `mlruns`
    beside the database. The path of a run without artifacts is changed too if it does not exist and the folder of the
    run's experiment does.

    Args:
        file: a SQLite database of MLflow.

    Returns:
        One line that says what was changed; None if nothing was.

    Raises:
        sqlite3.OperationalError: if the database is locked.
    """
    here = file.resolve().parent / ROOT
    if not here.is_dir():
        return None
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        try:
            moved = _moved(connection, here)
            with connection:
                for table, (key, column) in TABLES.items():
                    update = f"UPDATE {table} SET {column} = ? WHERE {key} = ? AND {column} = ?"
                    connection.executemany(update, moved[table])
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                return None
            raise
    if not any(moved.values()):
        return None
    runs = plural(len(moved["runs"]), "run")
    return f"{file} was moved or copied: the artifacts of {runs} in it are now those in {here}"


TABLES = {"experiments": ("experiment_id", "artifact_location"), "runs": ("run_uuid", "artifact_uri")}
"""Table -> its key and the column of the location."""


def _moved(connection: sqlite3.Connection, here: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return for each table the new location, the key and the old location of the rows to be changed."""
    moved: dict[str, list[tuple[str, str, str]]] = {}
    for table, (key, column) in TABLES.items():
        moved[table] = []
        inside = f"{here}/"
        elsewhere = f"SELECT {key}, {column} FROM {table} WHERE substr({column}, 1, ?) <> ?"
        for row, location in connection.execute(elsewhere, (len(inside), inside)):
            below = _below_root(location)
            if below is None:
                continue
            root, path = below
            old, new = root / path, here / path
            exists = new.exists() or ((here / path.parts[0]).exists() and not old.exists())
            if exists and not (root.exists() and root.samefile(here)):
                moved[table].append((new.as_uri() if location.startswith("file:") else str(new), row, location))
    return moved


def _below_root(location: str) -> tuple[Path, Path] | None:
    """Return the folder ROOT that a location is below, and the path below it; None of any other location."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    path = Path(unquote(parts.path) if parts.scheme else location)
    if ROOT not in path.parts[:-1]:
        return None
    root = next(above for above in path.parents if above.name == ROOT)
    return root, path.relative_to(root)
