"""Trainings that are stopped, kept in a file and gone on with equal those that were not; and schedules that react."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.config import Component
from sweep.core import Event, Status
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import SerialEngine, checkpoints
from sweep.validation import InvalidValueError

CPU = torch.device("cpu")
DROPPING = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.3})


def stopping(trial, more_steps):
    """The trial, for a part of its updates."""
    return replace(trial, config=replace(trial.config, train=replace(trial.config.train, more_steps=more_steps)))


def run(engine, trial):
    """All rows, evaluations, events of a trial, and its state at the end."""
    engine.start(trial)
    rows, evaluations = [], {}
    while True:
        (progress,) = engine.advance()
        for part in progress.rows:
            rows += list(zip(part.steps.tolist(), part.lr.tolist(), part.loss.tolist(), strict=True))
        evaluations[progress.evaluation.step] = progress.evaluation.metrics
        if progress.status is not None:
            return rows, evaluations, progress.events, progress.state


def gone_on(data, path, trial, *parts, precision="float32"):
    """The same training in parts, each by an engine of its own, from a file that the one before has left."""
    rows, evaluations, events, state = [], {}, (), None
    for more_steps in parts:
        engine = SerialEngine(data, CPU, precision)
        part = stopping(trial, more_steps)
        if path.exists():
            state = checkpoints.restore(path, part, engine.data, CPU)
            part = replace(part, state=state, first=state.global_step)
        more_rows, more_evaluations, events, state = run(engine, part)
        rows, evaluations = rows + more_rows, evaluations | more_evaluations
        checkpoints.save(path, state, {"run_id": "r"})
    return rows, evaluations, events, state


def assert_same_state(found, expected):
    assert found.global_step == expected.global_step
    assert found.events == expected.events
    assert found.memories == expected.memories
    torch.testing.assert_close(found.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(flat(found.optimizer), flat(expected.optimizer), rtol=0, atol=0)
    torch.testing.assert_close(found.average, expected.average, rtol=0, atol=0)


def flat(optimizer):
    """The tensors and numbers of an optimizer, in order."""
    found = []

    def collect(value):
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                collect(value[key])
        elif isinstance(value, (list, tuple)):
            for entry in value:
                collect(entry)
        elif isinstance(value, (torch.Tensor, int, float)):
            found.append(torch.as_tensor(value))

    collect(optimizer.state_dict())
    return found


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
    rows, evaluations, _, state = gone_on(digits, tmp_path / "state.pt", trial, 13, 20, None, precision=precision)
    assert rows == whole
    assert [row[0] for row in rows] == list(range(50))
    assert {step: evaluations[step] for step in evaluated} == evaluated
    assert set(evaluations) - set(evaluated) == {13, 33}  # each part ends with an evaluation
    assert_same_state(state, end)


def test_beyond_its_horizon_the_schedule_goes_on(digits, make_trial, tmp_path):
    decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=10)
    trial = make_trial(decay=decay, steps=20, eval_every=10, precision="float32")
    rows, _, _, state = gone_on(digits, tmp_path / "state.pt", trial, None, 20)
    assert [row[0] for row in rows] == list(range(40))
    np.testing.assert_allclose([row[1] for row in rows], trial.config.schedule.curve(40), rtol=0)
    longer = replace(trial, config=replace(trial.config, train=replace(trial.config.train, steps=40)))
    whole, _, _, end = run(SerialEngine(digits, CPU, "float32"), longer)
    assert rows == whole
    assert_same_state(state, end)


# --- reactions


def reacting(make_trial, **keys):
    """A plateau that soon cuts, after a warmup until the training error is low."""
    decay = DECAYS["plateau"](factor=0.5, patience=0, threshold=0.5)
    warmup = WARMUPS["until_error"](until_error=0.5)
    options = {"optimizer": "sgd", "lr": 0.5, "steps": 120, "eval_every": 10, "precision": "float32"}
    return make_trial(decay=decay, warmup=warmup, **options | keys)


def test_an_event_redraws_the_rest_of_the_curve(digits, make_trial):
    trial = reacting(make_trial)
    rows, evaluations, events, state = run(SerialEngine(digits, CPU, "float32"), trial)
    assert [event.name for event in events][:2] == ["warmup_end", "plateau"]
    assert state.events == events
    first = events[0].step
    errors = {step: metrics["train_error"] for step, metrics in evaluations.items()}
    assert first == min(step for step, error in errors.items() if error < 0.5)
    assert first > 10
    rates = [row[1] for row in rows]
    np.testing.assert_allclose(rates[:first], 0.05)
    np.testing.assert_allclose(rates[first : events[1].step], 0.5)
    np.testing.assert_allclose(rates, trial.config.schedule.after(*events).curve(120), rtol=0)


def test_the_training_error_is_that_of_the_batches_since_the_last_evaluation(digits, make_trial):
    """With a rate too small to change a weight the model is the initial one, and its errors can be counted by hand."""
    trial = reacting(make_trial, lr=1e-30, steps=20)
    engine = SerialEngine(digits, CPU, "float32")
    _, evaluations, _, state = run(engine, trial)
    wrong = [
        (state.model.eval()(inputs).argmax(1) != targets).float() for inputs, targets in state.batches.range(10, 20)
    ]
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
    """Stops between two evaluations of the schedule's own add evaluations, which no reaction sees."""
    trial = reacting(make_trial)
    whole, _, events, end = run(SerialEngine(digits, CPU, "float32"), trial)
    rows, _, found, state = gone_on(digits, tmp_path / "state.pt", trial, *parts)
    assert rows == whole
    assert found == events
    assert_same_state(state, end)


