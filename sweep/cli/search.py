"""Searches: opened, recorded and carried out. mode=search has one, mode=compare one for each schedule."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from sweep import study
from sweep.cli.command import DONE, FAILED, INTERRUPTED, Command
from sweep.cli.display import Display, console, say
from sweep.cli.interrupt import interruptible
from sweep.cli.plan import Plan, make_plan
from sweep.cli.publish import report_folder, study_files, write
from sweep.cli.resources import checkpoints_of, engine_of, settle, store_of
from sweep.cli.show import address, repeating, show_study, ui_command
from sweep.config import RunConfig, TrackingConfig
from sweep.database import Patience, same_database
from sweep.proposals import Lease, OptunaProposer, check_storage, open_study, pruner, sampler
from sweep.report import as_params, describe, samples_picture, scaling
from sweep.tracking import Hooks, MlflowReader, MlflowRecorder, RemovedError, Store, StudyRun, fence_store, open_store
from sweep.training import CPU, NotStackableError, Work, choose_device, refuse_unstackable
from sweep.training import check as check_trainable
from sweep.validation import InvalidValueError, without_passwords


@dataclass(frozen=True)
class Search:
    """A study that is open, and this process's alone. A context: the study is given back with it.

    Args:
        command: the command line that it is of.
        uid: what its run is found by.
    """

    command: Command
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
        """Its run, created or not."""
        run = StudyRun(store, self.uid, self.plan.name, self.plan.study.metric, self.plan.study.minimize)
        run.remember(as_params(self.plan.recorded), self.tags)
        return run

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of its run."""
        return {"sweep.searched": json.dumps(self.plan.space.keys), "sweep.command": repeating(self.command)}

    def __enter__(self) -> "Search":
        return self

    def __exit__(self, *error: object) -> None:
        self.lease.release()


def search(command: Command) -> int:
    """Search: trials until the total is reached, then the table of the best and the report.

    The exit status is FAILED if all trials have failed.
    """
    plan, out = make_plan(command), console()
    base = address(command, plan.tracking)
    check(plan)
    recorded_before = open_store(
        plan.tracking, create=False, hooks=Hooks(lambda text: say(out, text))
    )  # refused before a study is created
    refuse_taken(recorded_before, plan.name, "comparison")
    with (
        interruptible(lambda text: say(out, text)) as interrupted,
        open_search(command, plan, out, interrupted) as opened,
    ):
        check_store([opened], recorded_before, plan.tracking)
        store = store_of(plan.tracking, plan.first.train.checkpoint_dir, plan.name, out, interrupted)
        return _search(opened, store, base, out, interrupted)


def _search(opened: Search, store: Store, base: str, out: Console, interrupted: Callable[[], bool]) -> int:
    plan, proposer = opened.plan, opened.proposer
    folder = report_folder(plan.report, plan.name)
    run = record(opened, store)
    say(out, f"study {plan.name}: {proposer.told} of {proposer.total} trials done")
    carry_out(opened, store, run, display_of(opened, run, out), interrupted)
    if interrupted() and not opened.done:
        say(out, f"interrupted: {proposer.told} of {proposer.total} trials are recorded; the same command goes on")
        return INTERRUPTED
    settle(store, interrupted)
    reader = MlflowReader(store)
    recorded = reader.study(plan.name)
    if recorded is None:
        raise RemovedError(plan.name)
    files = study_files(reader, recorded, plan.study.storage)
    write(files, folder)
    run.attach(files)
    settle(store, interrupted)
    show_study(out, recorded, base, ui_command(opened.command))
    say(out, f"\nreport: {folder / 'report.html'}")
    if not opened.done:
        say(out, f"study.timeout={plan.study.timeout} ended the search at {proposer.told} of {proposer.total} trials")
    return FAILED if proposer.failed and not proposer.told else DONE


def refuse_taken(store: Store | None, name: str, kind: str) -> None:
    """Refuse a name that a study ("study") or a comparison ("comparison") has already."""
    reader = None if store is None else MlflowReader(store)
    if reader is not None and (reader.comparison(name) if kind == "comparison" else reader.study(name)) is not None:
        raise InvalidValueError("study.name", name, f"is the name of a {kind}; choose another name")


