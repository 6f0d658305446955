"""The record of a trial is read back for its duplicates and recorded again, by a later command too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from sweep.core import Description, Evaluation, Progress, Result, Rows, Status, Trial
from sweep.schedules import Event
from sweep.tracking import MlflowReader, MlflowRecorder, Store
from tests.tracking.test_recorder import study_run, trial

Training = Callable[[], list[Progress]]
"""What an engine gave of a trial, from its start to its end."""


def recorder_of(store: Store, letters: str, uid: str = "uid") -> MlflowRecorder:
    """A recorder for which trials with equal letters are the same training, trial n having the nth."""

    def describe(trial: Trial, events: Sequence[Event] = ()) -> Description:
        training = {} if letters[trial.number] == "-" else {"sweep.training": letters[trial.number]}
        tags = {"sweep.curve": "abc", **training}
        return Description(f"{trial.number:03d}", {"drawn": str(trial.number)}, tags, {"config.yaml": b"mode: train\n"})

    return MlflowRecorder(store, describe, study_run(store, uid))


def rows(first: int, last: int, series: str = "", loss: float = 1.0) -> Rows:
    """The updates first..last-1."""
    steps = np.arange(first, last)
    return Rows(0, steps, lr=0.1 / (steps + 1), loss=loss + steps / 7, series=series)


def evaluation(step: int, **metrics: float) -> Evaluation:
    return Evaluation(0, step, {"val_loss": 1 / step, "global_step": float(step), **metrics})


def complete() -> list[Progress]:
    """Evaluated at 700 and 1200; of the moving average only at the end."""
    last = evaluation(1200, val_loss_ema=0.25, val_accuracy=1.0)
    return [
        Progress(0, [rows(0, 700)], evaluation(700), None),
        Progress(0, [rows(700, 1200)], last, Status.COMPLETE),
    ]


def diverged() -> list[Progress]:
    """The loss is not finite at update 12."""
    broken = Rows(0, np.arange(10, 13), lr=np.full(3, 0.1), loss=np.array([1.0, 1e30, np.nan]))
    return [
        Progress(0, [rows(0, 10)], evaluation(10), None),
        Progress(0, [broken], Evaluation(0, 13, {"global_step": 13.0}), Status.DIVERGED),
    ]


def diverged_unevaluated() -> list[Progress]:
    broken = Rows(0, np.arange(10, 12), lr=np.full(2, 0.1), loss=np.array([1.0, np.nan]))
    return [Progress(0, [rows(0, 10)], evaluation(10), None), Progress(0, [broken], None, Status.DIVERGED)]


def diverged_at_once() -> list[Progress]:
    return [Progress(0, [Rows(0, np.arange(1), lr=np.ones(1), loss=np.array([np.nan]))], None, Status.DIVERGED)]


def two_optimizers() -> list[Progress]:
    """Two updates of the generator and ten of the discriminator between evaluations; three more of it at the end."""

    def steps(generator: int, discriminator: int) -> dict[str, float]:
        return {"G_global_step": float(generator), "D_global_step": float(discriminator)}

    return [
        Progress(0, [rows(0, 2, "G_"), rows(0, 10, "D_")], Evaluation(0, 2, steps(2, 10)), None),
        Progress(0, [rows(2, 4, "G_"), rows(10, 23, "D_")], Evaluation(0, 4, steps(4, 23)), Status.COMPLETE),
    ]


def eventful() -> list[Progress]:
    """Its schedule waited for something, seen at the first and at the third of four evaluations."""
    first, second = Event(10, "warmup_end"), Event(30, "plateau")
    return [
        Progress(0, [rows(0, 10)], evaluation(10), None, [first]),
        Progress(0, [rows(10, 20)], evaluation(20), None, [first]),
        Progress(0, [rows(20, 30)], evaluation(30), None, [first, second]),
        Progress(0, [rows(30, 40)], evaluation(40), Status.COMPLETE, [first, second]),
    ]


def went_on() -> list[Progress]:
    """A training that began at step 100."""
    return [
        Progress(0, [rows(100, 150)], evaluation(150), None),
        Progress(0, [rows(150, 200)], evaluation(200), Status.COMPLETE),
    ]


TRAININGS = [complete, diverged, diverged_unevaluated, diverged_at_once, two_optimizers, eventful, went_on]


def take(recorder: MlflowRecorder, number: int, progress: Sequence[Progress], status: Status | None = None) -> str:
    """Record what an engine gave, or what is played back, as an opened trial's; its run."""
    for reached in progress:
        for part in reached.rows:
            recorder.record(replace(part, trial=number))
        if reached.evaluation:
            recorder.evaluate(Evaluation(number, reached.evaluation.step, reached.evaluation.metrics))
        if reached.events:
            recorder.mark(trial(number), reached.events)
    status = status or progress[-1].status
    assert status is not None
    recorder.close(trial(number), Result(number, status, 0.5 if status is Status.COMPLETE else None))
    return recorder.run_id(trial(number))


