"""A server that is written to through a folder: whatever becomes of the requests, everything arrives, and once."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from sweep.config import TrackingConfig
from sweep.core import Result, Status
from sweep.errors import LeaseLostError, SpoolInUseError, StorageFullError
from sweep.tracking import MlflowRecorder, Store, delivery, fence_store, open_store, spool
from sweep.tracking.bulk import Change, Points, Writer
from sweep.tracking.delivery import SpooledWriter
from sweep.tracking.locks import Hooks
from sweep.tracking.rest import NoAnswerError, RefusedError, Server
from sweep.tracking.server import ClientWriter, key_after
from sweep.tracking.spool import Spool
from tests.tracking.proxy import Proxy, faults, first, proxying
from tests.tracking.test_recorder import describe, study_run, trial, updates

LONG = os.environ.get("SWEEP_FAULTS") == "long"
ROOT = Path(__file__).parents[2]
TIMEOUT = 0.7
"""Seconds that these writers wait for an answer."""


@pytest.fixture
def store(uris: dict[str, str], request: pytest.FixtureRequest) -> Store:
    """An experiment at the server, without faults."""
    return open_store(TrackingConfig(uris["server"], request.node.name))


@pytest.fixture
def proxy(uris: dict[str, str]) -> Iterator[Proxy]:
    with proxying(uris["server"]) as opened:
        yield opened


@pytest.fixture
def said() -> list[str]:
    return []


Opener = Callable[..., SpooledWriter]


@pytest.fixture
def opened(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens writers through one folder, one after another; with short pauses."""
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.05)
    writers: list[SpooledWriter] = []

    def open_writer(server: Server | str, folder: Path = tmp_path / "spool") -> SpooledWriter:
        for writer in writers:
            if not writer.closed:
                writer.close()
        server = Server(server, TIMEOUT) if isinstance(server, str) else server
        writers.append(SpooledWriter(server, folder, Hooks(said.append)))
        return writers[-1]

    yield open_writer
    for writer in writers:
        if not writer.closed:
            writer.close()


def points(key: str, steps: Sequence[int] | np.ndarray, value: float = 0.5) -> Points:
    """With times that do not depend on when this is."""
    steps = np.asarray(steps)
    return Points(key, steps, 1_700_000_000_000 + steps // 3, value / (steps + 1.0))


def record(writer: Writer, experiment_id: str, trials: int, rows: int) -> None:
    """A study with its trials, in the calls that a recorder makes."""
    parent = writer.create(experiment_id, "study", {"sweep.key": "study"}, {f"p{i}": str(i) for i in range(120)})
    for number in range(trials):
        tags = {"sweep.key": f"trial-{number}", "mlflow.parentRunId": parent}
        run = writer.create(experiment_id, f"{number:03d}", tags, {"lr": "0.1"}, {"config.yaml": b"a: %d\n" % number})
        if number == 1:  # interrupted, and trained again
            writer.write([Change(run, status="KILLED")])
            writer.delete(run)
            tags = {**tags, "sweep.key": key_after("trial-1", run)}
            run = writer.create(experiment_id, "again", tags, {"lr": "0.1"}, {"config.yaml": b"a: 1\n"})
        writer.attach(run, {"config.yaml": b"b: %d\n" % number, "curve.svg": b"picture"})
        loss = points("loss", np.arange(rows))
        loss.values[::100] = np.nan
        loss.values[1::100] = -np.inf
        ended = Change(run, [points("lr", np.arange(rows)), loss], {"sweep.status": "complete"}, "FINISHED")
        writer.write([ended, Change(parent, [points("val_loss", [number])], {"sweep.best": run})])
    writer.write([Change(parent, tags={"sweep.families": f'["{parent}"]'}, status="FINISHED")])


def recorded(store: Store, tmp_path: Path) -> dict[str, Any]:
    """All that stands in the experiment, by the keys of the runs, which stand in the place of their ids."""
    runs = store.search({})
    keys = {run.info.run_id: run.data.tags["sweep.key"].partition(".")[0] for run in runs}
    assert len(set(keys.values())) == len(runs), "a run is there twice"

    def named(text: str) -> str:
        for run_id, key in keys.items():
            text = text.replace(run_id, key)
        return text

    found = {}
    for run in runs:
        run_id = run.info.run_id
        histories = {key: store.client.get_metric_history(run_id, key) for key in run.data.metrics}
        files = {file.path for file in store.client.list_artifacts(run_id)}
        found[keys[run_id]] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "ended": run.info.end_time is not None,
            "params": run.data.params,
            "tags": {key: named(value) for key, value in run.data.tags.items()} | {"sweep.key": keys[run_id]},
            "last": {key: float(value).hex() for key, value in run.data.metrics.items()},
            "rows": {k: sorted((m.step, m.timestamp, float(m.value).hex()) for m in h) for k, h in histories.items()},
            "files": {n: Path(store.client.download_artifacts(run_id, n, str(tmp_path))).read_bytes() for n in files},
        }
    return found


