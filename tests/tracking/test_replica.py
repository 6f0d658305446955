"""A server that is the replica of a local record: whatever becomes of the requests, it gets everything, once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sweep.config import TrackingConfig
from sweep.core import Result, Status
from sweep.errors import LeaseLostError, RecordInUseError, UnavailableError
from sweep.tracking import Hooks, MlflowReader, MlflowRecorder, Store, fence_store, open_store, replica
from sweep.tracking import store as store_module
from sweep.tracking.bulk import Change, Points
from sweep.tracking.replica import RECORD_TAG, Replica
from sweep.tracking.server import Server
from tests.tracking.proxy import Proxy, faults, first, proxying
from tests.tracking.test_recorder import describe, study_run, train, trial, updates

LONG = os.environ.get("SWEEP_FAULTS") == "long"
ROOT = Path(__file__).parents[2]
TIMEOUT = 0.7
"""Seconds for which these replicas wait for an answer."""


@pytest.fixture
def there(uris: dict[str, str], request: pytest.FixtureRequest) -> Store:
    """The experiment as the server has it; to be read only."""
    return open_store(TrackingConfig(uris["server"], request.node.name))


@pytest.fixture
def proxy(uris: dict[str, str]) -> Iterator[Proxy]:
    with proxying(uris["server"]) as opened:
        yield opened


@pytest.fixture
def said() -> list[str]:
    return []


def any_run(run: Run) -> bool:
    return True


Opener = Callable[..., Store]


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take a second to create."""
    file = tmp_path_factory.mktemp("empty") / "record.db"
    store_module._create_database(file)
    return file


