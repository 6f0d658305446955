"""Defines the result types of the library: studies, trials and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.api.short_tracebacks import short_tracebacks
from sweep.comparison import Comparison as OnDataset
from sweep.comparison import as_rows
from sweep.config import TrackingConfig
from sweep.core import ComparisonRecord, Status, StudyRecord, TrialRecord
from sweep.errors import InvalidValueError
from sweep.plurals import plural
from sweep.report.text import counts, number
from sweep.tracking import MlflowReader, open_store

if TYPE_CHECKING:
    import pandas as pd
    import torch


@dataclass(frozen=True, repr=False)
class Trial:
    """A recorded training: a trial of a study, a final run, or a single training."""

    _record: TrialRecord
    _tracking: TrackingConfig

    @property
    def number(self) -> int | None:
        """Return the number in its study; None for a single training."""
        return self._record.number

    @property
    def status(self) -> str | None:
        """Return `complete`, `pruned`, `diverged` or `failed`; None during the training, and if it was interrupted."""
        return None if self._record.status is None else str(self._record.status)

    @property
    def values(self) -> dict[str, Any]:
        """Return the values that the search drew, by key: `{"optimizer.lr": 0.1}`.

        If the search chose an option of a group, the key is the group and the value is the name of the option:
        `{"schedule": "cosine"}`.
        """
        return dict(self._record.values)

    @property
    def metrics(self) -> dict[str, float]:
        """Return the last value of each metric: `loss`, `lr`, `global_step`, `val_loss`, `val_accuracy`, ..."""
        return dict(self._record.metrics)

    @property
    def params(self) -> dict[str, str]:
        """Return the whole configuration, flattened with dots, as text."""
        return dict(self._record.params)

    @property
    def seed(self) -> int | None:
        """Return `train.seed`, in which the final runs of a comparison differ."""
        seed = self._record.param("train.seed")
        return None if seed is None else int(seed)

    @property
    def half_life(self) -> float | None:
        """Return the number of updates in which the rate falls from its peak to half of it; None if it never does."""
        return self._record.half_life

    @property
    def reason(self) -> str | None:
        """Return why the trial failed, with file and line of the user's code; None if it did not fail."""
        return self._record.reason

    @property
    def run_id(self) -> str:
        """Return the id of the MLflow run."""
        return self._record.run_id

    @short_tracebacks
    def rows(self) -> "pd.DataFrame":
        """Return the record of its updates: index `step`, columns `lr` and `loss`.

        Row s has the rate of update s, and the loss of its batch before the update; the first update is 0. A training
        with two optimizers has `G_lr`, `G_loss`, `D_lr` and `D_loss`, with missing values for an optimizer with fewer
        updates.
        """
        import pandas as pd

        reader = MlflowReader(_store(self._tracking))
        frames = []
        for series in self._record.series or [""]:
            rows = reader.rows(self.run_id, series)
            columns = {f"{series}lr": rows.lr, f"{series}loss": rows.loss}
            frames.append(pd.DataFrame(columns, index=pd.Index(rows.steps, name="step")))
        return pd.concat(frames, axis=1)

    @short_tracebacks
    def weights(self) -> "dict[str, torch.Tensor]":
        """Return the state dict of the model at the end of the training: name -> tensor, on the CPU.

        >>> model.load_state_dict(study.best.weights())

        A search stores the weights of its best trial in `train.checkpoint_dir`. Repeated single trainings of one
        configuration store the weights of the last one. They are the weights for which `study.metric` was measured: the
        moving average if its name ends with _ema.

        Raises:
            LookupError: if the weights of this trial are not stored; the text says how to train it again.
        """
        import torch

        path = self._record.weights
        if path is None or not Path(path).is_file():
            of = "this training" if self.number is None else f"trial {self.number}"
            again = "sweep.train({**overrides, **trial.values, 'train.seed': trial.seed}) trains it again"
            raise LookupError(f"the weights of {of} are not stored; {again}")
        weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights

    def __repr__(self) -> str:
        number = "" if self.number is None else f" {self.number}"
        measured = {name: value for name, value in self.metrics.items() if "val_" in name or "test_" in name}
        return f"<Trial{number} {self.status} {measured} {self.values or ''}>".replace(" >", ">")

    def _repr_html_(self) -> str:
        import pandas as pd

        failed = {} if self.reason is None else {"reason": self.reason}
        shown = {"status": self.status, **failed, **self.values, **self.metrics}
        title = "training" if self.number is None else f"trial {self.number}"
        cells = pd.DataFrame({title: {name: number(value, 6) for name, value in shown.items()}})
        return str(cells.to_html())


