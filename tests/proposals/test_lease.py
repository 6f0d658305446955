"""The lease of a study: one of several processes has it, and one that has lost it writes nothing more."""

import getpass
import json
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.study import Study
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from sweep.config import TrackingConfig
from sweep.database import Cell, locked, lost_lease
from sweep.errors import InvalidValueError, LeaseLostError, UnavailableError
from sweep.proposals import lease as module
from sweep.proposals.lease import KEY, Lease
from sweep.proposals.store import _storage, attribute, rdb
from sweep.tracking.bulk import Change, point
from sweep.tracking.fencing import LEASE_TAG, fence_store
from sweep.tracking.store import open_store
from tests.proposals.other import Other
from tests.test_postgresql import server

__all__ = ["server"]

SHORT = 1.5
"""Seconds of a lease that is to run out."""

Start = Callable[..., Other]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def uris(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of Optuna's database and of MLflow's."""
    if request.param == "postgresql":
        base = request.getfixturevalue("server")
        return f"{base}/studies", f"{base}/tracking"
    folder = tmp_path_factory.mktemp("lease")
    return f"sqlite:///{folder}/optuna.db", f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def study(uris: tuple[str, str]) -> Study:
    return optuna.create_study(storage=_storage(uris[0]), study_name=uuid.uuid4().hex)


@pytest.fixture
def start(uris: tuple[str, str], study: Study) -> Iterator[Start]:
    """Starts another process that opens the study."""
    started: list[Other] = []

    def begin(seconds: float = 30.0, wait: bool = True) -> Other:
        started.append(Other(uris[0], study.study_name, seconds, uris[1]))
        assert not wait or started[-1].answer() == "ready"
        return started[-1]

    yield begin
    for other in started:
        other.end()


def holder(study: Study) -> module.Holder:
    return module.Holder.of(attribute(study, KEY).read(rdb(study).engine))


def edit(study: Study, **entries: object) -> None:
    """Let the lease be another process's."""
    cell, engine = attribute(study, KEY), create_engine(rdb(study).engine.url)
    seen = cell.read(engine)
    assert seen is not None
    assert cell.swap(engine, seen, json.dumps({**json.loads(seen), **entries}))
    engine.dispose()


def took(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def trials(study: Study) -> int:
    """How many there are in the database; a process that has lost the lease may not even read by its own engine."""
    engine = create_engine(rdb(study).engine.url)
    with engine.connect() as connection:
        count = text("SELECT count(*) FROM trials WHERE study_id = :id")
        found = connection.execute(count, {"id": study._study_id}).scalar_one()
    engine.dispose()
    return int(found)


def test_a_second_process_is_told_who_has_it_and_since_when(study: Study, start: Start) -> None:
    with Lease.take(study):
        since = time.strftime("%Y-%m-%d")
        answer = start().do("take")
    who = rf"{getpass.getuser()} on {socket.gethostname()}, process {module.os.getpid()}, since {since} \d\d:\d\d:\d\d"
    wanted = rf"InvalidValueError: study.name={study.study_name}: is being searched by {who}; wait until it ends, "
    assert re.match(wanted, answer), answer
    assert answer.endswith("stop it, or choose another study.name")
    with pytest.raises(InvalidValueError), Lease.take(study), Lease.take(study):
        pass


def test_it_is_free_once_released_and_its_number_rises(study: Study) -> None:
    for generation in (1, 2, 3):
        with Lease.take(study) as lease:
            assert holder(study).generation == generation
            assert lease.fencing_token == f"{generation} {holder(study).token}"
            study.set_user_attr("one", generation)
            lease.check()
        study.set_user_attr("one", 0)
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.check()


def test_a_check_waits_for_a_file_that_is_locked_for_readers_too(tmp_path: Path) -> None:
    """One that cannot be written ahead, since another program uses it."""
    study = optuna.create_study(storage=_storage(f"sqlite:///{tmp_path}/optuna.db"), study_name="mine")
    with Lease.take(study) as lease:
        rdb(study).engine.dispose()
        other = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)
        assert other.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(4, other.close).start()
        assert 3 < took(lease.check) < 8


def test_a_check_that_waits_ends_at_a_signal(tmp_path: Path) -> None:
    study = optuna.create_study(storage=_storage(f"sqlite:///{tmp_path}/optuna.db"), study_name="mine")
    signals: list[int] = []
    with Lease.take(study, lambda: bool(signals)) as lease:
        rdb(study).engine.dispose()
        other = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        signals.append(15)
        with pytest.raises(UnavailableError, match="the database of study mine is locked by another program"):
            lease.check()
        other.close()


def test_a_killed_process_is_taken_over_from_at_once(study: Study, start: Start) -> None:
    other = start()
    assert (other.do("take"), other.do("trial")) == ("done", "done")
    other.process.send_signal(signal.SIGKILL)  # and not waited for: it stays in the table of processes
    time.sleep(0.1)
    assert took(lambda: Lease.take(study).release()) < 1
    assert trials(study) == 1


def test_another_process_of_the_same_number_is_not_the_one_that_had_it(study: Study) -> None:
    lease = Lease.take(study)
    started = holder(study).started
    assert started is not None
    edit(study, started=started - 1)
    assert took(lambda: Lease.take(study).release()) < 1
    with pytest.raises(LeaseLostError):
        lease.check()


def test_it_is_renewed_as_long_as_it_is_held(study: Study, start: Start) -> None:
    with Lease.take(study, seconds=SHORT):
        other = start(SHORT)
        until = time.monotonic() + 3 * SHORT
        while time.monotonic() < until:
            assert "is being searched" in other.do("take")
            time.sleep(0.2)
        study.set_user_attr("still", "ours")


def test_of_a_process_that_was_suspended_too_long_nothing_is_written(
    study: Study, start: Start, uris: tuple[str, str]
) -> None:
    store = open_store(TrackingConfig(uris[1], "test"))
    run_id = store.writer.create(store.experiment_id, "study", {"study": study.study_name}, {})
    other = start(SHORT)
    assert [other.do(act) for act in ("take", "fence", "trial", "metric")] == ["done"] * 4
    other.stop()
    time.sleep(SHORT)
    lease = Lease.take(study, seconds=SHORT)
    lease.until_released(fence_store(store, run_id, lease.fencing_token, lease.error))
    before = store.client.get_run(run_id).data, trials(study)
    other.go_on()
    for act in ("trial", "metric", "trial", "metric"):
        answer = other.do(act)
        assert answer.startswith(f"lost: study {study.study_name} is being searched by {getpass.getuser()} on "), answer
        assert f"process {module.os.getpid()}, since" in answer
    assert "is being searched" in other.do("take")
    after = store.client.get_run(run_id).data, trials(study)
    assert after[0].to_dictionary() == before[0].to_dictionary()
    assert after[1] == before[1] == 1
    store.writer.write([Change(run_id, [point("loss", 1, 2, 2.0)])])  # and the one that has the lease can write
    study.ask()
    lease.release()
    assert other.do("take") == "done"
    assert "lost" in other.do("trial"), "a process that lost a lease stays fenced as long as it lives"


@pytest.mark.parametrize("act", ["stop_before_the_check", "stop_after_the_check"])
def test_one_that_is_stopped_within_a_commit_commits_before_it_is_taken_over_or_not_at_all(
    study: Study, start: Start, act: str
) -> None:
    """SQLite keeps its file locked for it; PostgreSQL ends its transaction, and what it had locked is free."""
    other = start(SHORT)
    assert (other.do("take"), other.do(act)) == ("done", "done")
    other.tell("trial")
    time.sleep(2 * SHORT)
    if rdb(study).engine.name == "postgresql":
        lease, committed = Lease.take(study, seconds=SHORT), 0
        other.go_on()
        assert re.match("lost: |UnavailableError: |OperationalError: ", other.answer())
    else:
        with pytest.raises(InvalidValueError, match=r"is being searched by .*, and its database is locked"):
            Lease.take(study, seconds=SHORT)
        assert trials(study) == 0
        threading.Timer(0.5, other.go_on).start()
        lease, committed = take_from(other, study), 1
        assert other.answer() == "done"
    assert trials(study) == committed, "what was committed came before the lease was taken"
    assert other.do("trial").startswith("lost: ")
    assert trials(study) == committed
    lease.release()


def take_from(other: Other, study: Study) -> Lease:
    """The lease that another process, woken by and by, is about to lose."""
    try:
        return Lease.take(study, seconds=SHORT)
    except InvalidValueError:  # it was as fast to renew it
        other.stop()
        time.sleep(SHORT)
        lease = Lease.take(study, seconds=SHORT)
        other.go_on()
        return lease


@pytest.fixture
def postgresql(study: Study) -> None:
    if rdb(study).engine.name != "postgresql":
        pytest.skip("in SQLite one transaction at a time writes")


@pytest.mark.usefixtures("postgresql")
def test_a_commit_waits_for_a_take_over_that_is_under_way(study: Study) -> None:
    lease = Lease.take(study)
    mine = attribute(study, KEY).read(rdb(study).engine)
    assert mine is not None
    theirs = {"theirs": mine.replace(lease.fencing_token.split()[1], "theirs"), "id": study._study_id}
    engine = create_engine(rdb(study).engine.url)
    with engine.begin() as connection:
        swap = "UPDATE study_user_attributes SET value_json = :theirs WHERE study_id = :id AND key = 'sweep.lease'"
        connection.execute(text(swap), theirs)
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(study.ask)
            time.sleep(0.5)
            assert not asked.done()
            connection.commit()
            with pytest.raises(LeaseLostError):
                asked.result(10)
    assert trials(study) == 0
    engine.dispose()


@pytest.mark.usefixtures("postgresql")
def test_a_take_over_waits_for_a_commit_that_is_under_way(study: Study) -> None:
    checked, go_on = threading.Event(), threading.Event()
    lease = Lease.take(study)

    def wait(connection: object) -> None:
        checked.set()
        assert go_on.wait(20)

    event.listen(rdb(study).engine, "commit", wait)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(study.ask)
        assert checked.wait(10)
        with pytest.raises(OperationalError) as caught:
            edit(study, token="theirs")
        assert locked(caught.value)
        go_on.set()
        asked.result(10)
    edit(study, token="theirs")
    with pytest.raises(LeaseLostError):
        study.ask()
    assert trials(study) == 1
    lease.release()


def test_one_of_eight_processes_gets_a_free_lease(study: Study, start: Start) -> None:
    others = [start(wait=False) for _ in range(8)]
    assert [other.answer() for other in others] == ["ready"] * 8
    rounds = 20 if rdb(study).engine.name == "sqlite" else 8
    for generation in range(1, rounds + 1):
        for other in others:
            other.tell("take")
        answers = [other.answer() for other in others]
        (winner,) = (other for other, answer in zip(others, answers, strict=True) if answer == "done")
        assert sum("is being searched" in answer for answer in answers) == 7, answers
        assert holder(study).generation == generation
        assert holder(study).pid == winner.process.pid
        assert [winner.do("trial"), winner.do("release")] == ["done", "done"]
    assert trials(study) == rounds


def test_a_process_of_another_machine_is_watched(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    alive = Lease.take(study, seconds=SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(module, "machine", lambda: "another")
        with pytest.raises(InvalidValueError, match="is being searched"):
            Lease.take(study, seconds=SHORT, say=said.append)
        alive.release()
        dead = Lease.take(study, seconds=600)
    (line,) = said
    assert "waiting up to 1.5 seconds for a sign that it is running" in line
    assert SHORT <= took(lambda: Lease.take(study, seconds=SHORT).release()) < 2 * SHORT
    with pytest.raises(LeaseLostError):
        dead.check()


def test_a_signal_ends_the_watch(study: Study) -> None:
    Lease.take(study)
    edit(study, machine="another")
    with pytest.raises(KeyboardInterrupt):
        Lease.take(study, interrupted=lambda: True)


def test_a_lease_that_is_released_while_it_is_watched_is_taken(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease.take(study, seconds=30)
    monkeypatch.setattr(module, "machine", lambda: "another")
    threading.Timer(0.5, first.release).start()
    assert took(lambda: Lease.take(study, seconds=30).release()) < 3


def test_a_renewal_finds_out_that_it_was_taken_over(study: Study) -> None:
    lease = Lease.take(study, seconds=0.3)
    edit(study, token="other", pid=1)
    until = time.monotonic() + 5
    while not lease.lost and time.monotonic() < until:
        time.sleep(0.02)
    assert lease.lost
    assert ", process 1, since" in str(lease.error())
    lease.release()
    assert holder(study).token == "other"
    with pytest.raises(LeaseLostError):
        study.set_user_attr("late", 1)


def test_a_mark_that_is_older_is_not_written(uris: tuple[str, str]) -> None:
    store = open_store(TrackingConfig(uris[1], "test"))
    run_id = store.writer.create(store.experiment_id, "study", {}, {})
    lost = LeaseLostError("somebody else has it")

    def error() -> LeaseLostError:
        return lost

    lift = fence_store(store, run_id, "9 a", error)
    store.writer.write([Change(run_id, tags={"nine": "yes"})])
    lift()
    lift = fence_store(store, run_id, "10 b", error)
    for mark in ("9 a", "10 a"):
        with pytest.raises(LeaseLostError):
            fence_store(store, run_id, mark, error)
    assert store.client.get_run(run_id).data.tags[LEASE_TAG] == "10 b"
    lift()
    store.client.set_tag(run_id, "lifted", "yes")


@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_a_mark_that_a_person_removes_is_no_other_lease(study: Study, uris: tuple[str, str], how: str) -> None:
    store = open_store(TrackingConfig(uris[1], "test"))
    run_id = store.writer.create(store.experiment_id, "study", {}, {})
    lease = Lease.take(study)
    lift = fence_store(store, run_id, lease.fencing_token, lease.error, lease.check)
    if how == "deleted":
        store.client.delete_tag(run_id, LEASE_TAG)
    else:
        store.client.set_tag(run_id, LEASE_TAG, "mine")
    store.writer.write([Change(run_id, tags={"still": "ours"})])
    edit(study, token="other", generation=99)
    with pytest.raises(Exception, match="taken over") as caught:
        store.writer.write([Change(run_id, tags={"still": "theirs"})])
    assert lost_lease(caught.value) is not None
    lift()


@pytest.mark.parametrize("edited", [None, "mine", '{"a": 1}'])
def test_a_lease_that_a_person_removes_is_still_ours(study: Study, edited: str | None) -> None:
    lease = Lease.take(study, seconds=0.3)
    first = int(lease.fencing_token.split()[0])
    study.ask()
    cell = attribute(study, KEY)
    change = "DELETE FROM" if edited is None else "UPDATE"
    new = "" if edited is None else "SET value_json = :new"
    query = text(f"{change} study_user_attributes {new} WHERE study_id = :id AND key = :key")
    with rdb(study).engine.connect() as connection:
        connection.execute(query, {"id": study._study_id, "key": KEY} | ({"new": edited} if edited else {}))
        connection.commit()
    study.set_user_attr("still", "ours")
    lease.check()
    until = time.monotonic() + 20
    while (now := cell.read(rdb(study).engine)) in (None, edited):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert now is not None
    assert f'"generation": {first},' in now
    assert not lease.lost
    lease.release()


def test_the_lease_after_one_that_a_person_removed_has_a_higher_number(study: Study) -> None:
    lease = Lease.take(study)
    study.ask()
    lease.release()
    with rdb(study).engine.connect() as connection:
        connection.execute(text("DELETE FROM study_user_attributes WHERE study_id = :id"), {"id": study._study_id})
        connection.commit()
    later = Lease.take(study)
    assert int(later.fencing_token.split()[0]) > int(lease.fencing_token.split()[0])
    later.release()


def test_a_study_that_is_deleted_is_named(study: Study) -> None:
    lease = Lease.take(study)
    with rdb(study).engine.connect() as connection:
        for table in ("study_user_attributes", "study_directions", "studies"):
            connection.execute(text(f"DELETE FROM {table} WHERE study_id = :id"), {"id": study._study_id})
        connection.commit()
    with pytest.raises(LeaseLostError, match=r"was deleted from study\.storage"):
        lease.check()
    lease.release()


def test_a_process_may_be_fenced_by_several_runs(uris: tuple[str, str]) -> None:
    store = open_store(TrackingConfig(uris[1], "test"))
    runs = [store.writer.create(store.experiment_id, "study", {}, {}) for _ in range(2)]
    lifts = [fence_store(store, run_id, "1 a", lambda: LeaseLostError("lost")) for run_id in runs]
    store.writer.write([Change(runs[0], tags={"both": "ours"})])
    engine = create_engine(uris[1])
    cell = Cell("tags", "value", {"run_uuid": runs[1], "key": LEASE_TAG})
    assert cell.swap(engine, "1 a", "2 b")
    engine.dispose()
    with pytest.raises(Exception, match="lost") as caught:
        store.writer.write([Change(runs[0], tags={"both": "no"})])
    assert lost_lease(caught.value) is not None
    for lift in lifts:
        lift()
    assert store.client.get_run(runs[0]).data.tags["both"] == "ours"


def test_a_refused_commit_is_rolled_back_at_once(study: Study) -> None:
    """SQLAlchemy sends no ROLLBACK where a listener of its commit raises, until the connection is back in its pool."""
    lease = Lease.take(study)
    study.ask()
    edit(study, token="other")
    rename = text("UPDATE trials SET number = 77 WHERE study_id = :id").bindparams(id=study._study_id)
    with rdb(study).engine.connect() as connection:
        connection.execute(rename)
        with pytest.raises(LeaseLostError):
            connection.commit()
        edit(study, token=lease.fencing_token.split()[1])  # nothing is locked, and nothing left to be committed
        connection.rollback()
        connection.commit()
    assert [t.number for t in study.get_trials()] == [0]
    lease.release()


def test_a_killed_process_of_a_terminal_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    stat = module._stat(process.pid)
    assert stat is not None
    assert module._lives(process.pid, stat[1])
    assert not module._lives(process.pid, stat[1] + 1)
    process.kill()
    while module._stat(process.pid)[0] != "Z":  # type: ignore[index]
        time.sleep(0.01)
    assert not module._lives(process.pid, stat[1])
    process.wait()
    assert not module._lives(process.pid, stat[1])
