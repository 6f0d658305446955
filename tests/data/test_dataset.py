"""Test that arrays become complete, disjoint and reproducible splits, and that invalid arrays are refused."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import dataset, dataset_of, load
from sweep.data.dataset import _load
from sweep.errors import InvalidValueError
from sweep.tasks import AUTO_TASK
from sweep.training.objectives import objective_of

CALLS: list[int] = []


def counted(n):
    """Return a data set, and count the calls."""
    CALLS.append(n)
    return {"x": np.arange(2.0 * n).reshape(n, 2), "y": np.arange(n) % 2}


def given(arrays):
    """Return the arguments as a data set."""
    return arrays


def ragged():
    """Return examples with different structures."""
    return {"x": [[[1], [2]], [[1], [2, 3]]] * 10, "y": [0, 1] * 10}


def load_given(**arrays):
    """Load these arrays. Clear the cache first, because it compares configurations by their texts."""
    _load.cache_clear()
    return load_here(given, {"arrays": arrays})


def objects(values):
    """Return an array of objects, one for each value."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def load_shipped(name, **keys):
    return load(DatasetConfig(Component("dataset", f"sweep.data.sources.{name}", {}), **keys))


def load_here(function, arguments, **keys):
    """Load the data set that a function of this module returns."""
    component = Component("dataset", f"{__name__}.{function.__name__}", arguments, trusted=(__name__,))
    return load(DatasetConfig(component, **keys))


def load_arrays(tmp_path, *, file="data", dataset=None, **arrays):
    path = tmp_path / f"{file}.npz"
    np.savez(path, **arrays)
    component = Component("dataset", "sweep.data.sources.arrays", {"path": str(path)})
    return load(DatasetConfig(component, **(dataset or {})))


def numbers(n, width=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


def labels(n, classes=2):
    return np.arange(n) % classes


def numbered(n):
    """Return a regression whose targets are the indices of the examples, so that splits can be identified."""
    return {"x": numbers(n), "y": np.arange(n, dtype=float)}


def members(split):
    return split.targets.flatten().long().tolist()


def refused(key):
    return pytest.raises(InvalidValueError, match=rf"^{key}=")


# --- what ships


def test_digits_are_three_splits_of_pictures():
    data = load_shipped("digits")
    assert data.input_shape == (1, 8, 8)
    assert (data.n_outputs, data.classification) == (10, True)
    assert [len(split) for split in (data.train, data.val, data.test)] == [1079, 359, 359]
    assert data.train.inputs.dtype == torch.float64
    assert data.train.targets.dtype == torch.int64
    assert data.train.targets.shape == (1079,)


def test_breast_cancer_is_three_splits_of_features():
    data = load_shipped("breast_cancer", standardize=True)
    assert data.input_shape == (30,)
    assert (data.n_outputs, data.classification) == (2, True)
    assert [len(split) for split in (data.train, data.val, data.test)] == [341, 114, 114]


# --- splits


def test_splits_are_disjoint_and_complete(tmp_path):
    data = load_arrays(tmp_path, **numbered(101), dataset={"val_fraction": 0.3, "test_fraction": 0.1})
    splits = [members(split) for split in (data.train, data.val, data.test)]
    assert [len(split) for split in splits] == [61, 30, 10]
    assert sorted(itertools.chain(*splits)) == list(range(101))


def test_an_example_keeps_its_target(tmp_path):
    arrays = numbered(50)
    data = load_arrays(tmp_path, **arrays)
    for split in (data.train, data.val, data.test):
        np.testing.assert_array_equal(split.inputs.numpy(), arrays["x"][members(split)])


def test_splits_are_permuted_and_reproducible(tmp_path):
    first = load_arrays(tmp_path, file="one", **numbered(100))
    again = load_arrays(tmp_path, file="two", **numbered(100))
    assert members(first.train) == members(again.train)
    assert members(first.test) == members(again.test)
    assert members(first.train) != sorted(members(first.train))


def test_the_split_depends_on_split_seed(tmp_path):
    one = load_arrays(tmp_path, **numbered(100), dataset={"split_seed": 1})
    two = load_arrays(tmp_path, **numbered(100), dataset={"split_seed": 2})
    assert set(members(one.train)) != set(members(two.train))


def test_no_test_fraction_is_an_empty_test_split(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=labels(20), dataset={"test_fraction": 0.0})
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 4, 0]


