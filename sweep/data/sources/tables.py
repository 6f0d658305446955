"""Read the features and the target of a table from a .csv or .parquet file."""

from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np

from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.validation import check_boolean


def table(
    path: str, target: str, columns: Sequence[str] | None = None, regression: bool = False
) -> dict[str, np.ndarray]:
    """Return the features x float64 [rows, columns] and the target y [rows] of a table.

    Integers, truth values and texts in the target column are labels; other numbers are the target of a regression. The
    labels of texts are their indices in the sorted list of distinct texts.

    Args:
        path: path of a .csv (or .csv.gz) file with a header, or of a .parquet file. An initial `~` is the home
            directory.
        target: name of the column to predict.
        columns: names of the feature columns, in this order; None for all columns except the target.
        regression: whether integers and truth values are the target of a regression, too.

    Raises:
        InvalidValueError: names `path` if it cannot be read; `target` or `columns` if a column does not exist, a value
            is missing or infinite, or a feature is not a number.
    """
    check_boolean("regression", regression)
    frame = _frame(path)
    names = list(map(str, frame.columns))
    frame.columns = names
    if target not in names:
        raise InvalidValueError("target", target, f"is not a column of the table, which has {', '.join(names)}")
    if columns is None:
        columns = [name for name in names if name != target]
        if nameless := [name for name in columns if name.startswith("Unnamed: ")]:
            rule = f"must choose the features: column {names.index(nameless[0])}, counted from 0, has no name"
            raise InvalidValueError("columns", None, rule)
    if not isinstance(columns, Sequence) or isinstance(columns, str) or not columns:
        raise InvalidValueError("columns", columns, "must be a list of columns, or null for all except the target")
    for name in columns:
        if name not in names or name == target:
            rule = "is the target" if name == target else f"is not a column of the table, which has {', '.join(names)}"
            raise InvalidValueError("columns", name, rule)
    x = np.empty((len(frame), len(columns)))
    for place, name in enumerate(columns):
        try:
            x[:, place] = _numbers("columns", frame[name])
        except InvalidValueError as error:
            rule = f"{error.rule}; dataset.columns=[...] chooses the columns that are features"
            raise InvalidValueError("columns", name, rule) from error
    return {"x": x, "y": _numbers("target", frame[target]) if regression else _labels_or_numbers(frame[target])}


def _frame(path: str) -> Any:
    """Read a file as a DataFrame."""
    try:
        import pandas
        import pyarrow  # noqa: F401  # pandas needs it for .parquet
    except ModuleNotFoundError as error:
        rule = f"needs {error.name}, which is not installed; pip install 'sweep[tables]'"
        raise InvalidValueError("_target_", "sweep.data.sources.table", rule) from error
    file = Path(expanduser(path)).absolute()  # pandas would open a path that looks like a URL
    if not file.is_file():
        raise InvalidValueError("path", path, "there is no such file")
    if not file.name.lower().endswith((".csv", ".csv.gz", ".parquet")):
        raise InvalidValueError("path", path, "must end with .csv, .csv.gz or .parquet")
    try:
        if file.suffix.lower() == ".parquet":
            return pandas.read_parquet(file, engine="pyarrow")
        frame = pandas.read_csv(file, low_memory=False)
    except Exception as error:  # pandas, pyarrow, gzip and codecs raise a dozen types for a damaged file
        raise InvalidValueError("path", path, f"cannot be read as a table: {refusal(error)}") from error
    if not frame.index.equals(pandas.RangeIndex(len(frame))):  # pandas uses values without a name as the index
        raise InvalidValueError("path", path, "has rows with more values than its header has names")
    return frame


def _numbers(key: str, column: Any) -> np.ndarray:
    """Return a column as numbers, float64 [rows].

    Raises:
        InvalidValueError: names the key, the column, and the first row without a finite number.
    """
    from pandas import to_numeric
    from pandas.api.types import is_numeric_dtype

    _check_complete(key, column)
    numeric = is_numeric_dtype(column.dtype)
    values = column if numeric else to_numeric(column.astype(str), errors="coerce")
    numbers: np.ndarray = values.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if wrong.size or not numeric:
        row = int(wrong[0]) if wrong.size else 0
        rule = f"must hold finite numbers, but row {row}, counted from 0, is {column.iloc[row]!r} ({column.dtype})"
        raise InvalidValueError(key, column.name, rule)
    return numbers


def _check_complete(key: str, column: Any) -> None:
    missing = np.flatnonzero(column.isna())
    if missing.size:
        raise InvalidValueError(
            key, column.name, f"must have a value in each row; row {missing[0]}, counted from 0, has none"
        )


def _labels_or_numbers(column: Any) -> np.ndarray:
    """Return a target as labels or numbers, int64 or float64 [rows]."""
    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    _check_complete("target", column)
    if types.is_bool_dtype(column) or types.is_integer_dtype(column):
        return np.asarray(column.to_numpy(dtype=np.int64))
    if types.is_string_dtype(column):
        return np.unique(column.to_numpy(dtype=str), return_inverse=True)[1]
    return _numbers("target", column)
