"""Tests mode=compare as a user runs it; reads the record with MLflow's client and SciPy only."""

import csv
import html
import json
import math
import re
import shlex
import signal
import statistics
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy import stats
from scipy.special import comb

from tests.conftest import SMALL, Answer, long, start
from tests.faults.harness import Zygote
from tests.test_main_job import history, runs

SCHEDULES = ["constant", "exponential", "wsd"]
COMPARE = [
    *SMALL,
    "mode=compare",
    "compare.schedules=[constant,exponential,wsd]",
    "compare.trials=4",
    "compare.seeds=4",
]


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the only comparison.csv."""
    (path,) = folder.glob("reports/*/comparison.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def below(folder: Path, parent: Run, kind: str) -> list[Run]:
    return [run for run in runs(folder, kind) if run.data.tags["mlflow.parentRunId"] == parent.info.run_id]


@pytest.fixture(scope="module")
def compared(sweep_in: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Provide a small comparison: its folder and its output."""
    folder = tmp_path_factory.mktemp("compared")
    answer = sweep_in(folder, *COMPARE)
    assert (answer.status, answer.err) == (0, "")
    return folder, answer.out


def test_every_family_is_tuned_alike_and_its_best_trained_on_the_same_fresh_seeds(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    (parent,) = runs(folder, "comparison")
    studies = below(folder, parent, "study")
    assert [run.info.status for run in [parent, *studies]] == ["FINISHED"] * 4
    seen = []
    for study in studies:
        trials = below(folder, study, "trial")
        assert len(trials) == 4
        assert {run.data.params["train.seed"] for run in trials} == {"0"}
        best = min(trials, key=lambda run: run.data.metrics["val_loss"])
        finals = [
            run for run in below(folder, parent, "final") if run.data.tags["sweep.study_run"] == study.info.run_id
        ]
        assert [run.data.params["train.seed"] for run in finals] == ["1", "2", "3", "4"]
        for final in finals:
            assert final.data.params | {"train.seed": "0"} == best.data.params
            assert final.data.tags["sweep.trial"] == best.data.tags["sweep.trial"]
        seen.append(best.data.params["schedule.name"])
        assert {run.data.params["schedule.name"] for run in trials} == {seen[-1]}
    assert sorted(seen) == sorted(SCHEDULES)


def test_the_sampler_is_quasi_random_unless_another_is_given(
    compared: tuple[Path, str], sweep: Callable[..., Answer], folder: Path
) -> None:
    source, _ = compared
    assert {run.data.params["sampler.name"] for run in runs(source, "study")} == {"qmc"}
    assert sweep(*SHORT, "compare.schedules=[constant,rex]", "sampler=tpe", "optimizer=sgd,adam").status == 0
    assert {run.data.params["sampler.name"] for run in runs(folder, "study")} == {"tpe"}


def test_the_test_split_is_evaluated_by_final_runs_only_and_once(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    for kind in ("trial", "final", "study", "comparison"):
        for run in runs(folder, kind):
            tested = {key for key in run.data.metrics if key.startswith("test") and "/" not in key}
            assert tested == ({"test_loss", "test_accuracy"} if kind == "final" else set())
    for run in runs(folder, "final"):
        assert [step for step, _ in history(folder, run, "test_loss")] == [40]
        assert [step for step, _ in history(folder, run, "lr")] == list(range(40))
        assert [step for step, _ in history(folder, run, "val_loss")] == [20, 40]


class Recomputed:
    """Return the numbers of a schedule's row, computed from MLflow only.

    Args:
        trials, finals: in the order of their numbers and seeds.
        reference: finals of the first schedule, whose median is the target.
    """

    def __init__(self, folder: Path, trials: list[Run], finals: list[Run], reference: list[Run]) -> None:
        self.folder, self.trials, self.finals = folder, trials, finals
        self.target = statistics.median_high(run.data.metrics["val_loss"] for run in reference)

    def column(self, key: str) -> np.ndarray:
        return np.array([run.data.metrics[key] for run in self.finals])

    def interval(self, key: str) -> tuple[float, float, float]:
        """Return the mean and its BCa bootstrap interval."""
        values = self.column(key)
        found = stats.bootstrap((values,), np.mean, confidence_level=0.95, method="BCa", rng=0)
        return float(values.mean()), *map(float, found.confidence_interval)

    def reached(self) -> list[tuple[float, float]]:
        """Return updates and seconds of each final run until the target."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        found = []
        for run in self.finals:
            points = sorted(client.get_metric_history(run.info.run_id, "val_loss"), key=lambda m: m.step)
            hit = [(m.step, (m.timestamp - run.info.start_time) / 1000) for m in points if m.value <= self.target]
            found.append(hit[0] if hit else (math.inf, math.inf))
        return found


def recomputed(folder: Path) -> dict[str, Recomputed]:
    (parent,) = runs(folder, "comparison")
    of_schedule: dict[str, tuple[list[Run], list[Run]]] = {}
    for study in below(folder, parent, "study"):
        trials = sorted(below(folder, study, "trial"), key=lambda run: int(run.data.tags["sweep.trial"]))
        finals = [
            run for run in below(folder, parent, "final") if run.data.tags["sweep.study_run"] == study.info.run_id
        ]
        finals.sort(key=lambda run: int(run.data.tags["sweep.seed"]))
        of_schedule[trials[0].data.params["schedule.name"]] = trials, finals
    return {name: Recomputed(folder, *found, of_schedule["constant"][1]) for name, found in of_schedule.items()}


def corrected(columns: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Return the paired t tests of all pairs of schedules, in alphabetical order, with Holm's correction."""
    tests = {(a, b): float(stats.ttest_rel(columns[a], columns[b]).pvalue) for a, b in combinations(sorted(columns), 2)}
    adjusted: dict[tuple[str, str], float] = {}
    for i, pair in enumerate(sorted(tests, key=lambda pair: tests[pair])):  # never smaller than the one before
        adjusted[pair] = min(1.0, max([(len(tests) - i) * tests[pair], *adjusted.values()]))
    return adjusted


def test_every_number_of_the_csv_can_be_recomputed_from_mlflow_alone(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    families, written = recomputed(folder), {row["schedule"]: row for row in rows(folder)}
    columns = {name: family.column("test_loss") for name, family in families.items()}
    order = sorted(columns, key=lambda name: columns[name].mean())
    with_all = corrected(columns)
    without_one = [corrected({name: np.delete(column, i) for name, column in columns.items()}) for i in range(4)]
    for name, family in families.items():
        row = dict(written[name])
        numbers: dict[str, float] = {
            "rank": order.index(name) + 1,
            "n_trials": len(family.trials),
            "n_seeds": len(family.finals),
            "n_diverged": 0,
            "n_failed": 0,
            "target": family.target,
            "n_reached": sum(math.isfinite(steps) for steps, _ in family.reached()),
            "steps_to_target": float(np.median([steps for steps, _ in family.reached()])),
            "seconds_to_target": float(np.median([seconds for _, seconds in family.reached()])),
        }
        for split in ("val", "test"):
            mean, low, high = family.interval(f"{split}_loss")
            numbers |= {f"{split}_mean": mean, f"{split}_ci_low": low, f"{split}_ci_high": high}
        texts = {"dataset": "digits", "schedule": name, "metric": "test_loss"}
        if name == order[0]:
            of_differences = ("difference_mean", "difference_ci_low", "difference_ci_high", "p", "p_holm")
            texts |= dict.fromkeys((*of_differences, "shown", "seeds_needed"), "")
        else:
            pair = (min(name, order[0]), max(name, order[0]))
            tested = stats.ttest_rel(columns[name], columns[order[0]])
            interval = tested.confidence_interval(0.95)
            numbers |= {"difference_mean": (columns[name] - columns[order[0]]).mean(), "p": tested.pvalue}
            numbers |= {"difference_ci_low": interval.low, "difference_ci_high": interval.high}
            numbers |= {"p_holm": with_all[pair]}
            shown = all(adjusted[pair] < 0.05 for adjusted in [with_all, *without_one])
            needed = power_analysis(columns[name] - columns[order[0]], 0.05 / len(with_all))
            texts |= {"shown": str(shown), "seeds_needed": "" if shown else needed}
        winner = min(family.trials, key=lambda run: run.data.metrics["val_loss"])
        best = json.loads(row.pop("best_parameters"))
        assert {"warmup.steps", "optimizer.lr"} <= best.keys()
        for key, value in best.items():
            assert str(value) == winner.data.params[key]
        assert row.keys() == numbers.keys() | texts.keys()
        for key, expected in numbers.items():
            assert float(row[key]) == pytest.approx(expected, rel=1e-9, abs=1e-12), (name, key)
        for key, said in texts.items():
            assert row[key] == said, (name, key)


def power_analysis(differences: np.ndarray, level: float) -> str:
    """Return one more than the fewest pairs with which a t test detects a difference of this size with power 0.85."""
    effect = abs(differences.mean()) / differences.std(ddof=1)
    for n in range(2, 10_001):
        bound, shift = stats.t.ppf(1 - level / 2, n - 1), effect * np.sqrt(n)
        if stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift) >= 0.85:
            return str(n + 1)
    return ""


def test_the_expected_best_after_k_trials_is_that_of_all_draws_of_k(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    (path,) = folder.glob("reports/*/comparison.json")
    (of_digits,) = json.loads(path.read_text())["datasets"]
    families = recomputed(folder)
    for family in of_digits["families"]:
        losses = sorted(run.data.metrics["val_loss"] for run in families[family["schedule"]].trials)
        n = len(losses)
        expected = [sum(v * comb(n - i - 1, k - 1) for i, v in enumerate(losses)) / comb(n, k) for k in range(1, n + 1)]
        assert family["best_of_k"] == pytest.approx(expected, rel=1e-9)


def test_the_terminal_shows_the_winner_the_verdict_and_where_to_look(compared: tuple[Path, str]) -> None:
    folder, out = compared
    best = min(rows(folder), key=lambda row: int(row["rank"]))
    table = out[out.index("test_loss on digits") :]
    (marked,) = [line for line in table.splitlines() if line.strip().startswith("*")]
    assert best["schedule"] in marked
    assert f"{float(best['test_mean']):.4f}" in marked
    assert "●" in marked
    (path,) = folder.glob("reports/*/comparison.json")
    (of_digits,) = json.loads(path.read_text())["datasets"]
    assert f"digits: {of_digits['verdict']}" in table
    assert "report: reports/" in table
    (parent,) = runs(folder, "comparison")
    assert f"/runs/{parent.info.run_id}/artifacts/report.html" in out


def test_report_and_numbers_are_artifacts_of_the_comparison(compared: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = compared
    (parent,) = runs(folder, "comparison")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert parent.data.tags["mlflow.note.content"]
    for name in ("report.html", "comparison.csv", "comparison.json"):
        (local,) = folder.glob(f"reports/*/{name}")
        kept = Path(client.download_artifacts(parent.info.run_id, name, str(tmp_path)))
        assert kept.read_bytes() == local.read_bytes()


def test_the_report_is_rebuilt_from_what_is_recorded(compared: tuple[Path, str]) -> None:
    folder, out = compared
    before = {path.name: path.read_bytes() for path in folder.glob("reports/*/*")}
    assert sorted(before) == ["comparison.csv", "comparison.json", "report.html"]
    process = start(folder, "mode=report", "report.dir=again")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.splitlines()[0] == ""  # nothing that another program logs
    assert said.splitlines()[1].startswith("in MLflow (")
    assert {path.name: path.read_bytes() for path in folder.glob("again/*/*")} == before
    assert said.partition("\ndigits: ")[2].splitlines()[0] == out.partition("\ndigits: ")[2].splitlines()[0]


def test_a_comparison_that_is_done_trains_nothing_again(
    compared: tuple[Path, str], sweep: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = compared
    monkeypatch.chdir(folder)
    before = [
        (run.info.run_id, run.info.end_time) for kind in ("trial", "final", "study") for run in runs(folder, kind)
    ]
    numbers = rows(folder)
    assert sweep(*COMPARE).status == 0
    after = [(run.info.run_id, run.info.end_time) for kind in ("trial", "final", "study") for run in runs(folder, kind)]
    assert after == before
    assert rows(folder) == numbers


def test_the_command_of_a_final_trains_it_again(
    compared: tuple[Path, str], sweep: Callable[..., Answer], folder: Path
) -> None:
    source, _ = compared
    (page,) = source.glob("reports/*/report.html")
    shown = re.findall(r"python -m sweep (mode=train [^<]*)<", page.read_text())
    (command,) = {html.unescape(text) for text in shown if "schedule=wsd" in text and text.endswith("train.seed=3")}
    assert sweep(*shlex.split(command)).status == 0
    (again,) = runs(folder, "train")
    final = next(
        run
        for run in runs(source, "final")
        if run.data.params["schedule.name"] == "wsd" and run.data.tags["sweep.seed"] == "3"
    )
    for key in ("lr", "loss", "val_loss"):
        assert history(folder, again, key) == history(source, final, key)


def without_times(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds_to_target"} for row in rows(folder)]


def of_finals(folder: Path) -> list[Any]:
    """Return all rows of all final runs, by schedule and seed."""
    found = [
        (
            run.data.params["schedule.name"],
            run.data.tags["sweep.seed"],
            [history(folder, run, k) for k in ("lr", "loss")],
        )
        for run in runs(folder, "final")
    ]
    return sorted(found)


@pytest.mark.parametrize(
    ("number", "moments"),
    [long(signal.SIGINT, ["tuning exponential", "seed   3"]), (signal.SIGKILL, ["trial   2", "final runs of wsd"])],
    ids=str,
)
def test_an_interrupted_comparison_equals_an_uninterrupted_one(
    sweep_in: Callable[..., Answer],
    zygote: Zygote,
    tmp_path: Path,
    compared: tuple[Path, str],
    number: int,
    moments: list[str],
) -> None:
    for moment in moments:
        command = zygote.start(tmp_path, COMPARE)
        assert command.wait_for(f"\n{moment}"), command.said
        command.signal(number)
        status = command.wait(60)
        if number == signal.SIGKILL:
            assert status == -signal.SIGKILL
            continue
        assert status == 130
        assert "trainings are left; run the same command to resume" in command.said
        assert runs(tmp_path, "comparison")[0].info.status == "KILLED"
        assert not list(tmp_path.glob("reports/*/*"))
    assert sweep_in(tmp_path, *COMPARE).status == 0
    assert without_times(tmp_path) == without_times(compared[0])
    assert of_finals(tmp_path) == of_finals(compared[0])
    assert len(runs(tmp_path, "trial")) == len(runs(compared[0], "trial"))
    statuses = {run.info.status for kind in ("comparison", "study", "trial", "final") for run in runs(tmp_path, kind)}
    assert statuses == {"FINISHED"}


SHORT = [*SMALL, "train.steps=20", "train.eval_every=10", "mode=compare", "compare.trials=2", "compare.seeds=2"]


def test_more_trials_and_seeds_go_on_with_what_is_there_and_fewer_are_the_first_of_them(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    schedules = "compare.schedules=[constant,cosine]"
    assert sweep(*SHORT, schedules).status == 0
    first = without_times(folder)
    assert sweep(*SHORT, schedules, "compare.trials=3", "compare.seeds=3").status == 0
    assert {row["n_trials"] for row in rows(folder)} == {row["n_seeds"] for row in rows(folder)} == {"3"}
    assert len(runs(folder, "trial")) == 6
    trained = len(runs(folder, "final"))
    assert sweep(*SHORT, schedules).status == 0
    assert without_times(folder) == first
    assert len(runs(folder, "final")) == trained


def test_a_named_comparison_takes_in_another_schedule(sweep: Callable[..., Answer], folder: Path) -> None:
    named = [*SHORT, "study.name=mine"]
    assert sweep(*named, "compare.schedules=[constant,cosine]").status == 0
    before = {run.info.run_id for kind in ("trial", "final") for run in runs(folder, kind)}
    assert sweep(*named, "compare.schedules=[constant,cosine,rex]").status == 0
    after = [run for kind in ("trial", "final") for run in runs(folder, kind)]
    added = [run for run in after if run.info.run_id not in before]
    assert len(after) == len(before) + len(added)
    assert {run.data.params["schedule.name"] for run in added} == {"rex"}
    assert len(added) == 4
    assert {row["schedule"] for row in rows(folder)} == {"constant", "cosine", "rex"}


def test_under_its_name_another_configuration_is_refused_before_anything_is_stored(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    named = [*SHORT, "study.name=mine"]
    assert sweep(*named, "compare.schedules=[constant,cosine]").status == 0
    studies = optuna.get_all_study_names(f"sqlite:///{folder}/optuna.db")
    for schedules, changed, said in (
        ("[rex,constant]", "optimizer=adam", "torch.optim.SGD in the study, torch.optim.Adam requested"),
        ("[rex,linear]", "optimizer=adam", "optimizer.name: momentum in the study, adam requested"),
        ("[rex,linear]", "study.metric=val_accuracy", "study.metric: val_loss in the study, val_"),
    ):
        refused = sweep(*named, f"compare.schedules={schedules}", changed)
        assert refused.status == 2
        assert said in refused.err
        assert optuna.get_all_study_names(f"sqlite:///{folder}/optuna.db") == studies
    assert sweep(*named, "compare.schedules=[rex,constant]").status == 0


def test_a_search_and_a_comparison_do_not_share_a_name(sweep: Callable[..., Answer]) -> None:
    small = [*SMALL, "study.n_trials=1"]
    assert sweep(*SHORT, "compare.schedules=[constant,cosine]", "study.name=both").status == 0
    refused = sweep(*small, "study.name=both")
    assert (refused.status, refused.err) == (
        2,
        "sweep: study.name=both: is the name of a comparison; choose another name\n",
    )
    assert sweep(*small, "study.name=alone").status == 0
    refused = sweep(*SHORT, "compare.schedules=[constant,cosine]", "study.name=alone")
    assert (refused.status, refused.err) == (
        2,
        "sweep: study.name=alone: is the name of a study; choose another name\n",
    )


def test_their_own_data_set_is_compared_on_not_what_it_is_made_of(sweep: Callable[..., Answer], folder: Path) -> None:
    (folder / "my" / "dataset").mkdir(parents=True)
    (folder / "my" / "dataset" / "small.yaml").write_text("defaults: [digits, _self_]\ntest_fraction: 0.5\n")
    answer = sweep("--config-dir", "my", "dataset=small", *SHORT, "compare.schedules=[constant,cosine]")
    assert answer.status == 0, answer.err
    assert {run.data.params["dataset.test_fraction"] for run in runs(folder, "final")} == {"0.5"}


def test_a_key_that_all_the_compared_schedules_have_can_be_pinned(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SHORT, "compare.schedules=[cosine,linear]", "schedule.end_factor=0.1")
    assert answer.status == 0, answer.err
    assert {run.data.params["schedule.end_factor"] for run in runs(folder, "trial")} == {"0.1"}


def test_when_the_winner_changes_the_comparison_is_of_the_new_one(sweep: Callable[..., Answer], folder: Path) -> None:
    asked = [*SHORT, "compare.schedules=[constant,cosine]", "study.name=mine"]
    seen = []
    for trials in (1, 6):
        assert sweep(*asked, f"compare.trials={trials}").status == 0
        current = [run for run in runs(folder, "final") if run.data.tags["sweep.current"] == "true"]
        assert len(current) == 4
        assert {row["test_mean"] for row in rows(folder)} == {
            repr(
                float(
                    np.mean([run.data.metrics["test_loss"] for run in current if run.data.params["schedule.name"] == s])
                )
            )
            for s in ("constant", "cosine")
        }
        seen.append({run.info.run_id for run in current})
    assert seen[0] != seen[1]
    (parent,) = runs(folder, "comparison")
    of_winner = {run.data.tags["sweep.trial"] for run in runs(folder, "final")}
    assert {key.rpartition(" ")[2] for key in parent.data.metrics if key.startswith("test_loss/")} == of_winner


def test_an_interruption_as_a_comparison_begins_leaves_nothing_that_cannot_be_read(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*SHORT, "compare.schedules=[constant,cosine]"]

    def cut(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sweep.tracking.ComparisonRun.compares", cut)
        assert sweep(*asked).status == 130
    for mode in ("report", "ui"):
        answer = sweep(f"mode={mode}")
        assert answer.status == 2
        assert "is a comparison that was interrupted when it started; the same command resumes it" in answer.err
    assert sweep(*asked).status == 0
    assert len(rows(folder)) == 2


def test_an_unfinished_comparison_says_so(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sweep.app.comparison._train_finals", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sweep(*SHORT, "compare.schedules=[constant,cosine]").status == 130
    assert runs(folder, "comparison")[0].info.status == "KILLED"
    answer = sweep("mode=report")
    assert answer.status == 0
    assert "digits: Unfinished: 4 trainings are missing." in answer.out
    assert answer.out.count("no final ended") == 2


@pytest.mark.parametrize("steps", ["schedule=linear", long("train.steps=6")])
def test_a_rate_of_0_is_drawn_whatever_the_axis(sweep: Callable[..., Answer], folder: Path, steps: str) -> None:
    answer = sweep(*SMALL, "train.eval_every=3", "study.n_trials=5", "optimizer.lr=tag(log,interval(1e-5,1))", steps)
    assert answer.status == 0, answer.err
    assert len(list(folder.glob("reports/*/report.html"))) == 1


def test_a_report_can_be_of_other_statistics(
    compared: tuple[Path, str], sweep: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(compared[0])
    answer = sweep("mode=report", "report.dir=others", "compare.confidence=0.995", "compare.target=1e-9")
    assert answer.status == 0
    assert "99.5 % interval" in answer.out
    assert "never" in answer.out
    (page,) = compared[0].glob("others/*/report.html")
    assert "100%" not in page.read_text().partition("<h2")[0].rpartition("<body")[2]


def test_several_data_sets_are_compared_each_on_its_own(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SHORT, "compare.schedules=[constant,linear]", "dataset=digits,breast_cancer")
    assert answer.status == 0
    assert [(row["dataset"], row["rank"]) for row in rows(folder)] == [
        ("digits", "1"),
        ("digits", "2"),
        ("breast_cancer", "1"),
        ("breast_cancer", "2"),
    ]
    assert len(runs(folder, "study")) == 4
    assert len(runs(folder, "final")) == 8
    assert "digits: " in answer.out
    assert "breast_cancer: " in answer.out
    (page,) = folder.glob("reports/*/report.html")
    assert "erformance profile" in page.read_text()
    again = sweep("mode=report", *[a for a in SHORT if a != "mode=compare"], "compare.schedules=[constant,linear]",
                  "dataset=digits,breast_cancer")  # fmt: skip
    assert again.status == 0
    assert "breast_cancer: " in again.out


def test_families_whose_trials_all_diverge_have_no_finals_and_no_numbers(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    """A rate of 1e6 makes the network diverge immediately."""
    answer = sweep(
        *SHORT, "compare.schedules=[constant,piecewise]", "space=none", "warmup=none", "model.hidden=[8,8]",
        "optimizer.lr=choice(1e6,2e6)",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "no trial ended" in answer.out
    assert {row["n_seeds"] for row in rows(folder)} == {"0"}
    assert not runs(folder, "final")
    assert "No schedule has a result" in answer.out


def test_without_a_test_split_finals_are_judged_on_the_validation_split(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    answer = sweep(
        *SHORT, "compare.schedules=[constant,cosine]", "dataset.test_fraction=0", "study.metric=val_accuracy"
    )
    assert answer.status == 0
    assert {row["metric"] for row in rows(folder)} == {"val_accuracy"}
    assert {row["test_mean"] for row in rows(folder)} == {""}
    means = [float(row["val_mean"]) for row in rows(folder)]
    assert means == sorted(means, reverse=True)


def test_wilcoxon_a_target_and_a_level_are_taken_on_request_without_training(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    base = [*SHORT, "compare.schedules=[constant,cosine]", "compare.seeds=6"]
    assert sweep(*base).status == 0
    plain, trained = rows(folder), len(runs(folder, "final"))
    answer = sweep(*base, "compare.test=wilcoxon", "compare.target=1e-9", "compare.confidence=0.8")
    assert answer.status == 0
    asked = rows(folder)
    assert len(runs(folder, "final")) == trained
    assert {row["steps_to_target"] for row in asked} == {"inf"}
    assert {row["target"] for row in asked} == {"1e-09"}
    assert "never" in answer.out
    losses = {name: family.column("test_loss") for name, family in recomputed(folder).items()}
    expected = float(stats.wilcoxon(losses["constant"], losses["cosine"]).pvalue)
    assert float(asked[1]["p_holm"]) == pytest.approx(expected)
    for before, after in zip(plain, asked, strict=True):
        assert float(after["test_ci_high"]) < float(before["test_ci_high"])


def test_a_search_writes_a_report_too(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "study.n_trials=3")
    assert answer.status == 0
    (page,) = folder.glob("reports/*/report.html")
    assert f"report: {page.relative_to(folder)}" in answer.out
    (study,) = runs(folder, "study")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert [file.path for file in client.list_artifacts(study.info.run_id)] == ["report.html"]
    before = page.read_bytes()
    page.unlink()
    assert sweep("mode=report").status == 0
    assert page.read_bytes() == before


def test_the_engine_is_measured_once_for_all_searches_and_final_runs(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    small = ["compare.schedules=[constant,cosine]", "compare.trials=4", "compare.seeds=3", "train.compile=false"]
    answer = sweep(*SMALL, "mode=compare", *small, "engine=fused")
    assert answer.status == 0, answer.err
    said = [line for line in answer.out.splitlines() if line.startswith("engine: ")]
    assert len(said) == 4
    assert "as measured before" not in said[0]
    assert all("as measured before" in line for line in said[1:])
    assert [line.split()[2] for line in said] == ["4", "4", "3", "3"], "slots: no more than trials"
    accounts = [json.loads(run.data.tags["sweep.engine"]) for run in runs(folder, "study")]
    assert {account["name"] for account in accounts} == {"fused"}
    assert not any("measured" in account for account in accounts)
