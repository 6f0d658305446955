"""The interface of a user's loop to its training: steps, rates, and the record of losses and evaluations."""

import copy
import math
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.core import Evaluation, Rows, Snapshot, Trial
from sweep.errors import InvalidValueError
from sweep.schedules import Event, Memory
from sweep.training.base_engine import RowBuffer, on_host
from sweep.training.generators import RandomState
from sweep.training.state import TRAIN_ERROR
from sweep.training.state_io import read, saved

LOOP_STATE_KEYS = {"loop", "random", "events", "memories", "global_step"}
"""Keys of the stored state of a loop."""

METRIC_NAME = re.compile(rf"(val|test)_[A-Za-z]\w*|{TRAIN_ERROR}")
"""Names of metrics that a loop may report."""

SYNCHRONOUS_DEVICES = ("cpu",)
"""Device types whose tensors are read at once. Losses on other devices are read at the next evaluation."""

STORABLE = "state dicts, tensors, numbers, texts, and lists, tuples and mappings of these can be stored"

RATE_RTOL, RATE_ATOL = 1e-6, 1e-12
"""Relative and absolute tolerance between a reported rate and the schedule's. A float32 rate is within them."""


class Run:
    """The interface through which a user's loop reads rates, records losses, and reports evaluations and states.

    >>> def main(run, width=64):
    ...     model = Net(width)
    ...     if run.state is not None:
    ...         model.load_state_dict(run.state["model"])
    ...     for step in run.steps():
    ...         loss = update(model, lr=run.lr(step))
    ...         run.record(loss)
    ...         if run.evaluating(step):
    ...             run.evaluate(val_loss=evaluate(model))
    ...         run.checkpoint(lambda: {"model": model.state_dict()})

    Attributes:
        seed: seed of this training. The generators of torch, NumPy and Python are seeded with it before the call.
        device: the device of train.device.
        horizon: train.steps, T.
        config: the resolved configuration, nested mappings of plain values: run.config["optimizer"]["lr"].
        test: whether this is a final run, which reports test_<name> at its end.
        state: the state that run.checkpoint stored before an interruption, with tensors on the CPU; None at the start.
        folder: a folder for files of this training. They are kept until it ends, also after an interruption.
        session: used by the engine. It is not part of the interface.
    """

    def __init__(self, session: "Session", state: Any, folder: Path) -> None:
        trial = session.trial
        self.seed: int = trial.seed
        self.device: torch.device = session.device
        self.horizon: int = trial.config.train.steps
        self.config: dict[str, Any] = copy.deepcopy(dict(trial.config.resolved))
        self.test: bool = trial.final
        self.state: Any = state
        self.folder = folder
        self.session = session

    def steps(self) -> Iterator[int]:
        """Yield the steps from the current one to the end; stop earlier if the trial is pruned or interrupted.

        Step s is the update after s completed updates. The generators of torch, NumPy and Python are restored from the
        checkpoint before the first step. run.record must be called once in each step.
        """
        return self.session.steps()

    def lr(self, step: int) -> float:
        """Return the rate of update `step`, counted from 0."""
        return self.session.lr(step)

    def record(self, loss: float | Tensor, lr: float | None = None) -> None:
        """Record the update of the current step.

        Args:
            loss: loss of the batch before the update: a number, or a tensor with one element, which stays on its device
                until the next evaluation. The trial ends as diverged if the loss is not finite.
            lr: the rate that the update used, which must equal run.lr(step); None if the loop has called run.lr(step).
        """
        self.session.record(loss, lr)

    def evaluating(self, step: int) -> bool:
        """Return whether an evaluation is due after update `step`.

        It is due if step + 1, the number of completed updates, is a multiple of train.eval_every, and at the end.
        """
        return self.session.due(step + 1)

    def evaluate(self, **metrics: float | Tensor) -> None:
        """Report metrics after the update of the current step, if an evaluation is due, or after the last step.

        Args:
            metrics: val_loss=..., val_<name>=..., and in final runs test_loss=...; also train_error, the share of
                misclassified training examples, for warmup=until_error. The trial ends as diverged if a metric is not
                finite. Further metrics may be reported in another call.
        """
        self.session.evaluate(metrics)

    def checkpoint(self, make: Callable[[], Any]) -> None:
        """Offer the state after the current step. If a checkpoint is due, `make` is called at the end of the step.

        Args:
            make: returns the state from which the loop can resume, such as {"model": model.state_dict()}: state dicts,
                tensors, numbers, texts, and lists, tuples and mappings of these.
        """
        self.session.offer(make)