def train(recorder: MlflowRecorder, number: int, status: Status = Status.COMPLETE) -> str:
    recorder.open(trial(number))
    return take(recorder, number, complete(), status)


def replayed(recorder: MlflowRecorder, number: int) -> Sequence[Progress]:
    assert recorder.duplicate_of(trial(number)) is not None
    return recorder.replay(trial(number))


def play_back(recorder: MlflowRecorder, number: int) -> str:
    return take(recorder, number, replayed(recorder, number))


def metrics(store: Store, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of a run, NaN as "nan" so that it equals itself; by MLflow's own client."""
    found = {}
    for key in store.client.get_run(run_id).data.metrics:
        points = [
            (p.step, "nan" if math.isnan(p.value) else p.value) for p in store.client.get_metric_history(run_id, key)
        ]
        found[key] = sorted(points)
    return found


def assert_same(found: Sequence[Progress], expected: Sequence[Progress]) -> None:
    """The same rows and evaluations at the same boundaries, whichever trial's."""
    assert [p.status for p in found] == [p.status for p in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one.events) == list(other.events)
        assert (one.evaluation is None) == (other.evaluation is None)
        if one.evaluation and other.evaluation:
            assert (one.evaluation.step, one.evaluation.metrics) == (other.evaluation.step, other.evaluation.metrics)
        for part, as_recorded in zip(one.rows, other.rows, strict=True):
            assert part.series == as_recorded.series
            np.testing.assert_array_equal(part.steps, as_recorded.steps)
            np.testing.assert_array_equal(part.lr, as_recorded.lr)
            np.testing.assert_array_equal(part.loss, as_recorded.loss)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.__name__)
def test_a_training_is_read_back_as_the_engine_gave_it(store: Store, training: Training) -> None:
    recorder = recorder_of(store, "aa")
    recorder.open(trial(0))
    take(recorder, 0, training())
    recorder.open(trial(1))
    found = replayed(recorder, 1)
    assert_same(found, training())
    assert {(p.trial, p.duplicate_of) for p in found} == {(1, 0)}
    assert {part.trial for p in found for part in p.rows} == {1}
    assert {p.evaluation.trial for p in found if p.evaluation} <= {1}


def test_the_order_in_which_mlflow_gives_points_does_not_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_of(store, "aa")
    train(recorder, 0)
    recorder.open(trial(1))
    given = store.client.get_metric_history
    monkeypatch.setattr(store.client, "get_metric_history", lambda run, key: given(run, key)[::-1])
    assert_same(replayed(recorder, 1), complete())


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.__name__)
def test_a_duplicate_has_a_run_of_its_own_with_the_same_points(store: Store, training: Training) -> None:
    recorder = recorder_of(store, "aa")
    recorder.open(trial(0))
    first = take(recorder, 0, training())
    recorder.open(trial(1))
    second = play_back(recorder, 1)
    assert metrics(store, second) == metrics(store, first)
    trained, duplicate = store.client.get_run(first), store.client.get_run(second)
    assert (trained.data.params, duplicate.data.params) == ({"drawn": "0"}, {"drawn": "1"})
    assert duplicate.info.status == trained.info.status
    for tag in ("sweep.status", "sweep.event"):
        assert duplicate.data.tags.get(tag) == trained.data.tags.get(tag)
    assert (duplicate.data.tags["sweep.duplicate_of"], trained.data.tags.get("sweep.duplicate_of")) == ("0", None)
    assert [f.path for f in store.client.list_artifacts(second)] == ["config.yaml"]


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.__name__)
def test_a_duplicate_of_a_thinned_record_has_the_same_points(store: Store, training: Training) -> None:
    recorder = recorder_of(replace(store, every=7), "aa")
    recorder.open(trial(0))
    first = take(recorder, 0, training())
    recorder.open(trial(1))
    given, found = training(), replayed(recorder, 1)
    assert [(p.status, p.events) for p in found] == [(p.status, list(p.events)) for p in given]
    assert [p.evaluation and p.evaluation.step for p in found] == [p.evaluation and p.evaluation.step for p in given]
    boundaries = [(p.evaluation.step, rows) for p in found if p.evaluation for rows in p.rows if not rows.series]
    assert all((rows.steps < step).all() for step, rows in boundaries)
    assert metrics(store, take(recorder, 1, found)) == metrics(store, first)


def test_only_what_ended_by_itself_stands_for_another(store: Store) -> None:
    letters = "aabbccddee--"
    recorder = recorder_of(store, letters)
    ended = [Status.COMPLETE, Status.DIVERGED, Status.PRUNED, Status.FAILED]
    for number, status in zip((0, 2, 4, 6), ended, strict=True):
        train(recorder, number, status)
    recorder.open(trial(8))
    recorder.interrupt(trial(8))
    train(recorder, 10)
    for known in (recorder, recorder_of(store, letters)):
        duplicates = {}
        for number in (1, 3, 5, 7, 9, 11):
            known.open(trial(number))
            duplicates[number] = known.duplicate_of(trial(number))
            known.interrupt(trial(number))
        assert duplicates == {1: 0, 3: 2, 5: None, 7: None, 9: None, 11: None}


