"""What is recorded is what is read, by this project's reader and by MLflow's own client."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep.core import Description, Evaluation, Event, Result, Rows, Status, Trial
from sweep.tracking import MlflowReader, MlflowRecorder, Store, StudyRun
from sweep.validation import InvalidValueError


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


def test_a_thinned_record_goes_on_with_each_step_once(store: Store) -> None:
    """The second command records again what the first one, which ended before it kept its state, has recorded."""
    thinned = replace(store, every=4)
    first = MlflowRecorder(thinned, describe)
    first.open(trial(0))
    first.record(Rows(0, 0, lr=np.arange(10) / 10, loss=np.ones(10)))
    first.close(trial(0), Result(0, Status.COMPLETE, 0.5))
    run_id = first.run_id(trial(0))
    going_on = replace(trial(0), first=6, state="kept")
    second = MlflowRecorder(thinned, describe, goes_on=run_id)
    second.open(going_on)
    second.record(Rows(0, 6, lr=np.arange(6, 15) / 10, loss=np.ones(9)))
    second.close(going_on, Result(0, Status.COMPLETE, 0.5))
    rows = MlflowReader(thinned).rows(run_id)
    assert rows.steps.tolist() == [0, 4, 8, 9, 12, 14]
    assert np.array_equal(rows.lr, rows.steps / 10)
    assert store.client.get_run(run_id).data.metrics["lr"] == 1.4


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


def test_a_later_process_replaces_what_a_killed_one_left(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    train(killed, 0)
    killed.open(trial(1))
    later = MlflowRecorder(store, describe, study_run(store))
    train(later, 1)
    runs = store.search({"sweep.kind": "trial"})
    assert sorted((r.data.tags["sweep.trial"], r.info.status) for r in runs) == [("0", "FINISHED"), ("1", "FINISHED")]
    assert store.client.get_run(killed.run_id(trial(1))).info.status == "KILLED"


def test_what_a_given_up_trial_left_is_failed(store: Store) -> None:
    killed = MlflowRecorder(store, describe, study_run(store))
    killed.open(trial(0))
    later = MlflowRecorder(store, describe, study_run(store))
    later.give_up([0])
    (run,) = store.search({"sweep.kind": "trial"})
    assert (run.info.status, run.data.tags["sweep.status"]) == ("FAILED", "failed")


def test_the_parent_shows_each_value_and_the_best_so_far_once(store: Store) -> None:
    recorder = MlflowRecorder(store, describe, study_run(store))
    for number, value in enumerate([0.5, 0.7, 0.3]):
        train(recorder, number, value)
    parent = study_run(store)
    store.writer.write([parent.add(2, 0.3)])
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
    recorder = MlflowRecorder(store, describe)
    train(recorder, 0)
    tags = store.client.get_run(recorder.run_id(trial(0))).data.tags
    assert tags["sweep.kind"] == "train"
    assert "mlflow.parentRunId" not in tags
    assert [t.run_id for t in MlflowReader(store).trainings()] == [recorder.run_id(trial(0))]


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