class Session:
    """The progress of a loop, which the engine and the run share. Only one of their threads uses it at a time.

    Args:
        trial: the trial that the loop trains.
        name: key and value that identify the loop in messages.
        metric: name of the metric that every evaluation must report.
        pause: called between two steps; returns whether to pass the turn to the engine.
        hand_over: passes the turn to the engine, and returns when it is the loop's turn again.
    """

    def __init__(
        self,
        trial: Trial,
        name: tuple[str, str],
        device: torch.device,
        metric: str,
        pause: Callable[[], bool],
        hand_over: Callable[[], None],
    ) -> None:
        self.trial, self.device, self.name = trial, device, name
        self.metric, self.pause, self.hand_over = metric, pause, hand_over
        self.step = 0
        """Completed updates."""
        self.events: tuple[Event, ...] = ()
        self.memories: dict[str, Memory] = {}
        self.state: Any = None
        self.random: RandomState | None = None
        if trial.state is not None:
            stored = read(trial.state, LOOP_STATE_KEYS)
            self.step, self.state = stored["global_step"], stored["loop"]
            self.events = tuple(Event(step, name) for step, name in stored["events"])
            self.memories = {name: tuple(memory) for name, memory in stored["memories"].items()}
            self.random = RandomState(*stored["random"])
        self._taken = self.step
        self.unrecorded = RowBuffer(trial.number, self.step)
        self.stopped = self.diverged = False
        self.wanted = False
        """Whether the engine needs a state and the loop has offered none yet."""
        self.final: Snapshot | None = None
        self.refusal: InvalidValueError | None = None
        self.metrics: dict[str, float] = {}
        """Metrics of the evaluation that is due, as far as they were reported."""
        self._begun = self._within = self._recorded = self._reacted = self._tried = False
        self._offered: tuple[int, Callable[[], Any]] | None = None
        self._asked: set[int] = set()
        """Steps for which the loop has called run.lr."""
        self._rates: list[float] = []
        self._losses: list[Any] = []
        self._redraw()

    def _redraw(self) -> None:
        (series,) = self.trial.config.series
        self.curve: list[float] = series.curve(self.events, self.trial.last).tolist()
        self._asked.clear()  # rates that were returned before may have changed

    def due(self, completed: int) -> bool:
        """Return whether an evaluation is due after this number of completed updates."""
        return completed > 0 and (completed == self.trial.last or completed % self.trial.config.train.eval_every == 0)

    def refuse(self, rule: str) -> InvalidValueError:
        """Return the error that describes a fault of the loop. It ends the trial even if the loop catches it."""
        self.refusal = self.refusal or InvalidValueError(*self.name, rule)
        return self.refusal

    def steps(self) -> Iterator[int]:
        if self._begun and not self.stopped:
            raise self.refuse("calls run.steps() twice: iterate over it once")
        self._begun = True
        if self.random is not None:
            self.random.restore(self.device)
            self.random = None
        while self.step < self.trial.last and not self.stopped:
            self._within, self._recorded = True, False
            yield self.step
            self._end_step()
        self._within = False

    def _end_step(self) -> None:
        """Check what the loop did in a step, and pass the turn to the engine if it needs the turn."""
        if self.refusal is not None:  # the loop has caught it
            raise self.refusal
        if self.stopped:
            return
        if not self._recorded:
            raise self.refuse(f"skips step {self.step}: run.record(loss) must be called once in each step")
        self._within, self.step = False, self.step + 1
        if self.step == self.trial.last:
            if self.trial.keeps_state and self.offers and not self.diverged:
                self.final = self.snapshot()
            return
        due = self.due(self.step)
        if due and not self.diverged:
            self.check_metrics()
        if due or self.diverged or (self.wanted and self.offers) or self.pause():
            self.hand_over()

    def wait(self) -> bool:
        """Pass the turn to the engine in the middle of a step if it needs the turn. Return whether to continue."""
        assert not self._recorded
        if not self.stopped and self.pause():
            self._within = False
            self.hand_over()
            self._within = True
        return not self.stopped

    def lr(self, step: int) -> float:
        step = operator.index(step)
        if not 0 <= step < len(self.curve):
            if step < 0:
                raise self.refuse(f"calls run.lr({step}): steps are counted from 0")
            (series,) = self.trial.config.series
            return float(series.schedule.after(*self.events)(np.asarray(step)))
        self._asked.add(step)
        return self.curve[step]

    def record(self, loss: Any, lr: Any) -> None:
        step = self.step
        if not self._within:
            raise self.refuse("calls run.record outside of a step: call it in the loop over run.steps()")
        if self._recorded:
            raise self.refuse(f"records step {step} twice: run.record(loss) must be called once in each step")
        rate = self.curve[step]
        if lr is None:
            if step not in self._asked:
                rule = f"records step {step} without its rate: call run.lr(step) and use it in the update"
                raise self.refuse(f"{rule}, or report the rate with run.record(loss, lr=...)")
        else:
            used = self._number("lr", lr)
            if not abs(used - rate) <= RATE_RTOL * abs(rate) + RATE_ATOL:
                raise self.refuse(
                    f"used the rate {used!r} in step {step}, but the schedule's rate is {rate!r}: use run.lr(step)"
                )
            rate = used
        self._asked.discard(step)
        self._rates.append(rate)
        if isinstance(loss, Tensor) and loss.device.type not in SYNCHRONOUS_DEVICES:
            if loss.numel() != 1 or loss.is_complex():
                raise self.refuse(f"records a loss of shape {list(loss.shape)} in step {step}: it must be one number")
            self._losses.append(loss.detach().reshape(()).clone())  # the loop may write into it
        else:
            value = self._number("loss", loss)
            self._losses.append(value)
            self.diverged = self.diverged or not math.isfinite(value)
        self._recorded = True

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise self.refuse(f"reports {name}={kind} in step {self.step}: it must be one number") from error

    def evaluate(self, metrics: dict[str, Any]) -> None:
        if self.stopped:
            return
        if self._within and not self._recorded:
            raise self.refuse(f"evaluates in step {self.step} before run.record(loss)")
        completed = self.step + self._within
        if not self._begun or not self.due(completed):
            every = f"train.eval_every={self.trial.config.train.eval_every}"
            rule = f"evaluates after {completed} updates, where no evaluation is due ({every})"
            raise self.refuse(f"{rule}: if run.evaluating(step): run.evaluate(...)")
        for name, value in metrics.items():
            if not METRIC_NAME.fullmatch(name):
                raise self.refuse(f"reports the metric {name}: names must begin with val_, or in final runs with test_")
            if name.startswith("test_") and not self.trial.final:
                raise self.refuse(f"reports {name}, but only final runs may use the test split: if run.test: ...")
            if name in self.metrics:
                raise self.refuse(f"reports {name} twice after {completed} updates")
            self.metrics[name] = self._number(name, value)
        self._react(completed)

    def _react(self, completed: int) -> None:
        """Pass an evaluation to the reactions of the schedule as soon as it is complete, and update the rates."""
        schedule, train = self.trial.config.schedule.after(*self.events), self.trial.config.train
        watched = [reaction.watches for reaction in schedule.reactions]
        if self._reacted or completed % train.eval_every or any(name not in self.metrics for name in watched):
            return
        self._reacted = True
        if not watched or not all(map(math.isfinite, self.metrics.values())):
            return
        self.memories, happened = schedule.react(self.memories, completed, self.metrics)
        if happened:
            self.events += happened
            self._redraw()

    def check_metrics(self) -> None:
        """Refuse a loop that has not reported all metrics of an evaluation.

        Raises:
            InvalidValueError: if the metric of the study, or one that the schedule waits for, is missing.
        """
        watched = [reaction.watches for reaction in self.trial.config.schedule.reactions]
        for name in (self.metric, *watched):
            if name not in self.metrics:
                rule = f"reports no {name} after {self.step} updates, where an evaluation is due"
                if self.metrics and name == self.metric:
                    other = next(iter(self.metrics))
                    rule += f", but {', '.join(self.metrics)}"
                    rule += f"; set study.metric={other} study.direction=minimize to use it"
                raise self.refuse(f"{rule}: if run.evaluating(step): run.evaluate({name}=...)")
        tested = self.metric.replace("val_", "test_", 1)
        if self.trial.final and self.step == self.trial.last and tested not in self.metrics:
            rule = f"reports no {tested} at the end of a final run"
            raise self.refuse(f"{rule}: if run.test: run.evaluate({tested}=...)")

    def check_ended(self) -> None:
        """Refuse a loop that has returned too early.

        Raises:
            InvalidValueError: if it has not made all updates or not evaluated at the end.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.step < self.trial.last and not self.diverged:
            rule = f"returns after {self.step} of {self.trial.last} updates"
            raise self.refuse(f"{rule}: it must make an update for every step of run.steps()")
        if not self.diverged:
            self.check_metrics()

    def offer(self, make: Any) -> None:
        if not callable(make):
            rule = f"passes a {type(make).__name__} to run.checkpoint: it must be a function that returns the state"
            raise self.refuse(f"{rule}: run.checkpoint(lambda: {{...}})")
        self._offered = (self.step + self._within, make)

    @property
    def offers(self) -> bool:
        """Return whether the loop has offered the state after the completed updates."""
        return self._offered is not None and self._offered[0] == self.step and not self._within

    def snapshot(self) -> Snapshot:
        """Return the state that the loop has offered, as bytes.

        Raises:
            InvalidValueError: if it cannot be stored.
        """
        assert self._offered is not None
        state = self._offered[1]()
        if state is None:
            raise self.refuse("returns None as its state: run.checkpoint(lambda: {...})")
        content = {
            "loop": state,
            "random": list(vars(RandomState.capture(self.device)).values()),
            "events": [[event.step, event.name] for event in self.events],
            "memories": {name: list(memory) for name, memory in self.memories.items()},
            "global_step": self.step,
        }
        try:
            snapshot = saved(content, self.step)
            if not self._tried:
                read(snapshot, LOOP_STATE_KEYS)
        except Exception as error:  # torch and pickle raise many types
            reason = str(error.rule if isinstance(error, InvalidValueError) else error).splitlines()[0]
            rule = f"passes a state to run.checkpoint that cannot be stored: {reason}; {STORABLE}"
            raise self.refuse(rule) from error
        self._tried, self.wanted = True, False
        return snapshot

    def collect(self) -> bool:
        """Collect the rows since the last call, and return whether all losses are finite.

        If a loss is not finite, its row is the last one.
        """
        if not self._losses:
            return True
        losses = self._losses
        kinds = {(loss.device, loss.dtype) if isinstance(loss, Tensor) else None for loss in losses}
        if len(kinds) == 1 and None not in kinds:  # one transfer for all
            column = on_host(torch.stack(losses))
        else:
            losses = [float(loss) for loss in losses]
            column = np.asarray(losses)
        broken = np.flatnonzero(~np.isfinite(column))
        kept = int(broken[0]) + 1 if broken.size else len(column)
        self.unrecorded.add(np.asarray(self._rates[:kept]), column[:kept])
        if broken.size:
            self.step, self.diverged = self._taken + kept, True
        self._taken += kept
        self._rates, self._losses = [], []
        return not broken.size

    def rows(self) -> list[Rows]:
        """Return the collected rows that were not returned before."""
        return self.unrecorded.take()

    def evaluation(self) -> Evaluation:
        """Return the reported evaluation, and start a new one."""
        metrics, self.metrics, self._reacted = self.metrics, {}, False
        return Evaluation(self.trial.number, self.step, metrics | {"global_step": float(self.step)})