@pytest.fixture
def opened(
    empty: Path, there: Store, proxy: Proxy, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opener]:
    """Opens the local record of a folder, as one command after another would; with short pauses."""
    monkeypatch.setattr(replica, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(replica, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(replica, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(store_module, "_create_database", lambda file: shutil.copy(empty, file))
    stores: list[Store] = []

    def open_record(folder: str = "record", start: bool = True, kind: str = "study") -> Store:
        for store in stores:
            of(store).close()
        stores.clear()
        config = TrackingConfig(proxy.uri, there.experiment)
        stores.append(open_store(config, record=tmp_path / folder, hooks=Hooks(said.append)))
        of(stores[-1]).server = Server(proxy.uri, TIMEOUT)
        of(stores[-1]).pull(kind, any_run)
        if start:
            of(stores[-1]).start()
        return stores[-1]

    yield open_record
    for store in stores:
        of(store).close()


def of(store: Store) -> Replica:
    assert store.replica is not None
    return store.replica


def points(key: str, steps: Sequence[int] | np.ndarray, value: float = 0.5) -> Points:
    """With times that do not depend on when this is."""
    steps = np.asarray(steps)
    return Points(key, steps, 1_700_000_000_000 + steps // 3, value / (steps + 1.0))


def record(store: Store, trials: int, rows: int) -> None:
    """A study with its trials, in the calls that a recorder makes."""
    parent = store.create("study", {"sweep.kind": "study"}, {f"p{i}": str(i) for i in range(120)})
    for number in range(trials):
        tags = {"sweep.kind": "trial", "mlflow.parentRunId": parent}
        run = store.create(f"{number:03d}", tags, {"lr": "0.1"}, {"config.yaml": b"a: %d\n" % number})
        if number == 1:  # interrupted, and trained again
            store.write([Change(run, status="KILLED")])
            store.writer.delete(run)
            run = store.create("again", tags, {"lr": "0.1", "long": "x" * 7000}, {"config.yaml": b"a: 1\n"})
        store.attach(run, {"config.yaml": b"b: %d\n" % number, "samples/curve.svg": b"picture"})
        loss = points("loss", np.arange(rows))
        loss.values[::100] = np.nan
        loss.values[1::100] = -np.inf
        loss.values[2::100] = 5e-324
        ended = Change(run, [points("lr", np.arange(rows)), loss], {"sweep.status": "complete"}, "FINISHED")
        store.write([ended, Change(parent, [points("val_loss", [number])], {"sweep.best": run})])
    store.write([Change(parent, tags={"sweep.families": f'["{parent}"]' * 500}, status="FINISHED")])


def recorded(store: Store, tmp_path: Path) -> dict[str, Any]:
    """Return all that an experiment contains, by the names of its runs, which stand in the place of their ids."""
    runs = store.search({})
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs), "a run is there twice"

    def named(text: str) -> str:
        for run_id, name in names.items():
            text = text.replace(run_id, name)
        return text

    found = {}
    for run in runs:
        run_id = run.info.run_id
        histories = {key: store.client.get_metric_history(run_id, key) for key in run.data.metrics}
        samples = [file.path for file in store.client.list_artifacts(run_id, "samples")]
        files = [file.path for file in store.client.list_artifacts(run_id) if not file.is_dir] + samples
        found[run.info.run_name] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {key: named(value) for key, value in run.data.tags.items() if key != RECORD_TAG},
            "last": {key: float(value).hex() for key, value in run.data.metrics.items()},
            "rows": {k: sorted((m.step, m.timestamp, float(m.value).hex()) for m in h) for k, h in histories.items()},
            "files": {n: Path(store.client.download_artifacts(run_id, n, str(tmp_path))).read_bytes() for n in files},
        }
    return found


def test_a_record_through_faults_is_the_local_record(
    there: Store, proxy: Proxy, opened: Opener, said: list[str], tmp_path: Path
) -> None:
    """A third of the requests is lost, a third refused, a third delayed; as good as none is answered at once."""
    trials, rows = (30, 10_000) if LONG else (3, 2500)
    store = opened()
    proxy.plan = faults(0, lose=0.3, refuse=0.3, delay=0.3)
    record(store, trials, rows)
    assert of(store).settle(60) == 0
    proxy.plan = lambda path: "forward"
    found = recorded(there, tmp_path)
    assert found == recorded(store, tmp_path)
    assert len(found) == trials + 1
    assert [len(found["000"]["rows"][key]) for key in ("lr", "loss")] == [rows, rows]
    assert set(found["000"]["files"]) == {"config.yaml", "samples/curve.svg"}
    assert proxy.fates["lose"] > 20
    assert proxy.fates["refuse"] > 20
    assert not [text for text in said if "refuses" in text]


@pytest.mark.parametrize("fate", ["500", "503", "hang", "late", "lose", "refuse"])
def test_a_run_is_created_once_whatever_becomes_of_the_request(
    there: Store, proxy: Proxy, opened: Opener, tmp_path: Path, fate: str
) -> None:
    """Also where the first request is carried out after the second: the run that is written to is kept."""
    store = opened()
    proxy.plan = first(fate, "runs/create")
    run = store.create("name", {}, {}, {"a.txt": b"1"})
    store.write([Change(run, [points("lr", range(10))])])
    assert of(store).settle(20) == 0
    if fate == "late":
        time.sleep(1.5)
        assert len(there.search({})) == 2
        assert of(store).settle(20) == 0
    assert proxy.fates[fate] == 1
    found = recorded(there, tmp_path)
    assert list(found) == ["name"]
    assert len(found["name"]["rows"]["lr"]) == 10
    assert found["name"]["files"] == {"a.txt": b"1"}
    assert there.search({})[0].info.run_id == store.public_id(run) != run


def test_a_run_that_came_late_is_deleted_by_the_next_start(there: Store, proxy: Proxy, opened: Opener) -> None:
    store = opened()
    proxy.plan = first("late", "runs/create")
    run = store.create("name", {"sweep.kind": "study"}, {})
    assert of(store).settle(20) == 0
    time.sleep(1.5)
    assert len(there.search({})) == 2
    later = opened()
    assert of(later).settle(20) == 0
    assert [found.info.run_id for found in there.search({})] == [later.public_id(run)]


def test_points_are_there_once_where_their_reply_is_lost(there: Store, proxy: Proxy, opened: Opener) -> None:
    store = opened()
    proxy.plan = first("lose", "log-batch", times=3)
    run = store.create("name", {}, {})
    for begin in (0, 1500):
        store.write([Change(run, [points("lr", np.arange(begin, begin + 1500)), points("loss", [begin])])])
    assert of(store).settle(20) == 0
    assert proxy.fates["lose"] == 3
    (found,) = there.search({})
    history = there.client.get_metric_history(found.info.run_id, "lr")
    assert sorted(m.step for m in history) == list(range(3000))
    assert found.data.metrics["lr"] == 0.5 / 3000


def test_what_an_interrupted_attempt_left_is_deleted_on_the_server_too(there: Store, opened: Opener) -> None:
    store = opened()
    recorder = MlflowRecorder(store, describe, study_run(store))
    for rows in (5, 6, 7):
        recorder.open(trial(0))
        recorder.record(updates(0, rows))
        if rows < 7:
            recorder.flush(trial(0))
            assert of(store).settle(20) == 0
            recorder.interrupt(trial(0))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    assert of(store).settle(20) == 0
    (run,) = there.search({"sweep.kind": "trial"})
    assert run.info.run_id == store.public_id(recorder.run_id(trial(0)))
    assert (run.info.status, len(there.client.get_metric_history(run.info.run_id, "lr"))) == ("FINISHED", 7)


@pytest.mark.parametrize("how", ["deleted", "removed"])
def test_a_run_that_a_person_deletes_while_it_is_written_to_is_there_again(
    there: Store, opened: Opener, said: list[str], tmp_path: Path, uris: dict[str, str], how: str
) -> None:
    store = opened()
    record(store, 1, 1500)
    assert of(store).settle(20) == 0
    (run,) = (run for run in store.search({}) if run.info.run_name == "000")
    remove(uris, there, store.public_id(run.info.run_id), for_good=how == "removed")
    store.write([Change(run.info.run_id, [points("late", [1])])])
    assert of(store).settle(20) == 0
    assert recorded(there, tmp_path) == recorded(store, tmp_path)
    (text,) = said
    assert text.startswith("run 000 was ")


def remove(uris: dict[str, str], there: Store, run_id: str, for_good: bool) -> None:
    """Delete a run on the server, as a person does in the UI, and with `mlflow gc`."""
    there.client.delete_run(run_id)
    if for_good:
        MlflowClient(tracking_uri=uris["of the server"])._tracking_client.store._hard_delete_run(run_id)


def test_a_run_that_a_person_deleted_between_two_commands_is_deleted_here(there: Store, opened: Opener) -> None:
    store = opened()
    record(store, 2, 10)
    assert of(store).settle(20) == 0
    run = next(run for run in there.search({}) if run.info.run_name == "000")
    there.client.delete_run(run.info.run_id)
    later = opened()
    assert {run.info.run_name for run in later.search({})} == {"study", "again"}
    assert of(later).settle(20) == 0
    assert len(there.search({})) == 2


def test_a_server_that_has_lost_runs_or_points_gets_them_again(
    there: Store, opened: Opener, tmp_path: Path, uris: dict[str, str]
) -> None:
    store = opened()
    record(store, 3, 50)
    assert of(store).settle(20) == 0
    whole = recorded(there, tmp_path)
    ids = {run.info.run_name: run.info.run_id for run in there.search({})}
    remove(uris, there, ids["000"], for_good=True)
    tables = MlflowClient(tracking_uri=uris["of the server"])._tracking_client.store.engine
    with tables.begin() as connection:
        for table in ("metrics", "latest_metrics"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE run_uuid = ? AND key = 'loss'", (ids["002"],))
    later = opened()
    assert of(later).settle(20) == 0
    assert recorded(there, tmp_path) == whole


def test_a_record_that_is_missing_is_rebuilt_from_the_server(there: Store, opened: Opener, tmp_path: Path) -> None:
    store = opened()
    record(store, 3, 1100)
    assert of(store).settle(20) == 0
    before, ids = recorded(store, tmp_path), {run.info.run_id for run in store.search({})}
    of(store).close()
    shutil.rmtree(tmp_path / "record")
    again = opened()
    for run in before.values():
        run["files"] = {}  # they stay on the server
    assert recorded(again, tmp_path) == before
    assert {run.info.run_id for run in again.search({})} == ids  # as checkpoints name them
    assert of(again).settle(20) == 0
    assert len(there.search({})) == 4


def test_a_search_resumes_from_a_rebuilt_record(there: Store, opened: Opener, tmp_path: Path) -> None:
    """A trial with a checkpoint continues in its run; each step is there once."""
    store = opened()
    recorder = MlflowRecorder(store, describe, study_run(store))
    train(recorder, 0)
    recorder.open(trial(1))
    recorder.record(replace(updates(0, 20), trial=1))
    kept = recorder.pending(trial(1))
    recorder.flush(trial(1))
    assert of(store).settle(20) == 0
    of(store).close()
    shutil.rmtree(tmp_path / "record")
    store = opened()
    recorder = MlflowRecorder(store, describe, study_run(store))
    assert recorder.ended(trial(0)) is not None
    assert recorder.open(trial(1), kept)
    recorder.record(replace(updates(20, 30), trial=1))
    recorder.close(trial(1), Result(1, Status.COMPLETE, 0.1))
    assert of(store).settle(20) == 0
    study = MlflowReader(there).study("study")
    assert study is not None
    assert [one.number for one in study.trials] == [0, 1]
    history = there.client.get_metric_history(study.trials[1].run_id, "lr")
    assert sorted(m.step for m in history) == list(range(30))
    assert MlflowReader(store).study("study") == study  # ids of runs and experiment are those of the server


def test_two_machines_in_turn_have_one_record(there: Store, opened: Opener, tmp_path: Path) -> None:
    """Each has a folder of its own; what the other did is imported at the start."""
    for number, folder in enumerate(["a", "b", "a", "b", "b", "a"]):
        store = opened(folder)
        train(MlflowRecorder(store, describe, study_run(store)), number, 1 / (number + 1))
        assert of(store).settle(20) == 0
        found = recorded(there, tmp_path)
        here = recorded(store, tmp_path)
        for one in (*found.values(), *here.values()):
            del one["files"]
        assert found == here
        assert len(found) == number + 2
    assert [step for step, _, _ in found["study"]["rows"]["val_loss"]] == list(range(6))


def test_what_another_machine_wrote_wins_over_what_was_never_sent(
    there: Store, proxy: Proxy, opened: Opener, tmp_path: Path
) -> None:
    """But a trial that has ended here, and only looked lost to the other machine, is sent."""
    store = opened("a")
    recorder = MlflowRecorder(store, describe, study_run(store))
    for number in (0, 1):
        recorder.open(trial(number))
        recorder.record(replace(updates(0, 4), trial=number))
        recorder.flush(trial(number))
    assert of(store).settle(20) == 0
    proxy.plan = lambda path: "refuse"
    recorder.record(replace(updates(4, 8), trial=0))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    recorder.record(replace(updates(4, 6), trial=1))
    recorder.flush(trial(1))
    of(store).close()
    proxy.plan = lambda path: "forward"
    store = opened("b")
    train(MlflowRecorder(store, describe, study_run(store)), 1, 0.25)
    assert of(store).settle(20) == 0
    trials = MlflowReader(store).study("study").trials  # type: ignore[union-attr]
    assert [one.status for one in trials] == [None, Status.COMPLETE]
    store = opened("a")
    assert of(store).settle(20) == 0
    for reader in (MlflowReader(there), MlflowReader(store)):
        study = reader.study("study")
        assert study is not None
        assert [(one.number, one.status) for one in study.trials] == [(0, Status.COMPLETE), (1, Status.COMPLETE)]
        assert reader.rows(study.trials[0].run_id).steps.tolist() == list(range(8))


CHILD = """
import os, signal, sys, time
from pathlib import Path
from sweep.config import TrackingConfig
from sweep.tracking import open_store, replica
from sweep.tracking.server import Server
from tests.tracking.test_replica import any_run, record
uri, folder, experiment, writes_to, then = sys.argv[1:]
replica.FIRST_PAUSE_SECONDS, replica.LONGEST_PAUSE_SECONDS = 0.01, 0.05
store = open_store(TrackingConfig(uri, experiment), record=Path(folder))
store.replica.pull("study", any_run)
store.replica.server = Server(writes_to, 0.5)
store.replica.start()
record(store, 4, 1100)
print(store.replica.waiting, flush=True)
if then == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def start(uris: dict[str, str], folder: Path, there: Store, writes_to: str, then: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", CHILD, uris["server"], str(folder), there.experiment, writes_to, then]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_command_left_is_sent_by_the_next(
    there: Store, uris: dict[str, str], opened: Opener, tmp_path: Path
) -> None:
    """The server was down all the time; times are those of then."""
    child = start(uris, tmp_path / "record", there, "http://127.0.0.1:9", "kill")
    answer, _ = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert int(answer) >= 5
    assert there.search({}) == []
    store = opened()
    assert of(store).settle(20) == 0
    found = recorded(there, tmp_path)
    assert found == recorded(store, tmp_path)
    assert sorted(found) == ["000", "002", "003", "again", "study"]


def test_a_command_that_is_killed_while_it_sends_loses_and_doubles_nothing(
    there: Store, uris: dict[str, str], proxy: Proxy, opened: Opener, tmp_path: Path
) -> None:
    for number in range(20 if LONG else 2):
        proxy.plan = faults(number, lose=0.2, delay=0.2)
        child = start(uris, tmp_path / f"{number}", there, proxy.uri, "wait")
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.3 * number)
        child.kill()
        child.communicate()
        proxy.plan = lambda path: "forward"
        store = opened(f"{number}")
        assert of(store).settle(30) == 0
        found = recorded(there, tmp_path)
        assert sorted(found) == ["000", "002", "003", "again", "study"]
        assert found == recorded(store, tmp_path) or number
        assert [len(found["003"]["rows"][key]) for key in ("lr", "loss")] == [1100, 1100]
        assert {run["status"] for run in found.values()} == {"FINISHED"}
        for run in there.search({}):
            there.client.delete_run(run.info.run_id)


def test_two_commands_do_not_use_one_record(
    there: Store, uris: dict[str, str], opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "LOCK_PATIENCE_SECONDS", 0.2)
    child = start(uris, tmp_path / "record", there, uris["server"], "wait")
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(RecordInUseError, match=f"process {child.pid} on .* uses the local record in {tmp_path}/record"):
        opened()
    child.kill()
    child.communicate()


def test_what_the_server_refuses_is_said_and_the_rest_is_sent(
    there: Store, proxy: Proxy, opened: Opener, said: list[str]
) -> None:
    """It is tried again when the run changes, and at the next start."""
    store = opened()
    run = store.create("one", {"sweep.kind": "study"}, {})
    other = store.create("other", {"sweep.kind": "study"}, {})
    assert of(store).settle(20) == 0
    proxy.plan = first("400", "log-batch")
    store.write([Change(run, [points("lr", range(2000))], {"sweep.status": "complete"}, "FINISHED")])
    store.write([Change(other, [points("lr", range(5))], {"sweep.status": "complete"}, "FINISHED")])
    assert of(store).settle(20) == 0
    found = {run.info.run_name: run for run in there.search({})}
    assert [found[name].info.status for name in ("one", "other")] == ["FINISHED", "FINISHED"]
    assert "sweep.status" not in found["one"].data.tags  # it is not whole
    assert found["other"].data.tags["sweep.status"] == "complete"
    (text,) = said
    assert "refuses run one" in text
    assert "too long" in text
    later = opened()
    assert of(later).settle(20) == 0
    (one,) = (run for run in there.search({}) if run.info.run_name == "one")
    assert len(there.client.get_metric_history(one.info.run_id, "lr")) == 2000
    assert one.data.tags["sweep.status"] == "complete"
    assert len(said) == 1


class Lease:
    """One that can be lost."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLostError("study s has been taken over")


def test_a_process_that_lost_its_lease_writes_and_sends_nothing(
    there: Store, proxy: Proxy, opened: Opener, said: list[str]
) -> None:
    """What waited until then is there for the next process."""
    store, lease = opened(), Lease()
    run = store.create("study", {"sweep.kind": "study"}, {})
    remove_fence = fence_store(store, run, "1 a", lambda: LeaseLostError("older"), lease.check)
    store.write([Change(run, tags={"ours": "yes"})])
    assert of(store).settle(20) == 0
    proxy.plan = lambda path: "refuse"
    store.write([Change(run, tags={"waits": "yes"})])
    time.sleep(0.1)
    lease.lost, proxy.plan = True, lambda path: "forward"
    for call in (
        lambda: store.create("name", {}, {}),
        lambda: store.write([Change(run, tags={"ours": "no"})]),
        lambda: store.writer.delete(run),
    ):
        with pytest.raises((LeaseLostError, MlflowException), match="taken over"):
            call()
    assert of(store).settle(10) == 1
    (found,) = there.search({})
    assert (found.data.tags["ours"], found.data.tags["sweep.lease"]) == ("yes", "1 a")
    assert "waits" not in found.data.tags
    assert [text for text in said if text.startswith("study s has been taken over; this process sends nothing more")]
    remove_fence()
    lease.lost = False
    store = opened()
    assert of(store).settle(20) == 0
    assert there.search({})[0].data.tags["waits"] == "yes"


def test_nothing_is_waited_for_where_no_one_answers(
    there: Store, proxy: Proxy, opened: Opener, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once that the server does not answer, and once that it does."""
    monkeypatch.setattr(replica, "SAID_AFTER_SECONDS", 0.3)
    store = opened()
    proxy.plan = lambda path: "hang"
    began = time.monotonic()
    for number in range(20):
        store.create(f"{number}", {}, {"lr": "1"})
    assert time.monotonic() - began < 2
    assert of(store).settle(4.0) == 20
    assert of(store).settle(60, lambda: True) == 20
    (text,) = said
    assert text.startswith(f"{proxy.uri} does not answer (")
    assert text.endswith("20 runs in " + str(of(store).folder) + " will be sent when it answers")
    proxy.plan = lambda path: "forward"
    assert of(store).settle(30) == 0
    assert said[1:] == [f"{proxy.uri} answers again; 20 runs to bring up to date"]
    assert len(there.search({})) == 20


def test_a_server_that_is_silent_at_the_start_ends_the_command(
    proxy: Proxy, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "START_PATIENCE_SECONDS", 0.2)
    store = opened(start=False)
    proxy.plan = lambda path: "503"
    with pytest.raises(UnavailableError, match="does not answer"):
        of(store).pull("study", any_run)


def test_a_record_is_its_owner_s_only(opened: Opener, tmp_path: Path) -> None:
    record(opened(), 1, 3)
    assert {(tmp_path / "record" / name).stat().st_mode & 0o077 for name in (".", "record.db", "lock")} == {0}


def test_a_moved_record_finds_its_artifacts(there: Store, opened: Opener, tmp_path: Path) -> None:
    store = opened()
    run = store.create("name", {"sweep.kind": "study"}, {}, {"a.txt": b"1"})
    assert of(store).settle(20) == 0
    of(store).close()
    (tmp_path / "record").rename(tmp_path / "moved")
    store = opened("moved")
    store.attach(run, {"b.txt": b"2"})
    assert of(store).settle(20) == 0
    assert {file.path for file in there.client.list_artifacts(store.public_id(run))} == {"a.txt", "b.txt"}
    assert not (tmp_path / "record").exists()