def test_a_record_through_faults_is_the_record_without(
    store: Store, proxy: Proxy, opened: Opener, said: list[str], tmp_path: Path
) -> None:
    """A third of the requests is lost, a third refused, a third delayed; as good as none is answered at once."""
    trials, rows = (30, 10_000) if LONG else (3, 2500)
    plain = open_store(TrackingConfig(store.client.tracking_uri, f"{store.experiment} plain"))
    record(ClientWriter(plain.client), plain.experiment_id, trials, rows)
    proxy.plan = faults(0, lose=0.3, refuse=0.3, delay=0.3)
    writer = opened(proxy.uri)
    record(writer, store.experiment_id, trials, rows)
    assert writer.settle(60) == 0
    found, expected = recorded(store, tmp_path), recorded(plain, tmp_path)
    assert found == expected
    assert len(found) == trials + 1
    assert [len(found["trial-0"]["rows"][key]) for key in ("lr", "loss")] == [rows, rows]
    assert proxy.fates["lose"] > 20
    assert proxy.fates["refuse"] > 20
    assert spooled_files(tmp_path) == []
    assert not [text for text in said if "cannot be delivered" in text]


def spooled_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool").glob("*.op"))


@pytest.mark.parametrize("fate", ["500", "503", "hang", "late", "lose", "refuse"])
def test_a_run_is_created_once_whatever_becomes_of_the_request(
    store: Store, proxy: Proxy, opened: Opener, tmp_path: Path, fate: str
) -> None:
    """Also where the first request is carried out after the second: the run that is written to is kept."""
    proxy.plan = first(fate, "runs/create")
    writer = opened(proxy.uri)
    run = writer.create(store.experiment_id, "name", {"sweep.key": "k"}, {}, {"a.txt": b"1"})
    writer.write([Change(run, [points("lr", range(10))])])
    assert writer.settle(20) == 0
    if fate == "late":
        time.sleep(1.5)
        assert len(store.search({})) == 2
        assert writer.settle(20) == 0
    assert proxy.fates[fate] == 1
    found = recorded(store, tmp_path)
    assert list(found) == ["k"]
    assert len(found["k"]["rows"]["lr"]) == 10
    assert found["k"]["files"] == {"a.txt": b"1"}
    assert store.search({})[0].info.run_id == writer.resolve(run)


def test_a_run_that_came_late_is_deleted_by_the_next_start(store: Store, proxy: Proxy, opened: Opener) -> None:
    proxy.plan = first("late", "runs/create")
    writer = opened(proxy.uri)
    run = writer.create(store.experiment_id, "name", {"sweep.key": "k"}, {})
    assert writer.settle(20) == 0
    time.sleep(1.5)
    assert len(store.search({})) == 2
    later = opened(proxy.uri)
    assert later.settle(20) == 0
    assert [found.info.run_id for found in store.search({})] == [writer.resolve(run)]


def test_points_that_are_sent_again_are_there_once(store: Store, proxy: Proxy, opened: Opener) -> None:
    """Whole batches, with points that are twice in one of them."""
    proxy.plan = first("lose", "log-batch", times=3)
    writer = opened(proxy.uri)
    run = writer.create(store.experiment_id, "name", {"sweep.key": "k"}, {})
    twice = points("lr", [*range(1500), *range(500), 1499])
    twice.values[[3, 1503]] = np.nan
    writer.write([Change(run, [twice])])
    writer.write([Change(run, [twice.at(slice(1000))])])
    assert writer.settle(20) == 0
    (found,) = store.search({})
    history = store.client.get_metric_history(found.info.run_id, "lr")
    assert sorted(m.step for m in history) == list(range(1500))
    assert found.data.metrics["lr"] == twice.values[-1]


