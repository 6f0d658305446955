"""Tests schedules that depend on evaluations: when events happen, and the curve after them."""

import math

import numpy as np
import pytest
import torch

from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Event, Schedule
from tests.schedules.examples import figures_of

LR = 0.4


def replay(schedule, evaluations):
    """Return the schedule after evaluations {step: metrics}, and the rate of the update after each evaluation."""
    memories, rates = {}, []
    for step, metrics in evaluations.items():
        memories, happened = schedule.react(memories, step, metrics)
        schedule = schedule.after(*happened)
        rates.append(schedule(step))
    return schedule, rates


def losses(values, every=10):
    return {every * (i + 1): {"val_loss": value} for i, value in enumerate(values)}


def plateau(**keys):
    return Schedule(LR, DECAYS["plateau"](**{"patience": 2, "factor": 0.5} | keys))


def events(schedule):
    return [(event.name, event.step) for event in schedule.events]


def test_a_pure_schedule_has_no_reactions():
    schedule = Schedule(LR, DECAYS["cosine"](decay_steps=10), WARMUPS["linear"](steps=3))
    assert schedule.reactions == ()
    assert schedule.react({}, 10, {"val_loss": 1.0}) == ({}, ())


def test_before_any_event_the_rate_stays():
    assert plateau().curve(50).tolist() == [LR] * 50


def test_torch_cuts_at_evaluation_patience_plus_one_without_improvement_and_optax_at_patience():
    schedule, rates = replay(plateau(), losses([1.0, 1.0, 1.0, 1.0]))
    assert rates == [LR, LR, LR, LR / 2]
    assert events(schedule) == [("plateau", 40)]
    schedule, rates = replay(plateau(cut="optax"), losses([1.0, 1.0, 1.0, 1.0]))
    assert rates == [LR, LR, LR / 2, LR / 2]
    assert events(schedule) == [("plateau", 30)]


def test_the_first_update_after_the_evaluation_uses_the_new_rate():
    schedule, _ = replay(plateau(), losses([1.0] * 4))
    assert schedule.curve(60).tolist() == [LR] * 40 + [LR / 2] * 20


def test_patience_begins_anew_after_a_cut_and_after_an_improvement():
    _, rates = replay(plateau(), losses([1.0, 1.1, 1.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]))
    assert rates == [LR] * 6 + [LR / 2] * 3 + [LR / 4]


def test_an_improvement_is_one_by_more_than_the_threshold():
    _, rates = replay(plateau(threshold=0.1, patience=0), losses([1.0, 0.901, 0.89, 0.802, 0.8]))
    assert rates == [LR, LR / 2, LR / 2, LR / 4, LR / 4]


def test_an_accuracy_improves_upwards():
    evaluations = {10 * (i + 1): {"val_accuracy": a} for i, a in enumerate([0.5, 0.6, 0.6, 0.7, 0.7])}
    _, rates = replay(plateau(metric="val_accuracy", patience=0), evaluations)
    assert rates == [LR, LR, LR / 2, LR / 2, LR / 4]


def test_an_accuracy_improves_by_more_than_a_part_of_the_best():
    """With threshold 0.1, 0.55 does not improve on 0.5 but 0.56 does, and 0.61 does not improve on 0.56."""
    evaluations = {10 * (i + 1): {"val_accuracy": a} for i, a in enumerate([0.5, 0.54, 0.55, 0.56, 0.61])}
    _, rates = replay(plateau(metric="val_accuracy", patience=0, threshold=0.1), evaluations)
    assert rates == [LR, LR / 2, LR / 4, LR / 4, LR / 8]


def test_an_absolute_threshold_is_a_difference_of_the_metric():
    """A relative threshold of 0.1 is 0.05 at 0.5: 0.44 and 0.56 improve on 0.5, unlike with an absolute one."""
    values = [0.5, 0.44, 0.39]
    assert replay(plateau(patience=0, threshold=0.1), losses(values))[1] == [LR, LR, LR]
    assert replay(plateau(patience=0, threshold=0.1, threshold_mode="abs"), losses(values))[1] == [LR, LR / 2, LR / 2]
    accuracies = {10 * (i + 1): {"val_accuracy": a} for i, a in enumerate([0.5, 0.56, 0.61])}
    upwards = {"metric": "val_accuracy", "patience": 0, "threshold": 0.1}
    assert replay(plateau(**upwards), accuracies)[1] == [LR, LR, LR / 2]
    assert replay(plateau(**upwards, threshold_mode="abs"), accuracies)[1] == [LR, LR / 2, LR / 2]


