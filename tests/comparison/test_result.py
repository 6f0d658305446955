"""A comparison computed from a record: the winner, its finals, the target, the numbers in files."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sweep.comparison import (
    as_csv,
    as_json,
    best_parameters,
    compare,
    final_trials,
    finals,
    fresh_seeds,
    profile,
    winner,
)
from sweep.config import RunConfig
from sweep.core import (
    ComparisonRecord,
    FamilyRecord,
    FinalRecord,
    Measurement,
    Status,
    StudyRecord,
    Trial,
    TrialRecord,
)


def run(number, status=Status.COMPLETE, **metrics):
    params = {"optimizer.lr": str(number / 10), "schedule.shape": "sqrt", "model.hidden": "[8, 8]"}
    return TrialRecord(number, f"run {number}", f"{number:03d}", status, params, metrics, None, None)


def study(schedule, *losses):
    """A trial for each loss; one that diverged for None."""
    trials = [
        run(i, Status.DIVERGED) if loss is None else run(i, val_loss=loss, val_accuracy=1 - loss)
        for i, loss in enumerate(losses)
    ]
    searched = ["optimizer.lr", "schedule.shape", "model.hidden"]
    return StudyRecord(schedule, f"study {schedule}", "1", "val_loss", True, searched, "", trials)


def final(trial, seed, *losses, test=None):
    """Evaluated every ten updates, a second each; its last loss is that of its end. Diverged where that is None."""
    measured = [
        Measurement(10 * (i + 1), i + 1.0, {"val_loss": loss}) for i, loss in enumerate(losses) if loss is not None
    ]
    metrics = {} if losses[-1] is None else {"val_loss": losses[-1]}
    metrics |= {} if test is None else {"test_loss": test}
    status = Status.DIVERGED if losses[-1] is None else Status.COMPLETE
    return FinalRecord(trial, seed, run(trial, status, **metrics), measured)


def record(*families, trials=3, seeds=(1, 2, 3), target=None, datasets=("digits",), minimize=True):
    listed = [FamilyRecord(dataset, of.name, of, of_finals) for dataset in datasets for of, of_finals in families]
    return ComparisonRecord("mine", "run", "1", "val_loss", minimize, trials, seeds, 0.95, target, "t", listed)


GOOD = study("good", 0.4, 0.2, 0.3), [final(1, s, 0.5, 0.2, 0.1 + s / 100, test=0.1 + s / 50) for s in (1, 2, 3)]
BAD = study("bad", 0.5, None, 0.6), [final(0, s, 0.6, 0.5, 0.4 + s / 90, test=0.4 + s / 80) for s in (1, 2, 3)]


def standings(*families, **asked):
    (found,) = compare(record(*families, **asked))
    return {standing.schedule: standing for standing in found.standings}


def test_seeds_are_fresh():
    assert list(fresh_seeds(0, 3)) == [1, 2, 3]
    assert 7 not in fresh_seeds(7, 100)


def test_the_winner_is_the_best_of_the_trials_that_count():
    tuned = study("a", 0.5, None, 0.4, 0.1)
    assert winner(tuned, 4).number == 3
    assert winner(tuned, 3).number == 2
    assert winner(tuned, 2).number == 0
    assert winner(study("a", None, None), 2) is None
    interrupted = replace(tuned, trials=[run(0, status=None), *tuned.trials[1:]])
    assert winner(interrupted, 3).number == 3  # one that has not ended does not count, nor do its numbers


def test_a_final_trial_is_the_tuned_one_on_another_seed():
    config = object.__new__(RunConfig)
    seeds = []
    object.__setattr__(config, "with_seed", lambda seed: seeds.append(seed) or config)
    tuned = Trial(7, config, 0, {"optimizer.lr": 0.1})
    trials = final_trials(tuned, [4, 5])
    assert [(trial.number, trial.seed, trial.final) for trial in trials] == [(4, 4, True), (5, 5, True)]
    assert seeds == [4, 5]
    assert trials[0].values == tuned.values


def test_finals_are_those_of_the_winner_on_the_seeds_asked_for_that_ended():
    of_finals = [final(1, 1, 0.3), final(0, 1, 0.1), final(1, 2, 0.3), final(1, 9, 0.3)]
    of_finals[2] = replace(of_finals[2], run=replace(of_finals[2].run, status=None))
    family = FamilyRecord("digits", "good", GOOD[0], of_finals)
    assert [(f.trial, f.seed) for f in finals(family, 3, [1, 2])] == [(1, 1)]
    assert [(f.trial, f.seed) for f in finals(family, 1, [1, 2])] == [(0, 1)]


def test_families_are_judged_by_the_test_split():
    better_on_test = study("fit", 0.1, 0.2, 0.3), [final(0, s, 0.01, test=0.9 + s / 70) for s in (1, 2, 3)]
    (found,) = compare(record(better_on_test, GOOD))
    assert (found.metric, [s.schedule for s in found.standings]) == ("test_loss", ["good", "fit"])
    assert found.standings[0].test.mean == pytest.approx(0.14)
    assert found.standings[0].val.mean == pytest.approx(0.12)


def test_without_a_test_split_by_the_validation_split():
    untested = [(of, [replace(f, run=replace(f.run, metrics={"val_loss": f.run.metrics["val_loss"]})) for f in runs])
                for of, runs in (BAD, GOOD)]  # fmt: skip
    (found,) = compare(record(*untested))
    assert (found.metric, found.standings[0].schedule, found.standings[0].test) == ("val_loss", "good", None)


def test_the_target_is_the_median_of_the_first_family_unless_it_is_given():
    (found,) = compare(record(BAD, GOOD))
    assert found.target == pytest.approx(0.4 + 2 / 90)
    by_name = {s.schedule: s for s in found.standings}
    assert by_name["good"].steps.tolist() == [20, 20, 20]
    assert by_name["good"].seconds.tolist() == [2, 2, 2]
    assert by_name["bad"].steps.tolist() == [30, 30, math.inf]
    assert (by_name["bad"].reached, by_name["bad"].steps_to_target) == (2, 30)
    assert standings(BAD, GOOD, target=0.45)["bad"].reached == 3
    assert standings(BAD, GOOD, target=0.01)["good"].steps_to_target == math.inf


@pytest.mark.parametrize(("minimize", "expected"), [(True, 0.3), (False, 0.2)])
def test_of_an_even_number_of_finals_more_than_half_are_at_the_target(minimize, expected):
    even = GOOD[0], [final(1, s, loss) for s, loss in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4))]
    (found,) = compare(record(even, BAD, seeds=(1, 2, 3, 4), minimize=minimize))
    assert found.target == expected
    reference = next(s for s in found.standings if s.schedule == "good")
    assert (reference.reached, reference.steps_to_target) == (3, 10)


def test_a_final_that_diverged_never_reaches_the_target_and_has_no_number():
    diverged = GOOD[0], [final(1, 1, 0.1, None), *GOOD[1][1:]]
    found = standings(BAD, diverged)["good"]
    assert (found.ranked.rank, found.ranked.diverged, found.ranked.n) == (2, 1, 2)
    assert found.steps.tolist() == [math.inf, 20, 20]
    assert found.val.mean == pytest.approx(0.125)


def test_trials_without_a_value_count_as_tuning():
    bad = standings(GOOD, BAD)["bad"]
    assert bad.n_trials == 3
    assert bad.best_of_k == pytest.approx([0.55, 1.6 / 3, 0.5])


def test_a_family_without_a_winner_stands_last_without_numbers():
    lost = study("lost", None, None), []
    found = standings(lost, GOOD)["lost"]
    assert (found.winner, found.ranked.rank, found.ranked.estimate, found.val) == (None, 2, None, None)
    assert (found.steps_to_target, found.seconds_to_target, found.reached, found.best_of_k.size) == (None, None, 0, 0)
    assert best_parameters(found) == {}


def test_the_record_of_a_comparison_that_has_only_begun_is_no_error():
    (found,) = compare(record((study("a"), []), (study("b"), [])))
    assert found.target is None
    assert "No schedule has a result" in found.verdict
    assert len(as_csv([found]).splitlines()) == 3


def test_without_a_target_nothing_is_counted_to_it():
    lost = BAD[0], [final(0, s, 0.5, None) for s in (1, 2, 3)]
    (found,) = compare(record(lost, GOOD))
    assert found.target is None
    assert [s.steps_to_target for s in found.standings] == [None, None]
    assert [s.reached for s in found.standings] == [0, 0]
    both = record(lost, GOOD, datasets=("digits", "wine"))
    assert profile(both, compare(both)).share.tolist() == [[0.0], [0.0]]


def test_what_is_missing_is_counted_and_said_first():
    begun = GOOD[0], GOOD[1][:1]
    (found,) = compare(record(begun, BAD))
    assert found.missing == 2
    assert found.verdict.startswith("Unfinished: 2 trainings are missing. ")
    (found,) = compare(record(begun, BAD, trials=5))
    assert found.missing == 2 + 2 + 2
    (found,) = compare(record((study("lost", None, None, None), []), GOOD))
    assert found.missing == 0  # without a winner there are no finals to come


def test_a_final_that_failed_is_told_from_one_that_diverged():
    failed = replace(GOOD[1][0], run=run(1, Status.FAILED))
    found = standings(BAD, (GOOD[0], [failed, *GOOD[1][1:]]))["good"]
    assert (found.ranked.rank, found.ranked.diverged, found.ranked.failed, found.missing) == (2, 0, 1, 0)


def test_a_diverged_final_has_no_metrics_in_the_files():
    diverged = GOOD[0], [final(1, 1, 0.1, None), *GOOD[1][1:]]
    of = record(BAD, diverged)
    of_final = replace(diverged[1][0], run=replace(diverged[1][0].run, metrics={"val_loss": 0.1}))
    of = replace(of, families=[of.families[0], replace(of.families[1], finals=[of_final, *GOOD[1][1:]])])
    (on_digits,) = json.loads(as_json(of, compare(of)))["datasets"]
    families = {family["schedule"]: family for family in on_digits["families"]}
    assert families["good"]["finals"][0] == {"seed": 1, "run_id": "run 1", "status": "diverged"}


def test_a_profile_is_over_data_sets_and_seeds():
    of = record(BAD, GOOD, datasets=("digits", "wine"))
    assert profile(record(BAD, GOOD), compare(record(BAD, GOOD))) is None
    found = profile(of, compare(of))
    assert found.schedules == ["bad", "good"]
    assert found.tau.tolist() == [1.0, 1.5]
    assert found.share == pytest.approx(np.array([[0, 2 / 3], [1, 1]]))


def test_the_csv_has_a_row_for_each_family_in_full_precision():
    comparisons = compare(record(BAD, GOOD, datasets=("digits", "wine"), target=0.01))
    rows = list(csv.DictReader(as_csv(comparisons).splitlines()))
    assert [(row["dataset"], row["schedule"]) for row in rows] == [
        ("digits", "good"), ("digits", "bad"), ("wine", "good"), ("wine", "bad"),
    ]  # fmt: skip
    assert float(rows[0]["val_mean"]) == comparisons[0].standings[0].val.mean
    assert json.loads(rows[0]["best_parameters"]) == {
        "optimizer.lr": 0.1, "schedule.shape": "sqrt", "model.hidden": [8, 8],
    }  # fmt: skip
    assert rows[0]["steps_to_target"] == "inf"
    assert (rows[0]["difference_mean"], rows[0]["p_holm"]) == ("", "")


def test_the_json_holds_no_number_that_json_lacks():
    of = record(BAD, GOOD, (study("lost", None), []), target=0.01)
    text = as_json(of, compare(of))
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (on_digits,) = read["datasets"]
    families = {family["schedule"]: family for family in on_digits["families"]}
    assert families["good"]["steps_to_target"] is None
    assert families["good"]["best_of_k"] == pytest.approx([0.3, 7 / 30, 0.2])
    assert [f["seed"] for f in families["good"]["finals"]] == [1, 2, 3]
    assert families["good"]["finals"][0]["test_loss"] == pytest.approx(0.12)
    assert (read["trials"], read["seeds"], on_digits["target"]) == (3, [1, 2, 3], 0.01)
    assert on_digits["verdict"] == compare(of)[0].verdict
