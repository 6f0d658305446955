"""Test how the serial engine chooses its number of CPU threads."""

from dataclasses import replace

import pytest
import torch

from sweep.components import Component
from sweep.training import CPU, SerialEngine, serial

LONG = {"steps": 200, "eval_every": 200}


@pytest.fixture
def speeds(monkeypatch):
    """Replace the measured updates per second by number of threads; return the numbers that were measured."""
    monkeypatch.setattr(serial, "ALL_THREADS", 4)
    monkeypatch.setattr(serial, "MIN_OPERATIONS_PER_CALL", 0)
    tried = []

    def set_speeds(by_threads):
        def speed(engine, slot, updates, rounds):
            tried.append(torch.get_num_threads())
            return by_threads[torch.get_num_threads()]

        monkeypatch.setattr(SerialEngine, "_speed", speed)
        return tried

    yield set_speeds
    torch.set_num_threads(1)


def engine(data):
    return SerialEngine(data, CPU, "float64")


@pytest.mark.parametrize(("all_threads", "chosen"), [(200.0, 4), (109.0, 1), (30.0, 1)])
def test_as_many_threads_are_used_as_are_faster(digits, make_trial, speeds, all_threads, chosen):
    tried, training = speeds({1: 100.0, 4: all_threads}), engine(digits)
    for number in range(2):
        training.start(make_trial(number, **LONG))
        assert torch.get_num_threads() == chosen
        training.stop(make_trial(number, **LONG))
    assert tried == [1, 1, 4, 1, 4, 1, 4]  # for both trials


def test_another_model_is_tried_too(digits, make_trial, speeds):
    tried, training = speeds({1: 100.0, 4: 200.0}), engine(digits)
    for number, batch_size in enumerate((64, 32)):
        training.start(make_trial(number, batch_size=batch_size, **LONG))
        training.stop(make_trial(number, batch_size=batch_size, **LONG))
    assert len(tried) == 14


def test_a_resumed_training_keeps_its_threads(digits, make_trial, speeds):
    speeds({1: 100.0, 4: 200.0})
    training = engine(digits)
    training.start(make_trial(**LONG))
    (progress,) = training.snapshots()
    tried, other = speeds({1: 100.0, 4: 50.0}), engine(digits)
    torch.set_num_threads(1)
    before = len(tried)
    other.start(replace(make_trial(**LONG), state=progress.state))
    assert (torch.get_num_threads(), len(tried)) == (4, before)


def test_small_calls_and_short_trainings_are_not_tried(digits, make_trial, speeds, monkeypatch):
    tried = speeds({})
    training = engine(digits)
    training.start(make_trial(steps=50))
    assert torch.get_num_threads() == 4
    monkeypatch.setattr(serial, "MIN_OPERATIONS_PER_CALL", 10**9)
    other = engine(digits)
    other.start(make_trial(**LONG))
    assert (torch.get_num_threads(), tried) == (1, [])


def test_trying_threads_does_not_change_the_training(digits, make_trial, train, monkeypatch):
    drawing = Component("model", "tests.training.user_models.Drawing", {}, trusted=("tests",))
    trial = make_trial(model=drawing, **LONG)
    (expected,) = train(engine(digits), trial).values()
    monkeypatch.setattr(serial, "ALL_THREADS", 2)
    monkeypatch.setattr(serial, "MIN_THREADS_SPEEDUP", 1e9)  # threads are tried, and one is used
    monkeypatch.setattr(serial, "MIN_OPERATIONS_PER_CALL", 0)
    (found,) = train(engine(digits), trial).values()
    assert found == expected
