"""Test trainings whose batches are divided among processes."""

import gc
import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig, EngineConfig
from sweep.core import Status
from sweep.data import Split, dataset_of
from sweep.messages import Work
from sweep.pool import PooledEngine, Trainer, begin_workers
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import CPU, SerialEngine
from sweep.training.data_parallel import (
    DataParallelEngine,
    WorkerFailedError,
    WorkerLostError,
    _pickled,
    device_of,
)
from tests.conftest import diagonal
from tests.training.test_pool import DROPPING, ERRORS, Trapped, history, reached
from tests.training.test_snapshots import NORMED, Noisy, assert_equal, content, eventful
from tests.training.test_snapshots import train as train_in_parts
from tests.training.workers import SHARED_WORKERS

OWN = (__name__,)


def shared(data, workers=2):
    return SHARED_WORKERS.engine(data, CPU, "float64", workers)


@pytest.fixture
def begun(digits):
    """Start a data-parallel engine with its own processes, and return it with the processes of its other workers."""

    def make(workers):
        others = begin_workers(workers)
        return DataParallelEngine(digits, CPU, "float64", [w.pipe for w in others]), [w.process for w in others]

    return make


# --- the same training


EMA, PLATEAU = {"average": 0.99}, {"decay": DECAYS["plateau"](factor=0.5, patience=0, threshold=0.8)}
UNTIL_ERROR = {"warmup": WARMUPS["until_error"](until_error=0.6), "eval_every": 20}
SAME = {
    "plain": {},
    "an odd batch": {"batch_size": 61, "workers": 3},
    "fewer examples than workers": {"batch_size": 7, "workers": 3, "lr": 0.02},  # 1079 = 154 * 7 + 1
    "dropout": {"model": DROPPING, "workers": 3},
    "clipped": {"clip_norm": 0.3, "lr": 0.5},
    "adam": {"optimizer": "adam", "model": DROPPING},
    "muon": {"optimizer": "muon"},
    "accumulated": {"accumulate": 5, "batch_size": 33, "model": DROPPING},
    "averaged": EMA,
    "groups": {"groups": {"bias_and_norm": {"lr_factor": 0.5}}},
    "reactions": {**PLATEAU, **UNTIL_ERROR, "lr": 0.5, "workers": 3},
    "everything": {**EMA, **PLATEAU, **UNTIL_ERROR, "model": DROPPING, "clip_norm": 1.0, "accumulate": 3, "lr": 0.5},
}


@pytest.mark.parametrize("keys", SAME.values(), ids=list(SAME))
def test_parts_of_each_batch_give_the_training_of_one_process(make_trial, train, digits, keys):
    """200 updates in float64. The order of the sums differs."""
    keys = {"steps": 200, "eval_every": 40, "lr": 0.05, "optimizer": "momentum", **keys}
    workers = keys.pop("workers", 2)
    (found,) = train(shared(digits, workers), make_trial(**keys)).values()
    (expected,) = train(SerialEngine(digits, CPU, "float64"), make_trial(**keys)).values()
    assert found.steps == expected.steps == list(range(200))
    assert found.lr == expected.lr
    assert found.status is Status.COMPLETE
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    for one, other in zip(found.evaluations, expected.evaluations, strict=True):
        assert one.step == other.step
        assert one.metrics == pytest.approx(other.metrics, rel=1e-8)


def test_a_regression_too(make_trial, train, line):
    trial = make_trial(batch_size=16, lr=0.01, steps=200)
    found, expected = train(shared(line, 3), trial)[0], train(SerialEngine(line, CPU, "float64"), trial)[0]
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)


def test_the_state_is_that_of_one_process(digits, make_trial):
    """It includes weights, averages, momenta, events, memories of reactions, and the window of the training error."""
    trials = [eventful(make_trial)]
    (found,) = train_in_parts(["data_parallel"], digits, "float64", trials).values()
    (expected,) = train_in_parts(["serial"], digits, "float64", trials).values()
    assert found.events == expected.events
    one, other = content(found.state), content(expected.state)
    for part in ("model", "average"):
        torch.testing.assert_close(one[part], other[part], rtol=1e-9, atol=1e-12)
    for part in ("events", "mistakes", "seen", "global_step"):
        assert_equal(one[part], other[part])


