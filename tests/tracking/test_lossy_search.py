"""A whole search whose tracking server loses, delays and refuses: the record is that of a server that does not."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sweep.config import TrackingConfig
from sweep.tracking import open_store, replica
from tests.conftest import SMALL, Answer
from tests.tracking.proxy import Proxy, faults, proxying

TRIALS = 12 if os.environ.get("SWEEP_FAULTS") == "long" else 6
OFTEN = ["train.checkpoint_seconds=0.05", "engine=serial", "sampler=random", f"study.n_trials={TRIALS}"]


@pytest.fixture
def proxy(uris: dict[str, str]) -> Iterator[Proxy]:
    with proxying(uris["server"]) as opened:
        yield opened


def recorded(uri: str, experiment: str) -> list[Any]:
    """Status, params and every point of each trial, by its number; the study's own points first."""
    store = open_store(TrackingConfig(uri, experiment))
    found = []
    for kind in ("study", "trial"):
        runs = store.search({"sweep.kind": kind})
        for run in sorted(runs, key=lambda run: int(run.data.tags.get("sweep.trial", 0))):
            history = store.client.get_metric_history
            points = {k: sorted((m.step, m.value) for m in history(run.info.run_id, k)) for k in run.data.metrics}
            files = sorted(file.path for file in store.client.list_artifacts(run.info.run_id))
            found.append(
                (kind, run.info.status, dict(run.data.params), points, files, run.data.tags.get("sweep.trial"))
            )
    return found


def test_a_search_whose_server_loses_replies_is_recorded_as_any_other(
    sweep: Callable[..., Answer], uris: dict[str, str], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thirds of what is written are lost, delayed or refused; what is read at the beginning and the end is not."""
    monkeypatch.setattr(replica, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(replica, "LONGEST_PAUSE_SECONDS", 0.05)
    command = [*SMALL, *OFTEN]
    whole = sweep(*command, f"tracking.uri={uris['server']}", "tracking.experiment=whole", "study.name=a")
    assert whole.status == 0, whole.err
    drawn = faults(7, lose=0.25, delay=0.15, refuse=0.25)
    reads = ("/get", "search", "/list")
    proxy.plan = lambda path: "forward" if any(part in path for part in reads) else drawn(path)
    lossy = ["study.storage=sqlite:///other.db", "tracking.experiment=lossy", "study.name=a"]
    answer = sweep(*command, f"tracking.uri={proxy.uri}", *lossy)
    assert answer.status == 0, answer.err
    assert proxy.fates["lose"] >= 3, proxy.fates
    assert proxy.fates["refuse"] >= 3, proxy.fates
    assert recorded(uris["server"], "lossy") == recorded(uris["server"], "whole")
