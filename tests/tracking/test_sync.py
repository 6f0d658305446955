"""mode=sync: a tracking server that was not up to date at the end of a command gets what it lacks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.app import resources
from sweep.config import TrackingConfig
from sweep.tracking import MlflowReader, open_store, replica
from tests.conftest import SMALL, Answer
from tests.tracking.proxy import proxying


def test_a_server_gets_what_it_lacks(
    sweep: Callable[..., Answer], uris: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it is sent has the ids that Optuna and the links name."""
    monkeypatch.setattr(resources, "SETTLING_SECONDS", 0.5)
    monkeypatch.setattr(replica, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(replica, "LONGEST_PAUSE_SECONDS", 0.1)
    with proxying(uris["server"]) as proxy:
        place = [f"tracking.uri={proxy.uri}", "tracking.experiment=sync"]
        proxy.plan = lambda path: "503" if "runs/create" in path or "log-batch" in path else "forward"
        answer = sweep(*SMALL, *place, "study.name=a", "study.n_trials=2", "engine=serial", "sampler=random")
        assert answer.status == 1
        assert "3 runs of the local record checkpoints/a/record/" in answer.err
        assert "mode=sync sends them, too" in answer.err
        proxy.plan = lambda path: "forward"
        answer = sweep("mode=sync", *place)
        assert answer.status == 0, answer.err
        assert ": 3 runs sent" in answer.out
        study = MlflowReader(open_store(TrackingConfig(uris["server"], "sync"))).study("a")
        assert study is not None
        assert [trial.status for trial in study.trials] == ["complete", "complete"]
        answer = sweep("mode=sync", *place, "study.name=a")
        assert "the server was up to date" in answer.out
        answer = sweep("mode=sync", *place, "study.name=b")
        assert (answer.status, "has no local record of b for this server" in answer.err) == (2, True)


def test_a_database_has_nothing_to_sync(sweep: Callable[..., Answer]) -> None:
    answer = sweep("mode=sync")
    assert answer.status == 0
    assert answer.out == "tracking.uri=sqlite:///mlflow.db is a database, so there is nothing to sync\n"


def test_a_training_continues_in_its_run_after_its_local_record_was_deleted(
    sweep: Callable[..., Answer], uris: dict[str, str]
) -> None:
    place = [*SMALL, "mode=train", f"tracking.uri={uris['server']}", "tracking.experiment=train", "train.steps=20"]
    assert sweep(*place).status == 0
    store = open_store(TrackingConfig(uris["server"], "train"))
    (first,) = store.search({"sweep.kind": "train"})
    (record,) = Path("checkpoints").glob("*/record")
    shutil.rmtree(record)
    answer = sweep(*place, "train.more_steps=10")
    assert answer.status == 0, answer.err
    assert first.info.run_id in answer.out  # the links name the run on the server
    (run,) = store.search({"sweep.kind": "train"})
    assert run.info.run_id == first.info.run_id
    assert sorted(m.step for m in store.client.get_metric_history(run.info.run_id, "lr")) == list(range(30))
