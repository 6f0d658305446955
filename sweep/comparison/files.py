"""Write the numbers of a comparison: comparison.csv, a row for each family on each data set, and comparison.json."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from sweep.comparison.result import Comparison, Standing
from sweep.comparison.statistics import Estimate
from sweep.core import ComparisonRecord, FinalRecord, Status


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """Return comparison.csv: a row for each family, with numbers in full precision, inf for never, empty for none."""
    rows = as_rows(comparisons)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"best_parameters": json.dumps(row["best_parameters"])} for row in rows)
    return text.getvalue()


def as_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return the rows of comparison.csv as mappings, the families of each data set in the order of their ranks."""
    return [_row(comparison, standing) for comparison in comparisons for standing in comparison.standings]


def as_json(record: ComparisonRecord, comparisons: Sequence[Comparison]) -> str:
    """Return comparison.json: the settings, and for each data set the verdict and the rows of its families.

    The rows have more entries than those of the csv: `best_of_k` is the expected best validation metric after 1, 2, ...
    trials. Null means never, or that there is no value.
    """
    asked = {
        "name": record.name,
        "metric": record.metric,
        "trials": record.trials,
        "seeds": list(record.seeds),
        "confidence": record.confidence,
        "test": record.test,
    }
    return json.dumps(asked | {"datasets": [_of_dataset(comparison) for comparison in comparisons]}, indent=2) + "\n"


def _of_dataset(comparison: Comparison) -> dict[str, Any]:
    return {
        "dataset": comparison.dataset,
        "verdict": comparison.verdict,
        "judged_by": comparison.metric,
        "target": comparison.target,
        "families": [_with_more(comparison, standing) for standing in comparison.standings],
    }


def _with_more(comparison: Comparison, standing: Standing) -> dict[str, Any]:
    row = {key: _finite(value) for key, value in _row(comparison, standing).items() if key not in ("dataset", "target")}
    finals = [
        {"seed": final.seed, "run_id": final.run.run_id, "status": final.run.status, **_measured(final)}
        for final in standing.finals
    ]
    return row | {"best_of_k": standing.best_of_k.tolist(), "finals": finals}


def _measured(final: FinalRecord) -> dict[str, float]:
    """Return the metrics at the end of a final run; none if it did not end as complete."""
    if final.run.status is not Status.COMPLETE:
        return {}
    return {key: value for key, value in final.run.metrics.items() if key.startswith(("val_", "test_"))}


def _row(comparison: Comparison, standing: Standing) -> dict[str, Any]:
    ranked, difference = standing.ranked, standing.ranked.difference
    between = None if difference is None else Estimate(difference.mean, difference.low, difference.high)
    return {
        "dataset": comparison.dataset,
        "schedule": standing.schedule,
        "rank": ranked.rank,
        "n_trials": standing.n_trials,
        "n_seeds": len(standing.finals),
        "n_diverged": ranked.diverged,
        "n_failed": ranked.failed,
        "best_parameters": best_parameters(standing),
        "metric": comparison.metric,
        **_columns("val", standing.val),
        **_columns("test", standing.test),
        **_columns("difference", between),
        "p": None if difference is None else difference.p,
        "p_holm": None if difference is None else difference.p_holm,
        "shown": None if difference is None else difference.shown,
        "seeds_needed": None if difference is None else difference.seeds_needed,
        "target": comparison.target,
        "n_reached": standing.reached,
        "steps_to_target": standing.steps_to_target,
        "seconds_to_target": standing.seconds_to_target,
    }


def best_parameters(standing: Standing) -> dict[str, Any]:
    """Return searched key -> value of the winner; empty without a winner."""
    best = standing.winner
    texts = {} if best is None else {key: best.param(key) for key in standing.family.study.searched}
    return {key: _read(text) for key, text in texts.items() if text is not None}


def _read(text: str) -> Any:
    """Return the value of a param; a text that is not JSON is returned unchanged."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return the columns of a mean and the ends of its interval."""
    if estimate is None:
        return {f"{name}_mean": None, f"{name}_ci_low": None, f"{name}_ci_high": None}
    return {f"{name}_mean": estimate.mean, f"{name}_ci_low": estimate.low, f"{name}_ci_high": estimate.high}


def _finite(value: Any) -> Any:
    """Replace infinity by None, because JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
