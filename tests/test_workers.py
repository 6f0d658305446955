"""Tests several workers: schedules in updates of one worker, rates for other batch sizes, the record."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS
from tests.conftest import SMALL, Answer
from tests.test_engines import account
from tests.test_main_job import runs

register_resolvers()


def run(*overrides: str) -> RunConfig:
    return build.run_config(Composer().compose([*overrides, "warmup=none"]))


TWO = ("train.workers=2", "schedule.per_worker=true")
PIECES = "schedule.pieces={hold:{name:constant},fall:{name:cosine,decay_steps:45,factor:0.5}}"

DIVIDED = [  # given, and what it is for two workers
    (["exponential", "decay_steps=41"], ["decay_steps=20"]),
    (["exponential", "half_life=41"], ["half_life=20"]),
    (["natural_exponential", "decay_steps=40", "staircase=true"], ["decay_steps=20", "staircase=true"]),
    (["piecewise", "boundaries=[0,101,300]", "values=[1,0.5,0.2,0.1]"], ["boundaries=[0,50,150]"]),
    (["multistep", "milestones=[9,9,100]"], ["milestones=[4,4,50]"]),
    (["cosine_restarts", "first_decay_steps=81"], ["first_decay_steps=40"]),
    (["noam", "noam_steps=81"], ["noam_steps=40"]),
    (["inverse_sqrt", "timescale=81"], ["timescale=40"]),
    (["cyclic", "step_size_up=21", "step_size_down=9"], ["step_size_up=10", "step_size_down=4"]),
    (["one_cycle", "total_steps=401"], ["total_steps=200"]),
    (["wsd", "stable_steps=101", "decay_steps=51", "count_from=1"], ["stable_steps=50", "decay_steps=25"]),
    (["noisy_linear_cosine", "decay_steps=301", "noise_seed=9"], ["decay_steps=150", "noise_seed=9"]),
    (["interpolate", "knots=[[0,1],[101,0.5],[300,0]]"], ["knots=[[0,1],[50,0.5],[150,0]]"]),
    (["joined", "boundaries=[301]", PIECES], ["boundaries=[150]", PIECES.replace("45", "22")]),
    (["polynomial", "decay_steps=${remaining:}"], ["decay_steps=300"]),  # computed ones too
]


@pytest.mark.parametrize(("given", "divided"), DIVIDED, ids=lambda keys: keys[0])
def test_lengths_and_boundaries_are_floor_divided(given: list[str], divided: list[str]) -> None:
    def overrides(keys: list[str]) -> list[str]:
        return [f"schedule={given[0]}", *(k if k.startswith("schedule.") else f"schedule.{k}" for k in keys)]

    found = run(*TWO, *overrides(given[1:]))
    expected = run(*overrides([*given[1:], *divided]))
    assert found.schedule.curve(600).tolist() == expected.schedule.curve(600).tolist()
    assert found.resolved["schedule"] == run("train.workers=2", *overrides(given[1:])).resolved["schedule"] | {
        "per_worker": True
    }


@pytest.mark.parametrize("schedule", sorted(set(DECAYS) - {"joined"}))
def test_every_schedule_takes_it_and_one_worker_changes_nothing(schedule: str) -> None:
    plain = run(f"schedule={schedule}")
    assert run(f"schedule={schedule}", "schedule.per_worker=true").decay == plain.decay
    divided = run(f"schedule={schedule}", *TWO).schedule.curve(600)
    lengthless = ("constant", "power", "sine", "plateau")
    assert (divided.tolist() == plain.schedule.curve(600).tolist()) == (schedule in lengthless)


def test_warmup_is_not_divided() -> None:
    config = build.run_config(Composer().compose([*TWO, "warmup.steps=40", "schedule.decay_steps=100"]))
    assert config.warmup.steps == 40
    assert config.decay.decay_steps == 50  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (
            ["schedule.decay_steps=3", "train.workers=4"],
            r"^schedule\.decay_steps=3: is less than one update when divided by",
        ),
        (
            ["schedule=piecewise", "schedule.boundaries=[2,3]", "schedule.values=[1,0.5,0.1]", "train.workers=2"],
            r"^schedule\.boundaries=\[2, 3\]: must increase .*, also when divided by train\.workers=2 \(sch",
        ),
        (
            ["schedule=joined", "schedule.boundaries=[30]", "train.workers=2", PIECES.replace("45", "1")],
            r"^schedule\.pieces\.fall\.decay_steps=1: is less than one update when divided by train\.workers=2",
        ),
        (["schedule.decay_steps=0", "train.workers=2"], r"^schedule\.decay_steps=0: must be an integer >= 1$"),
    ],
)
def test_what_cannot_be_divided_is_refused_as_it_was_given(overrides: list[str], refusal: str) -> None:
    with pytest.raises(InvalidValueError, match=refusal):
        run("schedule.per_worker=true", *overrides)


def test_a_configuration_without_the_new_keys_builds() -> None:
    config = Composer().compose([])
    del config.schedule["per_worker"], config.optimizer["base_batch_size"], config.train["workers"]
    assert build.run_config(config).schedule.curve(600).tolist() == run_default().schedule.curve(600).tolist()


def run_default() -> RunConfig:
    return build.run_config(Composer().compose([]))


def test_a_file_of_a_schedule_may_be_in_updates_of_one_worker(folder: Path) -> None:
    (folder / "their" / "schedule").mkdir(parents=True)
    text = "defaults: [exponential, _self_]\nname: exponential\nper_worker: true\ndecay_steps: 100\n"
    (folder / "their" / "schedule" / "theirs.yaml").write_text(text)
    config = Composer(str(folder / "their")).compose(["schedule=theirs", "space=none", "train.workers=2"])
    assert build.run_config(config).decay.decay_steps == 50  # type: ignore[attr-defined]


def test_the_preview_shows_the_divided_schedule(sweep: Callable[..., Answer], folder: Path) -> None:
    given = ["mode=preview", "warmup=none", "schedule.decay_rate=0.5", "train.steps=50"]
    assert sweep(*given, "schedule.decay_steps=20", *TWO, "preview.path=two.csv").status == 0
    assert sweep(*given, "schedule.decay_steps=10", "preview.path=one.csv").status == 0
    assert (folder / "two.csv").read_text() == (folder / "one.csv").read_text()


def test_linear_scaling_uses_the_rate_of_the_batch_and_records_what_was_given() -> None:
    config = run("optimizer.lr=0.1", "optimizer.base_batch_size=64", "train.batch_size=128")
    assert config.schedule.curve(1)[0] == pytest.approx(0.2, rel=1e-15)
    assert config.resolved["optimizer"]["lr"] == 0.1
    assert config.optimizer.lr == pytest.approx(0.2, rel=1e-15)


SCALED = ["optimizer.lr=0.1", "optimizer.base_batch_size=64"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["mode=preview", *SCALED, "train.batch_size=128"], "0.1 is for batches of 64: batches of 128 use 0.2"),
        (["mode=train", *SCALED, "train.batch_size=128"], "0.1 is for batches of 64: batches of 128 use 0.2"),
        (["mode=preview", *SCALED, "train.batch_size=32,128"], "batch_size=32: optimizer.lr 0.1 is for batches of 64"),
        (
            [*SCALED, "study.n_trials=2", "train.batch_size=32,128"],
            "optimizer.lr is for batches of 64: batches of train.batch_size use lr * batch_size / 64",
        ),
        ([*SCALED, "study.n_trials=1"], "optimizer.lr 0.1 is for batches of 64: batches of 64 use 0.1"),
    ],
    ids=["preview", "train", "preview of two", "search of batches", "search"],
)
def test_linear_scaling_says_what_it_did(sweep: Callable[..., Answer], overrides: list[str], line: str) -> None:
    answer = sweep(*SMALL, *overrides)
    assert answer.status == 0, answer.err
    assert line in answer.out
    assert "is for batches of" not in sweep("mode=preview").out


def test_a_training_with_two_workers_records_what_one_does(sweep: Callable[..., Answer], folder: Path) -> None:
    exact = [*SMALL, "mode=train", "train.precision=float64", "model.dropout=0.2", "train.batch_size=50"]
    assert sweep(*exact).status == 0
    answer = sweep(*exact, "train.workers=2")
    assert answer.status == 0, answer.err
    assert "engine: data_parallel, 2 workers (gloo)" in answer.out
    one, two = sorted(runs(folder, "train"), key=lambda found: found.data.params["train.workers"])
    assert two.data.params["train.workers"] == "2"
    assert one.data.tags["sweep.training"] != two.data.tags["sweep.training"]
    for metric in ("loss", "lr", "val_loss", "val_accuracy", "global_step"):
        np.testing.assert_allclose(one.data.metrics[metric], two.data.metrics[metric], rtol=1e-9)


def test_a_search_with_two_workers_says_who_trained(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "train.workers=2", "study.n_trials=2", "sampler=random")
    assert answer.status == 0, answer.err
    assert "engine: data_parallel, 2 workers (gloo)" in answer.out
    said = account(folder)
    assert (said["name"], said["workers"], said["slots"], said["updates"]) == ("data_parallel", 2, 1, 80)
