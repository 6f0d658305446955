"""Test that trainings that are resumed from checkpoints equal uninterrupted ones, also with schedules that react."""

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.checkpoints import CheckpointFiles
from sweep.components import Component
from sweep.core import Checkpoint, Snapshot, Status
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Event
from sweep.training import CPU, SerialEngine, largest_checkpoint
from sweep.training.state_io import CONTENT, packed, unpacked
from tests.training.test_snapshots import assert_equal, content

DROPPING = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.3})


def stopping(trial, more_steps):
    """Return the trial with fewer updates."""
    return replace(trial, config=replace(trial.config, train=replace(trial.config.train, more_steps=more_steps)))


def run(engine, trial):
    """Return all rows, evaluations and events of a trial, and its last state."""
    engine.start(replace(trial, keeps_state=True))
    rows, evaluations = [], {}
    while True:
        (progress,) = engine.advance()
        for part in progress.rows:
            rows += list(zip(part.steps.tolist(), part.lr.tolist(), part.loss.tolist(), strict=True))
        evaluations[progress.evaluation.step] = progress.evaluation.metrics
        if progress.status is not None:
            return rows, evaluations, progress.events, progress.state


def gone_on(data, folder, trial, *parts, precision="float32"):
    """Train in parts, each with a new engine that resumes from the file of the previous one."""
    rows, evaluations, events, state = [], {}, (), None
    for more_steps in parts:
        part = stopping(trial, more_steps)
        files = CheckpointFiles(folder, "this", largest_checkpoint(trial.config, data))
        kept = files.latest(trial)
        if kept is not None:
            part = replace(part, state=kept.state, first=kept.state.step)
        more_rows, more_evaluations, events, state = run(SerialEngine(data, CPU, precision), part)
        rows, evaluations = rows + more_rows, evaluations | more_evaluations
        files.save(trial, Checkpoint(part.first, part.last, state, [], b""))
    return rows, evaluations, events, state


def assert_same_state(found, expected):
    assert found.step == expected.step
    assert_equal(content(found), content(expected))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    ["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw", "nadam", "radam", "lion", "muon",
     "schedulefree"],
)  # fmt: skip
def test_a_training_in_parts_is_the_training_in_one_to_the_bit(digits, make_trial, tmp_path, optimizer, precision):
    decay = DECAYS["cosine"](decay_steps=50)
    average = None if optimizer == "schedulefree" else 0.99
    trial = make_trial(
        optimizer=optimizer, model=DROPPING, decay=decay, steps=50, eval_every=10, average=average, precision=precision
    )
    whole, evaluated, _, end = run(SerialEngine(digits, CPU, precision), trial)
    rows, evaluations, _, state = gone_on(digits, tmp_path, trial, 13, 20, None, precision=precision)
    assert rows == whole
    assert [row[0] for row in rows] == list(range(50))
    assert {step: evaluations[step] for step in evaluated} == evaluated
    assert set(evaluations) - set(evaluated) == {13, 33}  # each part ends with an evaluation
    assert_same_state(state, end)


def test_beyond_its_horizon_the_schedule_goes_on(digits, make_trial, tmp_path):
    decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=10)
    trial = make_trial(decay=decay, steps=20, eval_every=10, precision="float32")
    rows, _, _, state = gone_on(digits, tmp_path, trial, None, 20)
    assert [row[0] for row in rows] == list(range(40))
    np.testing.assert_allclose([row[1] for row in rows], trial.config.schedule.curve(40), rtol=0)
    longer = replace(trial, config=replace(trial.config, train=replace(trial.config.train, steps=40)))
    whole, _, _, end = run(SerialEngine(digits, CPU, "float32"), longer)
    assert rows == whole
    assert_same_state(state, end)


# --- reactions


def reacting(make_trial, **keys):
    """Return a schedule with a plateau that soon reduces the rate, after a warmup until the training error is low."""
    decay = DECAYS["plateau"](factor=0.5, patience=0, threshold=0.5)
    warmup = WARMUPS["until_error"](until_error=0.5)
    options = {"optimizer": "sgd", "lr": 0.5, "steps": 120, "eval_every": 10, "precision": "float32"}
    return make_trial(decay=decay, warmup=warmup, **options | keys)