def test_an_evaluation_where_a_part_ends_is_none_that_a_reaction_sees(digits, make_trial, tmp_path):
    """A plateau that cuts at every evaluation but the first: at 20, 30, 40, and not where it is stopped."""
    decay = DECAYS["plateau"](factor=0.5, patience=0, threshold=0.999)
    trial = make_trial(decay=decay, optimizer="sgd", steps=40, eval_every=10, precision="float32")
    _, _, events, _ = run(SerialEngine(digits, CPU, "float32"), trial)
    assert [event.step for event in events] == [20, 30, 40]
    _, evaluations, found, _ = gone_on(digits, tmp_path / "state.pt", trial, 15, 10, None)
    assert {15, 25} < set(evaluations)
    assert found == events


@pytest.mark.parametrize("parts", [(15, None), (3, 4, 9, None)])
def test_the_window_of_the_training_error_is_not_divided_where_a_part_ends(digits, make_trial, tmp_path, parts):
    trial = reacting(make_trial, steps=30)
    _, whole, _, _ = run(SerialEngine(digits, CPU, "float32"), trial)
    _, found, _, _ = gone_on(digits, tmp_path / "state.pt", trial, *parts)
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


# --- the file


def test_the_file_is_its_owner_s_and_holds_nothing_that_runs(digits, make_trial, tmp_path):
    path = tmp_path / "kept" / "state.pt"
    gone_on(digits, path, make_trial(steps=5, precision="float32"), None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]
    assert checkpoints.about(path) == {"run_id": "r", "global_step": 5}
    json.dumps(torch.load(path, weights_only=True)["events"])


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"nonsense"])
def test_a_damaged_file_is_refused_by_its_name(digits, make_trial, tmp_path, damage):
    path, trial = tmp_path / "state.pt", make_trial(steps=5, precision="float32")
    gone_on(digits, path, trial, None)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidValueError, match=r"^train\.checkpoint_dir=.*state\.pt: cannot be read"):
        checkpoints.about(path)


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_state_goes_on_with_a_device_of_another_kind(digits, make_trial, tmp_path):
    """The generators of a GPU have no counterpart on a CPU; what a CPU draws goes on."""
    path, trial = tmp_path / "state.pt", make_trial(model=DROPPING, steps=20, precision="float32")
    gone_on(digits, path, trial, 10)
    kept = torch.load(path, weights_only=True)
    kept["random"] = [kept["random"][0], torch.zeros(16, dtype=torch.uint8), "cuda"]
    torch.save(kept, path)
    rows, _, _, _ = gone_on(digits, path, trial, None)
    assert [row[0] for row in rows] == list(range(10, 20))


@pytest.mark.parametrize("change", [{"about": 5}, {"unknown": 1}, {"random": None, "average": None}])
def test_a_file_of_another_shape_is_refused(digits, make_trial, tmp_path, change):
    path = tmp_path / "state.pt"
    gone_on(digits, path, make_trial(steps=5, precision="float32"), None)
    kept = torch.load(path, weights_only=True)
    torch.save({**kept, **change} if "random" not in change else {"about": {}, "global_step": 5}, path)
    with pytest.raises(InvalidValueError, match="holds no state of a training"):
        checkpoints.about(path)


def test_a_file_with_code_in_it_is_refused_and_not_executed(tmp_path, capsys):
    path = tmp_path / "state.pt"
    torch.save({"about": {}, "global_step": 1, "model": Hostile()}, path)
    with pytest.raises(InvalidValueError, match="cannot be read"):
        checkpoints.about(path)
    assert "executed" not in capsys.readouterr().out


def test_a_state_of_another_model_is_refused(digits, make_trial, tmp_path):
    path, trial = tmp_path / "state.pt", make_trial(steps=5, precision="float32")
    gone_on(digits, path, trial, None)
    other = make_trial(model=Component("model", "models.mlp.MLP", {"hidden": [8]}), steps=5, precision="float32")
    with pytest.raises(InvalidValueError, match="none of this training"):
        checkpoints.restore(path, other, digits, CPU)


def test_an_event_is_its_text():
    assert Event.parse(str(Event(240, "warmup_end"))) == Event(240, "warmup_end")
