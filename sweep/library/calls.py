"""The functions of the library: each carries out a mode of the command line, and returns what it found."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep import forking, given
from sweep.app.comparison import compare as carry_out_comparison
from sweep.app.files import report_path
from sweep.app.preview import PreviewPlan
from sweep.app.preview import preview as compute_curves
from sweep.app.records import recorded
from sweep.app.search import search as carry_out_search
from sweep.app.training import train as carry_out_training
from sweep.comparison import compare as compared
from sweep.core import ComparisonRecord, Status
from sweep.errors import InvalidValueError, TrainingFailedError
from sweep.library.results import Comparison, Preview, Study, Trial
from sweep.library.values import Overrides, as_texts
from sweep.requests import build
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.expressions import OF_COMPARISONS, check_searchable, parse, read
from sweep.requests.plan import make_comparison, make_plan, make_training
from sweep.requests.preview import make_preview
from sweep.requests.resolvers import register_resolvers
from sweep.terminal.fronts import front
from sweep.tracking import MlflowReader, open_store

Model = str | Callable[..., Any]
"""The name of an option of conf/model, or a class or function that returns a new torch.nn.Module.

It gets those of `input_shape`, the shape of an example, and `n_outputs` that it has parameters for, and the keys of
`model` that are given: `{"model.width": 32}`.
"""
Data = str | Callable[..., Any] | Mapping[str, Any] | Sequence[Any]
"""The name of an option of conf/dataset; arrays {"x": [n, ...], "y": [n, ...]}, or x_train, y_train, x_val, ...; a pair
(x, y); or a function that returns such a mapping, and gets the keys of `dataset` that are given."""


def search(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Study:
    """Search for the best schedule: train trials until `study.n_trials` have ended, as `python -m sweep` does.

    >>> sweep.search({"schedule": "cosine", "optimizer.lr": sweep.loguniform(1e-3, 1), "train.steps": 300})

    A search that was interrupted resumes with the same call, and one that is done returns at once what it found.

    Args:
        overrides: texts `key=value`, or key -> value.
        model: what is trained instead of the configured model.
        dataset: the data instead of the configured data set.
        config_dir: a folder of further configuration files.
        progress: whether to show messages and progress, on standard error or in the notebook.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        HopelessError: if the trials fail one after another.
        KeyboardInterrupt: if it was interrupted; what was trained is kept.
    """
    with _command("search", overrides, model, dataset, config_dir) as command:
        _refuse_datasets(command)
        plan = make_plan(command)
        forking.prepare()
        result = carry_out_search(plan, front(progress))
    if result.record is None:
        raise KeyboardInterrupt(
            f"{result.told} of {result.total} trials are recorded; the same call resumes the search"
        )
    return Study(result.record, plan.tracking, result.report)


def train(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Trial:
    """Train one configuration, as `python -m sweep mode=train` does.

    >>> trial = sweep.train(["schedule=wsd", "optimizer.lr=0.1"])
    >>> trial.rows()["lr"].plot()

    A training that was interrupted resumes with the same call. A search's best trial is trained again by
    `sweep.train({**overrides, **study.best.values})`, with the overrides of the search that are no search dimension.

    Args:
        overrides, model, dataset, config_dir, progress: as for `search`.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        TrainingFailedError: if the model's own code raises an error; the text has the frames of that code.
        KeyboardInterrupt: if it was interrupted; what was trained is kept.
    """
    with _command("train", overrides, model, dataset, config_dir) as command:
        _refuse_datasets(command)
        plan = make_training(command)
        ended = carry_out_training(plan, front(progress))
    if ended.result is None or ended.run_id is None:
        raise KeyboardInterrupt(f"the training is kept at step {ended.kept}; the same call resumes it")
    if ended.result.status is Status.FAILED:
        failure = ended.result.failure
        raise TrainingFailedError("the training failed" if failure is None else failure.details or failure.reason)
    return Trial(MlflowReader(ended.store).training(ended.run_id), plan.tracking)


def compare(
    overrides: Overrides = (),
    *,
    model: Model | None = None,
    dataset: Data | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare schedules: tune each with the same budget, train the best of each on the same seeds, and judge.

    >>> found = sweep.compare({"compare.schedules": ["cosine", "wsd"], "compare.trials": 8, "compare.seeds": 5})
    >>> print(found.verdict)

    Args:
        overrides, model, dataset, config_dir, progress: as for `search`.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
        KeyboardInterrupt: if it was interrupted; what was trained is kept, and the same call resumes it.
    """
    with _command("compare", overrides, model, dataset, config_dir) as command:
        plan = make_comparison(command)
        forking.prepare()
        result = carry_out_comparison(plan, front(progress))
    if result.report is None:
        raise KeyboardInterrupt(f"{result.left} trainings are left; the same call resumes the comparison")
    return Comparison(result.record, result.comparisons, plan.first.tracking, result.report)


