"""Tests Optuna and MLflow in a PostgreSQL database of a server that the test starts."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import optuna
import pytest
from mlflow import MlflowClient

from tests.conftest import SMALL, Answer


def binaries() -> Path | None:
    """Return the folder of initdb and postgres: on the path, or in Debian's folder."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "postgres").exists() and (f / "initdb").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Provide a PostgreSQL server on 127.0.0.1: the beginning of its URIs."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL's server binaries (initdb, postgres) are not installed")
    base = Path(mkdtemp(prefix="sweep-pg-"))
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        runuser = shutil.which("runuser")
        if runuser is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        shutil.chown(base, "postgres")
        as_user = [runuser, "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = base / "data"
    create = [*as_user, folder / "initdb", "-D", data, "-U", "sweep", "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(create, check=True, capture_output=True, cwd=base)
    options = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-k", str(base)]
    process = subprocess.Popen(
        [*as_user, folder / "postgres", "-D", data, "-p", str(port), *options],
        cwd=base, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(port, process)
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(base, ignore_errors=True)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    import psycopg

    for _ in range(600):
        assert process.poll() is None, "the PostgreSQL server ended"
        try:
            with psycopg.connect(
                f"host=127.0.0.1 port={port} user=sweep dbname=postgres", autocommit=True
            ) as connection:
                for name in ("studies", "tracking"):
                    connection.execute(f"CREATE DATABASE {name}")
                return
        except psycopg.OperationalError:
            _pause(process)
    raise AssertionError("the PostgreSQL server did not answer")


def _pause(process: "subprocess.Popen[bytes]") -> None:
    """A pause that ends early if the server does."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


def test_a_search_is_kept_and_recorded_in_postgresql(sweep: Callable[..., Answer], server: str, folder: Path) -> None:
    uris = [f"study.storage={server}/studies", f"tracking.uri={server}/tracking"]
    for total in (2, 3):
        answer = sweep(*SMALL, *uris, f"study.n_trials={total}")
        assert (answer.status, answer.err) == (0, "")
    (name,) = optuna.get_all_study_names(f"{server}/studies")
    study = optuna.load_study(study_name=name, storage=f"{server}/studies")
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE"] * 3
    client = MlflowClient(f"{server}/tracking")
    for trial in study.get_trials():
        run_id = trial.user_attrs["mlflow_run_id"]
        for key in ("lr", "loss"):
            steps = sorted(row.step for row in client.get_metric_history(run_id, key))
            assert steps == list(range(40))
    assert not (folder / "optuna.db").exists()
    assert not (folder / "mlflow.db").exists()
    report = sweep("mode=report", *uris)
    assert "3 trials: 3 complete" in report.out