@pytest.mark.parametrize("kinds", [("serial", "data_parallel"), ("data_parallel", "fused")], ids="->".join)
def test_what_one_kind_stops_with_the_other_goes_on_from(digits, make_trial, kinds):
    trial = make_trial(model=DROPPING, optimizer="adam", average=0.99, steps=40)
    (found,) = train_in_parts(kinds, digits, "float64", [trial], cut=lambda: True).values()
    (expected,) = train_in_parts(["serial"], digits, "float64", [trial]).values()
    np.testing.assert_allclose(found.rows, expected.rows, rtol=1e-8)


NOTEBOOK = """
import torch

class Pictures(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": int(self.y[index])}

collate = lambda examples: {
    "x": torch.stack([example["x"] for example in examples]),
    "y": torch.tensor([example["y"] for example in examples]),
}
"""
"""The code of a notebook cell, whose definitions are in no module that a worker can import."""


def test_a_data_set_from_a_notebook_that_loads_its_examples(digits, make_trial, train):
    cell = {"__name__": "__main__"}
    exec(NOTEBOOK, cell)
    parts = {
        name: cell["Pictures"](*split[:200].batch.values())
        for name, split in (("train", digits.train), ("val", digits.val))
    }
    config = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), n_classes=10)
    data = dataset_of(as_source({**parts, "collate": cell["collate"]}), config)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(data.train.loader)
    (found,) = train(shared(data), make_trial()).values()
    (expected,) = train(SerialEngine(data, CPU, "float64"), make_trial()).values()
    assert found.status is Status.COMPLETE
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    assert found.evaluations[-1].metrics == pytest.approx(expected.evaluations[-1].metrics, rel=1e-8)


def test_what_workers_are_sent_holds_its_tensors_in_shared_memory():
    class Local:
        pass

    held, local = torch.zeros(1_000_000), Local()  # such a class is pickled by value
    local.numbers = held
    content = bytes(_pickled(("join", held, nn.Parameter(torch.zeros(1_000_000)), local)))
    assert len(content) < 10_000
    assert held.is_shared()
    _, received, _, with_it = pickle.loads(content)
    held[3] = 7
    assert received[3] == with_it.numbers[3] == 7


class Partly(nn.Module):
    """Has unused parameters and frozen parameters."""

    def __init__(self, input_shape, n_outputs) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(64, n_outputs), nn.Linear(3, 4)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        return self.used(x.flatten(1))


def test_a_parameter_without_a_gradient_is_left_alone(digits, make_trial):
    """The decay of AdamW would shrink it, if its gradient were 0."""
    trial = make_trial(model=Component("model", f"{__name__}.Partly", {}, OWN), optimizer="adamw", batch_size=7)
    trial = replace(trial, config=replace(trial.config, train=replace(trial.config.train, steps=155)))
    (found,) = train_in_parts(["data_parallel"], digits, "float64", [trial]).values()
    (expected,) = train_in_parts(["serial"], digits, "float64", [trial]).values()
    one, other = content(found.state), content(expected.state)
    assert_equal(one["model"]["unused.weight"], other["model"]["unused.weight"])
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()


# --- what is each worker's own


def test_a_norm_sees_parts_as_it_sees_micro_batches(digits, make_trial, train):
    """The norm is evaluated with the statistics of worker 0's parts."""
    found = train(shared(digits), make_trial(model=NORMED, steps=60))[0]
    expected = train(SerialEngine(digits, CPU, "float64"), make_trial(model=NORMED, steps=60, accumulate=2))[0]
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    assert found.evaluations[-1].metrics["val_loss"] != expected.evaluations[-1].metrics["val_loss"]


NOISY = Component("model", f"{Noisy.__module__}.Noisy", {}, trusted=(Noisy.__module__,))


def test_what_a_model_of_its_own_draws_goes_on(digits, make_trial):
    trial = make_trial(model=NOISY, steps=30)
    whole = train_in_parts(["data_parallel"], digits, "float64", [trial])
    parts = train_in_parts(["data_parallel"], digits, "float64", [trial], pause=lambda: True, cut=lambda: True)
    assert parts[0].rows == whole[0].rows
    assert_equal(content(parts[0].state), content(whole[0].state))


class Drawing(nn.Module):
    """Returns random numbers that are equal for all examples."""

    def __init__(self, input_shape, n_outputs) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x):
        drawn = torch.rand(len(self.weight)) if self.training else torch.zeros(len(self.weight))
        return (self.weight + drawn).expand(len(x), -1)


