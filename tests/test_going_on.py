"""Tests mode=train in parts: `train.steps` and `train.more_steps` end a training, and the next command resumes it."""

import os
import re
import signal

import pytest
from mlflow import MlflowClient

from sweep.checkpoints import CheckpointFiles
from sweep.terminal.display import Display
from tests.conftest import SMALL

TRAIN = ["mode=train", *SMALL, "train.steps=200", "train.eval_every=40", "warmup.steps=10", "model.dropout=0.2"]


def runs(folder):
    """Return the recorded trainings, oldest first: status, {key: sorted [(step, value)]}, tags."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sweep").experiment_id
    found = []
    for run in reversed(client.search_runs([experiment])):
        histories = {
            key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        found.append((run.info.status, histories, run.data.tags))
    return found


def kept(folder):
    """Return the files of all checkpoints, oldest first, with those of final states."""
    return sorted((folder / "checkpoints").rglob("*.checkpoint"), key=lambda path: path.stat().st_mtime_ns)


def steps(history):
    return [step for step, _ in history]


@pytest.fixture(scope="module")
def whole(sweep_in, tmp_path_factory):
    """Provide the uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    assert sweep_in(folder, *TRAIN).status == 0
    ((status, histories, _),) = runs(folder)
    assert status == "FINISHED"
    return histories


def test_a_hundred_and_a_hundred_more_are_two_hundred_once_each(sweep, folder, whole):
    first = sweep(*TRAIN, "train.more_steps=100")
    assert first.status == 0
    assert "complete at step 100" in first.out
    ((_, histories, _),) = runs(folder)
    assert steps(histories["loss"]) == list(range(100))

    second = sweep(*TRAIN, "train.more_steps=100")
    assert second.status == 0
    assert "resumes at step 100" in second.out
    assert "complete at step 200" in second.out
    ((status, histories, _),) = runs(folder)
    assert status == "FINISHED"
    assert histories["loss"] == whole["loss"]
    assert histories["lr"] == whole["lr"]
    assert steps(histories["val_loss"]) == [40, 80, 100, 120, 160, 200]
    assert set(whole["val_loss"]) < set(histories["val_loss"])


def test_stop_at_a_step_and_so_many_more_are_two_requests(sweep, folder, whole):
    """A training resumes before its horizon; at the horizon it starts again, or continues beyond it with more_steps."""
    assert sweep(*TRAIN, "train.more_steps=30").status == 0
    assert "complete at step 200" in sweep(*TRAIN).out
    ((_, histories, _),) = runs(folder)
    assert histories["loss"] == whole["loss"]

    beyond = sweep(*TRAIN, "train.more_steps=50")
    assert "complete at step 250" in beyond.out
    ((_, histories, _),) = runs(folder)
    assert steps(histories["loss"]) == list(range(250))
    assert histories["loss"][:200] == whole["loss"]
    decayed = [0.05 * 0.5 ** ((s - 10) / 40) for s in range(200, 250)]  # T, and with it decay_steps, is as it was
    assert [lr for _, lr in histories["lr"][200:]] == pytest.approx(decayed, rel=1e-12)

    anew = sweep(*TRAIN)
    assert "resumes" not in anew.out
    assert "resumes at step 250" in sweep(*TRAIN, "train.more_steps=1").out  # the longer state stays
    old, new = runs(folder)
    assert steps(old[1]["loss"]) == list(range(251))
    assert new[1]["loss"] == whole["loss"]


def test_one_update_short_goes_on_and_a_reached_horizon_begins_anew(sweep, folder):
    sweep("mode=train", *SMALL, "train.more_steps=39")
    assert "resumes at step 39" in sweep("mode=train", *SMALL).out
    assert "resumes" not in sweep("mode=train", *SMALL).out
    assert [steps(histories["loss"]) for _, histories, _ in runs(folder)] == [list(range(40))] * 2


