"""Test which engine is chosen, and how the choice is explained."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.config import EngineConfig
from sweep.messages import Work
from sweep.training import CPU, FusedEngine, NotStackableError, SerialEngine, refuse_unstackable
from sweep.training.autotune import choose

AUTO, SERIAL, FUSED = EngineConfig("auto"), EngineConfig("serial"), EngineConfig("fused")


class Drawing(nn.Module):
    """Uses random numbers in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x + 0.1 * torch.randn_like(x) if self.training else x)


class Centred(nn.Module):
    """Uses the mean of the whole batch, including padding rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x - x.mean(0) if self.training else x)


class Asking(nn.Module):
    """Branches on the values of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.linear(x.flatten(1))
        return x * 2 if float(x.sum()) > 0 else x


class Remembering(nn.Module):
    """Evaluates with a buffer that it updates in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.seen = 0.5 * self.seen + 0.5 * x.detach()[0]
        return self.linear(x if self.training else x + self.seen)


@pytest.fixture
def work(make_trial):
    """Return the work of a number of trials of 100,000 updates."""

    def make(trials=64, *, learns=False, steps=100_000, compiling="auto", **keys):
        config = make_trial(steps=steps, **keys).config
        return Work([replace(config, train=replace(config.train, compile=compiling))], trials, learns)

    return make


@pytest.fixture
def rates(monkeypatch):
    """Replace the measured updates per second: of one trial, and by the number of slots, eager and compiled."""

    def set_rates(alone, eager, compiled=None, threads=1):
        def serial_rate(engine, config, updates, rounds=1):
            torch.set_num_threads(threads)
            return alone

        def rate(engine, config, updates, rounds=1):
            if compiled is None and engine._compiled:
                raise RuntimeError("no working C++ compiler\nsecond line")
            found = (compiled if engine._compiled else eager)[engine.slots]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(SerialEngine, "rate", serial_rate)
        monkeypatch.setattr(FusedEngine, "rate", rate)

    return set_rates


def test_what_is_asked_for_is_taken(digits, work):
    chosen = choose(SERIAL, digits, CPU, work())
    assert (chosen.name, chosen.slots, chosen.compiled, chosen.why) == ("serial", 1, False, "as asked for")
    chosen = choose(EngineConfig("fused", 5), digits, CPU, work(compiling=False))
    assert (chosen.name, chosen.slots, chosen.compiled, chosen.why) == ("fused", 5, False, "as asked for")


def test_auto_takes_the_slots_that_are_fastest(digits, work, rates):
    rates(1000, {8: 3000.0, 16: 5000.0}, {16: 9000.0})
    chosen = choose(AUTO, digits, CPU, work())
    assert (chosen.name, chosen.slots, chosen.compiled) == ("fused", 16, False)
    assert chosen.why == "5,000 updates a second, 1,000 one trial at a time"


@pytest.mark.parametrize(
    ("asked", "steps", "compiled", "compiles"),
    [
        ("auto", 100_000, False, True),
        ("auto", 1000, False, False),
        (True, 1000, True, False),
        (False, 100_000, False, False),
    ],
)
def test_it_is_compiled_while_it_trains_where_the_work_left_repays_it_or_before_if_asked(
    digits, work, rates, asked, steps, compiled, compiles
):
    rates(1000, {8: 3000.0, 16: 5000.0}, {16: 9000.0})
    chosen = choose(AUTO, digits, CPU, work(compiling=asked, steps=steps))
    assert (chosen.compiled, chosen.compiles) == (compiled, compiles)


def test_whether_to_fuse_is_decided_by_the_compiled_update_where_the_other_is_too_slow(digits, work, rates):
    rates(1000, {8: 800.0, 16: 1000.0}, {16: 4000.0})
    chosen = choose(AUTO, digits, CPU, work())
    assert (chosen.name, chosen.compiled, chosen.compiles) == ("fused", True, False)
    rates(1000, {8: 800.0, 16: 1000.0}, {16: 900.0})
    assert choose(AUTO, digits, CPU, work()).name == "serial"


def test_what_is_slower_compiled_is_compiled_if_asked(digits, work, rates):
    rates(1000, {8: 3000.0, 16: 5000.0}, {16: 4000.0})
    assert choose(AUTO, digits, CPU, work(compiling=True)).compiled


def test_without_a_compiler_it_goes_on_and_says_so(digits, work, rates):
    rates(1000, {8: 3000.0, 16: 5000.0})
    chosen = choose(AUTO, digits, CPU, work(compiling=True))
    assert (chosen.name, chosen.compiled) == ("fused", False)
    assert chosen.why.endswith("1,000 one trial at a time; could not be compiled (no working C++ compiler)")


def test_what_was_measured_is_not_measured_again(digits, work, rates, monkeypatch):
    """Further work with the same model gets an engine that suits its number of trials and updates."""
    rates(1000, {8: 3000.0, 16: 5000.0}, {16: 9000.0})
    first = choose(AUTO, digits, CPU, work())
    assert first.measured is not None
    assert (first.measured.alone, first.measured.together) == (1000, 5000)

    def measuring(*args, **keys):
        raise AssertionError("it is measured again")

    monkeypatch.setattr(SerialEngine, "rate", measuring)
    monkeypatch.setattr(FusedEngine, "rate", measuring)
    monkeypatch.setattr("sweep.training.autotune.refuse_unstackable", measuring)
    again = choose(AUTO, digits, CPU, work(), known=first.measured)
    assert (again.name, again.slots, again.compiles, again.measured) == ("fused", 16, True, first.measured)
    assert again.why == f"as measured before: {first.why}"
    fewer = choose(AUTO, digits, CPU, work(10), known=first.measured)
    assert (fewer.name, fewer.slots) == ("fused", 10)
    assert choose(AUTO, digits, CPU, work(3), known=first.measured).name == "serial"
    assert choose(AUTO, digits, CPU, work(64, steps=50), known=first.measured).why.startswith("3,200 updates are done")
    slow = replace(first.measured, together=2000)
    assert choose(AUTO, digits, CPU, work(33, learns=True), known=slow).why.startswith(
        "4 trials at once are not faster"
    )


def test_a_model_that_cannot_be_stacked_is_not_tried_again(digits, work, monkeypatch):
    given = work(model=Component("model", f"{__name__}.Asking", {}, (__name__,)))
    first = choose(AUTO, digits, CPU, given)
    assert (first.name, first.measured.together) == ("serial", 0)
    monkeypatch.setattr("sweep.training.autotune.refuse_unstackable", None)
    again = choose(AUTO, digits, CPU, given, known=first.measured)
    assert (again.name, again.why) == ("serial", first.why)


def test_a_model_that_takes_several_threads_alone_is_fused_for_a_larger_gain(digits, work, rates):
    for together, threads, name in ((1200, 1, "fused"), (1200, 2, "serial"), (1499, 2, "serial"), (1600, 2, "fused")):
        rates(1000, {8: together, 16: together}, threads=threads)
        first = choose(AUTO, digits, CPU, work(compiling=False))
        assert first.name == name
        assert choose(AUTO, digits, CPU, work(compiling=False), known=first.measured).name == name
    torch.set_num_threads(1)


def test_auto_is_never_slower_than_serial(digits, work, rates):
    rates(1000, {8: 900.0, 16: 1050.0}, {16: 1050.0})
    chosen = choose(AUTO, digits, CPU, work())
    assert (chosen.name, chosen.slots) == ("serial", 1)
    assert chosen.why.startswith("16 trials at once are not faster: 1,050 updates a second, 1,000 one trial at a time")


def test_slots_that_the_memory_does_not_hold_are_not_taken(digits, work, rates):
    rates(1000, {8: 3000.0, 16: torch.OutOfMemoryError()}, {8: 4000.0})
    assert choose(AUTO, digits, CPU, work()).slots == 8
    rates(1000, {8: torch.OutOfMemoryError("out of memory"), 16: 1.0})
    assert choose(AUTO, digits, CPU, work()).why == "8 trials at once: out of memory"


def test_a_sampler_that_learns_keeps_most_results_to_learn_from(digits, work, rates):
    rates(1000, {4: 2000.0, 8: 3000.0, 16: 5000.0}, {4: 2000.0, 8: 4000.0, 16: 9000.0})
    assert choose(AUTO, digits, CPU, work(128, learns=True)).slots == 16
    assert choose(AUTO, digits, CPU, work(127, learns=True)).slots == 8
    assert choose(AUTO, digits, CPU, work(32, learns=True)).slots == 4
    few = choose(AUTO, digits, CPU, work(31, learns=True))
    assert few.why == "31 trials are too few to train several at once: its sampler learns from each"
    assert choose(AUTO, digits, CPU, work(3)).why == "3 trials are too few to train several at once"
    for config in (AUTO, SERIAL):
        assert choose(config, digits, CPU, work(1)).why == "one training"


def test_a_last_round_that_is_not_full_counts(digits, work, rates):
    """9 trials over 8 slots take as long as 16."""
    rates(1000, {8: 1500.0, 16: 1500.0}, {8: 1500.0})
    assert choose(AUTO, digits, CPU, work(9)).name == "serial"
    assert choose(AUTO, digits, CPU, work(16)).name == "fused"


def test_a_horizon_shorter_than_what_is_tried(digits, work):
    chosen = choose(EngineConfig("auto", 2), digits, CPU, work(4, steps=3, compiling=False))
    assert chosen.name in ("serial", "fused")
    assert chosen.engine.free == chosen.slots


def test_little_work_is_done_at_once(digits, work, rates):
    rates(1000, {})
    assert choose(AUTO, digits, CPU, work(40, steps=100)).why.startswith("4,000 updates are done sooner than")


def test_slots_that_were_measured_are_free_again(digits, work):
    engine = choose(EngineConfig("fused", 5), digits, CPU, work(compiling=False)).engine
    assert engine.free == 5
    assert engine.advance() == []


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Drawing, "cannot be stacked: it draws random numbers of its own"),
        (Centred, "gives other losses stacked than alone"),
        (Asking, r"cannot be stacked: it decides by the values of a tensor \(.*test_autotune.py:\d+ in forward: .+\)"),
        (Remembering, "gives other losses stacked than alone"),
    ],
)
def test_a_model_that_cannot_be_stacked_is_trained_alone_and_it_is_said_why(digits, work, model, reason):
    given = work(model=Component("model", f"{__name__}.{model.__name__}", {}, trusted=(__name__,)), compiling=False)
    with pytest.raises(NotStackableError, match=reason):
        refuse_unstackable(digits, CPU, given.like)
    chosen = choose(AUTO, digits, CPU, given)
    assert chosen.name == "serial"
    assert model.__name__ in chosen.why


def test_trials_of_different_structure_are_not_stacked(digits, make_trial):
    like = [make_trial(batch_size=size).config for size in (32, 64)]
    with pytest.raises(NotStackableError, match=r"^the trials differ in train\.batch_size$"):
        refuse_unstackable(digits, CPU, like)


@pytest.mark.parametrize("model", ["models.mlp.MLP", "models.cnn.CNN"])
def test_the_models_that_ship_can_be_stacked(digits, make_trial, model):
    dropping = Component("model", model, {"dropout": 0.5})
    refuse_unstackable(digits, CPU, [make_trial(model=dropping, precision="bf16").config])