@pytest.mark.parametrize(
    ("metric", "direction", "maximizes"),
    [
        ("val_loss", None, False),
        ("val_loss_ema", None, False),
        ("val_accuracy", None, True),
        ("val_accuracy_ema", None, True),
        ("val_f1", "maximize", True),
        ("val_cer", "minimize", False),
    ],
)
def test_a_plateau_knows_whether_its_metric_is_to_be_large(metric, direction, maximizes):
    options = {"metric": metric, "direction": direction, "patience": 0, "threshold": 0.0}
    rising = {100: {metric: 0.5}, 200: {metric: 0.6}}
    assert replay(plateau(**options), rising)[1] == [LR, LR if maximizes else LR / 2]


@pytest.mark.parametrize("seed", range(10))
def test_a_plateau_of_the_accuracy_is_torch_s_with_mode_max(seed):
    generator = np.random.default_rng(seed)
    options = {"factor": 0.5, "patience": int(generator.integers(0, 3)), "threshold": [0.0, 1e-4, 0.05][seed % 3]}
    options["threshold_mode"] = ["rel", "abs"][seed % 2]
    values = np.round(np.cumprod(generator.uniform(0.97, 1.05, 60)) / 5, 2).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", **options)
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    schedule = Schedule(LR, DECAYS["plateau"](metric="val_accuracy", **options))
    _, rates = replay(schedule, {10 * (i + 1): {"val_accuracy": value} for i, value in enumerate(values)})
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert len(set(expected)) > 1


def test_a_cut_by_exactly_eps_is_not_made():
    _, rates = replay(plateau(patience=0, eps=LR / 2), losses([1.0] * 3))
    assert rates == [LR] * 3


def test_a_cut_that_min_lr_or_eps_forbids_is_no_event():
    schedule, _ = replay(plateau(patience=0, min_lr=0.15), losses([1.0] * 5))
    assert events(schedule) == [("plateau", 20), ("plateau", 30)]
    schedule, _ = replay(plateau(patience=0, eps=0.15), losses([1.0] * 4))
    assert events(schedule) == [("plateau", 20)]


def test_during_cooldown_nothing_is_counted():
    _, rates = replay(plateau(patience=0, cooldown=2), losses([1.0] * 6))
    assert rates == [LR, LR / 2, LR / 2, LR / 2, LR / 4, LR / 4]


def test_no_cut_goes_below_min_lr_nor_raises_a_rate_that_is_below_it():
    _, rates = replay(plateau(patience=0, min_lr=0.15), losses([1.0] * 5))
    assert rates == [LR, LR / 2, 0.15, 0.15, 0.15]
    _, rates = replay(plateau(patience=0, min_lr=2 * LR), losses([1.0] * 3))
    assert rates == [LR] * 3


def test_a_cut_too_small_to_matter_is_not_made():
    _, rates = replay(plateau(patience=0, eps=0.15), losses([1.0] * 4))
    assert rates == [LR, LR / 2, LR / 2, LR / 2]


def test_evaluations_within_warmup_are_not_counted():
    warmup = WARMUPS["linear"](steps=20)
    schedule = Schedule(LR, DECAYS["plateau"](patience=0, factor=0.5), warmup)
    schedule, rates = replay(schedule, losses([1.0, 1.0, 1.0, 1.0]))
    assert rates == [LR * 10 / 20, LR, LR, LR / 2]  # the evaluation at 30 is the first that counts
    curve = schedule.curve(60)
    np.testing.assert_allclose(curve[:20], LR * np.arange(20) / 20)
    assert curve[20:40].tolist() == [LR] * 20
    assert curve[40:].tolist() == [LR / 2] * 20


def test_the_steps_of_events_are_global_whatever_the_counting():
    for counting in ("prefix", "overlap"):
        warmup = WARMUPS["linear"](steps=20, counting=counting)
        schedule = Schedule(LR, DECAYS["plateau"](factor=0.5), warmup).after(Event(37, "plateau"))
        assert schedule.curve(60)[36:38].tolist() == [LR, LR / 2]


def test_a_warmup_that_never_ended_has_no_half_life():
    decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=10)
    schedule = Schedule(LR, decay, WARMUPS["until_error"]())
    assert figures_of(schedule, 100).half_life is None
    assert figures_of(schedule.after(Event(20, "warmup_end")), 100).half_life == 10


@pytest.mark.parametrize("seed", range(10))
def test_plateau_is_torch_s(seed):
    generator = np.random.default_rng(seed)
    options = {
        "factor": float(generator.choice([0.1, 0.5, 0.9])),
        "patience": int(generator.integers(0, 4)),
        "threshold": float(generator.choice([0, 1e-4, 0.05])),
        "cooldown": int(generator.integers(0, 3)),
        "min_lr": float(generator.choice([0, 0.01, 1.0])),
        "threshold_mode": ["rel", "abs"][seed % 2],
    }
    values = np.round(np.cumprod(generator.uniform(0.9, 1.08, 80)), 2).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    _, rates = replay(Schedule(LR, DECAYS["plateau"](**options)), losses(values))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert len(set(expected)) > 1 or options["min_lr"] > LR


