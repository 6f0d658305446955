"""The table of the best trials in terminals of several widths."""

from dataclasses import replace

import pytest
from rich.console import Console

from sweep.core import Status, StudyRecord, TrialRecord
from sweep.report.trials import study_table

OWN = {
    "exponential": {"schedule.decay_rate": 0.9788300350369505, "schedule.decay_steps": 64},
    "cosine": {"schedule.end_factor": 0.0184268},
}


def trial(number: int, value: float, option: str) -> TrialRecord:
    """A trial of a search over two schedules; both have decay_steps, and only that of one is searched."""
    values = {"schedule": option, "optimizer.lr": 0.001432191, "warmup.steps": 30, **OWN[option]}
    params = {"schedule.decay_steps": "185", **{key: str(drawn) for key, drawn in values.items()}}
    metrics = {"val_loss": value, "val_accuracy": 1 - value}
    return TrialRecord(number, f"run{number}", "", Status.COMPLETE, params, metrics, 12.4, None, values=values)


SEARCHED = [
    "schedule", "schedule.decay_rate", "schedule.decay_steps", "schedule.end_factor", "warmup.steps", "optimizer.lr",
]  # fmt: skip
TRIALS = [trial(0, 0.5, "cosine"), trial(1, 0.2, "exponential"), trial(2, 0.3, "exponential"), trial(3, 0.6, "cosine")]
STUDY = StudyRecord("name", "parent", "1", "val_loss", True, SEARCHED, "", TRIALS)


def printed(study: StudyRecord, width: int, best: int = 10) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(study_table(study, best, width))
    return [line for line in capture.get().splitlines() if line.strip()]


def headers(study: StudyRecord, width: int) -> list[str]:
    return [str(column.header) for column in study_table(study, 10, width).columns]


def test_a_wide_table_has_a_column_for_every_key() -> None:
    lines = printed(STUDY, 160, best=2)
    keys = ["schedule", "decay_rate", "decay_steps", "end_factor", "warmup", "lr"]
    assert lines[1].split() == ["trial", "val_loss", "val_accuracy", *keys, "half-life"]
    assert lines[3].split() == ["1", "0.2000", "0.8000", "exponential", "0.9788", "64", "-", "30", "0.001432", "12"]
    assert len(lines) == 5


def test_in_100_columns_the_keys_of_some_options_share_one_and_nothing_is_cut() -> None:
    assert headers(STUDY, 100) == ["trial", "val_loss", "schedule", "warmup", "lr", "parameters", "half-life"]
    lines = printed(STUDY, 100)
    assert "exponential       30   0.001432   decay_rate=0.9788 decay_steps=64          12" in lines[3]
    assert "cosine            30   0.001432   end_factor=0.01843                        12" in lines[5]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
def test_every_name_and_value_is_whole_in_every_width(width: int, metric: str) -> None:
    said = "\n".join(printed(replace(STUDY, metric=metric), width))
    whole = ["exponential", "cosine", "decay_rate", "0.9788", "decay_steps", "64", "end_factor", "0.01843", "0.001432"]
    assert all(text in said for text in [*whole, metric])
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width


def test_what_older_records_searched_is_told_by_their_params() -> None:
    params = [{"schedule": "cosine"}, {"schedule": "exponential", "schedule.decay_rate": "0.9"}]
    old = [replace(TRIALS[0], params=of, values={}) for of in params]
    study = replace(STUDY, trials=old, searched=["schedule", "schedule.decay_rate"])
    assert headers(study, 100)[3:-1] == ["schedule", "decay_rate"]
    assert headers(study, 60)[2:] == ["schedule", "decay_rate", "half-life"]
    assert headers(study, 50)[2:] == ["schedule", "parameters"]
    assert "decay_rate=0.9" in printed(study, 50)[4]


def test_trials_with_tiny_losses_are_told_apart() -> None:
    trials = [replace(TRIALS[0], number=n, metrics={"val_loss": v}) for n, v in enumerate((3.1e-7, 4.2e-7, 5.3e-7))]
    table = study_table(replace(STUDY, trials=trials, searched=[]), best=9, width=120)
    assert list(table.columns[1].cells) == ["3.100e-07", "4.200e-07", "5.300e-07"]


def test_a_search_over_half_lives_shows_them_once() -> None:
    searched = replace(STUDY, searched=["schedule.half_life", "optimizer.lr"])
    assert headers(searched, 120) == ["trial", "val_loss", "val_accuracy", "half_life", "lr"]
