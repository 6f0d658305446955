"""Carries out comparisons of schedules: tuning with equal budgets, final runs on the same new seeds, and the report."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sweep import study
from sweep.app.files import report_folder, write
from sweep.app.front import Front, Watched
from sweep.app.plan import ComparisonPlan, Family, refusals_of
from sweep.app.resources import Engines, checkpoints_of, settle, store_of
from sweep.app.search import Search, carry_out, check, check_store, open_search, record, refuse_taken, warn_of_labels
from sweep.comparison import Comparison, final_trials, finals, judged_by, winner
from sweep.comparison import compare as compared
from sweep.core import ComparisonRecord, Status, Trial
from sweep.errors import HopelessError, RemovedError
from sweep.messages import Work
from sweep.plurals import plural
from sweep.pool import Trainer
from sweep.proposals import check_study
from sweep.report.describe import as_params, describe
from sweep.report.figures import samples_picture
from sweep.tracking import ComparisonRun, FinalRuns, Hooks, MlflowReader, MlflowRecorder, Store, open_store
from sweep.validation import refuse_difference


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Args:
        record: the recorded comparison with its studies and final runs.
        comparisons: the statistics and verdicts, one for each data set.
        report: the file of the report; None if the comparison was interrupted.
        left: number of trainings that an interrupted comparison still has to do.
        failed: whether the search of a schedule ended because its trials failed in succession, or all final runs of
            a schedule failed. The same command trains these again.
    """

    record: ComparisonRecord
    comparisons: Sequence[Comparison]
    report: Path | None
    left: int = 0
    failed: bool = False


def compare(plan: ComparisonPlan, front: Front, trainer: Trainer) -> ComparisonResult:
    """Tune the schedules, train the final runs, and write the report.

    Raises:
        InvalidValueError: names an invalid key; nothing is written then.
    """
    _check_families(plan, trainer)
    warn_of_labels(plan.first.first, plan.first.data, front.say)
    recorded_before = open_store(plan.first.tracking, create=False, hooks=Hooks(front.say))
    _refuse_other(plan, recorded_before)  # before any study is created
    with front.interruptible() as stop, ExitStack() as opened:
        searches = [opened.enter_context(open_search(family.plan, front.say, stop)) for family in plan.families]
        check_store(searches, recorded_before, plan.first.tracking)
        first = plan.first
        store = store_of(first.tracking, first.first.train.checkpoint_dir, plan.name, front.say, stop)
        return _compare(plan, searches, store, front, stop, Engines(trainer, front.say, stop))


