"""What is recorded is what is read, by this project's reader and by MLflow's own client."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep.core import Description, Evaluation, Failure, Result, Rows, Status, Trial
from sweep.errors import InvalidValueError, RemovedError
from sweep.schedules import Event
from sweep.tracking import MlflowReader, MlflowRecorder, Store, StudyRun, TrainingRuns, bulk, recorded_run, server
from sweep.tracking.bulk import Change, Points, point
from sweep.tracking.open_run import OpenRun


def describe(trial: Trial, events: Sequence[Event] = ()) -> Description:
    params = {"schedule.name": "exponential", **{f"many.p{i}": str(i) for i in range(120)}}
    tags = {"sweep.half_life": "12.5", "sweep.curve": "abc"}
    if events:
        tags["sweep.curve"] = "cut"
    picture = b"picture" + tags["sweep.curve"].encode()
    return Description(f"{trial.number:03d}", params, tags, {"config.yaml": b"mode: train\n", "curve.svg": picture})


def trial(number: int) -> Trial:
    return Trial(number, config=None, seed=0)  # type: ignore[arg-type]


def study_run(store: Store, uid: str = "uid") -> StudyRun:
    run = StudyRun(store, uid, "study", "val_loss", minimize=True)
    if run.exists:
        run.reopen()
    else:
        run.create({"sampler.name": "tpe"}, {"sweep.searched": '["optimizer.lr"]', "sweep.command": "train.steps=9"})
    return run


def train(recorder: MlflowRecorder, number: int, value: float = 0.5, status: Status = Status.COMPLETE) -> None:
    """Record 1500 updates in pieces."""
    recorder.open(trial(number))
    for first, length in ((0, 700), (700, 800)):
        steps = np.arange(first, first + length)
        recorder.record(Rows(number, first, lr=0.1 / (steps + 1), loss=1.0 + steps / 7))
        metrics = {"val_loss": value, "global_step": float(first + length)}
        recorder.evaluate(Evaluation(number, first + length, metrics))
    recorder.close(trial(number), Result(number, status, value if status is Status.COMPLETE else None))


def test_every_step_is_read_back_once_and_equal(store: Store) -> None:
    parent = study_run(store)
    recorder = MlflowRecorder(store, describe, parent)
    train(recorder, 0)
    run_id = recorder.run_id(trial(0))
    rows = MlflowReader(store).rows(run_id)
    steps = np.arange(1500)
    assert np.array_equal(rows.lr, 0.1 / (steps + 1))
    assert np.array_equal(rows.loss, 1.0 + steps / 7)
    for key in ("lr", "loss"):
        assert [m.step for m in store.client.get_metric_history(run_id, key)] == list(range(1500))
    assert [m.step for m in store.client.get_metric_history(run_id, "val_loss")] == [700, 1500]


@pytest.mark.parametrize(("every", "last"), [(7, [1498, 1499]), (1499, [0, 1499]), (10_000, [0, 1499])])
def test_of_every_so_many_updates_one_is_recorded_and_the_last(store: Store, every: int, last: list[int]) -> None:
    thinned = replace(store, every=every)
    recorder = MlflowRecorder(thinned, describe, study_run(thinned))
    train(recorder, 0)
    rows = MlflowReader(thinned).rows(recorder.run_id(trial(0)))
    assert rows.steps.tolist() == sorted({*range(0, 1500, every), 1499})
    assert rows.steps[-2:].tolist() == last
    assert np.array_equal(rows.lr, 0.1 / (rows.steps + 1))
    assert np.array_equal(rows.loss, 1.0 + rows.steps / 7)
    for key in ("val_loss", "global_step"):
        assert [m.step for m in store.client.get_metric_history(recorder.run_id(trial(0)), key)] == [700, 1500]
    assert store.client.get_run(recorder.run_id(trial(0))).data.metrics["lr"] == 0.1 / 1500


def trains(store: Store, goes_on: str | None = None) -> MlflowRecorder:
    """The recorder of a single training."""
    return MlflowRecorder(store, describe, TrainingRuns(store, "digits-mlp", goes_on))


def updates(first: int, last: int) -> Rows:
    """Of trial 0, those from `first` to last - 1."""
    steps = np.arange(first, last)
    return Rows(0, first, lr=steps / 10, loss=np.ones(last - first))


def test_a_thinned_record_goes_on_with_each_step_once(store: Store) -> None:
    """The second command records again what the first one, which ended before it kept its state, has recorded."""
    thinned = replace(store, every=4)
    first = trains(thinned)
    first.open(trial(0))
    first.record(updates(0, 6))
    kept = first.pending(trial(0))
    first.record(updates(6, 10))
    first.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    run_id = first.run_id(trial(0))
    second = trains(thinned, run_id)
    assert second.open(trial(0), kept)
    second.record(updates(6, 15))
    second.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    rows = MlflowReader(thinned).rows(run_id)
    assert rows.steps.tolist() == [0, 4, 8, 9, 12, 14]
    assert np.array_equal(rows.lr, rows.steps / 10)
    assert store.client.get_run(run_id).data.metrics["lr"] == 1.4


# --- going on


def points(store: Store, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of a run as often as it is recorded, by MLflow's own client."""
    keys = store.client.get_run(run_id).data.metrics
    return {key: sorted((m.step, m.value) for m in store.client.get_metric_history(run_id, key)) for key in keys}


