"""Studies by name: gone on with, topped up, refused under another configuration."""

from pathlib import Path

import optuna
import pytest

from sweep.errors import InvalidValueError
from sweep.proposals import open_study, pruner
from tests.proposals.test_proposals import finish, plan, proposer


def test_a_study_is_topped_up_by_a_larger_total(tmp_path: Path) -> None:
    for total in (2, 5):
        source = proposer(plan(tmp_path, f"study.n_trials={total}"))
        while (trial := source.ask()) is not None:
            finish(source, trial)
        assert source.told == total


@pytest.mark.parametrize(
    "override",
    ["study.n_trials=7", "study.timeout=60", "train.device=cpu", "tracking.experiment=other", "study.max_retries=9"],
)
def test_what_does_not_change_results_does_not_change_the_name(tmp_path: Path, override: str) -> None:
    assert plan(tmp_path, override).name == plan(tmp_path).name


@pytest.mark.parametrize(
    "override",
    [
        "train.seed=1",
        "train.batch_size=32",
        "train.precision=float64",
        "train.eval_every=50",
        "optimizer=adam",
        "optimizer.weight_decay=0.1",
        "schedule.staircase=true",
        "schedule.decay_rate=0.7",
        "schedule.decay_rate=interval(0.6,0.9)",
        "warmup=none",
        "sampler.seed=1",
        "sampler=random",
        "pruner=median",
        "study.metric=val_accuracy",
        "dataset.split_seed=1",
        "dataset=breast_cancer",
    ],
)
def test_what_changes_results_changes_the_name(tmp_path: Path, override: str) -> None:
    assert plan(tmp_path, override).name != plan(tmp_path).name


def test_the_default_name_says_what_is_searched(tmp_path: Path) -> None:
    assert plan(tmp_path).name.startswith("digits-mlp-momentum-exponential-")
    both = plan(tmp_path, "schedule=exponential,cosine", "optimizer=sgd,adam")
    assert both.name.startswith("digits-mlp-sgd+adam-exponential+cosine-")


def test_another_configuration_under_a_given_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    proposer(plan(tmp_path, "study.name=mine"))
    with pytest.raises(InvalidValueError) as refused:
        proposer(plan(tmp_path, "study.name=mine", "train.seed=3", "schedule.decay_rate=interval(0.6,0.9)"))
    text = str(refused.value)
    assert text.startswith("study.name=mine: is a study of a different configuration")
    assert "config.train.seed: 0 in the study, 3 requested" in text
    assert "space.schedule/decay_rate: interval(0.5,0.99) in the study, interval(0.6,0.9) requested" in text


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.name=theirs")
    other = optuna.create_study(storage=made.study.storage, study_name="theirs")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InvalidValueError, match="study of another program"):
        open_study(made.study, "theirs", made.identity, pruner(made.pruner, 100, conditional=False))