def test_a_regression_may_have_no_test_split(tmp_path):
    data = load_arrays(tmp_path, **numbered(20), dataset={"test_fraction": 0.0})
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 4, 0]
    assert data.n_outputs == 1


def test_arrays_that_are_split_stay_as_they_are(tmp_path):
    x, y = numbers(30), labels(30)
    parts = {"train": slice(0, 15), "val": slice(15, 25), "test": slice(25, 30)}
    arrays = {f"{axis}_{name}": whole[part] for name, part in parts.items() for axis, whole in (("x", x), ("y", y))}
    data = load_arrays(tmp_path, **arrays)
    for name, part in parts.items():
        np.testing.assert_array_equal(getattr(data, name).inputs.numpy(), x[part])
        np.testing.assert_array_equal(getattr(data, name).targets.numpy(), y[part])


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_arrays_that_are_split_need_no_test_split(tmp_path, kind):
    y = labels(20) if kind == "classification" else numbers(20, width=2)
    data = load_arrays(tmp_path, x_train=numbers(20), y_train=y, x_val=numbers(5), y_val=y[:5])
    assert [len(split) for split in (data.train, data.val, data.test)] == [20, 5, 0]
    assert data.n_outputs == 2


@pytest.mark.parametrize("kind", ["suffixes", "parts", "loaded"])
def test_val_is_cut_from_train_where_only_train_and_test_are_given(kind):
    whole, tested = numbered(50), {"x": numbers(7), "y": np.arange(100.0, 107.0)}
    arrays = {"train": whole, "test": tested}
    if kind == "suffixes":
        arrays = {f"{name}_{split}": array for split, part in arrays.items() for name, array in part.items()}
    elif kind == "loaded":
        arrays = {split: torch.utils.data.TensorDataset(*map(torch.tensor, p.values())) for split, p in arrays.items()}
    _load.cache_clear()
    data = load_here(given, {"arrays": arrays}, val_fraction=0.3, test_fraction=0.6, split_seed=3)
    assert (len(data.train), len(data.val), len(data.test)) == (35, 15, 7)
    assert sorted(members(data.train) + members(data.val)) == list(range(50))
    assert members(data.val) == np.random.default_rng(3).permutation(50)[35:].tolist()
    assert members(data.test) == list(range(100, 107))
    np.testing.assert_array_equal(data.val.inputs, whole["x"][members(data.val)])
    np.testing.assert_array_equal(data.test.inputs, tested["x"])


def test_a_val_fraction_that_leaves_nothing_of_train_is_refused():
    with refused("dataset.val_fraction"):
        load_here(given, {"arrays": {"train": numbered(3), "test": numbered(3)}}, val_fraction=0.1)


# --- kinds of targets


def test_float_targets_are_a_regression(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=np.linspace(0, 1, 20))
    assert (data.n_outputs, data.classification) == (1, False)
    assert data.train.targets.shape == (12,)
    assert data.train.targets.dtype == torch.float64


def test_a_regression_has_as_many_outputs_as_its_target_is_wide(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=numbers(20, width=4))
    assert data.n_outputs == 4
    assert data.train.targets.shape == (12, 4)


def test_boolean_targets_are_two_classes(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=labels(20).astype(bool))
    assert (data.n_outputs, data.classification) == (2, True)
    assert set(data.train.targets.tolist()) == {0, 1}


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64])
def test_labels_may_be_of_any_integer_type(tmp_path, kind):
    data = load_arrays(tmp_path, x=numbers(20), y=labels(20, classes=4).astype(kind))
    assert data.n_outputs == 4
    assert data.train.targets.dtype == torch.int64


def test_n_classes_allows_classes_without_examples(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=labels(20) * 2, dataset={"n_classes": 7})
    assert data.n_outputs == 7


# --- standardizing


def test_each_feature_is_standardized_over_the_training_split_alone(tmp_path):
    arrays = numbered(40)
    arrays["x"] = arrays["x"] * [1.0, 10.0, 0.1] + [5.0, -3.0, 0.0]
    data = load_arrays(tmp_path, **arrays, dataset={"standardize": True})
    train = arrays["x"][members(data.train)]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    np.testing.assert_allclose(data.train.inputs.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train.inputs.std(0, correction=0), 1, rtol=1e-12)
    for split in (data.val, data.test):
        np.testing.assert_allclose(split.inputs, (arrays["x"][members(split)] - mean) / deviation, rtol=1e-12)
        assert abs(float(split.inputs.mean())) > 1e-3  # its own mean was not taken


