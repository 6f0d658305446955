"""The run that a loop of the user's is given: steps, rates, and the record of losses and evaluations."""

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

from sweep.core import Evaluation, Rows, Snapshot, Trial, take_joined
from sweep.errors import InvalidValueError
from sweep.schedules import Event, Memory
from sweep.training.base_engine import on_host
from sweep.training.generators import RandomState
from sweep.training.state import TRAIN_ERROR
from sweep.training.state_io import read, saved

CONTENT = {"loop", "random", "events", "memories", "global_step"}
"""The keys of the stored state of a loop."""

NAME = re.compile(rf"(val|test)_[A-Za-z]\w*|{TRAIN_ERROR}")
"""Metrics that a loop may give."""

READ_AT_ONCE = ("cpu",)
"""Devices whose tensors are read without waiting for anything; those of others are read at the next evaluation."""

STORABLE = "state dicts, tensors, numbers, texts, and lists, tuples and mappings of these can be stored"

RTOL, ATOL = 1e-6, 1e-12
"""The part of a rate, and the absolute difference, by which a reported one may differ: a float32 is as exact."""


class Run:
    """A training, as a loop of the user's sees it.

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
        seed: of this training. The generators of torch, NumPy and Python are seeded with it before the loop is called.
        device: the device of train.device.
        horizon: train.steps, T.
        config: the resolved configuration, nested mappings of plain values: run.config["optimizer"]["lr"].
        test: whether this is a final run, which reports test_<name> at its end.
        state: what run.checkpoint stored before an interruption, with its tensors on the CPU; None at the start.
        folder: a folder for files of this training, which stay there until it ends, also after an interruption.
        session: what the engine uses; it is no part of the interface.
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

        Step s is the update with s completed updates before it. The generators of torch, NumPy and Python get the
        states of the checkpoint when the first step is asked for. run.record must be called once in each step.
        """
        return self.session.steps()

    def lr(self, step: int) -> float:
        """Return the rate of the update `step`, counted from 0."""
        return self.session.lr(step)

    def record(self, loss: float | Tensor, lr: float | None = None) -> None:
        """Record the update of the current step.

        Args:
            loss: of its batch before the update: a number, or a tensor with one element, which stays on its device
                until the next evaluation. The trial ends as diverged if it is not finite.
            lr: the rate that the update used, which must be run.lr(step); None if the loop has asked run.lr for it.
        """
        self.session.record(loss, lr)

    def evaluating(self, step: int) -> bool:
        """Return whether an evaluation is due after the update `step`.

        It is due after every train.eval_every completed updates, that is when step + 1 is a multiple of it, and at the
        end.
        """
        return self.session.due(step + 1)

    def evaluate(self, **metrics: float | Tensor) -> None:
        """Give metrics after the update of the current step, where an evaluation is due, or after the last step.

        Args:
            metrics: val_loss=..., val_<name>=..., and in final runs test_loss=...; also train_error, the share of
                misclassified training examples, for warmup=until_error. The trial ends as diverged if one is not
                finite. More metrics may follow in another call.
        """
        self.session.evaluate(metrics)

    def checkpoint(self, make: Callable[[], Any]) -> None:
        """Offer the state after the current step. If a checkpoint is due, `make` is called at the end of the step.

        Args:
            make: returns what the loop needs to resume, such as {"model": model.state_dict()}: state dicts, tensors,
                numbers, texts, and lists, tuples and mappings of these.
        """
        self.session.offer(make)


