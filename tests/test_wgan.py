"""Tests a GAN with the whole command: its record, interrupts, and a search of both schedules."""

import csv
import re
import signal
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from tests.conftest import Answer, long
from tests.faults.harness import Zygote
from tests.test_interruption import interrupt

SMALL = ["model.generator_hidden=[16]", "model.critic_hidden=[16]", "train.device=cpu"]
GAN = ["model=wgan", *SMALL, "train.steps=300", "train.eval_every=50", "train.checkpoint_seconds=0.2"]
TRAIN = ["mode=train", *GAN, "critic.schedule=cosine", "optimizer.lr=1e-3", "critic.optimizer.lr=2e-3"]
SEARCH = [*GAN, "train.steps=60", "train.eval_every=20", "study.n_trials=3", "sampler=random"]

Series = dict[str, list[tuple[int, float]]]


def record(folder: Path) -> dict[str, Series]:
    """Return run name -> metric -> (step, value) for the active runs."""
    query = """
        SELECT runs.name, key, step, value FROM metrics JOIN runs USING (run_uuid)
        WHERE lifecycle_stage = 'active' ORDER BY 1, 2, 3
    """
    found: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    with sqlite3.connect(folder / "mlflow.db") as database:
        for name, key, step, value in database.execute(query):
            found[name][key].append((step, value))
    return {name: dict(of) for name, of in found.items()}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("mlruns/*/*/artifacts/samples/*.png")}


Finish = Callable[..., str]


@pytest.fixture(scope="module")
def finish(sweep_in: Callable[..., Answer]) -> Finish:
    """Run a command line in a folder; return its output."""

    def carry_out(folder: Path, *arguments: str) -> str:
        answer = sweep_in(folder, *arguments)
        assert answer.status == 0, answer.err
        return answer.out

    return carry_out


@pytest.fixture(scope="module")
def uninterrupted(finish: Finish, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    out = finish(folder, *TRAIN)
    assert re.search(r"complete at step 300  val_energy_distance \d\.\d{4}$", out, re.M)
    return folder


def test_the_record_has_five_updates_of_the_critic_for_each_of_the_generator(uninterrupted: Path) -> None:
    register_resolvers()
    ((_, metrics),) = record(uninterrupted).items()
    generator, critic = build.run_config(Composer().compose(TRAIN)).series
    for series, n in ((generator, 300), (critic, 1500)):
        lr, loss = metrics[f"{series.name}lr"], metrics[f"{series.name}loss"]
        assert [step for step, _ in lr] == [step for step, _ in loss] == list(range(n))
        assert [value for _, value in lr] == series.schedule.curve(n).tolist()
    assert generator.schedule.curve(300)[100] != critic.schedule.curve(1500)[500]
    evaluated = [50, 100, 150, 200, 250, 300]
    assert metrics["G_global_step"] == [(step, step) for step in evaluated]
    assert metrics["D_global_step"] == [(step, 5 * step) for step in evaluated]
    assert [step for step, _ in metrics["val_energy_distance"]] == evaluated
    assert metrics.keys() == {
        "G_lr", "G_loss", "G_global_step", "D_lr", "D_loss", "D_global_step", "val_energy_distance",
    }  # fmt: skip


def test_samples_are_kept_of_every_evaluation(uninterrupted: Path) -> None:
    assert sorted(pictures(uninterrupted)) == [f"{step:06d}.png" for step in range(50, 301, 50)]
    (path,) = uninterrupted.glob("mlruns/*/*/artifacts/samples/000300.png")
    assert imread(path).shape[:2] == (8 * 34, 8 * 34)  # eight by eight of 8 x 8 pixels, each four times, in a frame
    assert len({*pictures(uninterrupted).values()}) == 6


@pytest.mark.parametrize("number", [long(signal.SIGINT), signal.SIGKILL], ids=str)
def test_an_interrupted_training_equals_an_uninterrupted_one(
    finish: Finish, zygote: Zygote, tmp_path: Path, uninterrupted: Path, number: int
) -> None:
    command = zygote.start(tmp_path, TRAIN)
    while command.wait(0.02) is None and not any(tmp_path.glob("checkpoints/*/*.checkpoint")):
        pass
    assert command.status is None, command.said
    command.signal(number)
    assert command.wait(60) == (130 if number == signal.SIGINT else -number)
    out = finish(tmp_path, *TRAIN)
    assert re.search(r"resumes at step [1-9]", out)
    assert record(tmp_path) == record(uninterrupted)
    assert pictures(tmp_path) == pictures(uninterrupted)


def test_a_search_tunes_both_schedules_and_goes_on_after_a_kill(finish: Finish, zygote: Zygote, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    out = finish(whole, *SEARCH)
    for key in ("decay_rate", "lr", "warmup", "D_decay_rate", "D_lr", "D_warmup"):
        assert re.search(rf"\b{key}=\S+", out), key
    command = zygote.start(killed, SEARCH)
    interrupt(command, signal.SIGKILL, after=1)
    assert "engine: serial (a GAN has two optimizers, and is trained alone)" in finish(killed, *SEARCH)
    trials = {name: of for name, of in record(whole).items() if re.match(r"\d{3} ", name)}
    assert len(trials) == 3
    assert {name: of for name, of in record(killed).items() if re.match(r"\d{3} ", name)} == trials
    rates = {tuple(of["D_lr"]) for of in trials.values()}
    assert len(rates) == 3
    for of in trials.values():
        assert [step for step, _ in of["D_loss"]] == list(range(300))
        assert [step for step, _ in of["G_loss"]] == list(range(60))
    keys = "schedule.decay_rate schedule.decay_steps warmup.steps optimizer.lr"
    again = next(line for line in out.splitlines() if line.startswith("  python -m sweep mode=train"))
    for key in keys.split():
        assert f" {key}=" in again
        assert f" critic.{key}=" in again
    (report,) = whole.glob("reports/*/report.html")
    page = report.read_text()
    for title in ("Learning rate of the generator", "Learning rate of the critic", "Training loss of the critic"):
        assert title in page


def test_a_search_chooses_the_critic_s_schedule_and_says_how_to_train_the_best(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    narrow = [*SMALL, "train.steps=20", "train.eval_every=20"]
    chosen = ["critic.schedule=exponential,cosine", "optimizer.lr=1e-3", "schedule=constant", "sampler=random"]
    answer = sweep("model=wgan", *narrow, *chosen, "study.n_trials=4")
    assert answer.status == 0, answer.err
    assert "D_schedule=cosine" in answer.out or "critic.schedule" in answer.out
    again = next(line for line in answer.out.splitlines() if line.startswith("  python -m sweep mode=train"))
    assert re.search(r" critic\.schedule=(exponential|cosine) ", again)
    drawn = {"cosine": {"end_factor"}, "exponential": {"decay_rate", "decay_steps"}}
    option = re.search(r" critic\.schedule=(\w+)", again)
    assert option is not None
    assert set(re.findall(r"critic\.schedule\.(\w+)=", again)) == drawn[option[1]]


def test_a_preview_has_both_curves(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep("mode=preview", "model=wgan", "train.steps=20", "critic.schedule=constant", "critic.warmup=none")
    assert answer.status == 0, answer.err
    with (folder / "schedule.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert [row["G_lr"] != "" for row in rows] == [True] * 20 + [False] * 80
    assert {float(row["D_lr"]) for row in rows} == {5e-5}
    assert (folder / "schedule.png").is_file()
