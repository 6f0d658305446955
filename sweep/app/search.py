"""Open, record and carry out searches. A search has one study, a comparison has one for each schedule."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweep import study
from sweep.app.files import report_folder, write
from sweep.app.front import Front, Watched
from sweep.app.plan import Plan
from sweep.app.resources import (
    Engines,
    checkpoints_of,
    record_folder,
    recording,
    save_weights,
    settle,
    weights_of,
)
from sweep.config import RunConfig, TrackingConfig
from sweep.core import StudyRecord
from sweep.database import LockRetry, same_database
from sweep.errors import InvalidValueError, RemovedError
from sweep.messages import Facts, Ranking, Work
from sweep.passwords import without_passwords
from sweep.plurals import plural
from sweep.pool import Trainer
from sweep.proposals import Lease, OptunaProposer, check_storage, open_study, pruner, sampler
from sweep.report.describe import as_params, describe
from sweep.report.figures import samples_picture
from sweep.report.text import scaling
from sweep.tracking import Hooks, MlflowReader, MlflowRecorder, Store, StudyRun, fence_store, open_store


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Args:
        record: the study with its trials, as recorded; None of one that was interrupted.
        report: the file; None of one that was interrupted.
        told, total: number of trials that count, and study.n_trials.
        failed: how many trials have failed.
        unsaved: the reason why the file of train.save was not written; None if it was, or if there is no train.save.
    """

    record: StudyRecord | None
    report: Path | None
    told: int
    total: int
    failed: int
    unsaved: str | None = None


@dataclass(frozen=True)
class Search:
    """A study that is open, and this process's alone. A context: the study is given back with it.

    Args:
        uid: what its run is found by.
    """

    plan: Plan
    proposer: OptunaProposer
    uid: str
    lease: Lease

    @property
    def left(self) -> int:
        """Trials that are still to be told."""
        return max(self.proposer.total - self.proposer.told, 0)

    @property
    def done(self) -> bool:
        return self.left == 0

    def run(self, store: Store) -> StudyRun:
        """Return the run of the study, which may not be created yet."""
        run = StudyRun(store, self.uid, self.plan.name, self.plan.study.metric, self.plan.study.minimize)
        run.remember(as_params(self.plan.recorded), self.tags)
        return run

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of its run."""
        return {"sweep.searched": json.dumps(self.plan.space.keys), "sweep.command": self.plan.command}

    def __enter__(self) -> "Search":
        return self

    def __exit__(self, *error: object) -> None:
        self.lease.release()


def search(plan: Plan, front: Front, trainer: Trainer) -> SearchResult:
    """Carry out a search: train trials until the total is reached, then write the report.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        HopelessError: if the trials fail one after another.
    """
    check(plan, trainer)
    warn_of_labels(plan.first, plan.data, front.say)
    recorded_before = open_store(
        plan.tracking, create=False, hooks=Hooks(front.say)
    )  # refused before a study is created
    refuse_taken(recorded_before, plan.name, "comparison")
    folder = record_folder(plan.tracking, plan.first.train.checkpoint_dir, plan.name)
    with front.interruptible() as interrupted, open_search(plan, front.say, interrupted) as opened:
        check_store([opened], open_store(plan.tracking, create=False, record=folder), plan.tracking)
        wanted = lambda run: run.data.tags.get("sweep.uid") == opened.uid  # noqa: E731
        with recording(plan.tracking, folder, "study", wanted, front.say, interrupted) as store:
            check_store([opened], store, plan.tracking)
            return _search(opened, store, front, interrupted, Engines(trainer, front.say, interrupted))


def _search(
    opened: Search, store: Store, front: Front, interrupted: Callable[[], bool], engines: Engines
) -> SearchResult:
    plan, proposer = opened.plan, opened.proposer
    folder = report_folder(plan.report, plan.name)
    run = record(opened, store)
    front.say(f"study {plan.name}: {proposer.told} of {plural(proposer.total, 'trial')} done")
    carry_out(opened, store, run, front, interrupted, engines)
    if interrupted() and not opened.done:
        return SearchResult(None, None, proposer.told, proposer.total, len(proposer.failed))
    if not opened.done:
        done = f"{proposer.told} of {plural(proposer.total, 'trial')}"
        front.say(f"stopped after study.timeout={plan.study.timeout} s: {done}")
    settle(store, interrupted)  # so that the ids of runs are those of the server
    reader = MlflowReader(store)
    recorded = reader.study(plan.name)
    if recorded is None:
        raise RemovedError(plan.name)
    from sweep.app.reports import study_files

    files = study_files(reader, recorded, plan.study.storage)
    write(files, folder)
    run.attach(files)
    settle(store, interrupted)
    save, best = plan.first.train.save, next(iter(recorded.ranked), None)
    unsaved = None if save is None else save_weights(best, save)
    report = folder / "report.html"
    return SearchResult(recorded, report, proposer.told, proposer.total, len(proposer.failed), unsaved)


def refuse_taken(store: Store | None, name: str, kind: str) -> None:
    """Refuse a name that a study ("study") or a comparison ("comparison") has already."""
    reader = None if store is None else MlflowReader(store)
    if reader is not None and (reader.comparison(name) if kind == "comparison" else reader.study(name)) is not None:
        raise InvalidValueError("study.name", name, f"is the name of a {kind}; choose another name")


def check(plan: Plan, trainer: Trainer, silent: bool = False) -> None:
    """Try everything that could be refused later. Writes nothing.

    Args:
        silent: whether to discard what the first model prints that is built, as that of the others is.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    if plan.first.train.more_steps is not None:
        rule = "is for mode=train; a search trains every trial to the horizon train.steps"
        raise InvalidValueError("train.more_steps", plan.first.train.more_steps, rule)
    if plan.first.train.test:
        rule = "is for mode=train; of the rest, only the final runs of mode=compare are evaluated on the test split"
        raise InvalidValueError("train.test", True, rule)
    trainer.check_device(plan.first)
    for index, branch in enumerate(plan.space.branches):
        plan.study.with_direction(trainer.with_directions(branch.first), plan.data.classification)
        trainer.check(list(branch.extremes()), silent=silent or index > 0)
    if plan.engine.name == "fused":
        trainer.refuse_unstackable(extremes(plan))
    sampler(plan.sampler, plan.space, 0)
    pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
    if same_database(plan.study.storage, plan.tracking.uri):
        raise InvalidValueError("study.storage", plan.study.storage, "must be another database than tracking.uri")
    check_storage(plan.study, plan.name, plan.space)