def test_workers_draw_different_numbers(line, make_trial, train):
    """With equal numbers the loss would be that of a single worker."""
    model = Component("model", f"{__name__}.Drawing", {}, OWN)
    same = replace(line, train=Split({"x": 0 * line.train.inputs, "y": 0 * line.train.targets}))
    trial = make_trial(model=model, optimizer="sgd", lr=1e-30, batch_size=60, steps=20)
    two, three = (train(shared(same, workers), trial)[0].loss for workers in (2, 3))
    assert len({*two}) == len({*three}) == 20
    assert np.std(three) < np.std(train(shared(same, 1), trial)[0].loss)  # a mean of several draws


# --- processes


def gone(process, patience=10.0):
    process.join(patience)
    return process.exitcode is not None


def test_workers_go_with_their_engine(begun, make_trial):
    engine, processes = begun(3)
    engine.start(make_trial())
    engine.advance()
    assert len(processes) == 2
    del engine
    gc.collect()
    assert all(map(gone, processes))
    assert {process.exitcode for process in processes} == {0}


def test_connections_are_of_this_machine_alone(begun):
    _engine, processes = begun(3)
    listening = {pid: [] for pid in (os.getpid(), *(process.pid for process in processes))}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        sockets = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        for pid, addresses in listening.items():
            own = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists() or fd.is_symlink()}
            addresses += [s[1].partition(":")[0] for s in sockets if s[3] == "0A" and f"socket:[{s[9]}]" in own]
    assert len(listening) == 3
    assert all({*addresses} == {"0100007F"} for addresses in listening.values())  # 127.0.0.1


def test_nothing_is_left_in_the_temporary_folder(begun, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine, _ = begun(2)
    assert list(tmp_path.iterdir()) == []
    del engine
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["between two boundaries", "within one"])
def test_a_worker_that_was_killed_is_noticed_at_once(begun, make_trial, when):
    engine, (_, victim) = begun(3)
    engine.start(make_trial(steps=1_000_000, eval_every=10 if when == "between two boundaries" else 1_000_000))
    if when == "between two boundaries":
        engine.advance()
        os.kill(victim.pid, signal.SIGKILL)
        gone(victim)
    else:
        asked = iter(range(1_000_000))
        engine.pause = lambda: next(asked) == 30 and bool(os.kill(victim.pid, signal.SIGKILL))
    began = time.monotonic()
    with pytest.raises(WorkerLostError, match=r"^a data-parallel worker has ended$"):
        engine.advance()
    assert time.monotonic() - began < 20


class Second(nn.Module):
    """Raises an error in every process except that of the test."""

    def __init__(self, input_shape, n_outputs, first) -> None:
        super().__init__()
        self.linear, self.first = nn.Linear(64, n_outputs), first

    def forward(self, x):
        if self.training and os.getpid() != self.first:
            raise ValueError("only here")
        return self.linear(x.flatten(1))


def test_what_fails_in_a_worker_is_raised_here(begun, make_trial):
    engine, _ = begun(2)
    engine.start(make_trial(model=Component("model", f"{__name__}.Second", {"first": os.getpid()}, OWN)))
    with pytest.raises(WorkerFailedError, match=r"^ValueError: only here \(.*test_data_parallel.py:\d+ in forward\)$"):
        engine.advance()


# --- in a process of its own


@pytest.fixture
def apart(make_trial):
    """Start data-parallel engines in separate processes, and end them after the test."""
    begun = []

    def make(*, seconds=60.0, retries=0, say=print, workers=2, **keys):
        like = make_trial(workers=workers, **keys).config
        like = replace(like, train=replace(like.train, checkpoint_seconds=seconds))
        work = Work([like], 8, learns=True)
        begun.append(PooledEngine(Trainer(), EngineConfig("auto"), work, retries=retries, say=say))
        return begun[-1]

    yield make
    for engine in begun:
        engine.close()
        engine._trainer.close()


def workers_of(engine):
    return [worker.process.pid for worker in engine._workers]


def test_it_is_chosen_for_several_workers_and_says_so(apart):
    account = apart(workers=3).account
    assert (account.name, account.slots, account.workers, account.why) == ("data_parallel", 1, 3, "gloo")
    assert account.as_dict()["workers"] == 3