def evaluated(step: int) -> Evaluation:
    return Evaluation(0, step, {"val_loss": 1 / step, "global_step": float(step)})


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("flushed", ["before it crashed", "not", "in part"])
def test_a_run_that_goes_on_has_every_point_once(
    store: Store, every: int, flushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinned = replace(store, every=every)
    first = MlflowRecorder(thinned, describe, study_run(store))
    assert not first.open(trial(0))
    first.record(updates(0, 10))
    first.evaluate(evaluated(10))
    first.pending(trial(0))
    first.flush(trial(0))
    first.record(updates(10, 18))
    first.mark(trial(0), [Event(10, "plateau")])
    first.record(updates(18, 20))
    first.evaluate(evaluated(20))
    first.record(updates(20, 23))
    kept = first.pending(trial(0))
    if flushed == "before it crashed":
        first.flush(trial(0))
    elif flushed == "in part":
        with monkeypatch.context() as patch:
            patch.setattr(server, "METRICS_AT_ONCE", 3)
            patch.setattr(bulk, "ROWS_AT_ONCE", 3)
            cut_short(store, patch)
            with pytest.raises(KeyboardInterrupt):
                first.flush(trial(0))
    first.record(updates(23, 30))  # no checkpoint has these
    run_id = first.run_id(trial(0))

    second = MlflowRecorder(thinned, describe, study_run(store))
    assert store.client.get_run(run_id).info.status == "KILLED"
    assert second.open(trial(0), kept)
    assert store.client.get_run(run_id).info.status == "RUNNING"
    again = second.pending(trial(0))
    second.flush(trial(0))
    assert OpenRun.unpacked(again).run_id == run_id == second.run_id(trial(0))
    second.record(updates(23, 31))
    second.evaluate(evaluated(31))
    second.close(trial(0), Result(0, Status.COMPLETE, 1 / 31))

    steps = sorted({*range(0, 31, every), 30})
    found = points(store, run_id)
    assert found["lr"] == [(step, step / 10) for step in steps]
    assert found["loss"] == [(step, 1.0) for step in steps]
    assert found["val_loss"] == [(step, 1 / step) for step in (10, 20, 31)]
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["sweep.event"] == "plateau@10"
    assert [r.info.run_id for r in store.search({"sweep.kind": "trial"})] == [run_id]


def test_of_a_run_that_goes_on_only_what_may_come_again_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint knows what was in the record before it."""
    thinned, asked, steps = replace(store, every=4), [], Store.steps

    def asks(store: Store, run_id: str, since: dict[str, int]) -> dict[str, np.ndarray]:
        asked.append(dict(since))
        return steps(store, run_id, since)

    monkeypatch.setattr(Store, "steps", asks)
    first, kept = MlflowRecorder(thinned, describe, study_run(store)), []
    first.open(trial(0))
    for begin, end in ((0, 10), (10, 20), (20, 21), (21, 23)):
        first.record(updates(begin, end))
        first.evaluate(evaluated(end))
        kept.append(first.pending(trial(0)))
        first.flush(trial(0))
    second = MlflowRecorder(thinned, describe, study_run(store))
    assert second.open(trial(0), kept[2])  # the one before the last
    expected = {"lr": 17, "loss": 17, "val_loss": 21, "global_step": 21}
    assert asked == [expected]
    assert OpenRun.unpacked(second.pending(trial(0))).recorded == expected
    second.record(updates(21, 25))
    second.evaluate(evaluated(23))
    second.close(trial(0), Result(0, Status.PRUNED))
    found = points(store, second.run_id(trial(0)))
    assert [step for step, _ in found["lr"]] == [0, 4, 8, 12, 16, 20, 24]
    assert [step for step, _ in found["val_loss"]] == [10, 20, 21, 23]


def cut_short(store: Store, patch: pytest.MonkeyPatch) -> None:
    """Let the process be killed after a part of what it writes: a server has that part, a database nothing."""
    log_batch, latest = store.client.log_batch, bulk._write_latest
    calls = iter(range(100))

    def second_fails(*given: object, **keys: object) -> None:
        if next(calls):
            raise KeyboardInterrupt
        log_batch(*given, **keys)

    def fails(*given: object) -> None:
        latest(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    patch.setattr(store.client, "log_batch", second_fails)
    patch.setattr(bulk, "_write_latest", fails)


def test_what_was_flushed_is_in_the_record_and_the_rest_when_it_ends(store: Store) -> None:
    thinned = replace(store, every=4)
    recorder = MlflowRecorder(thinned, describe, study_run(store))
    recorder.open(trial(0))
    run_id = recorder.run_id(trial(0))
    recorder.record(updates(0, 7))
    recorder.evaluate(evaluated(7))
    assert points(store, run_id) == {}
    recorder.flush(trial(0))
    assert [step for step, _ in points(store, run_id)["lr"]] == [0, 4]
    assert points(store, run_id)["val_loss"] == [(7, 1 / 7)]
    recorder.flush(trial(0))  # there is nothing more
    recorder.record(updates(7, 11))
    assert [step for step, _ in points(store, run_id)["lr"]] == [0, 4]
    recorder.close(trial(0), Result(0, Status.PRUNED))
    assert [step for step, _ in points(store, run_id)["lr"]] == [0, 4, 8, 10]


def test_a_run_without_rows_is_used_again(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    killed.open(trial(0))
    killed.record(updates(0, 9))
    later = MlflowRecorder(store, describe, study_run(store))
    assert not later.open(trial(0))
    assert later.run_id(trial(0)) == killed.run_id(trial(0))
    later.interrupt(trial(0))
    assert not later.open(trial(0))
    later.record(updates(0, 5))
    later.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    (run,) = store.search({"sweep.kind": "trial"})
    assert (run.info.run_id, run.info.status) == (killed.run_id(trial(0)), "FINISHED")
    assert [step for step, _ in points(store, run.info.run_id)["lr"]] == list(range(5))


@pytest.mark.parametrize("later", [False, True])
def test_a_run_with_rows_and_without_a_checkpoint_is_made_anew(store: Store, later: bool) -> None:
    first = MlflowRecorder(store, describe, study_run(store))
    first.open(trial(0))
    first.record(updates(0, 9))
    first.flush(trial(0))
    old = first.run_id(trial(0))
    if later:
        first = MlflowRecorder(store, describe, study_run(store))
    else:
        first.interrupt(trial(0))
    assert not first.open(trial(0))
    new = first.run_id(trial(0))
    assert new != old
    deleted = store.client.get_run(old).info
    assert (deleted.lifecycle_stage, deleted.status) == ("deleted", "KILLED")
    first.record(updates(0, 3))
    first.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    assert [r.info.run_id for r in store.search({"sweep.kind": "trial"})] == [new]
    assert [step for step, _ in points(store, new)["lr"]] == [0, 1, 2]


def test_a_checkpoint_whose_run_is_gone_does_not_go_on(store: Store) -> None:
    first = MlflowRecorder(store, describe, study_run(store))
    first.open(trial(0))
    first.record(updates(0, 9))
    kept = first.pending(trial(0))
    first.flush(trial(0))
    store.client.delete_run(first.run_id(trial(0)))
    later = MlflowRecorder(store, describe, study_run(store))
    assert not later.open(trial(0), kept)
    assert later.run_id(trial(0)) != first.run_id(trial(0))
    later.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    assert points(store, later.run_id(trial(0))) == {}  # what was pending is not taken


@pytest.fixture
def said(database: Store) -> list[str]:
    """What the store has said."""
    lines: list[str] = []
    database.hooks.say = lines.append
    return lines


def gone(store: Store, *run_ids: str) -> None:
    """Delete runs and remove them for good, as `mlflow gc` does."""
    for run_id in run_ids:
        store.client.delete_run(run_id)
        store.client._tracking_client.store._hard_delete_run(run_id)


def interfere(store: Store, parent: StudyRun, run_id: str, how: str) -> None:
    client = store.client
    if how == "run deleted":
        client.delete_run(run_id)
    elif how == "study deleted":
        client.delete_run(parent.run_id)
    elif how == "both deleted":
        client.delete_run(run_id), client.delete_run(parent.run_id)
    elif how == "experiment deleted":
        client.delete_experiment(store.experiment_id)
    elif how == "run removed":
        gone(store, run_id)
    elif how == "study removed":
        gone(store, parent.run_id)
    elif how == "both removed":
        gone(store, run_id, parent.run_id)
    elif how == "run renamed":
        client.set_tag(run_id, "mlflow.runName", "another")
    elif how == "tags deleted":
        for key in ("sweep.half_life", "mlflow.runName"):
            client.delete_tag(run_id, key)
        for key in ("sweep.kind", "sweep.uid", "sweep.metric"):
            client.delete_tag(parent.run_id, key)
    elif how == "tags edited":
        for tag in ("sweep.half_life", "sweep.status", "sweep.stalled_at"):
            client.set_tag(run_id, tag, "mine")
        client.set_tag(parent.run_id, "sweep.direction", "up")


SAID = {"deleted": "was deleted in MLflow while it is written to: it is restored", "removed": "it is created again"}


@pytest.mark.parametrize(
    "how",
    [
        "run deleted", "study deleted", "both deleted", "experiment deleted", "run removed", "study removed",
        "both removed", "run renamed", "tags deleted", "tags edited",
    ],
)  # fmt: skip
def test_a_record_that_a_person_changes_meanwhile_is_written_to_its_end(
    database: Store, said: list[str], how: str
) -> None:
    parent = study_run(database)
    recorder = MlflowRecorder(database, describe, parent)
    train(recorder, 0, 0.7)
    recorder.open(trial(1))
    recorder.record(replace(updates(0, 9), trial=1))
    interfere(database, parent, recorder.run_id(trial(1)), how)
    recorder.close(trial(1), Result(1, Status.COMPLETE, 0.5))
    train(recorder, 2, 0.6)
    parent.finish("FINISHED")
    what, _, happened = how.partition(" ")
    assert len(said) == (0 if what == "tags" or happened == "renamed" else 2 if what == "both" else 1)
    assert all(SAID[happened] in line for line in said)
    record = MlflowReader(database).study("study")
    assert record is not None
    assert [(t.number, t.status) for t in record.trials] == [(number, Status.COMPLETE) for number in range(3)]
    assert [m.step for m in database.client.get_metric_history(record.trials[1].run_id, "lr")] == list(range(9))
    best = {m.step: m.value for m in database.client.get_metric_history(parent.run_id, "best_val_loss")}
    assert best == {0: 0.7, 1: 0.5, 2: 0.5}
    assert database.client.get_run(parent.run_id).data.params == {"sampler.name": "tpe"}
    assert record.minimize


def test_a_run_that_was_removed_after_a_checkpoint_is_created_again_with_the_rest(
    database: Store, said: list[str]
) -> None:
    recorder = MlflowRecorder(database, describe, study_run(database))
    recorder.open(trial(0))
    recorder.record(updates(0, 9))
    recorder.pending(trial(0))
    recorder.flush(trial(0))
    gone(database, recorder.run_id(trial(0)))
    recorder.record(updates(9, 20))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    assert [step for step, _ in points(database, recorder.run_id(trial(0)))["lr"]] == list(range(9, 20))
    assert said == [
        "run 000 was removed from MLflow while it is written to: it is created again, without its first 9 steps"
    ]


def test_an_experiment_that_was_removed_is_named(database: Store) -> None:
    recorder = MlflowRecorder(database, describe, study_run(database))
    database.client.delete_experiment(database.experiment_id)
    database.client._tracking_client.store._hard_delete_experiment(database.experiment_id)
    with pytest.raises(RemovedError, match="was removed from MLflow permanently"):
        recorder.open(trial(0))


@pytest.mark.parametrize("tag", ["sweep.searched", "sweep.command", "sweep.direction"])
def test_a_study_whose_tag_is_missing_names_it(database: Store, tag: str) -> None:
    parent = study_run(database)
    database.client.delete_tag(parent.run_id, tag)
    with pytest.raises(
        InvalidValueError, match=f"^{tag}=null: was deleted or edited in MLflow: .* run {parent.run_id}"
    ):
        MlflowReader(database).study("study")


@pytest.mark.parametrize(
    ("tag", "text"), [("sweep.searched", "5"), ("sweep.searched", "[1]"), ("sweep.direction", "x")]
)
def test_a_study_whose_tag_was_edited_names_it(database: Store, tag: str, text: str) -> None:
    parent = study_run(database)
    database.client.set_tag(parent.run_id, tag, text)
    with pytest.raises(InvalidValueError, match=f"^{tag}={re.escape(text)}: was deleted or edited in MLflow"):
        MlflowReader(database).study("study")


@pytest.mark.parametrize("text", ["[1]", "5", '"abc"', "{"])
def test_values_of_a_trial_that_were_edited_count_as_missing(database: Store, text: str) -> None:
    parent = study_run(database)
    recorder = MlflowRecorder(database, describe, parent)
    recorder.open(trial(0))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    (run,) = database.search({"sweep.kind": "trial"})
    database.client.set_tag(run.info.run_id, "sweep.values", text)
    study = MlflowReader(database).study("study")
    assert study is not None
    assert [dict(one.values) for one in study.trials] == [{}]


def test_of_several_runs_that_were_left_one_is_used_and_the_others_are_deleted(store: Store) -> None:
    parent = study_run(store)
    tags = {**describe(trial(0)).tags, **parent.child_tags(trial(0))}
    keys = [{"sweep.key": f"{tags['sweep.key']}.{i}"} for i in range(3)]
    left = [store.writer.create(store.experiment_id, "000", tags | key, {}) for key in keys]
    store.writer.write([Change(left[2], [point("lr", 0, 1, 0.1)])])
    recorder = MlflowRecorder(store, describe, parent)
    recorder.open(trial(0))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    (run,) = store.search({"sweep.kind": "trial"})
    assert run.info.run_id == recorder.run_id(trial(0))
    assert run.info.run_id in left[:2]


def test_runs_that_a_crash_has_left_are_ended_by_the_next_recorder(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    train(killed, 0)
    for number in (1, 2):
        killed.open(trial(number))
    MlflowRecorder(store, describe, study_run(store))
    status = {r.data.tags["sweep.trial"]: r.info.status for r in store.search({"sweep.kind": "trial"})}
    assert status == {"0": "FINISHED", "1": "KILLED", "2": "KILLED"}


@pytest.mark.parametrize("every", [1, 5])
def test_what_is_packed_is_unpacked_as_it_was(every: int) -> None:
    opened = OpenRun(
        "run", "training", 123, tags={"sweep.duplicate_of": "4"}, events=[Event(7, "warmup_end")], recorded={"lr": 3}
    )
    opened.take_every(Points("lr", np.arange(3, 20), np.arange(17) + 10**12, np.arange(17) / 7), every)
    opened.take_every(Points("D_loss", np.arange(9), np.arange(9), np.array([np.nan, np.inf, -0.0] * 3)), every)
    opened.take(point("val_loss", 20, 10**12, 0.1))
    opened.take_every(Points("lr", np.arange(20, 22), np.arange(2), np.array([1e-300, 5e-324])), every)
    found = OpenRun.unpacked(opened.packed())
    assert found.packed() == opened.packed()
    assert (found.run_id, found.clock, found.tags, list(found.events)) == ("run", 123, opened.tags, opened.events)
    assert found.recorded == {"lr": 3}
    for ended in (False, True):
        for one, other in zip(found.points(ended), opened.points(ended), strict=True):
            assert one.key == other.key
            for column, its in zip(one.columns, other.columns, strict=True):
                np.testing.assert_array_equal(column, its)
    assert recorded_run(opened.packed()) == "run"


def test_an_open_run_with_nothing_taken_is_packed_too() -> None:
    found = OpenRun.unpacked(OpenRun("run", None, 5).packed())
    assert (found.run_id, found.points(ended=True)) == ("run", [])


def test_params_tags_and_artifacts_are_recorded(store: Store, tmp_path: object) -> None:
    parent = study_run(store)
    recorder = MlflowRecorder(store, describe, parent)
    train(recorder, 3)
    run = store.client.get_run(recorder.run_id(trial(3)))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "003"
    assert len(run.data.params) == 121
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("sweep.")}
    expected = {"kind": "trial", "trial": "3", "status": "complete", "half_life": "12.5", "curve": "abc"}
    expected["key"] = f"{parent.run_id}.3"
    assert tags == {f"sweep.{key}": value for key, value in expected.items()}
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert {f.path for f in store.client.list_artifacts(run.info.run_id)} == {"config.yaml", "curve.svg"}


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.COMPLETE, "FINISHED"),
        (Status.PRUNED, "FINISHED"),
        (Status.DIVERGED, "FAILED"),
        (Status.FAILED, "FAILED"),
    ],
)
def test_a_status_has_its_place_in_mlflow(store: Store, status: Status, shown: str) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    train(recorder, 0, status=status)
    run = store.client.get_run(recorder.run_id(trial(0)))
    assert (run.info.status, run.data.tags["sweep.status"]) == (shown, status.value)


def test_a_loss_that_is_not_finite_is_no_number(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.record(Rows(0, 0, lr=np.array([0.1, 0.1]), loss=np.array([1.0, np.inf])))
    recorder.close(trial(0), Result(0, Status.DIVERGED))
    history = store.client.get_metric_history(recorder.run_id(trial(0)), "loss")
    assert history[0].value == 1.0
    assert np.isnan(history[1].value)


def test_an_interrupted_trial_leaves_one_run_with_each_step_once(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.record(Rows(0, 0, lr=np.ones(5), loss=np.ones(5)))
    recorder.interrupt(trial(0))
    assert [r.info.status for r in store.search({"sweep.kind": "trial"})] == ["KILLED"]
    train(recorder, 0)
    assert [r.info.status for r in store.search({"sweep.kind": "trial"})] == ["FINISHED"]
    assert len(MlflowReader(store).rows(recorder.run_id(trial(0))).lr) == 1500


def test_a_later_process_goes_on_with_what_a_killed_one_left(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    train(killed, 0)
    killed.open(trial(1))
    later = MlflowRecorder(store, describe, study_run(store))
    train(later, 1)
    runs = store.search({"sweep.kind": "trial"})
    assert sorted((r.data.tags["sweep.trial"], r.info.status) for r in runs) == [("0", "FINISHED"), ("1", "FINISHED")]
    assert later.run_id(trial(1)) == killed.run_id(trial(1))


def test_what_a_given_up_trial_left_is_failed(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    killed.open(trial(0))
    later = MlflowRecorder(store, describe, study_run(store))
    later.give_up([0])
    (run,) = store.search({"sweep.kind": "trial"})
    assert (run.info.status, run.data.tags["sweep.status"]) == ("FAILED", "failed")
    assert "study.max_retries" in run.data.tags["sweep.reason"]


FAILED = Result(0, Status.FAILED, failure=Failure("KeyError: 'a' (nets.py:3 in forward)", "KeyError: 'a'\n  Größe"))


def test_a_failed_trial_is_recorded_with_its_reason_and_the_frames_of_the_user(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.record(updates(0, 6))
    recorder.close(trial(0), FAILED)
    assert FAILED.failure is not None
    (read,) = MlflowReader(store).study("study").trials  # type: ignore[union-attr]
    assert (read.status, read.reason) == (Status.FAILED, FAILED.failure.reason)
    run = store.client.get_run(read.run_id)
    assert (run.info.status, run.data.metrics["lr"]) == ("FAILED", 0.5)
    assert Path(store.client.download_artifacts(read.run_id, "error.txt")).read_text() == FAILED.failure.details
    later = MlflowRecorder(store, describe, study_run(store))  # of a command that has to tell it still
    (recorded,) = later.ended(trial(0)) or ()
    assert (recorded.status, recorded.failure) == (Status.FAILED, Failure(FAILED.failure.reason))


def test_a_failed_training_that_goes_on_and_ends_has_no_reason(store: Store) -> None:
    first = trains(store)
    first.open(trial(0))
    first.record(updates(0, 6))
    kept = first.pending(trial(0))
    first.close(trial(0), FAILED)
    second = trains(store, first.run_id(trial(0)))
    second.open(trial(0), kept)
    second.record(updates(6, 9))
    second.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    (read,) = MlflowReader(store).trainings()
    assert (read.status, read.reason) == (Status.COMPLETE, None)


def test_the_parent_shows_each_value_and_the_best_so_far_once(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    for number, value in enumerate([0.5, 0.7, 0.3]):
        train(recorder, number, value)
    parent = study_run(store)
    assert parent.add(2, 0.3) == []
    parent.finish("FINISHED")
    history = {key: store.client.get_metric_history(parent.run_id, key) for key in ("val_loss", "best_val_loss")}
    assert [(m.step, m.value) for m in history["val_loss"]] == [(0, 0.5), (1, 0.7), (2, 0.3)]
    assert [(m.step, m.value) for m in history["best_val_loss"]] == [(0, 0.5), (1, 0.5), (2, 0.3)]
    assert parent.best == (0.3, 2)


def test_a_study_is_read_with_its_trials_ranked(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    for number, value in enumerate([0.5, 0.7, 0.3]):
        train(recorder, number, value)
    train(recorder, 3, status=Status.DIVERGED)
    reader = MlflowReader(store)
    assert reader.names() == ["study"]
    study = reader.study("study")
    assert study is not None
    assert [t.number for t in study.trials] == [0, 1, 2, 3]
    assert [t.number for t in study.ranked] == [2, 0, 1]
    assert (study.metric, study.minimize, list(study.searched)) == ("val_loss", True, ["optimizer.lr"])
    assert study.trials[0].half_life == 12.5
    assert reader.study("another") is None


def test_a_single_training_has_no_parent(store: Store) -> None:
    recorder = trains(store)
    train(recorder, 0)
    tags = store.client.get_run(recorder.run_id(trial(0))).data.tags
    assert tags["sweep.kind"] == "train"
    assert tags["sweep.key"].startswith("digits-mlp.")
    assert "mlflow.parentRunId" not in tags
    assert [t.run_id for t in MlflowReader(store).trainings()] == [recorder.run_id(trial(0))]


def test_of_a_single_training_the_run_that_is_asked_for_goes_on(store: Store) -> None:
    """One that has ended is not touched by a training that begins anew, nor one of another training."""
    first, other = trains(store), MlflowRecorder(store, describe, TrainingRuns(store, "digits-mlp-2", None))
    first.open(trial(0))
    first.record(updates(0, 9))
    kept, run_id = first.pending(trial(0)), first.run_id(trial(0))
    first.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    other.open(trial(0))
    second = trains(store)
    assert second.ended(trial(0)) is None
    train(second, 0)
    third = trains(store)
    assert not third.open(trial(0))
    fourth = trains(store, run_id)
    assert fourth.open(trial(0), kept)
    runs = {r.info.run_id: r.info.status for r in store.search({"sweep.kind": "train"})}
    found = [runs[recorder.run_id(trial(0))] for recorder in (other, second, third, fourth)]
    assert found == ["RUNNING", "FINISHED", "KILLED", "RUNNING"]
    assert fourth.run_id(trial(0)) == run_id
    assert len(runs) == 4


def test_a_deleted_experiment_is_refused(store: Store) -> None:
    from sweep.config import TrackingConfig
    from sweep.tracking import open_store

    experiment = store.client.get_experiment(store.experiment_id)
    store.client.delete_experiment(store.experiment_id)
    uri = store.client.tracking_uri
    with pytest.raises(InvalidValueError, match=r"tracking.experiment=.*: was deleted in MLflow"):
        open_store(TrackingConfig(uri, experiment.name))


def test_events_are_a_tag_and_what_was_said_of_the_curve_is_said_anew(store: Store, tmp_path: Path) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.mark(trial(0), [Event(20, "warmup_end")])
    recorder.mark(trial(0), [Event(20, "warmup_end"), Event(40, "plateau")])
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    recorder.open(trial(1))
    recorder.close(trial(1), Result(1, Status.COMPLETE, 0.5))

    def recorded(number: int) -> tuple[str | None, str, bytes]:
        run = store.client.get_run(recorder.run_id(trial(number)))
        picture = Path(store.client.download_artifacts(run.info.run_id, "curve.svg", str(tmp_path)))
        return run.data.tags.get("sweep.event"), run.data.tags["sweep.curve"], picture.read_bytes()

    assert recorded(0) == ("warmup_end@20 plateau@40", "cut", b"picturecut")
    assert recorded(1) == (None, "abc", b"pictureabc")


def test_an_interrupted_trial_leaves_its_events_to_nobody(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.mark(trial(0), [Event(20, "plateau")])
    recorder.interrupt(trial(0))
    recorder.open(trial(0))
    recorder.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    assert "sweep.event" not in store.client.get_run(recorder.run_id(trial(0))).data.tags
