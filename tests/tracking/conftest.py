"""Stores to record into: a local database, and a server that is brought up to date with a local record."""

import socket
from collections.abc import Iterator

import pytest

from sweep.config import TrackingConfig
from sweep.tracking import Store, open_store, serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def uris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        port = free_port()
        with serving(f"sqlite:///{folder}/server.db", port):
            files = {"database": f"sqlite:///{folder}/local.db", "of the server": f"sqlite:///{folder}/server.db"}
            yield {**files, "server": f"http://127.0.0.1:{port}"}


@pytest.fixture
def store(uris: dict[str, str], request: pytest.FixtureRequest) -> Store:
    """An experiment in a database that this process opens itself."""
    return open_store(TrackingConfig(uris["database"], request.node.name))


@pytest.fixture
def database(store: Store) -> Store:
    return store
