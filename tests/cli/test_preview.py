"""Tests mode=preview, which draws one or several curves without training or recording."""

import csv

import numpy as np
import pytest

from sweep.report.figures import curves_picture
from sweep.schedules import DECAYS

T = ["train.steps=50", "warmup=none", "optimizer.lr=0.4"]


def table(folder):
    with (folder / "schedule.csv").open() as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float)


def size(path):
    """Return width and height of a PNG."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_one_schedule_is_step_and_lr_a_picture_and_its_key_figures(sweep, folder):
    answer = sweep("mode=preview", "schedule=linear", *T)
    assert (answer.status, answer.err) == (0, "")
    header, rows = table(folder)
    assert header == ["step", "lr"]
    np.testing.assert_allclose(rows, [[s, 0.4 * (1 - s / 50)] for s in range(50)], rtol=1e-12)
    assert "peak       0.4 at step 0" in answer.out
    assert "half-life  25.0 updates" in answer.out
    assert size(folder / "schedule.png") == (640, 360)
    assert sorted(path.name for path in folder.iterdir()) == ["schedule.csv", "schedule.png"]


def test_several_schedules_stand_side_by_side(sweep, folder):
    answer = sweep("mode=preview", "schedule=exponential,cosine,wsd", *T)
    assert (answer.status, answer.err) == (0, "")
    header, rows = table(folder)
    assert header == ["step", "exponential", "cosine", "wsd"]
    assert rows.shape == (50, 4)
    s = np.arange(50)
    np.testing.assert_allclose(rows[:, 1], 0.4 * 0.5 ** (s / 10), rtol=1e-12)
    np.testing.assert_allclose(rows[:, 2], 0.2 * (1 + np.cos(np.pi * s / 50)), rtol=1e-12)
    np.testing.assert_allclose(rows[:, 3], 0.4 * np.minimum(1, (50 - s) / 10), rtol=1e-12)
    for name in header[1:]:
        assert name in answer.out
    assert size(folder / "schedule.png") == (800, 450)


def test_the_values_of_a_key_are_drawn_side_by_side_too(sweep, folder):
    lists = ["schedule=exponential,natural_exponential", "schedule.decay_rate=0.5,0.9", "schedule.decay_steps=10"]
    assert sweep("mode=preview", *lists, *T).status == 0
    header, rows = table(folder)
    assert header == [
        "step",
        "exponential decay_rate=0.5",
        "exponential decay_rate=0.9",
        "natural_exponential decay_rate=0.5",
        "natural_exponential decay_rate=0.9",
    ]
    expected = [0.4 * f for f in (0.5, 0.9, np.exp(-0.5), np.exp(-0.9))]
    np.testing.assert_allclose(rows[10, 1:], expected, rtol=1e-12)


def test_every_schedule_at_once_gets_a_panel_each(sweep, folder):
    names = sorted(DECAYS.keys() - {"joined"})
    answer = sweep("mode=preview", f"schedule={','.join(names)}", "optimizer.lr=0.5")
    assert (answer.status, answer.err) == (0, "")
    assert table(folder)[0] == ["step", *names]
    width, height = size(folder / "schedule.png")
    assert (width, height) == (1150, 875)
    assert "plateau: drawn without events: plateau depends on val_loss" in answer.out


def test_values_in_parts_of_the_horizon_are_updates(sweep, folder):
    assert sweep("mode=preview", "schedule.decay_steps=tag(fraction,choice(0.1,0.5))", *T).status == 0
    header, rows = table(folder)
    assert header == ["step", "decay_steps=5", "decay_steps=25"]
    assert rows[25, 1:] == pytest.approx([0.4 / 32, 0.2])


def test_labels_tell_a_warmup_from_a_schedule_and_numbers_are_as_written(sweep, folder):
    plain = [
        "train.steps=50",
        "schedule=cosine,linear",
        "warmup=cosine",
        "warmup.steps=${fraction:0.1},${fraction:0.2}",
    ]
    assert sweep("mode=preview", *plain).status == 0
    assert table(folder)[0][1:3] == ["cosine warmup=${fraction:0.1}", "cosine warmup=${fraction:0.2}"]
    assert sweep("mode=preview", "schedule.decay_rate=range(0.1,0.4,0.05)", *T).status == 0
    assert table(folder)[0][1:] == [f"decay_rate={rate}" for rate in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)]


def test_a_rate_below_zero_is_warned_of(sweep):
    assert "the learning rate is below 0 at" in sweep("mode=preview", "schedule=noisy_linear_cosine").out


def test_what_is_stable_may_be_left_to_the_horizon(sweep, folder):
    assert sweep("mode=preview", "schedule=wsd", "schedule.stable_steps=null", *T).status == 0
    assert table(folder)[1][[40, 45], 1] == pytest.approx([0.4, 0.2])


def test_a_plateau_with_too_few_evaluations_to_cut_is_warned_of(sweep):
    few = sweep("mode=preview", "schedule=plateau", "schedule.patience=2", "train.eval_every=10", *T)
    assert "warning: schedule=plateau with patience 2 needs 4 evaluations" not in few.out  # at 10, 20, 30, 40
    fewer = sweep("mode=preview", "schedule=plateau", "schedule.patience=3", "train.eval_every=10", *T)
    assert "warning: schedule=plateau with patience 3 needs 5 evaluations" in fewer.out
    assert "train.eval_every=10 gives 4 before the last update" in fewer.out
    warm = [*T, "warmup=linear", "warmup.steps=10"]
    warming = sweep("mode=preview", "schedule=plateau", "schedule.patience=2", "train.eval_every=10", *warm)
    assert "gives 3 before the last update" in warming.out


def test_a_schedule_that_warms_up_by_itself_has_no_other_warmup_unless_one_is_asked_for(sweep, folder):
    sweep("mode=preview", "schedule=noam", "schedule.noam_steps=20", "train.steps=50", "optimizer.lr=1")
    assert table(folder)[1][:2, 1] == pytest.approx([1 / 20, 2 / 20])
    sweep(
        "mode=preview", "schedule=noam", "schedule.noam_steps=20", "train.steps=50", "warmup=linear", "optimizer.lr=1"
    )
    assert table(folder)[1][0, 1] == 0


def test_half_life_in_place_of_rate_and_steps(sweep, folder):
    assert sweep("mode=preview", "schedule.half_life=10", *T).status == 0
    assert table(folder)[1][:, 1] == pytest.approx(0.4 * 0.5 ** (np.arange(50) / 10))


def test_a_stalling_schedule_among_several_is_named(sweep):
    lists = ["schedule=exponential,cosine", "schedule.decay_steps=1", "train.steps=200", "warmup=none"]
    answer = sweep("mode=preview", *lists)
    assert "warning: exponential: the learning rate stalls at step 25 of 200" in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["schedule.decay_rate=interval(0.1,0.2)"],
            "schedule.decay_rate=interval(0.1,0.2): must be a list (a,b,c) or a range",
        ),
        (["schedule=cosine,cosin"], "schedule=cosin: is not an option"),
        (["schedule=exponential,cosine", "schedule.decay_rate=0.5"], "schedule.decay_rate=0.5: no such key"),
        (["train.batch_size=64,1079", "train.steps=${epochs:3}"], "train.steps=3: must be the same for all"),
    ],
)
def test_what_cannot_be_drawn_is_refused(sweep, folder, arguments, message):
    answer = sweep("mode=preview", *arguments)
    assert answer.status == 2
    assert message in answer.err
    assert list(folder.iterdir()) == []


def test_as_many_curves_as_colours_share_their_axes_and_more_do_not():
    def shape(count):
        picture = curves_picture({str(i): np.arange(5.0) for i in range(count)})
        return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")

    assert shape(2) == shape(8) == (800, 450)
    assert shape(9) == (1150, 350)