def test_standardize_false_leaves_the_features(tmp_path):
    arrays = numbered(40)
    data = load_arrays(tmp_path, **arrays, dataset={"standardize": False})
    np.testing.assert_array_equal(data.train.inputs, arrays["x"][members(data.train)])


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("splits", ["cut", "given"])
def test_each_channel_is_standardized_over_the_training_split_alone(kind, splits):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4)).astype(kind)
    images[:, 1] //= 4
    y = np.arange(40.0)
    arrays = {"x": images, "y": y}
    if splits == "given":
        arrays = {"x_train": images[:30], "y_train": y[:30], "x_val": images[30:], "y_val": y[30:]}
    _load.cache_clear()
    data = load_here(given, {"arrays": arrays}, standardize="channels")
    train = images[members(data.train)].astype(float)
    mean, deviation = train.mean(axis=(0, 2, 3), keepdims=True), train.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train.inputs.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(data.train.inputs.std((0, 2, 3), correction=0), 1, rtol=1e-12)
    np.testing.assert_allclose(data.val.inputs, (images[members(data.val)] - mean) / deviation, rtol=1e-9, atol=1e-12)
    assert data.train.arrays["x"].dtype == kind


@pytest.mark.parametrize("constant", [0.0, 0.1, 255.0])
def test_a_constant_channel_becomes_zero(monkeypatch, constant):
    monkeypatch.setattr(dataset, "BLOCK_NUMBERS", 50)
    images = numbers(30, width=32).reshape(30, 2, 4, 4)
    images[:, 1] = constant
    data = load_given(x=images, y=np.arange(30.0))
    assert data.train.inputs[:, 1].abs().max() == abs(constant)  # the test has such a channel
    _load.cache_clear()
    data = load_here(given, {"arrays": {"x": images, "y": np.arange(30.0)}}, standardize="channels")
    assert data.train.inputs[:, 1].eq(0).all()
    assert data.val.inputs[:, 1].eq(0).all()
    np.testing.assert_allclose(data.train.inputs[:, 0].std(correction=0), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": numbers(20), "y": labels(20)}, r"is for images x \[n, C, H, W\]; x has shape \[20, 3\]"),
        ({"pixels": np.ones((20, 1, 2, 2)), "y": labels(20)}, "there is no x"),
        ({"x": [np.ones(2), np.ones(3)] * 10, "y": labels(20)}, "not for examples that are loaded individually"),
    ],
)
def test_channels_are_of_images_alone(arrays, said):
    _load.cache_clear()
    with pytest.raises(InvalidValueError, match=said):
        load_here(given, {"arrays": arrays}, standardize="channels")


