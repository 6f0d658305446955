"""A comparison: its run with its studies and finals below it, read back as they were asked for last."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sweep.core import Description, Evaluation, Result, Rows, Status, Trial
from sweep.errors import InvalidValueError
from sweep.schedules import Event
from sweep.tracking import ComparisonRun, FinalRuns, MlflowReader, MlflowRecorder, Store, StudyRun, bulk

ASKED = {"trials": 2, "seeds": 2, "first_seed": 1, "confidence": 0.95, "target": None, "test": "t"}


def describe(trial: Trial, events: Sequence[Event] = ()) -> Description:
    return Description(f"run {trial.number}", {"optimizer.lr": "0.1"}, {}, {})


def train(recorder: MlflowRecorder, number: int, value: float, status: Status = Status.COMPLETE) -> str:
    """Twenty updates with two evaluations; the run."""
    trial = Trial(number, config=None, seed=number)  # type: ignore[arg-type]
    recorder.open(trial)
    for first in (0, 10):
        recorder.record(Rows(number, first + np.arange(10), lr=np.full(10, 0.1), loss=np.ones(10)))
        last = first == 10
        metrics = {"val_loss": value if last else 2 * value, "global_step": first + 10.0}
        recorder.evaluate(Evaluation(number, first + 10, metrics | ({"test_loss": value + 0.1} if last else {})))
    recorder.close(trial, Result(number, status, value if status is Status.COMPLETE else None))
    return recorder.run_id(trial)


def comparison_run(store: Store, name: str = "mine") -> ComparisonRun:
    run = ComparisonRun(store, name, "val_loss", minimize=True)
    if not run.exists:
        run.create({"train.steps": "20"}, {"sweep.asked": json.dumps(ASKED), "sweep.command": ""})
    return run


def tuned(store: Store, comparison: ComparisonRun, schedule: str, *values: float) -> StudyRun:
    """A study of the comparison, with a trial for each value."""
    run = StudyRun(store, f"{comparison.name}-{schedule}", f"{comparison.name}.digits.{schedule}", "val_loss", True)
    below = {"mlflow.parentRunId": comparison.run_id}
    run.create({}, {"sweep.searched": '["optimizer.lr"]', "sweep.command": "", **below})
    for number, value in enumerate(values):
        train(MlflowRecorder(store, describe, run), number, value)
    return run


def finals(store: Store, comparison: ComparisonRun, study: StudyRun, winner: int) -> FinalRuns:
    return FinalRuns(comparison, study.run_id, winner, "test_loss", "digits/cosine")


def test_a_comparison_is_read_with_its_families_in_the_order_asked_for(store: Store) -> None:
    run = comparison_run(store)
    studies = {("digits", s): tuned(store, run, s, 0.5, 0.4).run_id for s in ("linear", "cosine")}
    tuned(store, run, "left", 0.3)  # no longer asked for
    run.compares(studies)
    record = MlflowReader(store).comparison("mine")
    assert record is not None
    assert [(f.dataset, f.schedule) for f in record.families] == [("digits", "linear"), ("digits", "cosine")]
    assert [[t.metrics["val_loss"] for t in f.study.trials] for f in record.families] == [[0.5, 0.4]] * 2
    assert (record.metric, record.minimize, record.trials, list(record.seeds)) == ("val_loss", True, 2, [1, 2])
    assert (record.confidence, record.target, record.test, record.run_id) == (0.95, None, "t", run.run_id)
    assert MlflowReader(store).comparison("another") is None


def test_finals_are_read_with_their_trial_seed_and_evaluations(store: Store) -> None:
    run = comparison_run(store)
    study = tuned(store, run, "cosine", 0.5, 0.4)
    run.compares({("digits", "cosine"): study.run_id})
    recorder = MlflowRecorder(store, describe, finals(store, run, study, winner=1))
    ids = {seed: train(recorder, seed, seed / 10) for seed in (2, 1)}
    train(recorder, 3, 0.0, Status.DIVERGED)
    train(MlflowRecorder(store, describe, finals(store, run, study, winner=0)), 1, 0.7)
    (family,) = MlflowReader(store).comparison("mine").families  # type: ignore[union-attr]
    by_trial = {(final.trial, final.seed): final for final in family.finals}
    assert sorted(by_trial) == [(0, 1), (1, 1), (1, 2), (1, 3)]
    assert [final.seed for final in family.finals] == sorted(final.seed for final in family.finals)
    final = by_trial[1, 2]
    assert (final.run.run_id, final.run.status, final.run.metrics["test_loss"]) == (ids[2], Status.COMPLETE, 0.2 + 0.1)
    assert [(m.step, m.metrics) for m in final.evaluations] == [(10, {"val_loss": 0.4}), (20, {"val_loss": 0.2})]
    assert by_trial[1, 3].run.status is Status.DIVERGED
    began = store.client.get_run(ids[2]).info.start_time
    stamps = [m.timestamp for m in store.client.get_metric_history(ids[2], "val_loss")]
    assert [m.seconds for m in final.evaluations] == [(stamp - began) / 1000 for stamp in sorted(stamps)]


def test_finals_stand_below_the_comparison_and_their_results_on_it(store: Store) -> None:
    run = comparison_run(store)
    study = tuned(store, run, "cosine", 0.5)
    recorder = MlflowRecorder(store, describe, finals(store, run, study, winner=0))
    ids = [train(recorder, seed, seed / 10) for seed in (1, 2)]
    tags = store.client.get_run(ids[0]).data.tags
    expected = {"sweep.kind": "final", "sweep.trial": "0", "sweep.seed": "1", "sweep.study_run": study.run_id}
    assert expected.items() <= tags.items()
    assert tags["mlflow.parentRunId"] == run.run_id
    assert finals(store, run, study, winner=0).add(1, 0.9) == []  # it has that of seed 1
    history = store.client.get_metric_history(run.run_id, "test_loss/digits/cosine trial 0")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]


def test_a_final_that_was_killed_before_it_was_whole_is_trained_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    run = comparison_run(store)
    study = tuned(store, run, "cosine", 0.5)
    run.compares({("digits", "cosine"): study.run_id})
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_write_tags", killed)
        with pytest.raises(KeyboardInterrupt):
            train(MlflowRecorder(store, describe, finals(store, run, study, winner=0)), 1, 0.1)
    (family,) = MlflowReader(store).comparison("mine").families  # type: ignore[union-attr]
    assert [final.run.status for final in family.finals] == [None]
    run_id = train(MlflowRecorder(store, describe, finals(store, run, study, winner=0)), 1, 0.1)
    (recorded,) = store.search({"sweep.kind": "final"})
    assert (recorded.info.run_id, recorded.info.status) == (run_id, "FINISHED")
    history = store.client.get_metric_history(run.run_id, "test_loss/digits/cosine trial 0")
    assert [(m.step, m.value) for m in history] == [(1, 0.1)]


def test_finals_of_an_earlier_winner_are_told_from_those_the_comparison_is_of(store: Store) -> None:
    run = comparison_run(store)
    study = tuned(store, run, "cosine", 0.5, 0.4)
    old = train(MlflowRecorder(store, describe, finals(store, run, study, winner=0)), 1, 0.2)
    run.mark_finals({old})
    new = train(MlflowRecorder(store, describe, finals(store, run, study, winner=1)), 1, 0.1)
    run.mark_finals({new})
    current = {r.info.run_id: r.data.tags["sweep.current"] for r in store.search({"sweep.kind": "final"})}
    assert current == {old: "false", new: "true"}
    for winner, value in ((0, 0.2), (1, 0.1)):
        history = store.client.get_metric_history(run.run_id, f"test_loss/digits/cosine trial {winner}")
        assert [m.value for m in history] == [value]


def test_what_an_interrupted_attempt_left_of_a_final_is_replaced(store: Store) -> None:
    run = comparison_run(store)
    study = tuned(store, run, "cosine", 0.5)
    cut = MlflowRecorder(store, describe, finals(store, run, study, winner=0))
    cut.open(Trial(1, config=None, seed=1))  # type: ignore[arg-type]
    run_id = train(MlflowRecorder(store, describe, finals(store, run, study, winner=0)), 1, 0.1)
    assert [r.info.run_id for r in store.search({"sweep.kind": "final"})] == [run_id]
    assert run_id == cut.run_id(Trial(1, config=None, seed=1))  # type: ignore[arg-type]
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_names_are_of_comparisons_and_of_studies_that_belong_to_none(store: Store) -> None:
    for name in ("first", "second"):
        tuned(store, comparison_run(store, name), "cosine", 0.5)
    alone = StudyRun(store, "alone", "alone", "val_loss", True)
    alone.create({}, {"sweep.searched": "[]", "sweep.command": ""})
    reader = MlflowReader(store)
    assert set(reader.names()) == {"first", "second", "alone"}
    assert reader.study("first.digits.cosine") is not None


def test_a_comparison_is_found_again_with_what_it_is_asked_for_now(store: Store) -> None:
    run = comparison_run(store)
    run.finish("FINISHED")
    again = comparison_run(store)
    assert again.run_id == run.run_id
    again.reopen()
    again.tag({"sweep.asked": json.dumps(ASKED | {"seeds": 5, "target": 0.25, "test": "wilcoxon"})})
    record = MlflowReader(store).comparison("mine")
    assert record is not None
    assert (list(record.seeds), record.target, record.test) == ([1, 2, 3, 4, 5], 0.25, "wilcoxon")
    assert record.families == []
    assert store.client.get_run(run.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("sweep.asked", "{}"),
        ("sweep.asked", "[1]"),
        ("sweep.asked", json.dumps(ASKED | {"seeds": "5"})),
        ("sweep.families", "[1]"),
        ("sweep.families", '[["digits", "cosine"]]'),
        ("sweep.direction", "x"),
    ],
)
def test_a_comparison_whose_tag_was_edited_names_it(store: Store, tag: str, text: str) -> None:
    comparison_run(store).tag({tag: text})
    with pytest.raises(InvalidValueError, match=f"^{tag}=.*: was deleted or edited in MLflow"):
        MlflowReader(store).comparison("mine")


@pytest.mark.parametrize("name", ['it\'s "mine"', "a/b.c"])
def test_a_comparison_may_have_any_name(store: Store, name: str) -> None:
    run = comparison_run(store, name)
    run.attach({"comparison.csv": b"schedule\n"})
    assert replace(MlflowReader(store).comparison(name), families=[]).run_id == run.run_id  # type: ignore[type-var]
    assert [f.path for f in store.client.list_artifacts(run.run_id)] == ["comparison.csv"]
