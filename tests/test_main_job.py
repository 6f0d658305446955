"""Tests a search as a user runs it; reads the record with MLflow's and Optuna's own tools only."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.conftest import ROOT, SMALL, Answer


def runs(folder: Path, kind: str) -> list[Run]:
    """Return the runs of a kind, oldest first."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sweep")
    return client.search_runs([experiment.experiment_id], f"tags.`sweep.kind` = '{kind}'", order_by=["start_time"])


def history(folder: Path, run: Run, key: str) -> list[tuple[int, float]]:
    rows = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(run.info.run_id, key)
    return [(row.step, row.value) for row in sorted(rows, key=lambda row: row.step)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Provide a small default search in a new process: its folder and its output."""
    folder = tmp_path_factory.mktemp("searched")
    command = [sys.executable, "-m", "sweep", "train.steps=50", "train.eval_every=20", "study.n_trials=4"]
    answer = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    return folder, answer.stdout


def formula(params: dict[str, str], step: int) -> float:
    """Return the rate of linear warmup from start_factor, then exponential decay counted from its end."""
    lr, rate = float(params["optimizer.lr"]), float(params["schedule.decay_rate"])
    steps, warmup = int(params["schedule.decay_steps"]), int(params["warmup.steps"])
    if step < warmup:
        return lr * step / warmup
    return float(lr * rate ** ((step - warmup) / steps))


def test_one_parent_holds_every_trial(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    (parent,) = runs(folder, "study")
    trials = runs(folder, "trial")
    assert [run.data.tags["mlflow.parentRunId"] for run in trials] == [parent.info.run_id] * 4
    assert [run.data.tags["sweep.trial"] for run in trials] == ["0", "1", "2", "3"]
    assert {run.info.status for run in [parent, *trials]} == {"FINISHED"}
    assert [step for step, _ in history(folder, parent, "best_val_loss")] == [0, 1, 2, 3]


def test_every_step_is_recorded_once_at_the_rate_of_the_formula(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    for run in runs(folder, "trial"):
        rates = history(folder, run, "lr")
        assert [step for step, _ in rates] == list(range(50))
        assert [step for step, _ in history(folder, run, "loss")] == list(range(50))
        expected = [formula(run.data.params, step) for step in range(50)]
        np.testing.assert_allclose([rate for _, rate in rates], expected, rtol=1e-6, atol=0)
        for key in ("val_loss", "val_accuracy", "global_step"):
            assert [step for step, _ in history(folder, run, key)] == [20, 40, 50]
        assert history(folder, run, "global_step") == [(20, 20.0), (40, 40.0), (50, 50.0)]
        assert not [key for key in run.data.metrics if key.startswith("test")]


def test_optuna_and_mlflow_agree_and_need_nothing_of_this_project(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    stored = optuna.load_study(study_name=name, storage=storage).get_trials()
    by_number = {run.data.tags["sweep.trial"]: run for run in runs(folder, "trial")}
    for trial in stored:
        run = by_number[str(trial.number)]
        assert trial.user_attrs["mlflow_run_id"] == run.info.run_id
        assert trial.value == run.data.metrics["val_loss"]
        assert sorted(trial.intermediate_values) == [20, 40, 50]
        assert {key: str(value) for key, value in trial.params.items()}.items() <= run.data.params.items()


def test_their_own_command_lines_list_the_study_and_its_runs(searched: tuple[Path, str]) -> None:
    folder, out = searched
    name = out.split()[1].rstrip(":")

    def listed(*command: str) -> str:
        script = Path(sys.executable).parent / command[0]
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PATH": ""}
        answer = subprocess.run([script, *command[1:]], env=environment, capture_output=True, text=True, check=True)
        return answer.stdout

    assert name in listed("optuna", "studies", "--storage", f"sqlite:///{folder}/optuna.db")
    rows = listed("mlflow", "runs", "list", "--experiment-id", "1")
    assert re.findall(r"  (00\d) decay_rate=", rows) == ["003", "002", "001", "000"]
    assert f"  {name} " in rows


def test_the_end_shows_table_command_and_links(searched: tuple[Path, str]) -> None:
    folder, out = searched
    assert "4 trials: 4 complete" in out
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    assert f"{best.data.metrics['val_loss']:.4f}" in out
    assert f"optimizer.lr={best.data.params['optimizer.lr']}" in out
    assert f"/runs/{runs(folder, 'study')[0].info.run_id}/" in out
    assert "half-life" in out


def test_the_command_line_of_the_best_trains_it_again(
    searched: tuple[Path, str], sweep: Callable[..., Answer], folder: Path
) -> None:
    source, out = searched
    command = next(line.strip() for line in out.splitlines() if "mode=train" in line)
    assert sweep(*command.removeprefix("python -m sweep ").split()).status == 0
    best = min(runs(source, "trial"), key=lambda run: run.data.metrics["val_loss"])
    (again,) = runs(folder, "train")
    for key in ("lr", "loss", "val_loss", "val_accuracy"):
        assert history(folder, again, key) == history(source, best, key)


def test_the_recorded_configuration_trains_it_again(
    searched: tuple[Path, str], sweep: Callable[..., Answer], folder: Path
) -> None:
    source, _ = searched
    trial = runs(source, "trial")[2]
    client = MlflowClient(f"sqlite:///{source}/mlflow.db")
    path = client.download_artifacts(trial.info.run_id, "config.yaml", str(folder))
    Path(path).rename(folder / "again.yaml")
    assert sweep("--config-dir", str(folder), "--config-name", "again").status == 0
    (again,) = runs(folder, "train")
    assert history(folder, again, "loss") == history(source, trial, "loss")


def test_a_choice_among_schedules_shows_each_with_its_own(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "schedule=exponential,cosine", "study.n_trials=6", "sampler=random")
    assert answer.status == 0
    families = {run.data.params["schedule.name"] for run in runs(folder, "trial")}
    assert families == {"exponential", "cosine"}
    for run in runs(folder, "trial"):
        drawn = "schedule.decay_rate" if run.data.params["schedule.name"] == "exponential" else "schedule.end_factor"
        assert drawn in run.data.params
    assert "exponential" in answer.out
    assert "cosine" in answer.out


def test_a_larger_total_tops_the_study_up(sweep: Callable[..., Answer], folder: Path) -> None:
    for total in (2, 3):
        assert sweep(*SMALL, f"study.n_trials={total}").status == 0
    assert len(runs(folder, "trial")) == 3
    assert len(runs(folder, "study")) == 1
    again = sweep(*SMALL, "study.n_trials=3")
    assert again.status == 0
    assert "3 of 3 trials done" in again.out
    assert len(runs(folder, "trial")) == 3


def test_divergence_is_recorded_up_to_its_update_and_never_best(sweep: Callable[..., Answer], folder: Path) -> None:
    rates = "optimizer.lr=choice(0.1,1e6)"
    answer = sweep(
        *SMALL, "sampler=grid", "space=none", rates, "model.hidden=[8,8]", "warmup=none", "schedule=constant"
    )
    assert answer.status == 0
    assert "2 trials: 1 complete, 1 diverged" in answer.out
    (diverged,) = [run for run in runs(folder, "trial") if run.data.tags["sweep.status"] == "diverged"]
    assert diverged.info.status == "FAILED"
    losses = history(folder, diverged, "loss")
    assert np.isfinite([loss for _, loss in losses[:-1]]).all()
    assert np.isnan(losses[-1][1])
    assert len(losses) < 40
    assert [step for step, _ in history(folder, diverged, "lr")] == list(range(len(losses)))


def test_a_curve_that_stalls_is_warned_of_and_tagged(sweep: Callable[..., Answer], folder: Path) -> None:
    stalling = ["warmup=none", "schedule.decay_rate=0.5", "schedule.decay_steps=1"]
    answer = sweep(*SMALL, *stalling, "mode=train")
    assert "the learning rate stalls at step 25 of 40" in answer.out
    assert runs(folder, "train")[0].data.tags["sweep.stalled_at"] == "25"
    assert "warning" in sweep(*SMALL, *stalling, "study.n_trials=1").out


def test_pruned_trials_count_and_keep_their_rows(sweep: Callable[..., Answer], folder: Path) -> None:
    options = ["pruner=median", "pruner.n_startup_trials=2", "study.n_trials=8", "warmup=none", "sampler=random"]
    assert sweep(*SMALL, *options).status == 0
    pruned = [run for run in runs(folder, "trial") if run.data.tags["sweep.status"] == "pruned"]
    assert len(runs(folder, "trial")) == 8
    assert pruned
    for run in pruned:
        assert run.info.status == "FINISHED"
        assert [step for step, _ in history(folder, run, "loss")] == list(range(20))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "gp"])
def test_every_sampler_carries_a_search(sweep: Callable[..., Answer], folder: Path, sampler: str) -> None:
    answer = sweep(*SMALL, "train.steps=10", "train.eval_every=10", f"sampler={sampler}", "study.n_trials=3")
    assert (answer.status, answer.err) == (0, "")
    assert len(runs(folder, "trial")) == 3


def test_a_deleted_experiment_is_refused_before_anything_is_written(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, "mode=train").status == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("sweep").experiment_id)
    answer = sweep(*SMALL)
    assert answer.status == 2
    assert "tracking.experiment=sweep: was deleted in MLflow" in answer.err
    assert not (folder / "optuna.db").exists()


def test_a_name_may_hold_anything(sweep: Callable[..., Answer]) -> None:
    answer = sweep(*SMALL, "study.n_trials=1", "study.name='it\\'s \"mine\"'")
    assert (answer.status, answer.err) == (0, "")
    assert "1 trial: 1 complete" in answer.out
    assert "1 trial: 1 complete" in sweep("mode=report", "study.name='it\\'s \"mine\"'").out


def test_the_report_is_of_the_study_that_the_command_line_is_about(sweep: Callable[..., Answer]) -> None:
    small = ["train.steps=10", "train.eval_every=10", "study.n_trials=1"]
    assert sweep("model=cnn", *small).status == 0
    assert sweep("model=mlp", *small).status == 0
    assert "digits-cnn-" in sweep("mode=report", "model=cnn", "train.steps=10", "train.eval_every=10").out
    assert "digits-mlp-" in sweep("mode=report").out


def test_a_record_that_lost_its_trials_is_not_quietly_begun_anew(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, "study.n_trials=1").status == 0
    answer = sweep(*SMALL, "study.n_trials=2", "tracking.uri=sqlite:///another.db")
    assert answer.status == 2
    assert "tracking.uri=sqlite:///another.db: does not hold the trials that study" in answer.err
    assert not (folder / "another.db").exists()


def test_a_study_begun_anew_leaves_the_record_of_the_old_one(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, "study.n_trials=1").status == 0
    (folder / "optuna.db").unlink()
    assert sweep(*SMALL, "study.n_trials=1").status == 0
    assert len(runs(folder, "study")) == 2
    assert len(runs(folder, "trial")) == 2


def test_a_searched_key_with_an_invalid_default_an_element_of_a_list_and_tags_on_three_updates(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    """The default values of piecewise are invalid for these boundaries; every run has the tags of the command."""
    schedule = ["schedule=piecewise", "schedule.boundaries=[1]", "schedule.values=[1,0.1],[1,0.5]"]
    optimizer = ["optimizer=adam", "optimizer.betas.1=interval(0.9,0.999)", "optimizer.lr=0.01"]
    given = [*schedule, *optimizer, "train.steps=3", "model.hidden=[8]", "sampler=random", "engine=serial"]
    for total, team in ((1, "vision"), (2, "audio")):
        tags = [f"tracking.tags={{team: {team}, ticket: 7}}"] if total == 1 else ["tracking.tags.team=audio"]
        tags += [] if total == 1 else ["+tracking.tags.ticket=7"]
        answer = sweep(*given, f"study.n_trials={total}", *tags)
        assert answer.status == 0, answer.err
    assert "betas.1" in answer.out
    assert [run.data.tags["team"] for run in runs(folder, "study")] == ["vision"]
    trials = runs(folder, "trial")
    assert [run.data.tags["team"] for run in trials] == ["vision", "audio"]
    assert {run.data.tags["ticket"] for run in trials} == {"7"}
    best = min(trials, key=lambda run: run.data.metrics["val_loss"])
    command = next(line.strip() for line in answer.out.splitlines() if "mode=train" in line)
    assert "optimizer.betas.1=" in command
    assert sweep(*shlex.split(command.removeprefix("python -m sweep "))).status == 0
    (again,) = runs(folder, "train")
    for key in ("lr", "loss", "val_loss"):
        assert history(folder, again, key) == history(folder, best, key)
