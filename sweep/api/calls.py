"""Defines the public functions that train or read the record; each corresponds to a mode of the command line."""

from pathlib import Path
from typing import Any

from sweep.api.command import Augmenter, Data, Function, Loop, Model, Objects, command_of
from sweep.api.results import Comparison, Study, Trial
from sweep.api.short_tracebacks import short_tracebacks
from sweep.api.values import Overrides
from sweep.app.comparison import compare as carry_out_comparison
from sweep.app.files import report_path
from sweep.app.records import recorded
from sweep.app.search import search as carry_out_search
from sweep.app.training import train as carry_out_training
from sweep.comparison import compare as compared
from sweep.core import ComparisonRecord, Status
from sweep.errors import InvalidValueError, TrainingFailedError
from sweep.plurals import plural
from sweep.requests import build
from sweep.requests.current_trainer import current_trainer
from sweep.requests.plan import make_comparison, make_plan, make_training
from sweep.terminal.fronts import front
from sweep.tracking import MlflowReader, open_store


@short_tracebacks
def search(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    task: Any = None,
    augment: Augmenter | None = None,
    schedule: Function | None = None,
    loop: Loop | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Study:
    """Search for the best schedule, as `python -m sweep` does.

    >>> study = sweep.search({"schedule": "cosine", "optimizer.lr": sweep.loguniform(1e-3, 1), "train.steps": 300})
    >>> study.best.values, study.best.metrics["val_loss"]

    The defaults are the schedule `exponential`, the model `mlp`, the data set `digits` and the optimizer `momentum`.
    By default the search draws the keys of the schedule, `warmup.steps` and `optimizer.lr`. An override with a plain
    value fixes a key; `space=none` searches only the keys given as search dimensions. `python -m sweep --help` lists
    all keys.

    The search trains trials until `study.n_trials` have ended. That is a total, 30 by default: the same call with a
    larger total adds trials to the study, and a finished search returns its result immediately. A trial fails if its
    code raises an error. Failed trials do not count towards the total; 20 failures in succession stop the search with
    HopelessError. If the code of the model or the data changes, the call starts a new study.

    `study.metric` ranks the trials by its value at the end of the training. The default is `val_loss`, and
    `val_energy_distance` for a GAN; a classification also has `val_accuracy`. `Trial.metrics` and `Study.to_frame` give
    the metrics of each trial. `study.best.weights()` returns the state dict of the best trial, and `train.save=best.pt`
    writes it to a file. Results are stored in the working directory: `mlflow.db`, `optuna.db`, `reports` and
    `checkpoints` (`tracking.uri`, `study.storage`, `report.dir`, `train.checkpoint_dir`).

    An interrupt (Ctrl-C, the stop button of a notebook) raises KeyboardInterrupt after the trainings in progress are
    saved. The same call resumes the search.

    Args:
        overrides: texts `key=value`, or a mapping key -> value; `interval`, `loguniform` and `choice` return the values
            of searched keys.
        model: a class or function that returns a new torch.nn.Module, or the name of a configured model. It gets
            `input_shape` (the shape of an example) and `n_outputs` if it has parameters with these names; its other
            parameters are keys: `{"model.width": 32}`.
        dataset: arrays {"x": [n, ...], "y": [n]}, or x_train, y_train, and x_val, y_val or x_test, y_test or both; a
            pair (x, y); arrays of other names, which the model gets by keyword, with the target `y` or `labels`; a
            map-style data set, such as a torch Dataset; {"train": ..., "val": ..., "test": ...} of any of these; a
            function that returns one of these, whose parameters are keys of `dataset`; or the name of a configured data
            set. Integers y are classes, other numbers are targets of a regression. 20 % of the examples become the
            validation split and 20 % the test split (`dataset.val_fraction`, `dataset.test_fraction`) unless the splits
            are given; if only val is missing, it is taken from train. Features x are standardized
            (`dataset.standardize`).
        task: a class or an object with a method `loss(model, batch)`, as `sweep.Task` describes; its parameters are
            keys of `task`. Or the name of a task: `classification`, `regression`, `language_model`, `segmentation`,
            `model`, whose models return their own loss.
        augment: a function (inputs, targets, draws) -> (inputs, targets) that changes training batches, with an
            attribute `n_draws` (docs/your-training.md, "Augmentation"); its other parameters are keys of
            `dataset.augment`. Or a class of such functions, or the name of an augmentation: `crop_flip`, `none`.
        schedule: a function (steps, horizon, **keys) that returns the factor on the learning rate at each of the steps
            (docs/schedules.md, "custom"), or the name of a configured schedule. Its other parameters are keys:
            `{"schedule.knee": sweep.interval(0.2, 0.8)}`.
        loop: a function `main(run, **keys)` that does the training itself, without model and dataset; its other
            parameters are keys of `loop`. Its `run` provides the steps and rates, and records losses and evaluations.
        config_dir: a folder with further configuration files.
        progress: whether to show messages and progress on standard error or in the notebook.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        HopelessError: if 20 trials have failed in succession. The same call continues the search.
        LookupError: if `train.save` cannot be written because the weights of the best trial are not stored.
        KeyboardInterrupt: if the search was interrupted. Its state is saved, and the same call resumes it.
    """
    with command_of("search", overrides, Objects(model, dataset, task, schedule, loop, augment), config_dir) as command:
        plan = make_plan(command)
        result = carry_out_search(plan, front(progress), current_trainer())
    if result.record is None:
        recorded = plural(result.total, "trial is recorded", "trials are recorded")
        raise KeyboardInterrupt(f"{result.told} of {recorded}; the same call resumes the search")
    if result.unsaved is not None:
        raise LookupError(result.unsaved)
    return Study(result.record, plan.tracking, result.report)


@short_tracebacks
def train(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    task: Any = None,
    augment: Augmenter | None = None,
    schedule: Function | None = None,
    loop: Loop | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Trial:
    """Train one configuration, as `python -m sweep mode=train` does.

    >>> trial = sweep.train(["schedule=wsd", "optimizer.lr=0.1"])
    >>> trial.rows()["lr"].plot()

    `Trial.weights` returns the state dict at the end of the training, and `train.save=one.pt` writes it to a file.

    The same call resumes an interrupted training. If the overrides of a search are a mapping,
    `sweep.train({**overrides, **study.best.values}, model=..., dataset=...)` trains its best trial again: the drawn
    values replace the searched ones.

    Args:
        overrides, model, dataset, task, augment, schedule, loop, config_dir, progress: as for `search`.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        LookupError: if `train.save` cannot be written because the training is not complete.
        TrainingFailedError: if the user's code raises an error; the text has the stack frames of that code.
        KeyboardInterrupt: if the training was interrupted; its state is saved.
    """
    with command_of("train", overrides, Objects(model, dataset, task, schedule, loop, augment), config_dir) as command:
        plan = make_training(command)
        ended = carry_out_training(plan, front(progress), current_trainer())
    if ended.result is None or ended.run_id is None:
        raise KeyboardInterrupt(f"the training is saved at step {ended.kept}; the same call resumes it")
    if ended.result.status is Status.FAILED:
        failure = ended.result.failure
        raise TrainingFailedError("the training failed" if failure is None else failure.details or failure.reason)
    if ended.unsaved is not None:
        raise LookupError(ended.unsaved)
    return Trial(MlflowReader(ended.store).training(ended.run_id), plan.tracking)


@short_tracebacks
def compare(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    task: Any = None,
    augment: Augmenter | None = None,
    loop: Loop | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare schedules: tune each with the same budget, train the best of each on the same seeds, test differences.

    >>> found = sweep.compare({"compare.schedules": ["cosine", "wsd"], "compare.trials": 8, "compare.seeds": 5})
    >>> print(found.verdict)

    Args:
        overrides, model, dataset, task, augment, loop, config_dir, progress: as for `search`.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        KeyboardInterrupt: if the comparison was interrupted. Its state is saved, and the same call resumes it.
    """
    with command_of(
        "compare", overrides, Objects(model, dataset, task, loop=loop, augment=augment), config_dir
    ) as command:
        plan = make_comparison(command)
        result = carry_out_comparison(plan, front(progress), current_trainer())
    if result.report is None:
        left = plural(result.left, "training is left", "trainings are left")
        raise KeyboardInterrupt(f"{left}; the same call resumes the comparison")
    return Comparison(result.record, result.comparisons, plan.first.tracking, result.report)


@short_tracebacks
def load(
    name: str | None = None, overrides: Overrides = (), *, config_dir: str | Path | None = None
) -> Study | Comparison:
    """Return a recorded study or comparison.

    Args:
        name: its name; None for the one that was started last.
        overrides, config_dir: as for `search`; `tracking.uri` and `tracking.experiment` determine where to look.

    Raises:
        InvalidValueError: if there is no such record.
    """
    with command_of("report", overrides, Objects(), config_dir) as command:
        config = command.compose()
        tracking, report = build.tracking_config(config), build.report_config(config)
    store = open_store(tracking, create=False)
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"has no experiment {tracking.experiment} yet")
    found = recorded(MlflowReader(store), name)
    path = report_path(report, found.name)
    written = path if path.is_file() else None
    if isinstance(found, ComparisonRecord):
        return Comparison(found, compared(found), tracking, written)
    return Study(found, tracking, written)