# --- a warmup until the training error is low


def resnet(**keys):
    """ResNet-110 uses 0.1 of the rate until the training error is below 0.8, then a piecewise schedule."""
    decay = DECAYS["piecewise"](boundaries=[100, 200], values=[1, 0.1, 0.01])
    return Schedule(LR, decay, WARMUPS["until_error"](**keys))


def errors(values, every=10):
    return {every * (i + 1): {"train_error": value} for i, value in enumerate(values)}


def test_until_its_event_the_warmup_goes_on():
    np.testing.assert_allclose(resnet().curve(500), 0.1 * LR)


def test_the_warmup_ends_at_the_first_evaluation_below_its_error_and_only_once():
    schedule, rates = replay(resnet(), errors([0.9, 0.8, 0.79, 0.9, 0.5]))
    np.testing.assert_allclose(rates, [0.1 * LR, 0.1 * LR, LR, LR, LR])
    assert events(schedule) == [("warmup_end", 30)]
    curve = schedule.curve(300)
    np.testing.assert_allclose(curve[:30], 0.1 * LR)
    np.testing.assert_allclose(curve[30:101], LR)  # boundaries count from step 0: the recipe's are in all updates


def test_under_prefix_the_decay_counts_from_the_event():
    schedule, _ = replay(resnet(counting="prefix"), errors([0.9, 0.7]))
    curve = schedule.curve(300)
    np.testing.assert_allclose(curve[20 + 100], LR)
    np.testing.assert_allclose(curve[20 + 101], 0.1 * LR)


def test_inclusive_holds_the_warmup_for_one_step_more():
    schedule, _ = replay(resnet(inclusive=True), errors([0.7]))
    np.testing.assert_allclose(schedule.curve(13)[9:13], [0.1 * LR, 0.1 * LR, LR, LR])


def test_both_reactions_in_one_schedule():
    """The plateau ignores evaluations before the warmup has ended."""
    schedule = Schedule(LR, DECAYS["plateau"](patience=0, factor=0.5), WARMUPS["until_error"](until_error=0.5))
    evaluations = {
        10: {"train_error": 0.9, "val_loss": 1.0},
        20: {"train_error": 0.9, "val_loss": 1.0},
        30: {"train_error": 0.4, "val_loss": 1.0},
        40: {"train_error": 0.4, "val_loss": 1.0},
        50: {"train_error": 0.4, "val_loss": 1.0},
    }
    schedule, rates = replay(schedule, evaluations)
    np.testing.assert_allclose(rates, [0.1 * LR, 0.1 * LR, LR, LR, LR / 2])
    assert events(schedule) == [("warmup_end", 30), ("plateau", 50)]
    assert [str(event) for event in schedule.events] == ["warmup_end@30", "plateau@50"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("until_error", 0),
        ("until_error", 1.1),
        ("until_error", math.nan),
        ("start_factor", 2),
        ("start_factor", 0),
        ("steps", 5),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(key, value):
    with pytest.raises(InvalidValueError, match=f"^{key}="):
        WARMUPS["until_error"](**{key: value})


def test_optax_has_no_patience_of_zero():
    with pytest.raises(InvalidValueError, match=r"^patience=0"):
        DECAYS["plateau"](cut="optax", patience=0)


@pytest.mark.parametrize(
    ("name", "keys", "warmup", "warm_at"),
    [
        ("cosine", {"decay_steps": 50}, {"steps": 20}, 20),
        ("one_cycle", {"total_steps": 100, "pct_start": 0.3}, {"steps": 0}, 29),
        ("noam", {"noam_steps": 30}, {"steps": 0}, 29),
        ("cyclic", {"base_factor": 0.1, "step_size_up": 30, "step_size_down": 5}, {"steps": 0}, 30),
        ("noam", {"noam_steps": 30}, {"steps": 10}, 39),
        ("noam", {"noam_steps": 30}, {"steps": 10, "counting": "overlap"}, 29),
    ],
)
def test_a_schedule_is_warm_where_its_rate_is_first_at_its_peak(name, keys, warmup, warm_at):
    schedule = Schedule(LR, DECAYS[name](**keys), WARMUPS["linear"](**warmup))
    assert schedule.warm_at == warm_at == figures_of(schedule, 100).peak_step


def test_until_its_event_a_warmup_is_not_over():
    assert resnet().warm_at > 10**9
    assert resnet().after(Event(30, "warmup_end")).warm_at == 30