@pytest.mark.parametrize("constant", [0.0, 2.0, 0.1])
def test_a_constant_feature_becomes_zero(tmp_path, constant):
    x = numbers(50)
    x[:, 1] = constant
    data = load_arrays(tmp_path, x=x, y=labels(50), dataset={"standardize": True})
    np.testing.assert_allclose(data.train.inputs[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(data.val.inputs[:, 1], 0, atol=1e-9)


# --- containers


X, Y = numbers(20), labels(20)
THE_SAME = {
    "lists": (X.tolist(), Y.tolist()),
    "tuples": (tuple(map(tuple, X)), tuple(Y)),
    "tensors": (torch.tensor(X), torch.tensor(Y)),
    "a tensor with a gradient": (torch.tensor(X, requires_grad=True), torch.tensor(Y)),
    "lists of tensors": ([torch.tensor(row, requires_grad=True) for row in X], [torch.tensor(label) for label in Y]),
    "frames": (pd.DataFrame(X), pd.Series(Y)),
    "numbers as objects": (X.astype(object), pd.Series(Y, dtype="Int64")),
    "an object for each example": (objects(list(X)), objects(list(Y))),
    "nothing masked": (np.ma.masked_array(X), Y),
    "longdouble": (X.astype(np.longdouble), Y),
}


@pytest.mark.parametrize(("x", "y"), THE_SAME.values(), ids=THE_SAME)
def test_arrays_are_taken_from_any_container(x, y):
    found, expected = (load_given(x=a, y=b) for a, b in ((x, y), (X, Y)))
    assert found.digest == expected.digest
    assert torch.equal(found.train.inputs, expected.train.inputs)
    assert torch.equal(found.train.targets, expected.train.targets)


def test_types_that_numpy_does_not_have_keep_their_values():
    x = torch.tensor(X).bfloat16()
    found = load_given(x=x, y=list(x[:, 0]))
    assert found.digest == load_given(x=x.float().numpy(), y=x[:, 0].float().numpy()).digest


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([[1, 2], [[1, 2], 3]] * 10, "dataset.x=a single value, length 2: all examples must have the same shape"),
        ([[[1], [2]], [[1], [2, 3]]] * 10, "dataset.x=length 1, length 2: all examples"),
        ([torch.ones(2, 2), torch.ones(3, 3)] * 10, "dataset.x=length 2, length 3: all examples"),
        (objects([np.ones((2, 2)), np.ones((3, 3))] * 10), "dataset.x=length 2, length 3: all examples"),
        ([1.0, [2.0, 3.0]] * 10, "dataset.x=a single value, length 2: all examples"),
        (["a", ["b"]] * 10, "dataset.x=a text, length 1: all examples"),
        (np.ma.masked_array(X, np.arange(60).reshape(20, 3) < 3), "dataset.x=3 masked values: must have a value"),
        (scipy.sparse.csr_matrix(X), "dataset.x=csr_matrix: must be an array of numbers [examples, ...]; .toarray()"),
        (torch.tensor(X).to_sparse(), "dataset.x=Tensor: cannot be read as an array of numbers"),
        (torch.ones(20, 3, device="meta"), "dataset.x=Tensor: cannot be read as an array of numbers"),
        ((row for row in X), "dataset.x=generator: must be an array of numbers"),
        ({"pixels": X}, "dataset.x=dict: must be an array of numbers"),
        (None, "dataset.x=NoneType: must be an array of numbers"),
        ([[1.0, None]] * 20, "dataset.x=a value of type NoneType: must hold numbers"),
        ([[1, "2"]] * 20, "must hold numbers"),
        ([[10**30]] * 20, "dataset.x=an integer beyond 64 bits: must hold numbers"),
        (np.full((20, 2), np.datetime64("2020")), "dataset.x=datetime64[Y]: must hold numbers"),
        (np.zeros(20, dtype=[("a", float)]), "must hold numbers"),
        (np.array(3.0), "must hold at least one example"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_array_of_numbers_is_refused_in_one_line(x, said):
    with refused("dataset.x") as error:
        load_given(x=x, y=Y)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_are_no_texts_are_refused():
    with refused("dataset"):
        load_here(given, {"arrays": {0: X, 1: Y}})


# --- the digest and the cache


def test_the_digest_is_of_the_contents_not_of_the_path_the_split_or_the_scale(tmp_path):
    arrays = numbered(30)
    one = load_arrays(tmp_path, file="one", **arrays)
    two = load_arrays(tmp_path, file="two", **arrays, dataset={"split_seed": 5, "standardize": True})
    assert one.digest == two.digest


def test_the_digest_changes_with_every_part_of_the_contents(tmp_path):
    base = {"x": numbers(30), "y": labels(30)}
    x_changed, y_changed = base["x"].copy(), base["y"].copy()
    x_changed[17, 2] += 1e-12
    y_changed[17] = 1 - y_changed[17]
    versions = [
        base,
        base | {"x": x_changed},
        base | {"y": y_changed},
        base | {"x": base["x"].astype(np.float32)},
        base | {"x": base["x"].reshape(30, 3, 1)},
        base | {"y": base["y"].astype(np.int32)},
    ]
    digests = [load_arrays(tmp_path, file=f"v{i}", **version).digest for i, version in enumerate(versions)]
    assert len(set(digests)) == len(versions)


SHARED = {f"{name}_{split}": np.ones((4, 2)) for name in "xy" for split in ("train", "val", "test")}


def shared():
    """Return arrays that the caller can change."""
    return SHARED


def test_arrays_that_are_changed_later_do_not_change_the_data():
    data = load_here(shared, {})
    for array in SHARED.values():
        array *= 0
    for split in (data.train, data.val, data.test):
        assert split.inputs.eq(1).all()
        assert split.targets.eq(1).all()
        split.inputs.zero_()
        assert split.targets.eq(1).all()


def test_the_same_configuration_is_loaded_once():
    CALLS.clear()
    first = load_here(counted, {"n": 31})
    assert load_here(counted, {"n": 31}) is first
    assert CALLS == [31]


def test_another_configuration_is_loaded_anew():
    CALLS.clear()
    first = load_here(counted, {"n": 32})
    assert load_here(counted, {"n": 32}, split_seed=1) is not first
    assert len(load_here(counted, {"n": 33}).train) != len(first.train)
    assert CALLS == [32, 32, 33]


# --- placing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_placed_data_has_the_type_of_the_run_and_keeps_its_labels(dtype):
    data = load_shipped("digits")
    placed = data.place(torch.device("cpu"), dtype)
    assert placed.train.inputs.dtype == placed.val.inputs.dtype == placed.test.inputs.dtype == dtype
    assert placed.train.targets.dtype == torch.int64
    assert torch.equal(placed.val.inputs.double(), data.val.inputs)  # sixteenths are exact in float32
    assert (placed.n_outputs, placed.classification, placed.digest) == (10, True, data.digest)


def test_targets_of_a_regression_have_the_type_of_the_run(tmp_path):
    placed = load_arrays(tmp_path, **numbered(20)).place(torch.device("cpu"), torch.float32)
    assert placed.train.targets.dtype == torch.float32


# --- refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_its_example(tmp_path, value):
    x = numbers(20)
    x[13, 2] = value
    with refused("dataset.x") as error:
        load_arrays(tmp_path, x=x, y=labels(20))
    assert "example 13" in str(error.value)


def test_the_first_example_that_is_not_finite_is_named(tmp_path):
    y = np.linspace(0, 1, 20)
    y[[7, 4]] = np.nan
    with refused("dataset.y") as error:
        load_arrays(tmp_path, x=numbers(20), y=y)
    assert "example 4" in str(error.value)


def test_what_is_not_finite_is_named_in_its_own_split(tmp_path):
    x_val = numbers(5)
    x_val[3] = np.nan
    with refused("dataset.x_val") as error:
        load_arrays(tmp_path, x_train=numbers(20), y_train=labels(20), x_val=x_val, y_val=labels(5))
    assert "example 3" in str(error.value)


def test_negative_labels_are_refused(tmp_path):
    with refused("dataset.y") as error:
        load_arrays(tmp_path, x=numbers(20), y=labels(20) - 1)
    assert "label -1" in str(error.value)


@pytest.mark.parametrize("y", [labels(20) + 1, labels(20) * 2, np.zeros(20, dtype=int)], ids=["from 1", "hole", "one"])
def test_labels_that_do_not_count_from_zero_without_holes_are_refused(tmp_path, y):
    with refused("dataset.y") as error:
        load_arrays(tmp_path, x=numbers(20), y=y)
    assert "n_classes" in str(error.value)  # the way out


def test_labels_like_identifiers_are_refused_without_counting_to_them(tmp_path):
    with refused("dataset.y"):
        load_arrays(tmp_path, x=numbers(20), y=labels(20) * 10**15)


def test_a_label_beyond_n_classes_is_refused(tmp_path):
    with refused("dataset.y") as error:
        load_arrays(tmp_path, x=numbers(20), y=labels(20, classes=4), dataset={"n_classes": 3})
    assert "label 3" in str(error.value)
    assert "0..2" in str(error.value)


def test_several_labels_of_an_example_are_refused_by_the_task_that_is_chosen_by_itself(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=np.eye(2, dtype=int)[labels(20)])
    assert (data.n_outputs, data.classification) == (2, True)
    with refused("dataset.y"):
        objective_of(AUTO_TASK, data.train.example, data.n_outputs, torch.device("cpu"), torch.float32)


def test_unequal_lengths_are_refused(tmp_path):
    with refused("dataset.x") as error:
        load_arrays(tmp_path, x=numbers(20), y=labels(19))
    assert "20 examples" in str(error.value)
    assert "19" in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ("y",),
        ("x_train", "y_train"),
        ("x_train", "y_train", "x_val"),
        ("x_train", "y_train", "x_val", "y_val", "x_test"),
        ("x", "y", "x_train", "y_train", "x_val", "y_val"),
    ],
)
def test_missing_and_contradictory_arrays_are_refused(tmp_path, names):
    arrays = {name: labels(20) if name.startswith("y") else numbers(20) for name in names}
    with refused("dataset") as error:
        load_arrays(tmp_path, **arrays)
    assert names[0] in str(error.value)  # what was given


@pytest.mark.parametrize("names", [("x_train",), ("y_test",), ("x_test", "y_test")])
def test_a_split_beside_x_and_y_is_refused_not_dropped(tmp_path, names):
    extra = {name: labels(20) if name.startswith("y") else numbers(20) for name in names}
    with refused("dataset"):
        load_arrays(tmp_path, x=numbers(20), y=labels(20), **extra)


def test_other_arrays_are_ignored(tmp_path):
    data = load_arrays(tmp_path, x=numbers(20), y=labels(20), feature_names=np.array(["a", "b", "c"]))
    assert data.input_shape == (3,)


def test_one_dimensional_features_are_refused(tmp_path):
    with refused("dataset.x") as error:
        load_arrays(tmp_path, x=np.arange(20.0), y=labels(20))
    assert "(20,)" in str(error.value)


@pytest.mark.parametrize("x", [np.array([["a"]] * 20), np.ones((20, 2), dtype=complex)], ids=["text", "complex"])
def test_what_is_no_number_is_refused(tmp_path, x):
    with refused("dataset.x"):
        load_arrays(tmp_path, x=x, y=labels(20))


def test_objects_are_refused():
    with refused("dataset.x"):
        load_here(given, {"arrays": {"x": [[None]] * 20, "y": [0, 1] * 10}})


def test_no_examples_are_refused(tmp_path):
    with refused("dataset.x"):
        load_arrays(tmp_path, x=np.ones((0, 3)), y=np.ones(0, dtype=int))


def test_what_is_no_mapping_and_no_pair_is_refused():
    with refused("dataset._target_"):
        load_here(given, {"arrays": [1, 2, 3]})


def test_a_pair_is_x_and_y():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20
    assert load_here(given, {"arrays": (x, y)}).digest == load_here(given, {"arrays": {"x": x, "y": y}}).digest


def test_a_missing_file_is_refused_by_the_key_of_the_configuration(tmp_path):
    component = Component("dataset", "sweep.data.sources.arrays", {"path": str(tmp_path / "nothing.npz")})
    with refused("dataset.path"):
        load(DatasetConfig(component))


@pytest.mark.parametrize(("n", "val_fraction"), [(4, 0.1), (3, 0.79)])
def test_fractions_that_leave_a_split_empty_are_refused(tmp_path, n, val_fraction):
    with refused("dataset.val_fraction"):
        load_arrays(tmp_path, **numbered(n), dataset={"val_fraction": val_fraction, "test_fraction": 0.2})


@pytest.mark.parametrize("standardize", [False, True])
def test_splits_of_different_features_are_refused(tmp_path, standardize):
    with refused("dataset.x_val"):
        load_arrays(
            tmp_path,
            x_train=numbers(20, width=3),
            y_train=labels(20),
            x_val=numbers(5, width=2),
            y_val=labels(5),
            dataset={"standardize": standardize},
        )


def test_splits_of_different_targets_are_refused(tmp_path):
    splits = {f"x_{name}": numbers(20) for name in ("train", "val", "test")}
    splits |= {f"y_{name}": numbers(20, width=2) for name in ("train", "test")}
    with refused("dataset.y_val"):
        load_arrays(tmp_path, **splits, y_val=numbers(20, width=3))


def test_labels_of_one_split_and_numbers_of_another_are_refused_not_truncated(tmp_path):
    with refused("dataset.y_val"):
        load_arrays(tmp_path, x_train=numbers(20), y_train=labels(20), x_val=numbers(5), y_val=np.full(5, 0.5))


@pytest.mark.parametrize("name", ["x", "y"])
def test_numbers_of_the_other_byte_order_are_read_or_refused(tmp_path, name):
    arrays = {"x": numbers(20), "y": labels(20)}
    swapped = arrays[name].dtype.newbyteorder(">" if np.little_endian else "<")
    try:
        data = load_arrays(tmp_path, **(arrays | {name: arrays[name].astype(swapped)}))
    except InvalidValueError:
        return
    assert torch.equal(data.train.inputs, load_arrays(tmp_path, file="native", **arrays).train.inputs)


def test_a_data_set_is_not_copied_into_float64():
    """The arrays are copied once in their own type. Numbers are converted to float64 block by block."""
    x = np.random.default_rng(0).integers(0, 256, (20_000, 40, 40), dtype=np.uint8)
    config = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), standardize=True)
    tracemalloc.start()  # which follows the memory of NumPy, not that of tensors
    try:
        placed = dataset_of(as_source({"x": x, "y": labels(20_000)}), config).place(torch.device("cpu"), torch.float32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert placed.train.inputs.shape == (12_000, 40, 40)
    assert peak < 4 * x.nbytes  # a copy in float64 alone would be eight times as large
