"""The loop of a study: the same for a search, for final runs and for one training."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from sweep.core import Engine, Evaluation, Monitor, Progress, Proposer, Recorder, Result, Status, Trial


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

    def should_prune(self, trial: Trial) -> bool:
        return False

    def tell(self, trial: Trial, result: Result) -> None:
        self.results.append(result)

    def release(self, trial: Trial) -> None:
        self._waiting = sorted([trial, *self._waiting], key=self._trials.index)


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
    anything raises, the live trials are left as interrupted, to be trained again from their start.

    Args:
        metric: the evaluation's entry that is the objective; judged at the end of the horizon.
        interrupted: asked between two boundaries.
    """
    live: dict[int, Trial] = {}
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
    if progress.status is Status.COMPLETE and evaluation is not None:
        return Result(trial.number, Status.COMPLETE, evaluation.metrics[metric])
    if progress.status is not None:
        return Result(trial.number, progress.status)
    return Result(trial.number, Status.PRUNED) if proposer.should_prune(trial) else None
