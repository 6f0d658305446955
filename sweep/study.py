"""The loop of a study, for searches, final runs and single trainings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sweep.core import (
    Checkpoint,
    Checkpoints,
    Engine,
    Evaluation,
    Monitor,
    Progress,
    Proposer,
    Recorder,
    Result,
    Snapshot,
    Status,
    Trial,
    Weights,
)
from sweep.schedules import Event


class FixedTrials:
    """Proposes given trials, in their order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials, self._waiting = list(trials), list(trials)
        self.results: list[Result] = []

    def ask(self) -> Trial | None:
        return self._waiting.pop(0) if self._waiting else None

    def give_up(self, trial: Trial) -> bool:
        return False

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        pass

    def should_prune(self, trial: Trial, events: Sequence[Event]) -> bool:
        return False

    def tell(self, trial: Trial, result: Result) -> None:
        self.results.append(result)

    def kept(self, trial: Trial) -> None:
        pass

    def release(self, trial: Trial) -> None:
        numbers = {trial.number, *(waiting.number for waiting in self._waiting)}
        self._waiting = [given for given in self._trials if given.number in numbers]  # without their states


class TrainedOnce:
    """An engine that does not repeat a training: the record of a duplicate is replayed instead.

    A trial that duplicates an ended one takes no slot. No other trial starts during the replay, so that the proposer
    knows as much as if the trial had been trained. A trial that duplicates one in training waits for its end and keeps
    a slot, because a pruned trial cannot be replayed.

    Args:
        engine: trains the other trials.
        recorder: knows the duplicate of every open trial, and replays its record.
    """

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine, self._recorder = engine, recorder
        self._live: set[int] = set()
        self._waiting: dict[int, Trial] = {}
        self._replays: dict[int, Iterator[Progress]] = {}

    @property
    def free(self) -> int:
        return 0 if self._replays else self._engine.free - len(self._waiting)

    def start(self, trial: Trial) -> None:
        """Train a trial, replay its duplicate, or let it wait for its duplicate. The record of the trial is open."""
        self._live.add(trial.number)
        duplicate = self._recorder.duplicate_of(trial) if trial.state is None else None
        if duplicate is None:
            self._engine.start(trial)
        elif duplicate in self._live:
            self._waiting[trial.number] = trial
        else:
            self._replays[trial.number] = iter(self._recorder.replay(trial))

    def advance(self) -> list[Progress]:
        """Return the next progress of each trial that is replayed; if there is none, the progress of the engine."""
        waiting, self._waiting = self._waiting, {}
        for trial in waiting.values():
            self.start(trial)
        reached = [next(replay) for replay in self._replays.values()] if self._replays else self._engine.advance()
        for progress in reached:
            if progress.status is not None:
                self._replays.pop(progress.trial, None)
                self._live.remove(progress.trial)
        return reached

    def snapshots(self) -> Iterable[Progress]:
        """Return the states of the trials in the engine. Others need none: they will be replayed from the start."""
        return self._engine.snapshots()

    def stop(self, trial: Trial) -> None:
        self._live.remove(trial.number)
        waited, replayed = self._waiting.pop(trial.number, None), self._replays.pop(trial.number, None)
        if waited is None and replayed is None:
            self._engine.stop(trial)


def run(
    proposer: Proposer,
    engine: Engine,
    recorder: Recorder,
    checkpoints: Checkpoints,
    monitor: Monitor,
    metric: str,
    interrupted: Callable[[], bool] = lambda: False,
    weights: Weights | None = None,
) -> None:
    """Fill the free slots, advance, record, report, prune and tell, until no trial is left.

    The record of a trial is closed before the proposer is told its result, so that every told trial is recorded. Rows
    are recorded only after a checkpoint that contains them was stored. A trial that fails is recorded and told, and the
    others continue. After an interruption all trials in training are stored in checkpoints and recorded. After an error
    they resume from their last checkpoints in the next command. A training that several trials share is made once, and
    its record is replayed for the others.

    Args:
        metric: the metric whose value at the end of the horizon is the objective.
        interrupted: called between two boundaries; returns whether to end.
        weights: stores the weights of the best trial; None if they are not stored.
    """
    loop = _Loop(proposer, TrainedOnce(engine, recorder), recorder, checkpoints, monitor, metric, weights)
    try:
        while loop.fill(interrupted) and not interrupted():
            for progress in loop.engine.advance():
                loop.take(progress)
        if loop.live:
            loop.halt()
    except BaseException:
        for live in loop.live.values():
            with suppress(Exception):  # the record may be what failed; the first error is raised
                recorder.interrupt(live.trial)
        raise


