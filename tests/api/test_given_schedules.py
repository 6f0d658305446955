"""Tests schedules that are functions of a script or notebook."""

import numpy as np
import pytest

import sweep
from sweep.errors import InvalidValueError

pytestmark = pytest.mark.usefixtures("folder", "copied_database")

QUICK = {"train.steps": 20, "train.eval_every": 10, "train.device": "cpu", "model.hidden": [8]}


def knee(steps, horizon, knee=0.5):
    """Return 1 until a fraction of the horizon, then factors that fall linearly to 0 at its end."""
    return np.clip((1 - steps / horizon) / (1 - knee), 0, 1)


def test_a_function_is_a_schedule_whose_rates_can_be_computed_for_any_step() -> None:
    rate = sweep.schedule(knee, lr=0.2, steps=100, warmup=20, knee=0.25)
    steps = np.arange(80)
    assert rate.curve(100)[20:].tolist() == (0.2 * knee(steps, 80, 0.25)).tolist()
    assert rate(10) == pytest.approx(0.1)
    assert rate(1000) == 0
    with pytest.raises(InvalidValueError, match=r"^steps=null: must be given, because schedule=knee depends on the"):
        sweep.schedule(knee, lr=0.2)
    with pytest.raises(InvalidValueError, match=r"^schedule\.kne=0\.1: is not a key of knee \(did you mean knee\?\)"):
        sweep.schedule(knee, lr=0.2, steps=100, kne=0.1)


def test_the_preview_of_a_function_is_its_curve() -> None:
    keys = {"optimizer.lr": 0.2, "train.steps": 100, "warmup.steps": 20}
    drawn = sweep.preview({**keys, "schedule.knee": sweep.choice(0.25, 0.75)}, schedule=knee)
    assert list(drawn.curves) == ["knee=0.25", "knee=0.75"]
    for part in (0.25, 0.75):
        rate = sweep.schedule(knee, lr=0.2, steps=100, warmup=20, knee=part)
        assert drawn.curves[f"knee={part}"].tolist() == rate.curve(100).tolist()


def test_the_keys_of_a_function_are_searched_and_its_code_is_part_of_the_study_s_identity() -> None:
    def other(steps: np.ndarray, horizon: int, knee: float = 0.5) -> np.ndarray:
        return np.where(steps < knee * horizon, 1.0, 0.1)

    other.__name__ = "knee"
    search = QUICK | {"schedule.knee": sweep.interval(0.2, 0.8), "study.n_trials": 2, "sampler": "random"}
    study = sweep.search(search, schedule=knee, progress=False)
    assert study.name.startswith("digits-mlp-momentum-knee-")
    again = sweep.search(search, schedule=knee, progress=False)
    assert again.name == study.name
    for trial in study.trials:
        given = trial.values["schedule.knee"]
        assert 0.2 <= given <= 0.8
        warmup, lr = trial.values["warmup.steps"], trial.values["optimizer.lr"]
        expected = sweep.schedule(knee, lr=lr, steps=20, warmup=warmup, knee=given).curve(20)
        assert trial.rows()["lr"].to_numpy() == pytest.approx(expected, rel=1e-12)
    assert sweep.search(search, schedule=other, progress=False).name != study.name


def test_a_training_with_a_function_goes_on_beyond_its_horizon() -> None:
    """The trainer gets the function, too."""
    for _ in range(2):
        trial = sweep.train(QUICK | {"train.more_steps": 15, "warmup": "none"}, schedule=knee, progress=False)
    assert trial.rows()["lr"].tolist() == pytest.approx(0.05 * knee(np.arange(30), 20))


@pytest.mark.parametrize(
    ("overrides", "schedule", "said"),
    [
        ({"schedule": "cosine"}, knee, r"schedule=cosine: must not be given twice"),
        ({}, 0.5, r"schedule=0\.5: must be a function \(steps, horizon, \*\*keys\), or a name"),
        ({}, lambda steps: steps, r"schedule=function: raised TypeError"),
        ({}, lambda steps, horizon: -steps, r"schedule=function: must return finite factors >= 0; it returned -1 for"),
        ({}, "cosin", r"schedule=cosin: is not an option \(did you mean cosine\?\)"),
    ],
)
def test_what_is_no_schedule_is_refused(overrides: dict[str, str], schedule: object, said: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{said}"):
        sweep.preview(overrides, schedule=schedule)  # type: ignore[arg-type]
