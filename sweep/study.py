"""The loop of a study: the same for a search, for final runs and for one training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from sweep.core import Engine, Evaluation, Event, Monitor, Progress, Proposer, Recorder, Result, Status, Trial


class FixedTrials:
    """A proposer of given trials, in their order.

    Args:
        trials: to be trained.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials, self._waiting = list(trials), list(trials)
        self.results: list[Result] = []

    def ask(self) -> Trial | None:
        return self._waiting.pop(0) if self._waiting else None

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        """Nothing depends on it."""

    def should_prune(self, trial: Trial, events: Sequence[Event]) -> bool:
        return False

    def tell(self, trial: Trial, result: Result) -> None:
        self.results.append(result)

    def release(self, trial: Trial) -> None:
        self._waiting = sorted([trial, *self._waiting], key=self._trials.index)


class TrainedOnce:
    """An engine that does not train the same training twice: what is recorded of it is played back instead.

    A trial whose twin has ended by itself takes no slot; no other is started until it has been played back, so that
    a proposer knows as much as if it had been trained. A trial whose twin is live waits for the end of that, and its
    slot is kept: a twin that is pruned cannot stand for it.

    Args:
        engine: trains the others.
        recorder: knows the twin of every trial that it has open, and plays it back.
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
        """Train a trial, or play its twin back, or let it wait for its twin. The trial's record is open."""
        self._live.add(trial.number)
        twin = self._recorder.twin_of(trial)
        if twin is None:
            self._engine.start(trial)
        elif twin in self._live:
            self._waiting[trial.number] = trial
        else:
            self._replays[trial.number] = iter(self._recorder.replay(trial))

    def advance(self) -> list[Progress]:
        """One boundary of each trial that is played back; where there is none, what the engine reaches."""
        waiting, self._waiting = self._waiting, {}
        for trial in waiting.values():
            self.start(trial)
        reached = [next(replay) for replay in self._replays.values()] if self._replays else self._engine.advance()
        for progress in reached:
            if progress.status is not None:
                self._replays.pop(progress.trial, None)
                self._live.remove(progress.trial)
        return reached

    def stop(self, trial: Trial) -> None:
        self._live.remove(trial.number)
        waited = self._waiting.pop(trial.number, None) is not None
        played_back = self._replays.pop(trial.number, None) is not None
        if not waited and not played_back:
            self._engine.stop(trial)


def run(
    proposer: Proposer,
    engine: Engine,
    recorder: Recorder,
    monitor: Monitor,
    metric: str,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Fill the free slots, advance, record, report, stop what should be pruned, tell; until no trial is left.

    A trial's record is closed before it is told: what was told is recorded. When `interrupted` answers true, or
    anything raises, the live trials are left as interrupted, to be trained again from their start. Trials that are the
    same training are trained once; the others go through the same steps with what is recorded of it.

    Args:
        metric: the evaluation's entry that is the objective; judged at the end of the horizon.
        interrupted: asked between two boundaries.
    """
    live: dict[int, Trial] = {}
    engine = TrainedOnce(engine, recorder)
    try:
        while not interrupted():
            while engine.free and (trial := proposer.ask()) is not None:
                live[trial.number] = trial
                recorder.open(trial)
                engine.start(trial)
                monitor.started(trial)
            if not live:
                return
            for progress in engine.advance():
                trial = live[progress.trial]
                result = _take(trial, progress, proposer, recorder, metric)
                monitor.progressed(trial, progress)
                if result is None:
                    continue
                if progress.status is None:
                    engine.stop(trial)
                recorder.close(trial, result)
                proposer.tell(trial, result)
                del live[trial.number]
                monitor.ended(trial, result)
        for trial in live.values():
            engine.stop(trial)
            recorder.interrupt(trial)
            proposer.release(trial)
    except BaseException as error:
        for trial in live.values():
            with suppress(Exception):  # the record may be what failed; what raised first is what to tell
                recorder.interrupt(trial)
                if isinstance(error, KeyboardInterrupt):
                    proposer.release(trial)
        raise


def _take(trial: Trial, progress: Progress, proposer: Proposer, recorder: Recorder, metric: str) -> Result | None:
    """Record and report what happened at a boundary; the result if the trial ends there."""
    for rows in progress.rows:
        recorder.record(rows)
    evaluation = progress.evaluation
    if evaluation is not None:
        recorder.evaluate(evaluation)
        if progress.status is not Status.DIVERGED:
            proposer.report(trial, evaluation)
    if progress.events:
        recorder.mark(trial, progress.events)
    if progress.status is Status.COMPLETE and evaluation is not None:
        return Result(trial.number, Status.COMPLETE, evaluation.metrics[metric], progress.state)
    if progress.status is not None:
        return Result(trial.number, progress.status)
    return Result(trial.number, Status.PRUNED) if proposer.should_prune(trial, progress.events) else None
