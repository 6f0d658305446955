"""Tests searches, trainings, comparisons and previews with a user's training loops."""

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

import sweep as library
from sweep.api.values import as_texts
from sweep.errors import InvalidValueError, TrainingFailedError
from sweep.requests import build
from sweep.requests.compose import Composer
from tests.conftest import Answer, long
from tests.faults.harness import Command, Zygote
from tests.test_interruption import record, rows, trials
from tests.test_main_job import history, runs
from tests.training import user_loops, user_program

SMALL = ["train.steps=40", "train.eval_every=20", "train.device=cpu", "trusted=[mylab]"]
LOOP = "loop._target_=mylab.train."
NO_DATA = ["dataset=arrays", "dataset.path=there-is-no-such-file.npz"]


def write_loops(folder: Path) -> None:
    (folder / "mylab").mkdir(exist_ok=True)
    shutil.copy(user_loops.__file__, folder / "mylab" / "train.py")


@pytest.fixture(autouse=True)
def mylab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a user's package in the working directory."""
    write_loops(folder)
    monkeypatch.syspath_prepend(str(folder))


def test_a_search_draws_the_keys_of_a_loop_and_loads_no_data(sweep: Callable[..., Answer], folder: Path) -> None:
    searched = ["loop.width=int(interval(2,9))", "loop.factor=0.25,0.5"]
    answer = sweep(f"{LOOP}two", *SMALL, *NO_DATA, *searched, "study.n_trials=3")
    assert answer.status == 0, answer.err
    assert "engine: serial (the loop two trains one trial at a time)" in answer.out
    assert re.search(r"study two-exponential-[0-9a-f]{8}: 0 of 3", answer.out)
    for run in runs(folder, "trial"):
        params = run.data.params
        assert 2 <= int(params["loop.width"]) <= 9
        assert params["loop.factor"] in ("0.25", "0.5")
        assert params["loop._target_"] == "mylab.train.two"
        rates = [rate for _, rate in history(folder, run, "lr")]
        losses, evaluations = user_loops.script(rates, 0, 20, int(params["loop.width"]), float(params["loop.factor"]))
        assert [loss for _, loss in history(folder, run, "loss")] == pytest.approx(losses, rel=1e-12)
        assert dict(history(folder, run, "val_loss")) == pytest.approx(evaluations, rel=1e-12)
    (again,) = re.findall(r"python -m sweep mode=train .*", answer.out)
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    trained = sweep(*again.replace("'", "").split()[3:])
    assert trained.status == 0, trained.err
    (single,) = runs(folder, "train")
    assert single.data.metrics["val_loss"] == best.data.metrics["val_loss"]


def test_a_search_prunes_a_loop(sweep: Callable[..., Answer], folder: Path) -> None:
    pruning = ["pruner=median", "pruner.n_startup_trials=2", "sampler=random", "train.eval_every=10"]
    answer = sweep(f"{LOOP}two", *SMALL, *pruning, "study.n_trials=8", "warmup.steps=0", "optimizer.lr=1e-4,0.1,3")
    assert answer.status == 0, answer.err
    states = [trial[1] for trial in trials(folder)]
    assert 0 < states.count("PRUNED") < 8
    assert len(states) == 8
    for run in runs(folder, "trial"):
        steps = [step for step, _ in history(folder, run, "loss")]
        assert steps == list(range(len(steps)))