@dataclass
class _Live:
    """A trial in training, and its evaluations so far."""

    trial: Trial
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass
class _Loop:
    proposer: Proposer
    engine: TrainedOnce
    recorder: Recorder
    checkpoints: Checkpoints
    monitor: Monitor
    metric: str
    weights: Weights | None = None
    live: dict[int, _Live] = field(default_factory=dict)

    def fill(self, interrupted: Callable[[], bool]) -> bool:
        """Begin as many trials as there are slots, and return whether any is in training."""
        while not interrupted() and self.engine.free and (trial := self.proposer.ask()) is not None:
            self._begin(trial)
        return bool(self.live)

    def _begin(self, trial: Trial) -> None:
        """Start or resume a trial; or only tell its result, if its record is closed; or give it up."""
        ended = self.recorder.ended(trial)
        if ended is not None:
            self._tell_recorded(trial, ended)
            return
        if self.proposer.give_up(trial):
            return
        checkpoint = self.checkpoints.latest(trial)
        live = self.live[trial.number] = _Live(trial)
        resumed = self.recorder.open(trial, None if checkpoint is None else checkpoint.record)
        if checkpoint is not None and resumed:
            live.trial = replace(trial, state=checkpoint.state)
            live.evaluations += checkpoint.evaluations
            for evaluation in checkpoint.evaluations:
                self.proposer.report(trial, evaluation)
            if checkpoint.state.step >= trial.last:  # its last state was stored, but its result was not told
                self.monitor.started(live.trial)
                metrics = checkpoint.evaluations[-1].metrics
                self._end(live, Result(trial.number, Status.COMPLETE, metrics[self.metric]), None)
                return
        elif checkpoint is not None:  # the checkpoints of the new attempt would have smaller steps
            self.checkpoints.end(trial, None)
        self.engine.start(live.trial)
        self.monitor.started(live.trial)

    def _tell_recorded(self, trial: Trial, recorded: Sequence[Progress]) -> None:
        self.monitor.started(trial)
        for progress in recorded:
            if progress.evaluation is not None and progress.status is not Status.DIVERGED:
                self.proposer.report(trial, progress.evaluation)
            self.monitor.progressed(trial, progress)
        result = self._result(trial, recorded[-1])
        assert result is not None
        self._tell(trial, result)

    def take(self, progress: Progress) -> None:
        """Record and report progress; end a trial that has ended or should be pruned; otherwise store its state."""
        live = self.live[progress.trial]
        self._note(live, progress)
        result = self._result(live.trial, progress)
        evaluated = result is None and progress.evaluation is not None
        if evaluated and self.proposer.should_prune(live.trial, progress.events):
            result = Result(progress.trial, Status.PRUNED)
            self.engine.stop(live.trial)
        if result is None and progress.state is not None:  # after pruning, which is decided once for each evaluation
            self._keep(live, progress.state)
            self._flush(live)
        self.monitor.progressed(live.trial, progress)
        if result is not None:
            self._end(live, result, progress)

    def _note(self, live: _Live, progress: Progress) -> None:
        """Record the rows, the evaluation and the events, and report the evaluation."""
        for rows in progress.rows:
            self.recorder.record(rows)
        if progress.evaluation is not None:
            live.evaluations.append(progress.evaluation)
            self.recorder.evaluate(progress.evaluation)
            if progress.status is not Status.DIVERGED:
                self.proposer.report(live.trial, progress.evaluation)
        if progress.events:
            self.recorder.mark(live.trial, progress.events)

    def _keep(self, live: _Live, state: Snapshot) -> None:
        self.checkpoints.save(live.trial, self._checkpoint(live, state))

    def _flush(self, live: _Live) -> None:
        """Record what the last checkpoint contains."""
        self.recorder.flush(live.trial)
        self.proposer.kept(live.trial)

    def _end(self, live: _Live, result: Result, progress: Progress | None) -> None:
        """Store the weights and the last state of a trial if needed, close its record, then tell its result.

        Args:
            progress: its last progress; None if the trial had ended before this command.
        """
        trial, path = live.trial, None
        if progress is not None and self.weights is not None:
            path = self.weights.keep(result, progress.weights, progress.duplicate_of)
        if path is not None:
            self.recorder.note_weights(trial, path)
        if progress is not None and trial.keeps_state and progress.state is not None:
            self._keep(live, progress.state)
        self.recorder.close(trial, result)
        if path is not None and self.weights is not None:
            self.weights.forget_others()
        del self.live[trial.number]
        self._tell(trial, result)

    def _checkpoint(self, live: _Live, state: Snapshot) -> Checkpoint:
        trial = live.trial
        return Checkpoint(trial.first, trial.last, state, live.evaluations, self.recorder.pending(trial))

    def _result(self, trial: Trial, progress: Progress) -> Result | None:
        """Return the result of a trial; None if it has not ended."""
        if progress.status is Status.COMPLETE and progress.evaluation is not None:
            return Result(trial.number, Status.COMPLETE, progress.evaluation.metrics[self.metric])
        return None if progress.status is None else Result(trial.number, progress.status, failure=progress.failure)

    def _tell(self, trial: Trial, result: Result) -> None:
        """Tell the result of a trial whose record is closed."""
        self.proposer.tell(trial, result)
        if not trial.keeps_state or result.status is Status.DIVERGED:
            self.checkpoints.end(trial, None)
        self.monitor.ended(trial, result)

    def halt(self) -> None:
        """Store the states of all trials in training, then record them, and give the trials back."""
        kept = {}
        for progress in self.engine.snapshots():
            live = self.live.get(progress.trial)
            if live is None:  # it was pruned meanwhile
                continue
            if progress.state is None or progress.evaluation is not None:
                self.take(progress)
                continue
            self._note(live, progress)
            self._keep(live, progress.state)
            kept[progress.trial] = live
        for number in kept.keys() & self.live.keys():  # a trial may have ended after its last state
            self._flush(kept[number])
        for live in list(self.live.values()):
            self.recorder.interrupt(live.trial)
            self.proposer.release(live.trial)