def test_what_replaces_a_deleted_run_is_another_run(
    store: Store, uris: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the run was created when it is deleted, or is not yet."""
    through = open_store(TrackingConfig(uris["server"], store.experiment), spool=tmp_path / "spool")
    assert through.spool is not None
    try:
        recorder = MlflowRecorder(through, describe, study_run(store))
        runs = []
        for number in range(3):
            if number == 1:
                monkeypatch.setattr(Server, "_request", no_answer)
            recorder.open(trial(0))
            runs.append(recorder.run_id(trial(0)))
            recorder.record(updates(0, 5 + number))
            if number < 2:
                recorder.flush(trial(0))
                recorder.interrupt(trial(0))
        recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
        monkeypatch.undo()
        assert len(set(runs)) == 3
        assert [run.startswith("spooled:") for run in runs] == [False, True, True]
        assert through.settle(20) == 0
        (run,) = store.search({"sweep.kind": "trial"})
        assert run.info.run_id == through.resolve(runs[2])
        assert (run.info.status, len(store.client.get_metric_history(run.info.run_id, "lr"))) == ("FINISHED", 7)
        assert not list((tmp_path / "spool" / "refused").iterdir())
    finally:
        through.spool.close()


def no_answer(*given: object, **sent: object) -> None:
    raise NoAnswerError("Connection refused")


@pytest.mark.parametrize("fate", ["forward", "late"])
@pytest.mark.parametrize("by", ["the command before", "a person", "this command"])
def test_a_deleted_run_may_be_created_again(store: Store, proxy: Proxy, opened: Opener, by: str, fate: str) -> None:
    """Also where a request for the first one is carried out late."""
    proxy.plan = first(fate, "runs/create")
    writer = opened(proxy.uri)
    run = writer.create(store.experiment_id, "name", {"sweep.key": "k"}, {})
    assert writer.settle(20) == 0
    if fate == "late":
        time.sleep(1.5)
    old = writer.resolve(run)
    assert old is not None
    if by == "a person":
        store.client.delete_run(old)
    else:
        writer.delete(old)
        assert writer.settle(20) == 0
    later = writer if by == "this command" else opened(proxy.uri)
    assert later.settle(20) == 0
    run = later.create(store.experiment_id, "name", {"sweep.key": "k"}, {})
    later.write([Change(run, [points("lr", range(10))])])
    assert later.settle(20) == 0
    (found,) = store.search({})
    assert found.info.run_id == later.resolve(run) != old
    assert len(store.client.get_metric_history(found.info.run_id, "lr")) == 10


CHILD = """
import os, signal, sys, time
from pathlib import Path
from sweep.tracking.delivery import SpooledWriter
from sweep.tracking.rest import Server
from tests.tracking.test_spool import record
uri, folder, experiment_id, then = sys.argv[1:]
writer = SpooledWriter(Server(uri, 0.5), Path(folder))
began = time.monotonic()
record(writer, experiment_id, 4, 1100)
print(writer.waiting, time.monotonic() - began, flush=True)
if then == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def start(uri: str, folder: Path, store: Store, then: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", CHILD, uri, str(folder), store.experiment_id, then]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_command_left_is_delivered_by_the_next(
    store: Store, uris: dict[str, str], opened: Opener, tmp_path: Path
) -> None:
    """The server was down all the time; references and times are those of then."""
    child = start("http://127.0.0.1:9", tmp_path / "spool", store, "kill")
    answer, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    waiting, seconds = answer.split()
    assert int(waiting) > 15
    assert float(seconds) < 4
    (tmp_path / "spool" / "000000000099.op.tmp").write_bytes(b"written when it was killed")
    writer = opened(uris["server"])
    assert writer.settle(20) == 0
    plain = open_store(TrackingConfig(uris["server"], f"{store.experiment} plain"))
    record(ClientWriter(plain.client), plain.experiment_id, 4, 1100)
    assert recorded(store, tmp_path) == recorded(plain, tmp_path)
    assert writer.resolve("spooled:trial-3") in {run.info.run_id for run in store.search({})}
    assert [path.name for path in (tmp_path / "spool").iterdir() if path.is_file()] == ["lock"]


def test_a_command_that_is_killed_while_it_delivers_loses_and_doubles_nothing(
    store: Store, proxy: Proxy, opened: Opener, tmp_path: Path
) -> None:
    for number in range(20 if LONG else 2):
        again = open_store(TrackingConfig(store.client.tracking_uri, f"{store.experiment} {number}"))
        proxy.plan = faults(number, lose=0.2, delay=0.2)
        child = start(proxy.uri, tmp_path / f"{number}", again, "wait")
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.7 * number)
        child.kill()
        child.communicate()
        writer = opened(proxy.uri, tmp_path / f"{number}")
        assert writer.settle(30) == 0
        found = recorded(again, tmp_path)
        assert sorted(found) == ["study", "trial-0", "trial-1", "trial-2", "trial-3"]
        assert [len(found["trial-3"]["rows"][key]) for key in ("lr", "loss")] == [1100, 1100]
        assert {run["status"] for run in found.values()} == {"FINISHED"}