def test_an_event_redraws_the_rest_of_the_curve(digits, make_trial):
    trial = reacting(make_trial)
    rows, evaluations, events, state = run(SerialEngine(digits, CPU, "float32"), trial)
    assert [event.name for event in events][:2] == ["warmup_end", "plateau"]
    assert content(state)["events"] == [[event.step, event.name] for event in events]
    first = events[0].step
    errors = {step: metrics["train_error"] for step, metrics in evaluations.items()}
    assert first == min(step for step, error in errors.items() if error < 0.5)
    assert first > 10
    rates = [row[1] for row in rows]
    np.testing.assert_allclose(rates[:first], 0.05)
    np.testing.assert_allclose(rates[first : events[1].step], 0.5)
    np.testing.assert_allclose(rates, trial.config.schedule.after(*events).curve(120), rtol=0)


def test_the_training_error_is_that_of_the_batches_since_the_last_evaluation(digits, make_trial):
    """The rate is too small to change a weight, so that the errors of the initial model can be counted."""
    trial = reacting(make_trial, lr=1e-30, steps=20)
    engine = SerialEngine(digits, CPU, "float32")
    _, evaluations, _, end = run(engine, trial)
    state = unpacked(end, trial, engine.data, CPU)
    wrong = [(state.model.eval()(batch["x"]).argmax(1) != batch["y"]).float() for batch in state.batches.range(10, 20)]
    assert evaluations[20]["train_error"] == pytest.approx(float(torch.cat(wrong).mean()), rel=1e-6)
    assert evaluations[10]["train_error"] != evaluations[20]["train_error"]


def test_the_training_error_of_micro_batches_is_that_of_their_batch(digits, make_trial):
    whole = run(SerialEngine(digits, CPU, "float64"), reacting(make_trial, precision="float64"))
    parts = run(SerialEngine(digits, CPU, "float64"), reacting(make_trial, precision="float64", accumulate=3))
    assert [metrics["train_error"] for metrics in whole[1].values()] == [m["train_error"] for m in parts[1].values()]
    assert whole[2] == parts[2]


def test_without_a_reaction_that_asks_there_is_no_training_error(digits, make_trial):
    trial = make_trial(decay=DECAYS["plateau"](), precision="float32")
    _, evaluations, _, _ = run(SerialEngine(digits, CPU, "float32"), trial)
    assert "train_error" not in evaluations[10]


@pytest.mark.parametrize("parts", [(15, 20, None), (60, None), (7, 7, 7, 7, None)])
def test_events_and_memories_are_kept_with_the_state(digits, make_trial, tmp_path, parts):
    """Stops between two regular evaluations add evaluations that reactions must not see."""
    trial = reacting(make_trial)
    whole, _, events, end = run(SerialEngine(digits, CPU, "float32"), trial)
    rows, _, found, state = gone_on(digits, tmp_path, trial, *parts)
    assert rows == whole
    assert found == events
    assert_same_state(state, end)


def test_an_evaluation_where_a_part_ends_is_none_that_a_reaction_sees(digits, make_trial, tmp_path):
    """The plateau reduces the rate at all evaluations but the first: at 20, 30 and 40, and not where training stops."""
    decay = DECAYS["plateau"](factor=0.5, patience=0, threshold=0.999)
    trial = make_trial(decay=decay, optimizer="sgd", steps=40, eval_every=10, precision="float32")
    _, _, events, _ = run(SerialEngine(digits, CPU, "float32"), trial)
    assert [event.step for event in events] == [20, 30, 40]
    _, evaluations, found, _ = gone_on(digits, tmp_path, trial, 15, 10, None)
    assert {15, 25} < set(evaluations)
    assert found == events


@pytest.mark.parametrize("parts", [(15, None), (3, 4, 9, None)])
def test_the_window_of_the_training_error_is_not_divided_where_a_part_ends(digits, make_trial, tmp_path, parts):
    trial = reacting(make_trial, steps=30)
    _, whole, _, _ = run(SerialEngine(digits, CPU, "float32"), trial)
    _, found, _, _ = gone_on(digits, tmp_path, trial, *parts)
    assert {step: found[step]["train_error"] for step in whole} == {s: m["train_error"] for s, m in whole.items()}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"warmup": WARMUPS["until_error"]()}, r"^warmup\.until_error=0\.8: waits for train_error"),
        (
            {"decay": DECAYS["plateau"](metric="val_accuracy")},
            r"^schedule\.metric=val_accuracy: waits for val_accuracy",
        ),
    ],
)
def test_a_regression_has_no_accuracy_to_wait_for(line, make_trial, keys, message):
    with pytest.raises(InvalidValueError, match=message):
        SerialEngine(line, CPU, "float32").check(make_trial(batch_size=16, **keys).config)