def test_an_error_in_a_loop_fails_its_trial_alone(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(
        f"{LOOP}fragile", *SMALL, "loop.width=choice(3,4,5)", "space=none", "sampler=grid", "study.n_trials=3"
    )
    assert answer.status == 0, answer.err
    status = {run.data.params["loop.width"]: run.data.tags["sweep.status"] for run in runs(folder, "trial")}
    assert status == {"3": "complete", "4": "complete", "5": "failed"}
    assert "ArithmeticError: step 12 is bad (mylab/train.py:" in answer.out
    answer = sweep(f"{LOOP}fragile", *SMALL, "mode=train", "loop.width=5")
    assert answer.status == 1
    assert "in fragile" in answer.err
    assert "in explode" in answer.err
    assert "sweep/" not in answer.err


def test_any_metric_with_a_direction_judges_a_loop(sweep: Callable[..., Answer], folder: Path) -> None:
    command = [f"{LOOP}fragile", *SMALL, "loop.width=choice(2,4)", "space=none", "sampler=grid", "study.n_trials=2"]
    answer = sweep(*command, "study.metric=val_score")
    assert answer.status == 2
    assert "study.metric=val_score: has no known direction: give study.direction=" in answer.err
    answer = sweep(*command, "study.metric=val_score", "study.direction=maximize")
    assert answer.status == 0, answer.err
    assert "loop.width=4" in answer.out.partition("train the best again:")[2]
    assert "val_score" in answer.out


def test_lengths_in_epochs_need_the_number_of_examples(sweep: Callable[..., Answer]) -> None:
    command = [f"{LOOP}two", *SMALL[1:], "train.steps=${epochs:3}", "train.batch_size=10", "mode=preview"]
    answer = sweep(*command)
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert "loop.examples=null: must be given for lengths in epochs" in answer.err
    answer = sweep(*command, "loop.examples=95")
    assert answer.status == 0, answer.err
    assert Path("schedule.csv").read_text().count("\n") == 1 + 3 * 10


def test_a_preview_of_a_loop_loads_no_data(sweep: Callable[..., Answer]) -> None:
    answer = sweep(f"{LOOP}two", *SMALL, *NO_DATA, "mode=preview", "schedule=cosine,wsd")
    assert answer.status == 0, answer.err
    answer = sweep(f"{LOOP}two", *SMALL, "mode=preview", "loop.widht=3")
    assert answer.status == 2
    assert "loop.widht=3: is not a key of mylab.train.two (did you mean width?)" in answer.err


REFUSED = {
    "engine=fused": "engine=fused: has no effect with a loop: mylab.train.two trains one trial at a time",
    "engine.slots=4": "engine.slots=4: has no effect with a loop: mylab.train.two trains one trial at a time",
    "train.workers=2": "train.workers=2: has no effect with a loop: mylab.train.two starts its own processes",
    "train.accumulate=2": "train.accumulate=2: has no effect with a loop: mylab.train.two makes its own batches",
    "average=ema": "average=ema: has no effect with a loop: mylab.train.two averages its weights itself",
    "critic=wgan": "critic=wgan: has no effect with a loop: mylab.train.two trains all its networks itself",
    "task=classification": "task=classification: has no effect with a loop: mylab.train.two has its own loss",
    "train.compile=true": "train.compile=true: has no effect with a loop: mylab.train.two compiles its model itself",
    "train.eval_batch_size=8": "train.eval_batch_size=8: has no effect with a loop: mylab.train.two evaluates itself",
    "loop.examples=0": "loop.examples=0: ",
    "loop._target_=os.system": "loop._target_=os.system: must be in ",
    "loop._target_=mylab.train.none": "loop._target_=mylab.train.none: is not a class or function of mylab.train",
    "loop=two,three": "loop=two,three: cannot be searched: a search has one loop, whose keys can be searched",
    "loop.examples=10,20": "loop.examples=10,20: cannot be searched: lengths in epochs are computed from it",
    "loop._target_=mylab.train.two,mylab.train.steps": "cannot be searched: a search has one loop",
    "loop.width=interval(0,1,2)": "loop.width=",
    "schedule=plateau schedule.metric=val_x": "schedule.metric=val_x: has no known direction",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_is_not_for_a_loop_is_refused_in_one_line(sweep: Callable[..., Answer], override: str) -> None:
    given = override.split()
    target = [] if override.startswith(("loop._target_", "loop=")) else [f"{LOOP}two"]
    answer = sweep(*target, *SMALL, *given)
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert REFUSED[override] in answer.err


def test_a_key_of_a_loop_needs_a_loop(sweep: Callable[..., Answer]) -> None:
    answer = sweep("loop.width=3")
    assert answer.status == 2
    assert "loop.width=3: is of no use without a loop: loop._target_=mylab.train.main names" in answer.err


def test_a_loop_outside_of_a_trusted_package_is_refused(sweep: Callable[..., Answer]) -> None:
    answer = sweep(f"{LOOP}two", *SMALL[:-1])
    assert answer.status == 2
    assert "loop._target_=mylab.train.two: must be in " in answer.err
    assert "trusted=[package] adds one" in answer.err


def test_a_configuration_without_a_loop_keeps_its_identity() -> None:
    config = build.run_config(Composer().compose([]))
    assert config.resolved["loop"] == {"name": "none"}
    assert "loop" not in config.identity
    with_loop = build.run_config(Composer().compose([f"{LOOP}two", "trusted=[mylab]"]))
    assert with_loop.identity["loop"] == {"name": "two", "_target_": "mylab.train.two"}


def test_a_comparison_of_loops_reports_the_test_split(sweep: Callable[..., Answer], folder: Path) -> None:
    compared = ["mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=2", "compare.seeds=2"]
    answer = sweep(f"{LOOP}two", *SMALL, *NO_DATA, *compared)
    assert answer.status == 0, answer.err
    finals = runs(folder, "final")
    assert len(finals) == 4
    for run in finals:
        assert run.data.metrics["test_loss"] == run.data.metrics["val_loss"] + 1
        assert [step for step, _ in history(folder, run, "test_loss")] == [40]
        assert run.data.tags["mlflow.runName"].startswith("two ")
    assert "test_loss" in answer.out
    assert "two: " in answer.out


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], "reports no test_loss at the end of a final run: if run.test: run.evaluate(test_loss=...)"),
        (["loop.early=true"], "ArithmeticError: not mended"),
    ],
)
def test_final_runs_that_have_failed_are_trained_again_by_the_same_command(
    sweep: Callable[..., Answer], folder: Path, keys: list[str], reason: str
) -> None:
    command = ["mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=2", "compare.seeds=2"]
    command = [f"{LOOP}forgetful", *keys, *SMALL, *NO_DATA, *command]
    answer = sweep(*command)
    assert answer.status == 1
    assert reason in answer.out
    assert [run.info.status for run in runs(folder, "final")] == ["FAILED"] * 4
    tuned = {run.info.run_id for run in runs(folder, "trial")}
    (folder / "mended").touch()
    answer = sweep(*command)
    assert answer.status == 0, answer.err
    for run in runs(folder, "final"):
        assert (run.info.status, run.data.tags["sweep.status"]) == ("FINISHED", "complete")
        assert run.data.metrics["test_loss"] == 2.0
        assert not run.data.tags.get("sweep.reason")
        assert [step for step, _ in history(folder, run, "loss")] == list(range(40))
    assert len(runs(folder, "final")) == 4
    assert {run.info.run_id for run in runs(folder, "trial")} == tuned


