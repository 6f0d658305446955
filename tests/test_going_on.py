"""mode=train in parts: `train.steps` stops at a step, `train.more_steps` after so many; both go on where they were."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep.checkpoints import CheckpointFiles
from tests.conftest import SMALL

TRAIN = ["mode=train", *SMALL, "train.steps=200", "train.eval_every=40", "warmup.steps=10", "model.dropout=0.2"]


def runs(folder, database="mlflow.db"):
    """The recorded trainings, the oldest first: status, {key: sorted [(step, value)]}, tags."""
    client = MlflowClient(f"sqlite:///{folder}/{database}")
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
    """The files of all checkpoints, the oldest first; those that trainings have ended with among them."""
    return sorted((folder / "checkpoints").rglob("*.checkpoint"), key=lambda path: path.stat().st_mtime_ns)


def steps(history):
    return [step for step, _ in history]


@pytest.fixture
def whole(sweep, folder):
    """The training in one."""
    assert sweep(*TRAIN, "tracking.uri=sqlite:///whole.db", "train.checkpoint_dir=whole").status == 0
    ((status, histories, _),) = runs(folder, "whole.db")
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
    assert "goes on from step 100" in second.out
    assert "complete at step 200" in second.out
    ((status, histories, _),) = runs(folder)
    assert status == "FINISHED"
    assert histories["loss"] == whole["loss"]
    assert histories["lr"] == whole["lr"]
    assert steps(histories["val_loss"]) == [40, 80, 100, 120, 160, 200]
    assert set(whole["val_loss"]) < set(histories["val_loss"])


def test_stop_at_a_step_and_so_many_more_are_two_requests(sweep, folder, whole):
    """A training that has not reached its horizon goes on to it; one that has begins anew, or goes beyond it."""
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
    assert "goes on" not in anew.out
    assert "goes on from step 250" in sweep(*TRAIN, "train.more_steps=1").out  # the longer state stays
    old, new = runs(folder)
    assert steps(old[1]["loss"]) == list(range(251))
    assert new[1]["loss"] == whole["loss"]


def test_one_update_short_goes_on_and_a_reached_horizon_begins_anew(sweep, folder):
    sweep("mode=train", *SMALL, "train.more_steps=39")
    assert "goes on from step 39" in sweep("mode=train", *SMALL).out
    assert "goes on" not in sweep("mode=train", *SMALL).out
    assert [steps(histories["loss"]) for _, histories, _ in runs(folder)] == [list(range(40))] * 2


def test_another_configuration_is_another_training(sweep, folder):
    sweep(*TRAIN, "train.more_steps=20")
    for change in ("optimizer.lr=0.3", "train.seed=1", "model.hidden=[9]", "train.steps=300", "dataset.split_seed=1"):
        arguments = [a for a in TRAIN if a.partition("=")[0] != change.partition("=")[0]]
        assert "goes on" not in sweep(*arguments, change, "train.more_steps=20").out
    assert len(runs(folder)) == 6
    assert "goes on from step 20" in sweep(*TRAIN, "train.more_steps=20", "train.device=auto").out


@pytest.mark.parametrize("call", ["save", "end"])
def test_a_command_that_recorded_but_did_not_keep_its_state_leaves_nothing_twice(
    sweep, folder, whole, monkeypatch, call
):
    """Before its first checkpoint, and after its record was closed."""
    sweep(*TRAIN, "train.more_steps=100")
    with monkeypatch.context() as broken:
        broken.setattr(CheckpointFiles, call, lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sweep(*TRAIN, "train.more_steps=50")
    ((_, histories, _),) = runs(folder)
    assert steps(histories["loss"]) == list(range(150 if call == "end" else 100))
    assert "goes on from step 100" in sweep(*TRAIN, "train.more_steps=100").out
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
    assert f"tracking.uri={uri}: does not hold run" in answer.err
    assert not (folder / "empty.db").exists()


def test_a_damaged_state_is_passed_over_and_the_one_before_is_gone_on_from(sweep, folder, whole):
    sweep(*TRAIN, "train.more_steps=30")
    sweep(*TRAIN, "train.more_steps=30")
    last = kept(folder)[-1]
    last.write_bytes(last.read_bytes()[:500])
    answer = sweep(*TRAIN)
    assert answer.status == 0
    said = " ".join(answer.out.split())
    assert "is passed over: its digest is another: it is damaged, or cut" in said
    assert "goes on from step 30" in said
    ((_, histories, _),) = runs(folder)
    assert histories["loss"] == whole["loss"]


def test_where_none_is_whole_it_is_refused_before_anything_is_written(sweep, folder):
    sweep(*TRAIN, "train.more_steps=20")
    (file,) = kept(folder)
    file.write_bytes(file.read_bytes()[:500])
    answer = sweep(*TRAIN, "train.more_steps=20")
    assert answer.status == 2
    assert answer.err.startswith("sweep: train.checkpoint_dir=checkpoints/")
    assert "has no checkpoint of this training that is whole; delete it to begin the training anew" in answer.err
    assert len(runs(folder)) == 1
    assert kept(folder) == [file]
    file.unlink()
    assert "goes on" not in sweep(*TRAIN, "train.more_steps=20").out
    assert len(runs(folder)) == 2


# --- what is interrupted


LONG = [*(a for a in TRAIN if not a.startswith(("train.steps", "train.eval_every"))), "train.steps=1500"]
LONG += ["train.eval_every=250"]


def interrupted(folder, number, *arguments, after="step 250"):
    """Begin a training, send it a signal once it says that; its status and what it said."""
    process = start(folder, *LONG, *arguments)
    said = ""
    for line in process.stdout:
        said += line
        if after in line:
            break
    process.send_signal(number)
    said += process.communicate(timeout=60)[0]
    return process.returncode, said


@pytest.fixture
def long(sweep, folder):
    """The long training in one."""
    assert sweep(*LONG, "tracking.uri=sqlite:///whole.db", "train.checkpoint_dir=whole").status == 0
    ((_, histories, _),) = runs(folder, "whole.db")
    return histories


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.more_steps=100"], "train.more_steps=100: is for mode=train"),
        (["mode=train", "train.more_steps=0"], "train.more_steps=0: must be an integer >= 1"),
        (["mode=train", "train.checkpoint_dir=/proc/x"], "train.checkpoint_dir=/proc/x: cannot be made"),
        (["mode=train", "train.checkpoint_dir=''"], "train.checkpoint_dir=: must be a folder"),
    ],
)
def test_what_cannot_be_right_is_refused(sweep, folder, arguments, message):
    answer = sweep(*arguments)
    assert answer.status == 2
    assert message in answer.err
    assert list(folder.iterdir()) == []