def test_two_commands_do_not_deliver_from_one_folder(
    store: Store, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "PATIENCE", 0.2)
    child = start("http://127.0.0.1:9", tmp_path / "spool", store, "wait")
    assert child.stdout is not None
    child.stdout.readline()
    who = f"process {child.pid} on .* delivers .* in {tmp_path}/spool; wait until it has ended, or stop it"
    with pytest.raises(SpoolInUseError, match=who):
        opened("http://127.0.0.1:9")
    child.kill()
    child.communicate()


def test_what_mlflow_refuses_is_put_aside_and_the_rest_delivered(
    store: Store, uris: dict[str, str], opened: Opener, said: list[str], tmp_path: Path
) -> None:
    writer = opened(uris["server"])
    one, other = (writer.create(store.experiment_id, key, {"sweep.key": key}, {}) for key in "ab")
    store.client.delete_run(one)
    writer.write([Change(one, [points("lr", range(2000))], {"a": "b"}), Change(other, [points("lr", range(5))])])
    writer.write([Change(other, status="FINISHED")])
    assert writer.settle(20) == 0
    (run,) = store.search({})
    assert (run.info.status, len(store.client.get_metric_history(other, "lr"))) == ("FINISHED", 5)
    (kept,) = (tmp_path / "spool" / "refused").glob("*.op")
    (text,) = said
    assert str(kept) in text
    assert "must be in the 'active' state" in text
    assert one in kept.with_suffix(".txt").read_text()
    writer.close()
    store.client.restore_run(one)
    kept.rename(tmp_path / "spool" / kept.name)  # as a person would
    assert opened(uris["server"]).settle(20) == 0
    assert len(store.client.get_metric_history(one, "lr")) == 2000
    assert len(store.client.get_metric_history(other, "lr")) == 5


def test_what_mlflow_would_refuse_is_refused_at_once(opened: Opener) -> None:
    writer = opened("http://127.0.0.1:9")
    for params in ({"k" * 251: "v"}, {"what?": "v"}):
        with pytest.raises(MlflowException):
            writer.create("0", "name", {}, params)
        with pytest.raises(MlflowException):
            writer.write([Change("run", tags=params)])
        with pytest.raises(MlflowException):
            writer.write([Change("run", [points(next(iter(params)), [1])])])
    with pytest.raises(ValueError, match="must consist of"):
        writer.create("0", "name", {"sweep.key": "a'b"}, {})
    assert writer.waiting == 0


class FakeServer(Server):
    """Takes what it is sent, where `answers`."""

    def __init__(self) -> None:
        super().__init__("http://user:secret@nowhere:1", TIMEOUT)
        self.answers, self.refuses = True, False
        self.calls: list[tuple[str, Any]] = []
        self.points = 0

    def _answer(self, what: str, content: object = None) -> None:
        if not self.answers:
            raise NoAnswerError("Connection refused")
        if self.refuses:
            raise RefusedError("HTTP 400 no")
        self.calls.append((what, content))

    def find(self, experiment_id: str, key: str, tried: int) -> list[str]:
        self._answer("find", key)
        return []

    def create(self, experiment_id: str, name: str, tags: Any, start: int, tried: int) -> str:
        self._answer("create", name)
        return f"id-{name}"

    def log(self, run_id: str, tried: int, **entries: list[dict[str, Any]]) -> None:
        self._answer("log", (run_id, list(entries)))
        self.points += len(entries.get("metrics", ()))


