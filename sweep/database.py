"""Database URIs, looked at before anything is created in them."""

import sqlite3
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from sweep.validation import InvalidValueError


def file_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other."""
    if not is_database(uri) or make_url(uri).get_backend_name() != "sqlite":
        return None
    name = make_url(uri).database
    return Path(name) if name else None


def same_database(uri: str, other: str) -> bool:
    """Whether two URIs are equal, or name the same SQLite file."""
    files = file_of(uri), file_of(other)
    return uri == other or (files[0] is not None and files[1] is not None and files[0].resolve() == files[1].resolve())


def is_database(uri: str) -> bool:
    """Whether SQLAlchemy knows what kind of database the URI names."""
    try:
        make_url(uri).get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
        return False
    return True


def check_database(key: str, uri: str, table: str) -> None:
    """Refuse a database that cannot be used, without creating or changing anything.

    Args:
        key: of the configuration, for the message.
        uri: SQLAlchemy URI.
        table: one that the database has if its owner has used it before.

    Raises:
        InvalidValueError: if it cannot be reached, is no database, or is a SQLite file of something else.
    """
    try:
        url = make_url(uri)
        if url.get_backend_name() == "sqlite":
            _check_sqlite(key, uri, url, table)
            return
        engine = create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (ArgumentError, NoSuchModuleError):
        raise InvalidValueError(key, uri, "is no database URI, such as sqlite:///file.db") from None
    except ModuleNotFoundError as error:
        raise InvalidValueError(key, uri, f"needs the Python package {error.name}") from error
    except SQLAlchemyError as error:
        raise InvalidValueError(key, uri, f"cannot be reached: {_first_line(error)}") from error


def _check_sqlite(key: str, uri: str, url: URL, table: str) -> None:
    if not url.database or url.database == ":memory:":
        raise InvalidValueError(key, uri, "must name a file, such as sqlite:///file.db")
    path = Path(url.database)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InvalidValueError(key, uri, f"{path} must be a file in a folder that exists")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InvalidValueError(key, uri, f"{path} cannot be read as a SQLite database: {error}") from error
    if tables and table not in tables:
        raise InvalidValueError(key, uri, f"{path} is a database of something else: it has no table {table}")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
