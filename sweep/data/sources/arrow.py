"""Read data sets of Hugging Face that `save_to_disk` has written."""

from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal


def huggingface(path: str, columns: Sequence[str] | None = None, splits: Mapping[str, str] | None = None) -> Any:
    """Return a data set that was saved with `save_to_disk`: a Dataset, or a mapping of splits to Datasets.

    A single split of a DatasetDict is returned as a Dataset, which is later divided into splits.

    Args:
        path: path of the folder. An initial `~` is the home directory.
        columns: columns that are kept; None for all.
        splits: train, val and test -> their names in the folder; None if these are train, val or validation, and test.

    Raises:
        InvalidValueError: names `path` if it cannot be read; `columns` or `splits` if one of them does not exist.
    """
    folder = Path(expanduser(path)).absolute()  # datasets would open a path that looks like a URL
    if not folder.is_dir():
        raise InvalidValueError("path", path, "is not a folder")
    try:
        from datasets import Dataset, load_from_disk
    except ModuleNotFoundError as error:
        rule = "needs datasets, which is not installed; pip install 'sweep[huggingface]'"
        raise InvalidValueError("_target_", "sweep.data.sources.huggingface", rule) from error
    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # datasets and pyarrow raise several types for a damaged folder
        rule = f"cannot be read as a data set that save_to_disk has written: {refusal(error)}"
        raise InvalidValueError("path", path, rule) from error
    if isinstance(found, Dataset):
        if splits is not None:
            raise InvalidValueError(
                "splits", dict(splits), "must be null: the folder contains one data set without splits"
            )
        return _chosen(found, columns)
    splits = {name: name for name in found} if splits is None else splits
    if not splits:
        raise InvalidValueError("splits", "{}", "must name train, and val or test or both")
    for ours, theirs in splits.items():
        if theirs not in found or ours not in ("train", "val", "validation", "test"):
            rule = f"must map train, val and test to the splits {', '.join(found)}: {{train: ..., test: ...}}"
            raise InvalidValueError("splits", f"{{{ours}: {theirs}}}", rule)
    parts = {ours: _chosen(found[theirs], columns) for ours, theirs in splits.items()}
    return parts if len(parts) > 1 else next(iter(parts.values()))


def _chosen(part: Any, columns: Sequence[str] | None) -> Any:
    """Return a data set with some of its columns."""
    if columns is None:
        return part
    if not isinstance(columns, Sequence) or isinstance(columns, str) or not columns:
        raise InvalidValueError("columns", columns, "must be a list of columns, or null for all")
    for name in columns:
        if name not in part.column_names:
            rule = f"is not a column of the data set, which has {', '.join(part.column_names)}"
            raise InvalidValueError("columns", name, rule)
    return part.select_columns(list(columns))