def preview(overrides: Overrides = (), *, config_dir: str | Path | None = None) -> Preview:
    """Compute the curves of schedules without training; a list (`choice`, `a,b`) gives a curve for each value.

    >>> sweep.preview({"schedule": sweep.choice("cosine", "wsd"), "train.steps": 300}).to_frame().plot()

    Args:
        overrides, config_dir: as for `search`. Files are written only if `preview.path` is given.

    Raises:
        InvalidValueError: names what cannot be drawn.
    """
    with _command("preview", overrides, None, None, config_dir) as command:
        _refuse_datasets(command)
        plan = make_preview(command)
        if "preview.path" not in command.request.keys:
            plan = PreviewPlan(plan.runs, None)
        return Preview(compute_curves(plan))


def load(
    name: str | None = None, overrides: Overrides = (), *, config_dir: str | Path | None = None
) -> Study | Comparison:
    """Return a study or comparison that is recorded.

    Args:
        name: its name; None for the one that was begun last.
        overrides, config_dir: as for `search`; they say where it is recorded: `tracking.uri`, `tracking.experiment`.

    Raises:
        InvalidValueError: if it is not recorded.
    """
    with _command("report", overrides, None, None, config_dir) as command:
        config = command.compose()
        tracking, report = build.tracking_config(config), build.report_config(config)
    store = open_store(tracking, create=False)
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"holds no experiment {tracking.experiment} yet")
    found = recorded(MlflowReader(store), name)
    path = report_path(report, found.name)
    written = path if path.is_file() else None
    if isinstance(found, ComparisonRecord):
        return Comparison(found, compared(found), tracking, written)
    return Study(found, tracking, written)


@contextmanager
def _command(
    mode: str, overrides: Overrides, model: Model | None, dataset: Data | None, config_dir: str | Path | None
) -> Iterator[Command]:
    """Give the command that means the same as a call. Objects of the call are found as long as the context lasts."""
    register_resolvers()
    texts, objects = [f"mode={mode}"], {}
    for group, value in (("model", _checked_model(model)), ("dataset", dataset)):
        if isinstance(value, str):
            texts.append(f"{group}={value}")
        elif value is not None:
            target = given.target_of(value)
            objects[target] = value if callable(value) else _returning(value)
            texts += ["dataset=arrays"] if group == "dataset" else []
            texts.append(f"{group}._target_={target}")
    for text in as_texts(overrides):
        if read(text).key_or_group == "mode":
            raise InvalidValueError(
                "mode", text.partition("=")[2], "is for the command line; here each mode is a function"
            )
        texts.append(text)
    folder = None if config_dir is None else str(config_dir)
    flags = () if folder is None else ("--config-dir", folder)
    with given.registered(objects):
        yield Command(Composer(folder), parse(texts), flags)


def _checked_model(model: Model | None) -> Model | None:
    if model is not None and not callable(model) and not isinstance(model, str):
        raise InvalidValueError("model", repr(model), "must be a class or function that returns a model, or a name")
    if hasattr(model, "state_dict") and not inspect.isclass(model):
        rule = "must be a class or function that returns a new model, because each trial trains its own"
        raise InvalidValueError("model", f"{type(model).__name__}(...)", rule)
    return model


def _returning(arrays: Mapping[str, Any] | Sequence[Any]) -> Callable[[], Mapping[str, Any]]:
    """Return a function that returns these arrays by their names."""
    if isinstance(arrays, Mapping):
        named = arrays
    elif isinstance(arrays, tuple | list) and len(arrays) == 2:
        named = {"x": arrays[0], "y": arrays[1]}
    else:
        rule = "must be arrays {'x': ..., 'y': ...}, a pair (x, y), a function that returns such a mapping, or a name"
        raise InvalidValueError("dataset", type(arrays).__name__, rule)
    return lambda: named


def _refuse_datasets(command: Command) -> None:
    mode = command.request.given("mode")
    if command.request.datasets and mode not in OF_COMPARISONS:
        check_searchable("dataset", ",".join(command.request.datasets))