def test_a_trial_that_diverges_leaves_no_state(line, make_trial):
    linear = Component("model", "models.mlp.MLP", {"hidden": []})
    engine = SerialEngine(line, CPU, "float64")
    engine.start(make_trial(model=linear, optimizer="sgd", lr=1e6, batch_size=16, steps=60, eval_every=60))
    (progress,) = engine.advance()
    assert progress.status is Status.DIVERGED
    assert progress.state is None


# --- the bytes


def ended(data, trial):
    """Return the last state of a training of some updates."""
    return run(SerialEngine(data, CPU, trial.config.train.precision), trial)[3]


def resealed(snapshot, **changes):
    """Return a snapshot with different content and a valid checksum."""
    file = io.BytesIO()
    torch.save({**content(snapshot), **changes}, file)
    return Snapshot(snapshot.step, file.getvalue())


def test_what_is_packed_is_unpacked_and_packed_again_as_it_was(digits, make_trial):
    trial = reacting(make_trial, model=DROPPING, optimizer="adam", average=0.9, steps=23, lr=0.01)
    given = ended(digits, trial)
    assert given.step == 23
    state = unpacked(given, trial, digits, CPU)
    assert (state.global_step, state.seen) == (23, 3 * 64)
    assert_same_state(packed(state), given)


def test_it_holds_nothing_that_runs(digits, make_trial):
    held = content(ended(digits, make_trial(steps=5, precision="float32")))
    assert held.keys() == CONTENT
    json.dumps([held["events"], held["memories"], held["seen"], held["global_step"]])


def test_it_takes_no_more_room_than_is_allowed(digits, make_trial):
    trial = make_trial(steps=5, precision="float32", optimizer="adam", average=0.9)
    assert len(ended(digits, trial).content) < largest_checkpoint(trial.config, digits)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"nonsense"])
def test_what_is_damaged_is_refused(digits, make_trial, damage):
    trial = make_trial(steps=5, precision="float32")
    given = ended(digits, trial)
    with pytest.raises(InvalidValueError, match=r"^train\.checkpoint_dir=.*holds a state that cannot be read"):
        unpacked(Snapshot(5, damage(given.content)), trial, digits, CPU)


def test_a_state_goes_on_with_a_device_of_another_kind(digits, make_trial):
    """The generator of a GPU has no counterpart on a CPU. That of the CPU is restored."""
    trial = make_trial(model=DROPPING, steps=20, precision="float32")
    whole = run(SerialEngine(digits, CPU, "float32"), trial)[0]
    given = ended(digits, stopping(trial, 10))
    drawn = content(given)["random"][0]
    other = resealed(given, random=[drawn, torch.zeros(16, dtype=torch.uint8), "cuda"])
    rows, _, _, _ = run(SerialEngine(digits, CPU, "float32"), replace(trial, state=other, first=10))
    assert rows == whole[10:]


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def with_code(snapshot):
    return resealed(snapshot, model=Hostile())


def bare(snapshot):
    return Snapshot(snapshot.step, pickle.dumps(Hostile()))


def compressed(snapshot):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(snapshot.content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return Snapshot(snapshot.step, file.getvalue())


@pytest.mark.parametrize("hostile", [with_code, bare, compressed], ids=lambda f: f.__name__)
def test_code_is_not_run_and_what_is_compressed_is_not_read(digits, make_trial, capsys, hostile):
    trial = make_trial(steps=5, precision="float32")
    given = hostile(ended(digits, trial))
    with pytest.raises(InvalidValueError, match="cannot be read"):
        unpacked(given, trial, digits, CPU)
    assert "executed" not in capsys.readouterr().out


def test_content_of_another_version_is_refused(digits, make_trial):
    trial = make_trial(steps=5, precision="float32")
    given = ended(digits, trial)
    fewer = io.BytesIO()
    torch.save({"model": {}, "global_step": 5}, fewer)
    for other in (resealed(given, unknown=1), Snapshot(5, fewer.getvalue())):
        with pytest.raises(InvalidValueError, match="holds no state of a training, or one of another version"):
            unpacked(other, trial, digits, CPU)


def test_a_state_of_another_model_is_refused(digits, make_trial):
    given = ended(digits, make_trial(steps=5, precision="float32"))
    other = make_trial(model=Component("model", "models.mlp.MLP", {"hidden": [8]}), steps=5, precision="float32")
    with pytest.raises(InvalidValueError, match="none of this training"):
        unpacked(given, other, digits, CPU)


def test_an_event_is_its_text():
    assert Event.parse(str(Event(240, "warmup_end"))) == Event(240, "warmup_end")