def _compare(
    plan: ComparisonPlan,
    searches: list[Search],
    store: Store,
    front: Front,
    stop: Callable[[], bool],
    engines: Engines,
) -> ComparisonResult:
    folder = report_folder(plan.first.report, plan.name)
    run = _record(plan, searches, store)
    families = f"{len(searches)} x ({plural(plan.compare.trials, 'trial')} + {plural(plan.compare.seeds, 'seed')})"
    front.say(f"comparison {plan.name}: {families}")
    try:
        failed = _tune(plan, searches, store, front, stop, engines)
        if not stop():
            settle(store, stop)
            _train_finals(_finals_left(plan, searches, run), run, front, stop, engines)
        settle(store, stop)
        recorded = _recorded(run)
        comparisons = compared(recorded)
        if stop() and (left := sum(comparison.missing for comparison in comparisons)):
            _end(run, searches, "KILLED")
            return ComparisonResult(recorded, comparisons, None, left)
        from sweep.app.reports import comparison_files

        files = comparison_files(MlflowReader(store), recorded, comparisons, plan.first.study.storage)
        write(files, folder)
        _publish(run, comparisons, files)
        settle(store, stop)
    except BaseException as error:
        with suppress(Exception):  # the record may be what failed
            _end(run, searches, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    standings = [standing for comparison in comparisons for standing in comparison.standings]
    failed = failed or any(0 < len(standing.finals) == standing.ranked.failed for standing in standings)
    return ComparisonResult(recorded, comparisons, folder / "report.html", failed=failed)


def _end(run: ComparisonRun, searches: Sequence[Search], status: str) -> None:
    """End the run of the comparison, and those of its studies that have not ended; some were only created."""
    for study_run in (opened.run(run.store) for opened in searches):
        if study_run.exists and not study_run.finished:
            study_run.finish(status)
    run.finish(status)


def _publish(run: ComparisonRun, comparisons: Sequence[Comparison], files: Mapping[str, bytes]) -> None:
    """Attach verdict and report to the comparison's run, mark the final runs that they cover, and end the run."""
    run.attach(files)
    run.tag({"mlflow.note.content": "\n\n".join(f"{result.dataset}: {result.verdict}" for result in comparisons)})
    standings = [standing for comparison in comparisons for standing in comparison.standings]
    run.mark_finals({final.run.run_id for standing in standings for final in standing.finals})
    run.finish("FINISHED")


def _recorded(run: ComparisonRun) -> ComparisonRecord:
    run.reopen()  # restores the run if it was deleted in MLflow meanwhile
    recorded = MlflowReader(run.store).comparison(run.name)
    if recorded is None:
        raise RemovedError(run.name)
    return recorded


FAMILY_GROUPS = ("schedule", "warmup", "space", "dataset", "model")
"""Groups in which the schedules of one comparison may differ."""


def _refuse_other(plan: ComparisonPlan, store: Store | None) -> None:
    """Refuse a name under which a study, or a different comparison, is stored. Write nothing."""
    refuse_taken(store, plan.name, "study")
    for family in plan.families:
        check_study(family.plan.study, family.plan.name, family.plan.identity)
    run = None if store is None else ComparisonRun(store, plan.name, plan.first.study.metric, plan.first.study.minimize)
    if run is not None and run.exists:
        stored, asked = run.params, as_params(plan.shared)
        common = [key for key in stored if key in asked and key.partition(".")[0] not in FAMILY_GROUPS]
        refuse_difference(plan.name, {key: stored[key] for key in common}, {key: asked[key] for key in common})


def _check_families(plan: ComparisonPlan, trainer: Trainer) -> None:
    """Refuse now everything that the searches would refuse later."""
    for index, family in enumerate(plan.families):
        with refusals_of(family.schedule):
            check(family.plan, trainer, silent=index > 0)


def _record(plan: ComparisonPlan, searches: list[Search], store: Store) -> ComparisonRun:
    """Create or reopen the run of the comparison, and the runs of its studies below it."""
    run = ComparisonRun(store, plan.name, plan.first.study.metric, plan.first.study.minimize)
    asked = asdict(plan.compare) | {"first_seed": plan.seeds[0]}
    del asked["schedules"]  # they are recorded with their studies
    tags = {"sweep.asked": json.dumps(asked), "sweep.command": plan.command}
    params = as_params(plan.shared)
    if run.exists:
        run.reopen()
        run.reap()
        run.tag(tags)
    else:
        run.create(params, tags)
        settle(store, store.hooks.interrupted)
        run = ComparisonRun(store, plan.name, plan.first.study.metric, plan.first.study.minimize)
    run.remember(params, tags)
    runs = [record(opened, store, {"mlflow.parentRunId": run.run_id}) for opened in searches]
    families = [(family.dataset, family.schedule) for family in plan.families]
    run.compares(dict(zip(families, (of_study.run_id for of_study in runs), strict=True)))
    return run


def _tune(
    plan: ComparisonPlan,
    searches: list[Search],
    store: Store,
    front: Front,
    stop: Callable[[], bool],
    engines: Engines,
) -> bool:
    """Carry out the searches. A search without trials left is also opened if its run has not ended.

    Returns:
        Whether a search ended because its trials failed in succession. The other searches continue.
    """
    failed = False
    for index, (family, opened) in enumerate(zip(plan.families, searches, strict=True)):
        if stop():
            break
        run, proposer = opened.run(store), opened.proposer
        if opened.done and run.finished:
            continue
        later = sum(search.left for search in searches[index + 1 :]) + len(searches) * plan.compare.seeds
        if not opened.done:
            front.say(f"tuning {family.label}: {proposer.told} of {plural(proposer.total, 'trial')} done")
        try:
            carry_out(opened, store, run, front, stop, engines, later)
        except HopelessError as error:
            failed = True
            front.say(f"tuning {family.label} ends: {error}; the same command resumes it")
    return failed


@dataclass(frozen=True)
class _Finals:
    """The remaining final runs of one schedule.

    Args:
        of: number of the trial whose configuration they have.
    """

    family: Family
    search: Search
    of: int
    trials: list[Trial]


def _finals_left(plan: ComparisonPlan, searches: list[Search], run: ComparisonRun) -> list[_Finals]:
    """Return the remaining final runs of every schedule whose search has ended with a complete trial.

    Final runs that failed in an earlier command are included, because the user may have corrected the code.
    """
    recorded, asked = _recorded(run), plan.compare.trials
    left = []
    for family, opened, tuned in zip(plan.families, searches, recorded.families, strict=True):
        best = winner(tuned.study, asked)
        if best is None or best.number is None or not opened.done:
            continue
        ended = {final.seed for final in finals(tuned, asked, plan.seeds) if final.run.status is not Status.FAILED}
        seeds = [seed for seed in plan.seeds if seed not in ended]
        left.append(_Finals(family, opened, best.number, final_trials(opened.proposer.proposed(best.number), seeds)))
    return left


def _train_finals(
    left: list[_Finals], run: ComparisonRun, front: Front, stop: Callable[[], bool], engines: Engines
) -> None:
    """Train the final runs of the schedules, one schedule after another."""
    for index, of_family in enumerate(left):
        if stop() or not of_family.trials:
            continue
        family, search, total = of_family.family, of_family.search, len(of_family.trials)
        config, horizon = search.plan.study, search.plan.first.train.steps
        judged = judged_by(config.metric, tested=search.plan.data.n_test > 0)
        study_run = search.run(run.store).run_id
        parent = FinalRuns(run, study_run, of_family.of, judged, f"{family.dataset}/{family.schedule}")
        recorder = MlflowRecorder(run.store, describe, parent, draw=samples_picture, retrains_failed=True)
        later = sum(len(others.trials) for others in left[index + 1 :])
        watched = Watched(judged, config.minimize, total, 0, horizon, finals=True, later=later)
        seeds = plural(total, "seed")
        front.say(f"final runs of {family.label}, with the configuration of trial {of_family.of}: {seeds}")
        plan, like = family.plan, of_family.trials[0].config
        name = f"{plan.name}.finals-{of_family.of}"
        checkpoints = checkpoints_of(engines.trainer, like, name, study_run, front.say, search.lease.check)
        work = Work([like], total, learns=False, metric=config.metric, folder=str(checkpoints.own_files))
        with (
            engines.start(plan.engine, work, config.max_retries) as engine,
            front.watch(watched) as monitor,
        ):
            study.run(study.FixedTrials(of_family.trials), engine, recorder, checkpoints, monitor, judged, stop)
        if not stop():
            checkpoints.sweep()
