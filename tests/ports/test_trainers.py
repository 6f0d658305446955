# ruff: noqa: F811
"""Compares the Trainer of transformers and a LightningModule as loops with themselves without a run."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sweep.components import Component
from sweep.core import Progress, Status
from sweep.errors import InvalidValueError
from sweep.loops import LoopConfig
from sweep.messages import Work
from sweep.schedules import DECAYS
from sweep.training import CPU
from sweep.training.loop import LoopEngine
from tests.conftest import long
from tests.training.conftest import make_trial, one_thread, optimizers, train  # noqa: F401

STEPS, EVERY = 20, 6


@pytest.fixture
def make_loop(make_trial):
    def make(module: str, *, final: bool = False, every: int = EVERY, name: str = "main", **keys: Any):
        pytest.importorskip({"bert": "transformers", "lit": "lightning"}[module])
        decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=7)
        trial = make_trial(0, 3, lr=0.05, steps=STEPS, eval_every=every, decay=decay)
        component = Component("loop", f"tests.ports.{module}.{name}", keys, trusted=("tests",))
        return replace(trial, config=replace(trial.config, loop=LoopConfig(component), resolved={}), final=final)

    return make


@pytest.fixture
def make_engine(tmp_path):
    begun = []

    def make(trial) -> LoopEngine:
        begun.append(LoopEngine(CPU, Work([trial.config], 1, False, "val_loss", str(tmp_path / "loops"))))
        return begun[-1]

    yield make
    for engine in begun:
        engine.close()


def paused_after(engine, updates: int) -> list[Progress]:
    """Train until a pause after a number of updates; return all progress, the last with the state."""
    engine.pause = lambda: engine._slot.session.step >= updates
    given: list[Progress] = []
    while engine._slot.session.step < updates:
        given += engine.advance()
    (last,) = engine.snapshots()
    assert last.state is not None
    return [*given, last]


def losses_of(parts: list[Progress]) -> list[float]:
    return [loss for part in parts for rows in part.rows for loss in rows.loss.tolist()]


def assert_same_weights(path, module) -> None:
    ours, expected = torch.load(path), module.state_dict()
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_of_transformers_trains_as_without_a_run(make_loop, make_engine, train, tmp_path, accumulate):
    trial = make_loop("bert", accumulate=accumulate, given=str(tmp_path / "weights"))
    from tests.ports import bert

    history = train(make_engine(trial), trial)[0]
    curve = trial.config.schedule.curve(STEPS)
    expected = bert.script(tmp_path / "plain", curve, 3, EVERY, accumulate)
    logs = expected.state.log_history
    assert history.status is Status.COMPLETE
    np.testing.assert_allclose(history.lr, curve, rtol=1e-12)
    logged = [log["loss"] for log in logs if "loss" in log]  # in float32
    np.testing.assert_allclose(history.loss, logged, rtol=1e-6)
    assert [evaluation.step for evaluation in history.evaluations] == [6, 12, 18, 20]
    for evaluation, log in zip(history.evaluations, [log for log in logs if "eval_loss" in log], strict=True):
        plain = {"val_loss": log["eval_loss"], "val_accuracy": log["eval_accuracy"], "global_step": log["step"]}
        assert evaluation.metrics == pytest.approx(plain, rel=1e-12)
    assert_same_weights(tmp_path / "weights", expected.model)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_lightning_module_trains_as_without_a_run(make_loop, make_engine, train, tmp_path, accumulate):
    trial = make_loop("lit", accumulate=accumulate, given=str(tmp_path / "weights"))
    from tests.ports import lit

    history = train(make_engine(trial), trial)[0]
    curve = trial.config.schedule.curve(STEPS)
    module, kept = lit.script(curve, 3, EVERY, accumulate)
    assert history.status is Status.COMPLETE
    np.testing.assert_allclose(history.lr, curve, rtol=1e-12)
    np.testing.assert_allclose(history.loss, kept.losses, rtol=1e-12)
    found = {evaluation.step: evaluation.metrics["val_loss"] for evaluation in history.evaluations}
    assert list(found) == [6, 12, 18, 20]
    both = found.keys() & kept.validated.keys()  # the Trainer counts batches where it validates, also over epochs
    assert both >= ({6, 12, 18} if accumulate == 1 else {6})
    for step in both:
        assert found[step] == pytest.approx(kept.validated[step], rel=1e-12)
    assert all("val_accuracy" in evaluation.metrics for evaluation in history.evaluations)
    assert_same_weights(tmp_path / "weights", module)


@pytest.mark.parametrize(
    ("module", "every", "accumulate", "kills"),
    [
        # Epochs are of 8 updates.
        *(long("bert", 6, 1, [updates]) for updates in (1, 6, 16, 19)),
        ("bert", 6, 1, [11]),
        ("bert", 8, 2, [8, 9, 16]),
        # Epochs are of 7 updates, or of 4 with two micro-batches in each but the last.
        *(long("lit", 6, 1, [updates]) for updates in (1, 6, 7, 10, 12, 14, 15, 19)),
        *(long("lit", 7, 1, [updates]) for updates in (7, 14)),
        ("lit", 7, 1, [3, 5, 7, 9, 14, 16]),
        ("lit", 6, 1, [7, 9, 14, 16]),
        ("lit", 6, 2, [3, 4, 6, 8, 9]),
        ("lit", 8, 2, [8, 10]),
    ],
)
def test_a_trainer_that_was_killed_and_resumed_equals_one_that_was_not(
    make_loop, make_engine, train, tmp_path, module, every, accumulate, kills
):
    trial = make_loop(module, every=every, accumulate=accumulate, given=str(tmp_path / "weights"))
    expected = train(make_engine(trial), trial)[0]
    weights = torch.load(tmp_path / "weights")
    losses, evaluations, again = [], [], trial
    for updates in kills:
        engine = make_engine(trial)
        engine.start(again)
        parts = paused_after(engine, updates)
        engine.close()
        losses += losses_of(parts)
        evaluations += [part.evaluation for part in parts if part.evaluation is not None]
        again = replace(trial, state=parts[-1].state)
    after = train(make_engine(trial), again)[0]
    assert losses + after.loss == expected.loss
    assert after.steps == list(range(kills[-1], STEPS))
    assert evaluations + after.evaluations == expected.evaluations
    for name, tensor in torch.load(tmp_path / "weights").items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("module", ["bert", "lit"])
def test_a_final_run_reports_the_test_split(make_loop, make_engine, train, module):
    trial = make_loop(module, final=True)
    history = train(make_engine(trial), trial)[0]
    assert history.status is Status.COMPLETE
    assert ["test_loss" in evaluation.metrics for evaluation in history.evaluations] == [False, False, False, True]


def test_every_data_set_of_a_trainer_is_evaluated(make_loop, make_engine, train):
    trial = make_loop("bert", name="careless", do="two data sets")
    engine = LoopEngine(CPU, Work([trial.config], 1, False, "val_b_loss", str(make_engine(trial)._work.folder)))
    history = train(engine, trial)[0]
    assert [evaluation.step for evaluation in history.evaluations] == [6, 12, 18, 20]
    names = {"val_a_loss", "val_a_accuracy", "val_b_loss", "val_b_accuracy", "global_step"}
    assert all(evaluation.metrics.keys() == names for evaluation in history.evaluations)


@pytest.mark.parametrize(
    ("module", "do", "said"),
    [
        ("bert", "max_steps", "has TrainingArguments(max_steps=21): it must be max_steps=run.horizon"),
        ("bert", "seed", "has TrainingArguments(seed=4): it must be seed=run.seed"),
        ("bert", "skip", "has TrainingArguments(ignore_data_skip=True): it must be ignore_data_skip=False"),
        ("bert", "no callback", "returns after 0 of 20 updates"),
        ("bert", "group", "has an optimizer with 3 groups of parameters in step 2, but had 2 at the start"),
        ("lit", "max_steps", "has Trainer(max_steps=21): it must be max_steps=run.horizon"),
        ("lit", "min_steps", "has Trainer(min_steps=5): the run may be pruned before that"),
        ("lit", "two optimizers", "has a module with 2 optimizers"),
        ("lit", "no callback", "returns after 0 of 20 updates"),
        ("lit", "no validation", "has a Trainer that does not validate"),
        ("lit", "sets", "used the rate 0.3 in step 0, but the callback has set 0.1"),
    ],
)
def test_what_a_loop_does_wrong_is_refused_in_one_line(make_loop, make_engine, train, module, do, said):
    trial = make_loop(module, name="careless", do=do)
    with pytest.raises(InvalidValueError) as raised:
        train(make_engine(trial), trial)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("module", ["bert", "lit"])
def test_a_trainer_that_begins_again_is_refused(make_loop, make_engine, train, module):
    trial = make_loop(module)
    engine = make_engine(trial)
    engine.start(trial)
    (*_, last) = paused_after(engine, 3)
    engine.close()
    careless = replace(make_loop(module, name="careless", do="no checkpoint"), state=last.state)
    with pytest.raises(
        InvalidValueError, match="starts after 0 updates, but the run resumes after 3: the trainer must resume"
    ):
        train(make_engine(careless), careless)