def warn_of_labels(run: RunConfig, data: Facts, say: Callable[[str], None]) -> None:
    """Say that task=auto trains a regression, if the numbers that it is trained on look like labels."""
    if data.label_like and run.task.name == "auto":
        say("warning: task=auto trains a regression, because y holds the numbers 0.0, 1.0, ...; integers are labels")


def extremes(plan: Plan) -> list[RunConfig]:
    """Return the configurations at the ends of the search space."""
    return [config for branch in plan.space.branches for config in branch.extremes()]


def open_search(plan: Plan, say: Callable[[str], None], interrupted: Callable[[], bool]) -> Search:
    """Open the study of a checked plan, or create it. No other process searches it until it is closed.

    Raises:
        InvalidValueError: if a study of that name is of another configuration, or somebody else searches it.
    """

    chosen_pruner = pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
    optuna_study, uid = open_study(plan.study, plan.name, plan.identity, chosen_pruner, say, interrupted)
    lease = Lease.take(optuna_study, interrupted, say=say)
    try:
        patiently = LockRetry(without_passwords(plan.study.storage), say, interrupted)
        proposer = OptunaProposer(optuna_study, plan.space, plan.sampler, plan.study, patiently)
    except BaseException:
        lease.release()
        raise
    return Search(plan, proposer, uid, lease)


def check_store(searches: Sequence[Search], before: Store | None, tracking: TrackingConfig) -> None:
    """Refuse a store that does not hold what the studies have told.

    Args:
        before: the store as it was; None where there was none.

    Raises:
        InvalidValueError: names the tracking.uri.
    """
    for opened in searches:
        if opened.proposer.told and (before is None or not opened.run(before).exists):
            rule = f"does not hold the trials that study {opened.plan.name} has in study.storage; name the tracking.uri"
            raise InvalidValueError("tracking.uri", tracking.uri, f"{rule} that does, or another study.name")


def record(opened: Search, store: Store, tags: Mapping[str, str] | None = None) -> StudyRun:
    """Return the run of a study, and create it if there is none. The store is fenced from here on.

    Args:
        tags: further ones.
    """
    run = opened.run(store)
    if not run.exists:
        run.create(as_params(opened.plan.recorded), {**opened.tags, **(tags or {})})
    lease = opened.lease
    lease.until_released(fence_store(store, run.run_id, lease.fencing_token, lease.error, lease.check))
    run.tag({key: opened.tags[key] for key in run.lacks} | dict(tags or {}))
    return opened.run(store)  # as the one before has left it


def carry_out(
    opened: Search,
    store: Store,
    run: StudyRun,
    front: Front,
    interrupted: Callable[[], bool],
    engines: Engines,
    later: int = 0,
) -> None:
    """Train trials until the total is reached or the search is interrupted; record an account of the engine.

    Args:
        later: trainings that come after the search, for the time left.
    """
    proposer, plan, say = opened.proposer, opened.plan, front.say
    checkpoints = checkpoints_of(engines.trainer, plan.first, plan.name, opened.uid, say, opened.lease.check)
    metric, best, horizon = plan.study.metric, run.best, plan.first.train.steps
    run.reopen()
    try:
        checkpoints.remove_others(proposer.interrupted)
        recorder = MlflowRecorder(
            store,
            describe,
            run,
            on_open=lambda trial, run_id: proposer.annotate(trial, "mlflow_run_id", run_id),
            draw=samples_picture,
        )
        if not opened.done:
            for scaled in scaling(plan.first, plan.space.keys):
                say(scaled)
            ranking = Ranking(metric, plan.study.minimize, best, prunes=plan.pruner.name != "none")
            held = None if best is None else recorder.weights.get(best[1])
            weights = weights_of(plan.first, plan.name, ranking, held, say, opened.lease.check)
            weights.forget_others()  # as an interruption may have left them
            learns, folder = not proposer.history_free, str(checkpoints.own_files)
            work = Work(extremes(plan), opened.left, learns, metric, folder, ranking)
            retries = plan.study.max_retries
            watched = Watched(metric, plan.study.minimize, proposer.total, proposer.told, horizon, best, later=later)
            with (
                engines.start(plan.engine, work, retries, proposer.begun) as engine,
                front.watch(watched) as monitor,
            ):
                study.run(proposer, engine, recorder, checkpoints, monitor, metric, interrupted, weights)
            checkpoints.remove_others(proposer.interrupted)
            run.tag({"sweep.engine": json.dumps(engine.finished().as_dict())})
        recorder.give_up(proposer.failed)
        run.finish("KILLED" if interrupted() and not opened.done else "FINISHED")
    except BaseException as error:
        with suppress(Exception):  # the record may be what failed
            run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