def test_a_duplicate_of_a_later_command_is_played_back_from_the_trial_that_was_trained(store: Store) -> None:
    train(recorder_of(store, "aaa"), 0)
    for number in (1, 2):
        later = recorder_of(store, "aaa")
        later.open(trial(number))
        assert later.duplicate_of(trial(number)) == 0
        run_id = play_back(later, number)
        assert store.client.get_run(run_id).data.tags["sweep.duplicate_of"] == "0"
        assert metrics(store, run_id)["lr"] == [(step, 0.1 / (step + 1)) for step in range(1200)]


def test_a_trial_whose_duplicate_cannot_be_read_is_trained(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once it can be read again, it is."""
    said: list[str] = []
    store.hooks.say = said.append
    recorder = recorder_of(store, "aaa")
    train(recorder, 0)
    recorder.open(trial(1))

    def fails(*given: object) -> None:
        raise MlflowException("no such run")

    with monkeypatch.context() as patch:
        patch.setattr(type(store.client), "get_run", fails)
        assert recorder.duplicate_of(trial(1)) is None
    take(recorder, 1, complete())
    recorder.open(trial(2))
    assert_same(replayed(recorder, 2), complete())
    assert said == ["trial 1 is trained: the record of its duplicate, trial 0, cannot be read (no such run)"]


def test_a_trial_is_not_its_own_duplicate(store: Store) -> None:
    """Its record was closed, but it is trained again: it does not stand for itself."""
    train(recorder_of(store, "ab"), 0)
    later = recorder_of(store, "ab")
    later.open(trial(0))
    assert later.duplicate_of(trial(0)) is None


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.__name__)
def test_what_is_recorded_to_its_end_and_not_told_is_read_back_as_it_was(store: Store, training: Training) -> None:
    recorder = recorder_of(store, "ab")
    recorder.open(trial(0))
    run_id = take(recorder, 0, training())
    recorder.open(trial(1))
    later = recorder_of(store, "ab")
    found = later.ended(trial(0))
    assert found is not None
    assert_same(found, training())
    assert {(p.trial, p.duplicate_of) for p in found} == {(0, None)}
    assert later.run_id(trial(0)) == run_id
    assert later.ended(trial(1)) is None
    assert recorder.ended(trial(0)) is None  # it was closed here, and is told here
    assert later.ended(replace(trial(0), keeps_state=True)) is None  # of that, the record is not all


@pytest.mark.parametrize("status", [Status.PRUNED, Status.FAILED])
def test_also_of_one_that_did_not_end_by_itself(store: Store, status: Status) -> None:
    train(recorder_of(store, "a"), 0, status)
    found = recorder_of(store, "a").ended(trial(0))
    assert found is not None
    assert [p.status for p in found] == [None, status]


def test_also_of_one_that_failed_before_its_first_update(store: Store) -> None:
    recorder = recorder_of(store, "a")
    recorder.open(trial(0))
    recorder.close(trial(0), Result(0, Status.FAILED))
    assert recorder_of(store, "a").ended(trial(0)) == [Progress(0, [], None, Status.FAILED, [])]


def test_a_run_that_was_deleted_stands_for_nothing(store: Store) -> None:
    store.client.delete_run(train(recorder_of(store, "aa"), 0))
    later = recorder_of(store, "aa")
    later.open(trial(1))
    assert later.duplicate_of(trial(1)) is None


def test_a_trial_of_another_study_stands_for_nothing(store: Store) -> None:
    train(recorder_of(store, "aa", uid="another"), 0)
    recorder = recorder_of(store, "aa")
    recorder.open(trial(1))
    assert recorder.duplicate_of(trial(1)) is None


def test_of_trials_that_are_open_the_one_opened_first_is_the_duplicate_of_the_others(store: Store) -> None:
    recorder = recorder_of(store, "aaa")
    for number in (2, 0, 1):
        recorder.open(trial(number))
    assert [recorder.duplicate_of(trial(number)) for number in (2, 0, 1)] == [None, 2, 2]
    recorder.interrupt(trial(2))
    assert [recorder.duplicate_of(trial(number)) for number in (0, 1)] == [None, 0]


def test_an_interrupted_duplicate_leaves_one_run(store: Store) -> None:
    recorder = recorder_of(store, "aa")
    train(recorder, 0)
    recorder.open(trial(1))
    replayed(recorder, 1)
    recorder.interrupt(trial(1))
    recorder.open(trial(1))
    run_id = play_back(recorder, 1)
    runs = [r.info.run_id for r in store.search({"sweep.kind": "trial", "sweep.trial": "1"})]
    assert runs == [run_id]
    assert len(MlflowReader(store).rows(run_id).lr) == 1200