def check(plan: Plan, silent: bool = False) -> None:
    """Try everything that could be refused later. Writes nothing.

    Args:
        silent: whether to discard what the first model prints that is built, as that of the others is.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    if plan.first.train.more_steps is not None:
        rule = "is for mode=train; a search trains every trial to the horizon train.steps"
        raise InvalidValueError("train.more_steps", plan.first.train.more_steps, rule)
    choose_device(plan.first.train)
    for index, branch in enumerate(plan.space.branches):
        plan.study.check_metric(branch.first, plan.data.classification)
        check_trainable(plan.data, list(branch.extremes()), silent=silent or index > 0)
    if plan.engine.name == "fused":
        try:
            refuse_unstackable(plan.data, CPU, extremes(plan))
        except NotStackableError as error:
            raise InvalidValueError("engine", "fused", f"{error}; engine=serial trains them one by one") from error
    sampler(plan.sampler, plan.space, 0)
    pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
    if same_database(plan.study.storage, plan.tracking.uri):
        raise InvalidValueError("study.storage", plan.study.storage, "must be another database than tracking.uri")
    check_storage(plan.study, plan.name, plan.space)


def extremes(plan: Plan) -> list[RunConfig]:
    """The configurations at the ends of all that is searched."""
    return [config for branch in plan.space.branches for config in branch.extremes()]


def open_search(command: Command, plan: Plan, out: Console, interrupted: Callable[[], bool]) -> Search:
    """The study of a plan that was checked, created where there is none; nobody else searches it until it is closed.

    Raises:
        InvalidValueError: if a study of that name is of another configuration, or somebody else searches it.
    """

    def tell(text: str) -> None:
        say(out, text)

    chosen_pruner = pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
    optuna_study, uid = open_study(plan.study, plan.name, plan.identity, chosen_pruner, tell, interrupted)
    lease = Lease.take(optuna_study, interrupted, say=tell)
    try:
        patiently = Patience(without_passwords(plan.study.storage), tell, interrupted)
        proposer = OptunaProposer(optuna_study, plan.space, plan.sampler, plan.study, patiently)
    except BaseException:
        lease.release()
        raise
    return Search(command, plan, proposer, uid, lease)


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
    """The run of a study, created where there is none. From here on the store takes nothing from who lost the lease.

    Args:
        tags: further ones.
    """
    run = opened.run(store)
    if not run.exists:
        run.create(as_params(opened.plan.recorded), {**opened.tags, **(tags or {})})
        settle(store, store.hooks.interrupted)
        run = opened.run(store)
    lease = opened.lease
    lease.until_released(fence_store(store, run.run_id, lease.mark, lease.error, lease.check))
    run.tag({key: opened.tags[key] for key in run.lacks} | dict(tags or {}))
    return opened.run(store)  # as the one before has left it


def display_of(opened: Search, run: StudyRun, out: Console, later: int = 0) -> Display:
    """What shows the trials of a search; `later` trainings come after it."""
    config, proposer, horizon = opened.plan.study, opened.proposer, opened.plan.first.train.steps
    return Display(out, config.metric, config.minimize, proposer.total, proposer.told, horizon, run.best, later=later)


def carry_out(opened: Search, store: Store, run: StudyRun, display: Display, interrupted: Callable[[], bool]) -> None:
    """Trials until the total is reached, or a signal comes; the run of the study gets an account of the engine."""
    proposer, plan, out = opened.proposer, opened.plan, display.console
    checkpoints = checkpoints_of(plan.first, plan.data, plan.name, opened.uid, out, opened.lease.check)
    run.reopen()
    try:
        checkpoints.sweep(proposer.interrupted)
        recorder = MlflowRecorder(
            store,
            describe,
            run,
            on_open=lambda trial, run_id: proposer.annotate(trial, "mlflow_run_id", run_id),
            draw=samples_picture,
        )
        if not opened.done:
            for scaled in scaling(plan.first, plan.space.keys):
                say(out, scaled)
            work = Work(extremes(plan), opened.left, learns=not proposer.history_free)
            retries = plan.study.max_retries
            with engine_of(plan.engine, plan.data, work, retries, out, interrupted, proposer.begun) as engine, display:
                study.run(proposer, engine, recorder, checkpoints, display, plan.study.metric, interrupted)
            checkpoints.sweep(proposer.interrupted)
            run.tag({"sweep.engine": json.dumps(engine.finished().as_dict())})
        recorder.give_up(proposer.failed)
        run.finish("KILLED" if interrupted() and not opened.done else "FINISHED")
    except BaseException as error:
        with suppress(Exception):  # the record may be what failed
            run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
