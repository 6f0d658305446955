"""Names and texts of any length: stored within MLflow's limits, read back whole."""

import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from sweep.tracking import Store
from sweep.tracking.bulk import Change
from sweep.tracking.texts import joined, metric_name, run_name, split

ODD = [
    "test_loss/blobs+v2/constant trial 0",
    "test_loss/blobs-v2/constant trial 0",
    "test_loss/../constant trial 0",
    "../digits",
    "a//b",
    "/a/",
    "it's",
    "[bold]",
    "größe?",
    "two\nlines",
    "n" * 300,
    "n" * 301,
]


def test_a_metric_name_that_was_valid_stays_as_it_is() -> None:
    for name in ("test_loss/digits/constant trial 0", "a:b", "x y", "größe", "n" * 250):
        assert metric_name(name) == name


def test_every_other_name_becomes_a_valid_one_of_its_own() -> None:
    names = [metric_name(name) for name in ODD]
    assert len(set(names)) == len(ODD)
    for name in names:
        _validate_metric_name(name)
        assert len(name) <= 250
    assert names[0].startswith("test_loss/blobs-v2/constant trial 0 ")


def test_run_names_are_shortened_to_what_the_column_holds_and_stay_different() -> None:
    assert run_name("n" * 250) == "n" * 250
    names = {run_name("n" * 300 + end) for end in "ab"}
    assert len(names) == 2
    assert {len(name) for name in names} == {250}


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 136, 137, 1000])
def test_a_text_of_any_length_is_read_as_it_was_stored(length: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    texts = {"plain": "1", "long": text, "k" * 250: text}
    stored = split(texts, 100)
    assert max(map(len, stored.values())) <= 100
    for key in stored:
        _validate_param_name(key)
        assert len(key) <= 250
    assert joined(stored) == texts
    assert (stored == texts) is (length <= 100)


def test_a_text_that_was_stored_in_parts_says_so() -> None:
    stored = split({"knots": "1" * 330}, 100)
    assert stored.keys() == {"knots", "knots part 2", "knots part 3", "knots part 4"}
    assert " ... [part 1 of 4, sha256 " in stored["knots"]


def test_a_text_whose_parts_were_edited_stays_as_it_is_stored() -> None:
    stored = split({"knots": "1" * 250}, 100)
    for edited in ({**stored, "knots part 2": "2"}, {k: v for k, v in stored.items() if k != "knots part 2"}):
        assert joined(edited) == edited


def test_a_shorter_text_replaces_one_in_parts() -> None:
    before, after = split({"command": "1" * 250}, 100), split({"command": "2" * 120}, 100)
    assert joined(before | after)["command"] == "2" * 120


def test_the_store_keeps_long_params_and_tags_whole(store: Store) -> None:
    long = {"knots": "0123456789" * 2000, "short": "ü"}
    run_id = store.create("n" * 400, {"sweep.kind": "long", "command": "c" * 9000}, long)
    assert len(store.client.get_run(run_id).info.run_name) == 250
    run = store.run(run_id)
    assert run.data.params == long
    assert run.data.tags["command"] == "c" * 9000
    store.write([Change(run_id, tags={"command": "d" * 20_000})])
    (found,) = store.search({"sweep.kind": "long"})
    assert found.data.tags["command"] == "d" * 20_000
    assert found.data.params == long