class Session:
    """The progress of a loop: what the engine and the run share. One thread at a time uses it.

    Args:
        trial: what is trained.
        name: key and value that name the loop, for messages.
        metric: that every evaluation must have.
        pause: asked between two steps whether to hand over to the engine.
        hand_over: lets the engine continue, and returns when it is the loop's turn again.
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
            held = read(trial.state, CONTENT)
            self.step, self.state = held["global_step"], held["loop"]
            self.events = tuple(Event(step, name) for step, name in held["events"])
            self.memories = {name: tuple(memory) for name, memory in held["memories"].items()}
            self.random = RandomState(*held["random"])
        self._taken = self.step
        self._rows: list[Rows] = []
        """Those that no Progress has had yet."""
        self.stopped = self.diverged = False
        self.wanted = False
        """Whether a state was asked for when the loop had offered none."""
        self.final: Snapshot | None = None
        self.refusal: InvalidValueError | None = None
        self.metrics: dict[str, float] = {}
        """Those of the evaluation that is due, as far as they were given."""
        self._begun = self._within = self._recorded = self._reacted = self._tried = False
        self._offered: tuple[int, Callable[[], Any]] | None = None
        self._asked: set[int] = set()
        """Steps whose rate was asked for."""
        self._rates: list[float] = []
        self._losses: list[Any] = []
        self._redraw()

    def _redraw(self) -> None:
        (series,) = self.trial.config.series
        self.curve: list[float] = series.curve(self.events, self.trial.last).tolist()
        self._asked.clear()  # what was asked before is another rate now

    def due(self, completed: int) -> bool:
        """Return whether an evaluation is due after so many completed updates."""
        return completed > 0 and (completed == self.trial.last or completed % self.trial.config.train.eval_every == 0)

    def refuse(self, rule: str) -> InvalidValueError:
        """Return the error that says what the loop does wrong. It ends the trial even if the loop catches it."""
        self.refusal = self.refusal or InvalidValueError(*self.name, rule)
        return self.refusal

    def steps(self) -> Iterator[int]:
        if self._begun and not self.stopped:
            raise self.refuse("asks for run.steps() twice; it gives all steps, once")
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
        """Check what the loop had to do in a step, and hand over if the engine wants to continue."""
        if self.refusal is not None:  # which the loop has caught
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
        """Hand over before the current step is recorded, if the engine wants to continue; return whether to go on."""
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
                raise self.refuse(f"asks for the rate of step {step}: steps are counted from 0")
            (series,) = self.trial.config.series
            return float(series.schedule.after(*self.events)(np.asarray(step)))
        self._asked.add(step)
        return self.curve[step]

    def record(self, loss: Any, lr: Any) -> None:
        step = self.step
        if not self._within:
            raise self.refuse("calls run.record outside of a step: it belongs into the loop over run.steps()")
        if self._recorded:
            raise self.refuse(f"records step {step} twice: run.record(loss) must be called once in each step")
        rate = self.curve[step]
        if lr is None:
            if step not in self._asked:
                rule = f"records step {step} without its rate: the update must use run.lr(step)"
                raise self.refuse(f"{rule}, or run.record(loss, lr=...) must say which rate it used")
        else:
            used = self._number("lr", lr)
            if not abs(used - rate) <= RTOL * abs(rate) + ATOL:
                raise self.refuse(
                    f"used the rate {used!r} in step {step}, where the schedule has {rate!r}: run.lr(step)"
                )
            rate = used
        self._asked.discard(step)
        self._rates.append(rate)
        if isinstance(loss, Tensor) and loss.device.type not in READ_AT_ONCE:
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
            raise self.refuse(f"gives {name}={kind} in step {self.step}: it must be one number") from error

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
            if not NAME.fullmatch(name):
                raise self.refuse(f"gives the metric {name}: names begin with val_, in final runs also with test_")
            if name.startswith("test_") and not self.trial.final:
                raise self.refuse(f"gives {name}, but final runs alone touch the test split: if run.test: ...")
            if name in self.metrics:
                raise self.refuse(f"gives {name} twice after {completed} updates")
            self.metrics[name] = self._number(name, value)
        self._react(completed)

    def _react(self, completed: int) -> None:
        """Let the schedule's reactions see an evaluation as soon as it is complete: run.lr has the new rates then."""
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
        """Refuse a loop that has not given what an evaluation must have.

        Raises:
            InvalidValueError: if a metric is missing that the study is judged by or the schedule waits for.
        """
        watched = [reaction.watches for reaction in self.trial.config.schedule.reactions]
        for name in (self.metric, *watched):
            if name not in self.metrics:
                rule = f"gives no {name} after {self.step} updates, where an evaluation is due"
                if self.metrics and name == self.metric:
                    other = next(iter(self.metrics))
                    rule += (
                        f", but {', '.join(self.metrics)}; study.metric={other} study.direction=minimize judges by it"
                    )
                raise self.refuse(f"{rule}: if run.evaluating(step): run.evaluate({name}=...)")
        tested = self.metric.replace("val_", "test_", 1)
        if self.trial.final and self.step == self.trial.last and tested not in self.metrics:
            rule = f"gives no {tested} at the end of a final run"
            raise self.refuse(f"{rule}: if run.test: run.evaluate({tested}=...)")

    def check_ended(self) -> None:
        """Refuse a loop that has returned and is not done.

        Raises:
            InvalidValueError: if it has not made all updates, or not evaluated at the end.
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
            rule = f"gives run.checkpoint a {type(make).__name__}: it must be a function that returns the state"
            raise self.refuse(f"{rule}: run.checkpoint(lambda: {{...}})")
        self._offered = (self.step + self._within, make)

    @property
    def offers(self) -> bool:
        """Return whether the loop has offered the state after the completed updates."""
        return self._offered is not None and self._offered[0] == self.step and not self._within

    def snapshot(self) -> Snapshot:
        """Return the state that the loop has offered as bytes.

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
                read(snapshot, CONTENT)
        except Exception as error:  # whatever torch or pickle finds to refuse
            reason = str(error.rule if isinstance(error, InvalidValueError) else error).splitlines()[0]
            rule = f"gives run.checkpoint a state that cannot be stored: {reason}; {STORABLE}"
            raise self.refuse(rule) from error
        self._tried, self.wanted = True, False
        return snapshot

    def collect(self) -> bool:
        """Take the rows since the last time; return whether all losses are finite.

        The first that is not is the last row that is taken.
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
        steps = np.arange(self._taken, self._taken + kept)
        self._rows.append(Rows(self.trial.number, steps, np.asarray(self._rates[:kept]), column[:kept]))
        if broken.size:
            self.step, self.diverged = self._taken + kept, True
        self._taken += kept
        self._rates, self._losses = [], []
        return not broken.size

    def rows(self) -> list[Rows]:
        """Return the collected rows, once."""
        return take_joined(self._rows)

    def evaluation(self) -> Evaluation:
        """Return the evaluation that was given; the next one begins empty."""
        metrics, self.metrics, self._reacted = self.metrics, {}, False
        return Evaluation(self.trial.number, self.step, metrics | {"global_step": float(self.step)})