@dataclass(frozen=True, repr=False)
class Study:
    """A snapshot of a recorded search.

    It does not change when the search is continued; `sweep.load(study.name)` returns the present state.

    Args:
        report: the file of its report; None if there is none on this machine.
    """

    _record: StudyRecord
    _tracking: TrackingConfig
    report: Path | None

    @property
    def name(self) -> str:
        """Return the name by which `sweep.load` finds the study.

        It is `study.name`. The default has the names of data set, model, optimizer and schedule, and a digest of the
        configuration: `digits-mlp-momentum-cosine-1f0a3b5c`.
        """
        return self._record.name

    @property
    def metric(self) -> str:
        """Return the name of the metric that ranks its trials."""
        return self._record.metric

    @property
    def minimize(self) -> bool:
        """Return whether a smaller value of the metric is better."""
        return self._record.minimize

    @property
    def trials(self) -> list[Trial]:
        """Return all trials, in the order of their numbers."""
        return [Trial(trial, self._tracking) for trial in self._record.trials]

    @property
    def best(self) -> Trial:
        """Return the complete trial with the best value of the metric; on a tie, the earliest.

        Raises:
            LookupError: if no trial is complete.
        """
        if not self._record.ranked:
            raise LookupError(f"no trial of study {self.name} is complete ({counts(self._record.trials)})")
        return Trial(self._record.ranked[0], self._tracking)

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row for each trial.

        The index is `trial`, the number. The columns are `status`, the metrics of the last evaluation (`val_loss`,
        ...), a column for each searched key, `half_life`, and `reason`, why a failed trial failed (missing for others).
        """
        import pandas as pd

        rows = [
            {
                "status": trial.status,
                **{name: value for name, value in trial.metrics.items() if "val_" in name},
                **trial.values,
                "half_life": trial.half_life,
                "reason": trial.reason,
            }
            for trial in self.trials
        ]
        return pd.DataFrame(rows, index=pd.Index([trial.number for trial in self.trials], name="trial"))

    def __repr__(self) -> str:
        complete = sum(trial.status is Status.COMPLETE for trial in self._record.trials)
        return f"<Study {self.name}: {plural(len(self._record.trials), 'trial')}, {complete} complete>"

    def _repr_html_(self) -> str:
        ascending = self.minimize
        frame = self.to_frame()
        if self.metric in frame:
            frame = frame.sort_values(self.metric, ascending=ascending, kind="stable")
        frame = frame.head(10)
        if "reason" in frame and frame["reason"].isna().all():
            frame = frame.drop(columns="reason")
        return str(frame.to_html())


@dataclass(frozen=True, repr=False)
class Comparison:
    """A snapshot of a recorded comparison of schedules.

    It does not change when the comparison is continued; `sweep.load(comparison.name)` returns the present state.

    Args:
        report: the file of its report; None if there is none on this machine.
    """

    _record: ComparisonRecord
    _on: Sequence[OnDataset]
    _tracking: TrackingConfig
    report: Path | None

    @property
    def name(self) -> str:
        """Return the name by which `sweep.load` finds the comparison.

        It is `study.name`. The default has the names of data sets, model and optimizer, and a digest of the
        configuration: `compare-digits-mlp-momentum-1f0a3b5c`.
        """
        return self._record.name

    @property
    def verdict(self) -> str:
        """Return the conclusion in words, which names the significant differences; one line per data set."""
        if len(self._on) == 1:
            return self._on[0].verdict
        return "\n".join(f"{found.dataset}: {found.verdict}" for found in self._on)

    @property
    def studies(self) -> dict[tuple[str, str], Study]:
        """Return the searches that tuned the schedules, by (data set, schedule)."""
        return {
            (family.dataset, family.schedule): Study(family.study, self._tracking, None)
            for family in self._record.families
        }

    @property
    def finals(self) -> dict[tuple[str, str], list[Trial]]:
        """Return the final runs of the best trials, by (data set, schedule), in the order of their seeds."""
        return {
            (family.dataset, family.schedule): [Trial(final.run, self._tracking) for final in family.finals]
            for family in self._record.families
        }

    def to_frame(self) -> "pd.DataFrame":
        """Return the table of comparison.csv, with a row for each schedule on each data set, best first.

        `dataset`, `schedule` and `rank` identify the row. `n_trials` is the number of tuning trials, and `n_seeds` that
        of final runs, of which `n_diverged` diverged and `n_failed` failed. `best_parameters` maps each searched key to
        the value of the best trial.

        `metric` is the metric that ranks the schedules: that of the test split, or of the validation split if there is
        no test split. `val_mean` and `test_mean` are the means over the final runs on these splits. `difference_mean`
        is the mean over the seeds of `metric` minus that of the schedule of rank 1. `val_ci_low`, `val_ci_high`,
        `test_ci_low`, ... are the ends of the confidence intervals, whose level is `compare.confidence`. The intervals
        of the means are BCa bootstrap intervals. Those of the differences are Student's t intervals, or BCa bootstrap
        intervals if `compare.test` is `wilcoxon`.

        `p` is the p value of the difference, and `p_holm` is the p value after Holm's correction for all pairs of
        schedules. `shown` is True if the difference is significant with all seeds and without any one of them.
        `seeds_needed` is an estimate of the number of seeds that would show a difference of this size. `target` is a
        value of `study.metric`, and `n_reached` is the number of final runs that reached it. `steps_to_target` and
        `seconds_to_target` are medians over the final runs; a run that did not reach the target counts as infinite.
        """
        import pandas as pd

        return pd.DataFrame(as_rows(self._on))

    def __repr__(self) -> str:
        return f"<Comparison {self.name}: {self.verdict}>"

    def _repr_html_(self) -> str:
        import html

        names = ["dataset", "schedule", "test_mean", "test_ci_low", "test_ci_high", "difference_mean", "p_holm"]
        return f"<p>{html.escape(self.verdict)}</p>{self.to_frame()[names].to_html(index=False)}"


def _store(tracking: TrackingConfig) -> Any:
    """Open the store of an existing record.

    Raises:
        InvalidValueError: names tracking.uri if the experiment no longer exists.
    """
    store = open_store(tracking, create=False)
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"has no experiment {tracking.experiment}")
    return store
