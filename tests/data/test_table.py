"""Test reading tables from .csv and .parquet files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.data.sources import table
from sweep.errors import InvalidValueError
from tests.conftest import SMALL, Answer
from tests.test_main_job import runs

FRAME = pd.DataFrame(
    {
        "age": [31, 17, 60, 44],
        "height": [1.5, 0.1, 1e-300, 1 / 3],
        "smokes": [True, False, False, True],
        "city": ["Rome", "Bonn", "Rome", "Oslo"],
        "class": [1, 0, 2, 1],
    }
)
FEATURES = FRAME[["age", "height", "smokes"]].to_numpy(dtype=float)


def write(folder: Path, frame: pd.DataFrame, suffix: str = ".csv") -> str:
    """Write a table, and return its path."""
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_columns_are_features_and_a_target(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, FRAME.drop(columns="city"), suffix)
    found = table(path, "class")
    assert found["x"].dtype == np.float64
    np.testing.assert_array_equal(found["x"], FEATURES)
    assert found["y"].dtype == np.int64
    assert found["y"].tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(table(path, "class", ["smokes", "age"])["x"], FEATURES[:, [2, 0]])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_type_of_the_target_says_what_it_is(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, FRAME, suffix)
    columns = ["age"]
    assert table(path, "city", columns)["y"].tolist() == [2, 0, 2, 1]
    assert table(path, "smokes", columns)["y"].tolist() == [1, 0, 0, 1]
    assert table(path, "smokes", columns)["y"].dtype == np.int64
    np.testing.assert_array_equal(table(path, "height", columns)["y"], FEATURES[:, 1])
    numbers = table(path, "class", columns, regression=True)["y"]
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [1, 0, 2, 1]


def test_types_of_parquet_are_read_by_their_values(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "small": np.array([1, 2, 3], dtype=np.int8),
            "nullable": pd.array([1, 2, 3], dtype="Int64"),
            "number": pd.array([0.5, 1.5, 2.5], dtype="Float32"),
            "kind": pd.Categorical(["b", "a", "b"]),
            "level": pd.Categorical([1, 0, 1]),
        }
    )
    path = write(tmp_path, frame, ".parquet")
    found = table(path, "kind", ["small", "nullable", "number"])
    np.testing.assert_array_equal(found["x"], [[1, 1, 0.5], [2, 2, 1.5], [3, 3, 2.5]])
    assert found["y"].tolist() == [1, 0, 1]
    assert table(path, "level", ["small"])["y"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("column", "said"),
    [
        (
            {"city": list("abcd")},
            "columns=city: must hold finite numbers, but row 0, counted from 0, is 'a' (str); dataset.columns",
        ),
        (
            {"age": [1, None, 3, 4]},
            "columns=age: must have a value in each row; row 1, counted from 0, has none; dataset.columns",
        ),
        ({"age": [1.0, 2.0, np.inf, 4]}, "columns=age: must hold finite numbers, but row 2, counted from 0, is"),
        ({"age": ["1", "2", "3", "?"]}, "columns=age: must hold finite numbers, but row 3, counted from 0, is '?'"),
        ({"class": [1, 0, None, 1]}, "target=class: must have a value in each row; row 2, counted from 0, has none"),
        ({"class": ["a", "b", None, "a"]}, "target=class: must have a value in each row; row 2, counted from 0"),
        ({"class": [0.5, 1.0, 2.0, -np.inf]}, "target=class: must hold finite numbers, but row 3, counted from 0"),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_by_name_and_row(
    tmp_path: Path, suffix: str, column: dict[str, list[object]], said: str
) -> None:
    frame = FRAME.drop(columns="city").assign(**column)
    with pytest.raises(InvalidValueError) as refused:
        table(write(tmp_path, frame, suffix), "class")
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "values",
    [pd.to_datetime(["2020-01-01"] * 4), [[1], [2], [3], [4]], ["1", "2", "3", "4"]],
    ids=["dates", "lists", "texts of digits"],
)
def test_a_column_of_parquet_that_holds_no_numbers_is_refused(tmp_path: Path, values: object) -> None:
    path = write(tmp_path, FRAME.assign(city=values), ".parquet")
    with pytest.raises(InvalidValueError, match=r"^columns=city: must hold finite numbers, but row 0"):
        table(path, "class")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": "klass"}, "target=klass: is not a column of the table, which has age, height, smokes, class"),
        ({"columns": ["weight"]}, "columns=weight: is not a column of the table, which has age"),
        ({"columns": ["age", "class"]}, "columns=class: is the target"),
        ({"columns": []}, "columns=[]: must be a list of columns"),
        ({"columns": "age"}, "columns=age: must be a list of columns"),
        ({"regression": "yes"}, "regression=yes: must be true or false"),
        ({"path": "nothing.csv"}, "path=nothing.csv: there is no such file"),
        ({"path": "https://example.org/table.csv"}, "path=https://example.org/table.csv: there is no such file"),
    ],
)
def test_keys_that_cannot_be_right_are_refused(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    path = write(tmp_path, FRAME.drop(columns="city"))
    with pytest.raises(InvalidValueError) as refused:
        table(**({"path": path, "target": "class"} | arguments))
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("table.csv", b"", "cannot be read as a table: EmptyDataError: No columns"),
        ("table.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read as a table: ParserError: Error tokenizing"),
        ("table.csv", b"a,b\n1,2,3\n4,5,6\n", "has rows with more values than its header has names"),
        ("table.csv", b"a,b\n\xff\xfe,1\n", "cannot be read as a table: UnicodeDecodeError: 'utf-8'"),
        ("table.csv.gz", b"a,b\n1,2\n", "cannot be read as a table: BadGzipFile: Not a gzipped file"),
        ("table.parquet", b"PAR1 and then nothing", "cannot be read as a table: "),
        ("table.xlsx", b"a,b\n1,2\n", "must end with .csv, .csv.gz or .parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValueError) as refused:
        table(str(tmp_path / name), "b")
    assert str(refused.value).startswith(f"path={tmp_path / name}: {said}")
    assert "\n" not in str(refused.value)


def test_a_column_without_a_name_is_no_feature_unless_it_is_chosen(tmp_path: Path) -> None:
    """Such a column is the index that pandas writes."""
    FRAME.drop(columns="city").to_csv(tmp_path / "table.csv")
    with pytest.raises(
        InvalidValueError, match=r"^columns=null: must choose the features: column 0, counted from 0, has"
    ):
        table(str(tmp_path / "table.csv"), "class")
    assert table(str(tmp_path / "table.csv"), "class", ["age"])["x"].shape == (4, 1)


@pytest.mark.parametrize("target", ["kind", "size"])
def test_a_network_is_trained_on_it(sweep: Callable[..., Answer], folder: Path, target: str) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": range(200), "size": rng.normal(size=200)})
    frame["kind"] = np.where(frame["a"] > 0, "high", "low")
    write(folder, frame)
    given = ["dataset=table", "dataset.path=table.csv", f"dataset.target={target}", "dataset.columns=[a,b]"]
    answer = sweep("mode=train", *given, *SMALL)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert ("val_accuracy" in run.data.metrics) == (target == "kind")
    assert 0 < run.data.metrics["val_loss"] < 10