class Lease:
    """One that can be lost."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLostError("study s has been taken over")


def test_a_process_that_lost_its_lease_keeps_and_delivers_nothing(
    opened: Opener, said: list[str], tmp_path: Path
) -> None:
    """What waited until then is there for the next process."""
    server, lease = FakeServer(), Lease()
    server.answers = False
    writer = opened(server)
    writer.fence(Lease().check)
    writer.fence(lease.check)
    writer.write([Change("run", tags={"a": "1"})])
    writer.write([Change("run", tags={"a": "2"})])
    lease.lost, server.answers = True, True
    assert writer.settle(10) == 2
    assert server.calls == []
    for call in (
        lambda: writer.create("0", "name", {}, {}),
        lambda: writer.write([Change("run", tags={"a": "3"})]),
        lambda: writer.attach("run", {"a.txt": b""}),
        lambda: writer.delete("run"),
    ):
        with pytest.raises(LeaseLostError, match="taken over"):
            call()
    assert len(spooled_files(tmp_path)) == 2
    assert writer.closed
    where = f"2 changes in {tmp_path / 'spool'} are not delivered by this process"
    assert said == [f"study s has been taken over; {where}"]
    assert opened(server).settle(10) == 0
    assert server.calls == [("log", ("run", ["tags"]))] * 2


def test_a_fence_that_was_lifted_is_none(opened: Opener) -> None:
    server, lease = FakeServer(), Lease()
    writer = opened(server)
    lift = writer.fence(lease.check)
    lift()
    lease.lost = True
    writer.write([Change("run", tags={"a": "1"})])
    assert writer.settle(10) == 0


def test_a_server_s_store_is_fenced_by_the_check_of_a_lease(store: Store, tmp_path: Path) -> None:
    config, lease = TrackingConfig(store.client.tracking_uri, store.experiment), Lease()
    through = open_store(config, spool=tmp_path / "spool")
    assert through.spool is not None
    run_id = store.writer.create(store.experiment_id, "study", {}, {})
    lift = fence_store(through, run_id, "1 a", lambda: LeaseLostError("older"), lease.check)
    through.writer.write([Change(run_id, tags={"ours": "yes"})])
    assert through.settle(20) == 0
    lease.lost = True
    with pytest.raises(LeaseLostError, match="taken over"):
        through.writer.write([Change(run_id, tags={"ours": "no"})])
    lift()
    tags = store.client.get_run(run_id).data.tags
    assert (tags["ours"], tags["sweep.lease"]) == ("yes", "1 a")
    through.spool.close()


def test_operations_are_delivered_in_their_order(opened: Opener) -> None:
    server = FakeServer()
    server.answers = False
    writer = opened(server)
    for number in range(30):
        run = writer.create("0", f"{number}", {"sweep.key": f"{number}"}, {})
        writer.write([Change(run, [points("lr", [1])], {"a": "b"})])
    server.answers = True
    later = opened(server)
    assert later.settle(10) == 0
    calls = [call for call in server.calls if call[0] != "find"]
    expected: list[tuple[str, Any]] = []
    for number in range(30):
        run = f"id-{number}"
        expected += [("create", f"{number}"), ("log", (run, ["metrics"])), ("log", (run, ["tags"]))]
    assert calls == expected


def test_a_new_run_is_not_waited_for_where_no_one_answers(store: Store, proxy: Proxy, opened: Opener) -> None:
    proxy.plan = lambda path: "hang"
    writer = opened(proxy.uri)
    took = []
    for number in range(5):
        began = time.monotonic()
        run = writer.create(store.experiment_id, "name", {"sweep.key": f"{number}"}, {})
        took.append(time.monotonic() - began)
        assert run == f"spooled:{number}"
        assert writer.resolve(run) is None
    assert took[0] < delivery.CREATION_WAIT + 0.5
    assert sum(took[1:]) < 1
    proxy.plan = lambda path: "forward"
    assert writer.settle(30) == 0
    run = writer.create(store.experiment_id, "name", {"sweep.key": "last"}, {})
    assert not run.startswith("spooled:")
    assert writer.resolve(run) == run
    assert len(store.search({})) == 6


def test_it_is_said_once_that_the_server_does_not_answer_and_once_that_it_does(
    opened: Opener, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SAID_AFTER", 0.3)
    server = FakeServer()
    server.answers = False
    writer = opened(server)
    writer.write([Change("run", tags={"a": "b"})])
    writer.write([Change("run", tags={"a": "c"})])
    began = time.monotonic()
    assert writer.settle(1.0) == 2
    assert writer.settle(60, lambda: True) == 2
    assert 0.9 < time.monotonic() - began < 3
    (text,) = said
    where = tmp_path / "spool"
    assert text.startswith("http://nowhere:1 does not answer (Connection refused); 2 changes wait in")
    assert text.endswith(f"{where} and are delivered when it returns")
    server.answers = True
    assert writer.settle(5) == 0
    assert said[1:] == ["http://nowhere:1 answers again; 2 changes are being delivered"]


@pytest.mark.parametrize("damage", ["cut", "cut to nothing", "a bit"])
def test_a_damaged_file_is_said_and_passed_over(opened: Opener, said: list[str], tmp_path: Path, damage: str) -> None:
    server = FakeServer()
    server.answers = False
    writer = opened(server)
    for name in "abc":
        writer.write([Change("run", [points("lr", range(100))], {name: "1"})])
    writer.close()
    file = spooled_files(tmp_path)[1]
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes({"cut": content[:500], "cut to nothing": b"", "a bit": content}[damage])
    server.answers = True
    assert opened(server).settle(10) == 0
    assert server.points == 200
    (text,) = said
    assert "the file is " in text
    assert [path.name for path in (tmp_path / "spool" / "refused").glob("*.op")] == [file.name]


def test_files_are_for_their_owner_only(opened: Opener, tmp_path: Path) -> None:
    server = FakeServer()
    server.answers = False
    opened(server).write([Change("run", tags={"a": "b"})])
    paths = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}


def test_a_full_disk_is_said_by_the_call_that_could_not_be_kept(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer()
    server.answers = False
    writer = opened(server)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError, match=f"{tmp_path}.*No space left on device"):
            writer.write([Change("run", tags={"a": "b"})])
    assert writer.waiting == 0
    assert [path.name for path in (tmp_path / "spool").iterdir() if path.is_file()] == ["lock"]
    writer.write([Change("run", tags={"a": "b"})])
    assert writer.waiting == 1


def test_of_what_waits_little_is_in_memory(opened: Opener, tmp_path: Path) -> None:
    server = FakeServer()
    server.answers = False
    writer, operations, rows = opened(server), 40 if LONG else 8, 50_000
    many = points("loss", np.arange(rows))
    tracemalloc.start()
    try:
        for _ in range(operations):
            writer.write([Change("run", [many])])
        kept = tracemalloc.get_traced_memory()[1]
        server.answers = True
        tracemalloc.reset_peak()
        assert writer.settle(20) == 0
        delivered = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.points == operations * rows
    size = 3 * 8 * rows  # bytes of one operation
    assert max(kept, delivered) < 1.2 * size


def test_a_store_is_opened_through_a_folder(store: Store, tmp_path: Path) -> None:
    config = TrackingConfig(store.client.tracking_uri, store.experiment)
    opened = open_store(config, spool=tmp_path / "spool")
    assert opened.writer is opened.spool
    assert open_store(config, spool=tmp_path / "spool").writer is opened.writer
    record(opened.writer, store.experiment_id, 2, 10)
    assert (opened.settle(20), opened.waiting) == (0, 0)
    assert sorted(recorded(store, tmp_path)) == ["study", "trial-0", "trial-1"]
    assert isinstance(store.writer, ClientWriter)
    opened.spool.close()


def test_numbers_go_on_after_those_that_were_put_aside(tmp_path: Path) -> None:
    folder = Spool(tmp_path / "spool")
    assert folder.append({}) == 1
    folder.refuse(1, "why")
    folder.close()
    assert Spool(tmp_path / "spool").append({}) == 2
