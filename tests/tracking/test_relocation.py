"""Artifacts of a folder that was moved or renamed."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from sweep.config import TrackingConfig
from sweep.tracking import Hooks, Store, open_store


def opened(folder: Path, said: list[str]) -> Store:
    store = open_store(TrackingConfig(f"sqlite:///{folder}/mlflow.db", "test"), hooks=Hooks(said.append))
    assert store is not None
    return store


def read(folder: Path, run_id: str, name: str) -> bytes:
    """A file of a run as MLflow's own client finds it."""
    uri = f"sqlite:///{folder}/mlflow.db"
    return Path(download_artifacts(run_id=run_id, artifact_path=name, tracking_uri=uri)).read_bytes()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, str]:
    """A folder with a database and its artifacts, and two runs: with a file, and without."""
    folder = tmp_path / "before"
    folder.mkdir()
    monkeypatch.chdir(folder)
    store = opened(folder, [])
    runs = [store.create(name, {}, {}, files) for name, files in (("with", {"a/b.txt": b"old"}), ("without", None))]
    monkeypatch.chdir(tmp_path)
    return folder, runs[0], runs[1]


def test_after_a_move_artifacts_are_read_and_written_in_the_new_place(recorded: tuple[Path, str, str]) -> None:
    folder, with_file, without = recorded
    now, said = folder.with_name("after 100%"), list[str]()
    folder.rename(now)
    store = opened(now, said)
    assert said == [f"{now}/mlflow.db was moved or copied: the artifacts of 2 runs in it are now those in {now}/mlruns"]
    assert read(now, with_file, "a/b.txt") == b"old"
    new = store.create("new", {}, {}, {"c.txt": b"new"})
    for run_id in (with_file, without):
        store.attach(run_id, {"c.txt": b"new"})
    for run_id in (new, with_file, without):
        assert read(now, run_id, "c.txt") == b"new"
        assert (now / "mlruns" / store.experiment_id / run_id / "artifacts" / "c.txt").exists()
    assert not folder.exists()
    opened(now, said)
    assert len(said) == 1


def test_a_copy_has_artifacts_of_its_own(recorded: tuple[Path, str, str]) -> None:
    folder, with_file, without = recorded
    copy, said = folder.with_name("copy"), list[str]()
    shutil.copytree(folder, copy)
    store = opened(copy, said)
    assert said == [
        f"{copy}/mlflow.db was moved or copied: the artifacts of 2 runs in it are now those in {copy}/mlruns"
    ]
    before = sorted(folder.rglob("*"))
    new = store.create("new", {}, {}, {"c.txt": b"new"})
    for run_id in (with_file, without):
        store.attach(run_id, {"c.txt": b"new"})
    for run_id in (new, with_file, without):
        assert read(copy, run_id, "c.txt") == b"new"
    assert read(copy, with_file, "a/b.txt") == b"old"
    assert sorted(folder.rglob("*")) == before
    assert opened(folder, []).client.get_run(with_file).info.artifact_uri.startswith(f"{folder}/")


def test_a_link_to_the_folder_is_not_another_folder(recorded: tuple[Path, str, str]) -> None:
    folder, _, _ = recorded
    link, said = folder.with_name("link"), list[str]()
    link.symlink_to(folder)
    opened(link, said)
    assert said == []


def test_a_path_without_a_counterpart_is_left(recorded: tuple[Path, str, str]) -> None:
    """Another experiment may be kept elsewhere, on a disk that is not there now."""
    folder, _, _ = recorded
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    places = ["/not/there/mlruns/77", "/not/there/artifacts/1", "s3://bucket/mlruns/1"]
    ids = [client.create_experiment(place, artifact_location=place) for place in places]
    said: list[str] = []
    now = folder.with_name("after")
    folder.rename(now)
    store = opened(now, said)
    assert len(said) == 1
    assert [store.client.get_experiment(i).artifact_location for i in ids] == places