def test_another_configuration_is_another_training(sweep, folder):
    sweep(*TRAIN, "train.more_steps=20")
    for change in ("optimizer.lr=0.3", "train.seed=1", "model.hidden=[9]", "train.steps=300", "dataset.split_seed=1"):
        arguments = [a for a in TRAIN if a.partition("=")[0] != change.partition("=")[0]]
        assert "resumes" not in sweep(*arguments, change, "train.more_steps=20").out
    assert len(runs(folder)) == 6
    assert "resumes at step 20" in sweep(*TRAIN, "train.more_steps=20", "train.device=auto").out


@pytest.mark.parametrize("call", ["save", "end"])
def test_a_command_that_recorded_but_did_not_keep_its_state_leaves_nothing_twice(
    sweep, folder, whole, monkeypatch, call
):
    """This happens before the first checkpoint, and after the end."""
    sweep(*TRAIN, "train.more_steps=100")
    with monkeypatch.context() as broken:
        broken.setattr(CheckpointFiles, call, lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sweep(*TRAIN, "train.more_steps=50")
    ((_, histories, _),) = runs(folder)
    done = 150 if call == "end" else 100
    assert steps(histories["loss"]) == list(range(done))
    if call == "end":  # all but the end of the command: the same request finds nothing left to train
        again = sweep(*TRAIN, "train.more_steps=50")
        assert "complete at step 150" in again.out
    assert f"resumes at step {done}" in sweep(*TRAIN, f"train.more_steps={200 - done}").out
    ((status, histories, _),) = runs(folder)
    assert status == "FINISHED"
    assert histories["loss"] == whole["loss"]
    assert steps(histories["val_loss"]) == sorted(set(steps(histories["val_loss"])))


def test_the_state_that_it_ended_with_is_all_that_is_kept(sweep, folder):
    sweep(*TRAIN, "train.more_steps=30")
    sweep(*TRAIN, "train.more_steps=30")
    found = kept(folder)
    assert [path.parent.name for path in found] == ["final", "final"]
    assert [path.name for path in found] == ["0-0000000030.checkpoint", "0-0000000060.checkpoint"]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert list((folder / "checkpoints").rglob(".*")) == []


def test_a_warmup_that_did_not_end_is_said(sweep):
    never = ["warmup=until_error", "warmup.until_error=0.001", "train.eval_every=20", "optimizer.lr=0.001"]
    arguments = [a for a in SMALL if not a.startswith("train.eval_every")]
    single = sweep("mode=train", *arguments, *never)
    assert "warning: the warmup has not ended" in single.out
    assert "half-life  none" in single.out
    searched = ["space=none", "schedule.decay_rate=0.5,0.9", "study.n_trials=1"]
    assert "warmup did not end" in sweep(*arguments, *never, *searched).out


def test_the_events_of_all_parts_are_recorded(sweep, folder):
    reacting = ["warmup=until_error", "schedule=plateau", "schedule.patience=0", "schedule.threshold=0.3"]
    arguments = [a for a in TRAIN if not a.startswith(("warmup", "train.eval_every"))] + reacting + ["optimizer.lr=0.5"]
    arguments.append("train.eval_every=20")
    answer = sweep(*arguments)
    assert "warmup end at step" in answer.out
    ((_, expected, tags),) = runs(folder)
    events = tags["sweep.event"].split()
    assert events[0].startswith("warmup_end@")
    assert any(event.startswith("plateau@") for event in events)
    for file in kept(folder):
        file.unlink()
    for _ in range(2):
        sweep(*arguments, "train.more_steps=100")
    _, (_, histories, tags) = runs(folder)
    assert tags["sweep.event"].split() == events
    assert histories["lr"] == expected["lr"]
    assert histories["loss"] == expected["loss"]


@pytest.mark.parametrize("uri", ["sqlite:///other.db", "sqlite:///empty.db"])
def test_a_training_goes_on_where_it_is_recorded(sweep, folder, uri):
    sweep(*TRAIN, "train.more_steps=20")
    if "other" in uri:
        sweep(*TRAIN, "train.more_steps=20", f"tracking.uri={uri}", "train.checkpoint_dir=elsewhere")
    answer = sweep(*TRAIN, "train.more_steps=20", f"tracking.uri={uri}")
    assert answer.status == 2
    assert f"tracking.uri={uri}: does not have run" in answer.err
    assert not (folder / "empty.db").exists()


def test_a_damaged_state_is_skipped_and_the_one_before_is_gone_on_from(sweep, folder, whole):
    sweep(*TRAIN, "train.more_steps=30")
    sweep(*TRAIN, "train.more_steps=30")
    last = kept(folder)[-1]
    last.write_bytes(last.read_bytes()[:500])
    answer = sweep(*TRAIN)
    assert answer.status == 0
    said = " ".join(answer.out.split())
    assert "is skipped: checksum mismatch: it is damaged or incomplete" in said
    assert "resumes at step 30" in said
    ((_, histories, _),) = runs(folder)
    assert histories["loss"] == whole["loss"]


def test_where_none_is_whole_it_is_refused_before_anything_is_written(sweep, folder):
    sweep(*TRAIN, "train.more_steps=20")
    (file,) = kept(folder)
    file.write_bytes(file.read_bytes()[:500])
    answer = sweep(*TRAIN, "train.more_steps=20")
    assert answer.status == 2
    assert answer.err.startswith("sweep: train.checkpoint_dir=checkpoints/")
    assert "has damaged checkpoints of this training only; delete it to start the training again" in answer.err
    assert len(runs(folder)) == 1
    assert kept(folder) == [file]
    file.unlink()
    assert "resumes" not in sweep(*TRAIN, "train.more_steps=20").out
    assert len(runs(folder)) == 2


# --- what is interrupted


LONG = ["mode=train", *SMALL, "train.steps=3000", "train.eval_every=100", "warmup.steps=10", "model.dropout=0.2"]
AT_ONCE = "train.checkpoint_seconds=0.001"


@pytest.fixture
def at(monkeypatch):
    """Call a function once, at the first evaluation at or after a step."""
    real, waiting = Display.progressed, []

    def progressed(self, trial, progress):
        real(self, trial, progress)
        if waiting and progress.evaluation is not None and progress.evaluation.step >= waiting[0][0]:
            waiting.pop(0)[1]()

    monkeypatch.setattr(Display, "progressed", progressed)
    return lambda step, do: waiting.append((step, do))


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def crash():
    raise MemoryError("a crash")


def went_on(answer):
    """Return the step at which a training resumed."""
    return int(re.search(r"resumes at step (\d+)", answer.out)[1])


def assert_once(folder, whole, last=3000):
    """Assert that there is one run with every row once, equal to the rows of the uninterrupted training."""
    ((status, histories, _),) = runs(folder)
    assert status == "FINISHED"
    for key in ("loss", "lr"):
        assert histories[key] == whole[key][:last]
    found = dict(histories["val_loss"])
    assert len(found) == len(histories["val_loss"])
    assert {step: found[step] for step, _ in whole["val_loss"] if step <= last} == {
        step: value for step, value in whole["val_loss"] if step <= last
    }


@pytest.fixture(scope="module")
def long(sweep_in, tmp_path_factory):
    """Provide the uninterrupted long training."""
    folder = tmp_path_factory.mktemp("long")
    assert sweep_in(folder, *LONG).status == 0
    ((_, histories, _),) = runs(folder)
    return histories


def test_an_interrupted_training_is_kept_where_it_stands(sweep, folder, long, at):
    at(100, interrupt)
    first = sweep(*LONG)
    assert first.status == 130
    step = int(re.search(r"interrupted: run the same command to resume at step (\d+)", first.out)[1])
    assert 100 <= step < 3000
    ((status, histories, _),) = runs(folder)
    assert status == "KILLED"
    assert steps(histories["loss"]) == list(range(step))
    assert [path.name for path in kept(folder)] == [f"0-{step:010d}.checkpoint"]

    at(step + 100, interrupt)
    second = sweep(*LONG)
    assert (second.status, went_on(second)) == (130, step)
    third = sweep(*LONG)
    assert third.status == 0
    assert went_on(third) >= step + 100
    assert "complete at step 3000" in third.out
    assert_once(folder, long)
    assert [path.parent.name for path in kept(folder)] == ["final"]
    assert "resumes" not in sweep(*LONG, "train.more_steps=10", "train.seed=1").out


def test_a_part_that_is_interrupted_ends_where_it_would_have(sweep, folder, long, at):
    sweep(*LONG, "train.more_steps=100")
    at(200, interrupt)
    assert sweep(*LONG, "train.more_steps=2000").status == 130
    answer = sweep(*LONG, "train.more_steps=2000")
    assert 200 <= went_on(answer) < 2100
    assert "complete at step 2100" in answer.out
    assert_once(folder, long, 2100)


def test_another_request_goes_on_from_what_was_interrupted(sweep, folder, long, at):
    at(100, interrupt)
    sweep(*LONG)
    answer = sweep(*LONG, "train.more_steps=50")
    assert f"complete at step {went_on(answer) + 50}" in answer.out
    sweep(*LONG)
    assert_once(folder, long)


def test_after_a_crash_it_goes_on_from_its_last_checkpoint(sweep, folder, long, at):
    at(500, crash)
    with pytest.raises(MemoryError):
        sweep(*LONG, AT_ONCE)
    assert 1 <= len(kept(folder)) <= 2
    ((status, histories, _),) = runs(folder)
    assert status == "KILLED"
    answer = sweep(*LONG)
    assert 0 < went_on(answer) <= 500
    assert steps(histories["loss"]) == list(range(went_on(answer)))
    assert_once(folder, long)


def test_after_a_crash_with_the_last_checkpoint_damaged_the_one_before_is_used(sweep, folder, long, at):
    """The record has more rows than the checkpoint; they are trained again, and recorded once."""
    at(500, crash)
    with pytest.raises(MemoryError):
        sweep(*LONG, AT_ONCE)
    before, last = kept(folder)
    last.write_bytes(last.read_bytes()[:-1])
    answer = sweep(*LONG)
    assert "is skipped" in " ".join(answer.out.split())
    assert before.name == f"0-{went_on(answer):010d}.checkpoint"
    assert_once(folder, long)


def test_after_a_crash_a_part_as_long_as_the_first_is_not_taken_for_it(sweep, folder, long, at):
    """The state from which it resumes has the same length, and an earlier training ended with it."""
    sweep(*LONG, "train.more_steps=1500")
    at(1600, crash)
    with pytest.raises(MemoryError):
        sweep(*LONG, "train.more_steps=1500")
    answer = sweep(*LONG, "train.more_steps=1500")
    assert went_on(answer) == 1500
    assert "complete at step 3000" in answer.out
    assert_once(folder, long)


def test_after_a_crash_without_a_checkpoint_it_begins_anew_in_the_same_run(sweep, folder, long, at):
    at(500, crash)
    with pytest.raises(MemoryError):
        sweep(*LONG)
    assert kept(folder) == []
    answer = sweep(*LONG)
    assert "resumes" not in answer.out
    assert_once(folder, long)


def test_where_all_checkpoints_of_an_interrupted_training_are_damaged_it_is_refused(sweep, folder, at):
    at(100, interrupt)
    sweep(*LONG)
    for path in kept(folder):
        path.write_bytes(b"")
    answer = sweep(*LONG)
    assert answer.status == 2
    assert "has damaged checkpoints of this training only" in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.more_steps=100"], "train.more_steps=100: is for mode=train"),
        (["mode=train", "train.more_steps=0"], "train.more_steps=0: must be an integer >= 1"),
        (["mode=train", "train.checkpoint_dir=/proc/x"], "train.checkpoint_dir=/proc/x/digits-mlp-"),
        (["mode=train", "train.checkpoint_dir=''"], "train.checkpoint_dir=: must be a folder"),
    ],
)
def test_what_cannot_be_right_is_refused(sweep, folder, arguments, message):
    answer = sweep(*arguments)
    assert answer.status == 2
    assert message in answer.err
    assert list(folder.iterdir()) == []