LONG = [
    f"{LOOP}known", "train.steps=120", "train.eval_every=20", "train.device=cpu", "trusted=[mylab]",
    "loop.seconds=0.01", "loop.pids=pids", "train.checkpoint_seconds=0.1", "sampler=random", "study.n_trials=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(sweep_in: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_loops(folder)
    assert sweep_in(folder, *LONG, "loop.seconds=0").status == 0
    return folder


def in_the_second_trial(command: Command, folder: Path) -> int:
    """Wait until a checkpoint of the second trial exists; return the process that trains it."""
    assert command.wait_for("\ntrial   0  complete"), command.said
    deadline = time.monotonic() + 30
    while not list(folder.glob("checkpoints/*/1-*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return int((folder / "pids").read_text().split()[-1])


@pytest.mark.parametrize("killed", ["interrupt", long("command"), "trainer"])
def test_an_interrupted_search_with_a_loop_equals_an_uninterrupted_one(
    sweep_in: Callable[..., Answer], zygote: Zygote, tmp_path: Path, uninterrupted: Path, killed: str
) -> None:
    command = zygote.start(tmp_path, LONG)
    pid = in_the_second_trial(command, tmp_path)
    if killed == "trainer":
        os.kill(pid, signal.SIGKILL)
        assert command.wait(120) == 0, command.said
        assert "retrying trial 1" in command.said
    else:
        command.signal(signal.SIGINT if killed == "interrupt" else signal.SIGKILL)
        assert command.wait(60) == (130 if killed == "interrupt" else -signal.SIGKILL), command.said
        assert sweep_in(tmp_path, *LONG).status == 0
    assert len((tmp_path / "pids").read_text().split()) == 4  # the second trial was begun twice
    losses = [row for row in record(tmp_path) if row[1] in ("loss", "lr", "val_loss", "global_step")]
    assert losses == [row for row in record(uninterrupted) if row[1] in ("loss", "lr", "val_loss", "global_step")]
    doubled = "SELECT key, step FROM metrics GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(tmp_path, doubled) == []
    assert not list(tmp_path.glob("checkpoints/*/*"))


# ------------------------------------------------------------------------------------------------------ programs

PROGRAM = [
    "loop=command",
    f"loop.command=[{sys.executable},{user_program.__file__},'{{curve}}','{{metrics}}','{{checkpoint}}','{{steps}}',"
    "'{train.eval_every}','{loop.start}']",
]


def test_a_program_is_searched(sweep: Callable[..., Answer], folder: Path) -> None:
    given = ["warmup=none", "optimizer.lr=0.05,0.1,0.2", "loop.start=int(interval(0,3))", "study.n_trials=3"]
    answer = sweep(*PROGRAM, *SMALL[:-1], *NO_DATA, "sampler=random", *given)
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        w, params = 5.0 + int(run.data.params["loop.start"]), run.data.params
        for (_, loss), (_, rate) in zip(history(folder, run, "loss"), history(folder, run, "lr"), strict=True):
            assert loss == pytest.approx((w + 1) ** 2, rel=1e-9)
            w -= rate * 2 * (w + 1)
        assert params["loop.name"] == "command"
    assert not list(folder.glob("checkpoints/*/*"))
    (again,) = re.findall(r"python -m sweep mode=train .*", answer.out)
    assert "loop.command=" in again


def test_the_words_of_a_program_may_be_one_text() -> None:
    text = f"{sys.executable} 'a b.py' \"it's\" {{curve}} {{metrics}} {{optimizer.lr}} \\\\x"
    config = {"mode": "train", "loop": "command", "loop.command": text}
    written = [f"{key}={value}" for key, value in config.items() if key != "loop.command"]
    escaped = text.replace("'", "\\'")
    for command in (as_texts(config), [*written, f"loop.command='{escaped}'"]):
        run = build.run_config(Composer().compose(command))
        assert run.loop is not None
        assert run.loop.component.arguments["command"] == text


def test_a_program_trains_on_from_its_end(sweep: Callable[..., Answer], folder: Path) -> None:
    command = [*PROGRAM, *SMALL[:-1], "mode=train", "warmup=none", "schedule=constant", "loop.start=0"]
    assert sweep(*command).status == 0
    answer = sweep(*command, "train.more_steps=10")
    assert answer.status == 0, answer.err
    assert "resumes at step 40" in answer.out
    (first,) = folder.glob("checkpoints/*/loops/*/0/output.txt")
    assert first.read_text() == "starts at step 40\n"
    again = sweep(*command)
    assert again.status == 0, again.err
    assert "trained again" in again.out
    assert first.read_text() == "starts at step 0\n"


def test_a_program_that_fails_fails_its_trial(sweep: Callable[..., Answer]) -> None:
    words = PROGRAM[1].replace("'{loop.start}'", "0,fails")
    answer = sweep("loop=command", words, *SMALL[:-1], "mode=train")
    assert answer.status == 1
    assert answer.err.splitlines() == [
        f"sweep: the training failed: the program {sys.executable} ended with status 3: cannot go on",
        "the last lines of its output:",
        "  starts at step 0",
        "  cannot go on",
    ]


@pytest.mark.parametrize(("schedule", "key"), [("schedule=plateau", "schedule"), ("warmup=until_error", "warmup")])
def test_a_program_cannot_have_a_schedule_that_waits(sweep: Callable[..., Answer], schedule: str, key: str) -> None:
    answer = sweep(*PROGRAM, *SMALL[:-1], "loop.start=0", schedule)
    assert answer.status == 2
    assert f"{schedule}: is not possible with loop=command: the curve is written to a file before" in answer.err


EVIL = "[touch,made,'{curve}','{metrics}']"
FILES = {
    "loop/evil.yaml": ("loop=evil", f"_target_: sweep.training.commands.main\ncommand: {EVIL}\n"),
    "loop/text.yaml": ("loop=text", "_target_: sweep.training.commands.main\ncommand: touch made {curve} {metrics}\n"),
    "experiment/evil.yaml": (
        "experiment=evil",
        f"# @package _global_\ndefaults: [override /loop: command]\nloop: {{command: {EVIL}}}\n",
    ),
    "loop/sly.yaml": ("loop=sly", f"_target_: ${{optimizer.sly}}\ncommand: {EVIL}\n"),
    "loop/key.yaml": ("loop=key", "_target_: sweep.training.commands.main\ncommand: ${study.said}\n"),
    "model/evil.yaml": ("model=evil", f"_target_: sweep.training.commands.main\nrun: run\ncommand: {EVIL}\n"),
    "space/evil.yaml": ("space=evil", f'"loop.command": "choice({EVIL},{EVIL})"\n'),
    "space/target.yaml": ("space=target", '"loop._target_": "choice(sweep.training.commands.main,a.b)"\n'),
    "space/element.yaml": ("space=element", '"loop.command[0]": "choice(touch,rm)"\n'),
    "space/bracket.yaml": ("space=bracket", f'"loop[command]": "choice({EVIL},{EVIL})"\n'),
    "space/whole.yaml": ("space=whole", f'"loop": "choice({{command:{EVIL}}},{{command:{EVIL}}})"\n'),
    "mine.yaml": (
        "",
        f"defaults: [config, _self_]\nloop: {{_target_: sweep.training.commands.main, command: {EVIL}}}\n",
    ),
    "train/evil.yaml": ("+train=evil", f"# @package _global_\nloop:\n  command: {EVIL}\n"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("further", [[], ["trusted=[mylab]"], ["trusted=[sweep]"]], ids=["", "mylab", "sweep"])
def test_no_file_names_a_program(sweep: Callable[..., Answer], folder: Path, file: str, further: list[str]) -> None:
    chosen, text = FILES[file]
    (folder / "theirs" / file).parent.mkdir(parents=True)
    (folder / "theirs" / file).write_text(text)
    flags = ["--config-dir", "theirs", *(["--config-name", "mine"] if file == "mine.yaml" else [])]
    safe = PROGRAM if file.startswith("space") else []
    answer = sweep(*flags, *filter(None, [chosen]), *safe, *further, *SMALL[:-1], "mode=search", "study.n_trials=1")
    assert answer.status in (1, 2), answer.out
    assert answer.err
    assert not (folder / "made").exists()


def test_a_file_may_hold_everything_about_a_program_but_its_words(sweep: Callable[..., Answer], folder: Path) -> None:
    (folder / "theirs" / "loop").mkdir(parents=True)
    (folder / "theirs" / "loop" / "mine.yaml").write_text("defaults: [command]\nstart: 2\n")
    command = ["--config-dir", "theirs", "loop=mine", *SMALL[:-1], "mode=train"]
    answer = sweep(*command)
    assert answer.status == 2
    assert "loop.command=???: must be given" in answer.err
    assert sweep(*command, PROGRAM[1]).status == 0
    (run,) = runs(folder, "train")
    (tmp,) = (MlflowClient(f"sqlite:///{folder}/mlflow.db").download_artifacts(run.info.run_id, "config.yaml"),)
    shutil.copy(tmp, folder / "theirs" / "config.yaml")
    answer = sweep("--config-dir", "theirs", "--config-name", "config")
    assert answer.status == 2
    assert "is a program that will run on this machine, so it must be given on the command line" in answer.err
    answer = sweep("--config-dir", "theirs", "--config-name", "config", PROGRAM[1])
    assert answer.status == 0, answer.err


def test_a_loop_of_a_trusted_package_may_have_a_key_of_that_name(sweep: Callable[..., Answer], folder: Path) -> None:
    (folder / "theirs" / "loop").mkdir(parents=True)
    (folder / "theirs" / "loop" / "mine.yaml").write_text("_target_: mylab.train.steps\ndo: ''\ncommand: [a]\n")
    answer = sweep("--config-dir", "theirs", "loop=mine", *SMALL, "mode=train")
    assert answer.status == 2
    assert "loop.command=['a']: is not a key of mylab.train.steps" in answer.err


# ---------------------------------------------------------------------------------------------------- from Python

QUICK = {"train.steps": 40, "train.eval_every": 20, "train.device": "cpu"}


def mine(run, width: int = 4) -> None:  # type: ignore[no-untyped-def]
    """A loop that a script defines."""
    for step in run.steps():
        run.record(run.lr(step) * width)
        if run.evaluating(step):
            run.evaluate(val_loss=1.0 / width, val_other=1.0)


def broken(run) -> None:  # type: ignore[no-untyped-def]
    for step in run.steps():
        run.record(1.0 / (step - 3), lr=run.lr(step))


@pytest.mark.usefixtures("copied_database")
def test_a_function_of_a_script_is_searched(folder: Path) -> None:
    overrides = {**QUICK, "loop.width": library.interval(1, 8), "study.n_trials": 3, "sampler": "random"}
    study = library.search(overrides, loop=mine, progress=False)
    assert study.best.metrics["val_loss"] == 1.0 / max(trial.values["loop.width"] for trial in study.trials)
    assert study.name.startswith("mine-exponential-")
    again = library.train({**overrides, **study.best.values}, loop=mine, progress=False)
    assert again.metrics["val_loss"] == study.best.metrics["val_loss"]
    assert optuna.get_all_study_names("sqlite:///optuna.db") == [study.name]
    assert "loop=mine" in (folder / "reports" / study.name / "report.html").read_text()


@pytest.mark.usefixtures("copied_database")
def test_an_error_of_a_function_of_a_script_has_its_frames() -> None:
    with pytest.raises(TrainingFailedError, match=r"(?s)ZeroDivisionError.*test_loops.py:\d+ in broken"):
        library.train(QUICK, loop=broken, progress=False)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"loop": 3}, r"loop=3: must be a function main\(run, ...\), or a name"),
        ({"loop": mine, "model": library.Study}, "model=Study: has no effect with a loop: mine creates its own model"),
        ({"loop": mine, "dataset": {"x": [[1.0]] * 9, "y": [0.5] * 9}}, "dataset=.*: has no effect with a loop"),
    ],
)
def test_what_a_call_cannot_have_beside_a_loop_is_refused(keywords: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        library.train(QUICK, progress=False, **keywords)  # type: ignore[arg-type]


def test_a_preview_in_python_may_have_a_loop() -> None:
    preview = library.preview(
        {**QUICK, "warmup.steps": "${epochs:1}", "loop.examples": 640, "loop.width": 2}, loop=mine
    )
    assert preview.curves["lr"].argmax() == 10