@pytest.mark.parametrize(("victim", "seconds"), diagonal(["worker", "engine"], [0.02, 60.0]))
def test_one_that_was_killed_is_replaced_and_nothing_is_lost_or_given_twice(apart, make_trial, victim, seconds):
    said = []
    keys = {"model": DROPPING, "optimizer": "adam", "average": 0.9, "precision": "float32", "workers": 2}
    trial = make_trial(0, steps=400, eval_every=50, **keys)
    expected = history(apart(**keys), trial)
    engine = apart(seconds=seconds, retries=1, say=said.append, **keys)

    def kill():
        (worker,) = workers_of(engine)
        os.kill(worker if victim == "worker" else engine._trainer.pid, signal.SIGKILL)

    assert history(engine, trial, then=kill) == expected
    who = "a data-parallel worker" if victim == "worker" else "the training process"
    assert said == [f"{who} was killed by signal 9: retrying trial 0"]
    assert (engine.finished().name, engine.finished().workers) == ("data_parallel", 2)


@pytest.mark.parametrize("how", ["killed", *ERRORS])
def test_a_trial_that_it_happens_to_again_and_again_has_failed_and_the_next_is_trained(
    apart, make_trial, tmp_path, how
):
    """Any worker may fail first."""
    said, trap = [], tmp_path / "trap"
    model = Component("model", f"{Trapped.__module__}.Trapped", {"trap": str(trap), "times": -1}, (Trapped.__module__,))
    engine = apart(model=model, retries=1, say=said.append)
    first, second = (make_trial(number, model=model, steps=200, eval_every=10, workers=2) for number in range(2))
    assert history(engine, first, then=lambda: trap.write_text(how))[0][2] == [Status.FAILED]
    assert [line.rpartition(": ")[2] for line in said] == ["retrying trial 0", "trial 0 has failed"]
    trap.unlink()
    assert history(engine, second)[1][2] == [Status.COMPLETE]
    assert engine.finished().name == "data_parallel"


class OneFails(nn.Module):
    """Raises an error in one of the processes if it was built with seed 1."""

    def __init__(self, input_shape, n_outputs, process) -> None:
        super().__init__()
        self.linear, self.fails = nn.Linear(64, n_outputs), torch.initial_seed() == 1
        self.process, self.calls = process, 0

    def forward(self, x):
        self.calls += 1
        if self.fails and self.calls > 20 and multiprocessing.current_process().name == self.process:
            raise ValueError("only here")
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("process", ["sweep-trainer", "sweep-worker-1"])
def test_an_error_in_one_process_is_the_failure_of_the_trial_and_the_next_is_trained(apart, make_trial, process):
    said, model = [], Component("model", f"{__name__}.OneFails", {"process": process}, OWN)
    engine = apart(model=model, retries=3, say=said.append)
    first, second = (make_trial(1 - n, seed=1 - n, model=model, steps=60, eval_every=10, workers=2) for n in range(2))
    engine.start(first)
    while (last := reached(engine)[-1]).status is None:
        pass
    assert last.status is Status.FAILED
    assert last.failure.reason.startswith("ValueError: only here (")
    assert history(engine, second)[0][2] == [Status.COMPLETE]
    assert (engine.finished().name, engine.finished().workers, said) == ("data_parallel", 2, [])


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_no_process_is_left(apart, make_trial, how):
    engine = apart(workers=3)
    engine.start(make_trial(0, steps=100_000, eval_every=10, workers=3))
    reached(engine)
    workers = workers_of(engine)
    assert len(workers) == 2
    if how == "closed":
        engine.close()
    else:
        os.kill(engine._trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_told_to_stop_it_stops_at_the_next_update_and_gives_where_it_stands(apart, make_trial):
    trial = make_trial(0, steps=100_000, eval_every=100_000, model=DROPPING, workers=2)
    engine = apart(model=DROPPING)
    engine.account  # noqa: B018 (waits until it is chosen)
    engine.start(trial)
    time.sleep(0.5)
    began = time.monotonic()
    given = engine.snapshots()
    assert time.monotonic() - began < 4
    (state,) = (progress.state for progress in given if progress.state is not None)
    assert sum(len(part.lr) for progress in given for part in progress.rows) == state.step > 0


def test_each_worker_has_the_gpu_after_the_one_before():
    assert [str(device_of(torch.device("cuda:1"), rank)) for rank in range(3)] == ["cuda:1", "cuda:2", "cuda:3"]
    assert device_of(torch.device("cuda"), 0) == torch.device("cuda:0")
    assert device_of(CPU, 3) == CPU
