"""Tests dimensions, branches and spaces."""

import math
from types import SimpleNamespace

import pytest

from sweep.errors import InvalidValueError
from sweep.space import Branch, Dimension, Space, selections


def of_horizon(steps):
    """The parts of a configuration that a branch reads."""
    return SimpleNamespace(train=SimpleNamespace(steps=steps), critic=None)


def noting(asked):
    """Returns configurations, and records the values."""

    def configure(values):
        asked.append(values)
        return of_horizon(5)

    return configure


def branch(*keys, asked=None, **selection):
    """Return a branch with a dimension 1..5 for each key, which appends the values to `asked`."""
    dimensions = tuple(Dimension(key, "interval(1,5)", 1, 5) for key in keys)
    return Branch(selection, dimensions, configure=noting(asked if asked is not None else []), base={})


# --- dimensions


@pytest.mark.parametrize(("low", "high"), [(1, 0), (0.5, 0.4999), (math.nan, 1), (0, math.nan)])
def test_an_interval_that_does_not_rise_is_refused_with_what_was_written(low, high):
    with pytest.raises(InvalidValueError, match=r"^schedule\.decay_rate=interval\(a,b\): ") as refused:
        Dimension("schedule.decay_rate", "interval(a,b)", low, high)
    assert str(low) in str(refused.value)
    assert str(high) in str(refused.value)


def test_an_interval_may_be_a_point():
    assert Dimension("warmup.steps", "interval(0,0)", 0, 0, integer=True).ends == (0, 0)


@pytest.mark.parametrize("low", [0, -1])
def test_a_logarithmic_interval_begins_above_zero(low):
    with pytest.raises(InvalidValueError, match=r"^optimizer\.lr=.*above 0"):
        Dimension("optimizer.lr", f"tag(log,interval({low},1))", low, 1, log=True)
    assert Dimension("optimizer.lr", "tag(log,interval(1e-9,1))", 1e-9, 1, log=True).low == 1e-9


def test_the_ends_are_of_the_type_that_is_drawn():
    integers = Dimension("warmup.steps", "interval(0,7)", 0.0, 7.0, integer=True).ends
    assert integers == (0, 7)
    assert all(isinstance(end, int) for end in integers)
    assert Dimension("optimizer.lr", "interval(0.1,0.5)", 0.1, 0.5).ends == (0.1, 0.5)


def test_the_ends_of_choices_are_all_of_them():
    assert Dimension("model.hidden", "[8],[16],[32]", choices=([8], [16], [32])).ends == ([8], [16], [32])


def test_lists_and_null_are_stored_by_their_text():
    dimension = Dimension("model.hidden", "", choices=([8], [16, 16], None, "adam", 3, 0.5, True))
    assert dimension.labels == ("[8]", "[16, 16]", "None", "adam", 3, 0.5, True)


@pytest.mark.parametrize("choice", [[8], [16, 16], [], None, {"a": 1}, "adam", 3, 0.5, True])
def test_a_choice_comes_back_from_its_label(choice):
    dimension = Dimension("key", "", choices=([8], [16, 16], [], None, {"a": 1}, "adam", 3, 0.5, True))
    label = dimension.labels[dimension.choices.index(choice)]
    assert dimension.decode(label) == choice
    assert type(dimension.decode(label)) is type(choice)


def test_a_number_of_an_interval_is_its_own_value():
    assert Dimension("optimizer.lr", "interval(0,1)", 0, 1).decode(0.25) == 0.25


# --- branches


def test_without_a_choice_among_groups_a_parameter_is_its_key():
    plain = branch("schedule.decay_rate")
    assert plain.parameter(plain.dimensions[0]) == "schedule.decay_rate"
    assert plain.label == ""


def test_under_a_choice_a_parameter_begins_with_the_options():
    one = branch("schedule.decay_rate", schedule="exponential")
    assert one.parameter(one.dimensions[0]) == "exponential.schedule.decay_rate"
    two = branch("optimizer.lr", schedule="cosine", optimizer="adam")
    assert two.parameter(two.dimensions[0]) == "cosine.adam.optimizer.lr"


def test_a_branch_is_checked_at_both_ends_of_its_dimensions():
    asked = []
    list(branch("a.x", "b.y", asked=asked).extremes())
    assert asked == [{"a.x": 1, "b.y": 1}, {"a.x": 5, "b.y": 5}]


def test_a_branch_is_checked_at_every_choice():
    asked, choices = [], ([8], None, [32])
    dimensions = (Dimension("model.hidden", "", choices=choices), Dimension("optimizer.lr", "", 1, 5))
    list(Branch({}, dimensions, noting(asked), {}).extremes())
    assert [values["model.hidden"] for values in asked[2:]] == list(choices)
    assert {values["optimizer.lr"] for values in asked[2:]} == {1}


def test_the_first_configuration_of_a_branch_is_one_that_a_trial_can_have():
    def configure(values):
        if not values:
            raise InvalidValueError("b.y", None, "the defaults do not go together")
        return of_horizon(5)

    dimensions = (Dimension("a.x", "", choices=(7, 8)), Dimension("b.y", "", 1, 5))
    both = Branch({}, dimensions, configure, {})
    assert both.first.train.steps == 5
    assert len(list(both.extremes())) == 4


def test_what_a_branch_cannot_configure_is_refused_before_any_trial():
    def configure(values):
        if values.get("warmup.steps") == 5:
            raise InvalidValueError("warmup.steps", 5, "must be less than the horizon")
        return of_horizon(5)

    dimensions = (Dimension("warmup.steps", "interval(1,5)", 1, 5, integer=True),)
    with pytest.raises(
        InvalidValueError, match=r"^warmup\.steps=interval\(1,5\): its end 5 must be less than the horizon"
    ):
        list(Branch({}, dimensions, configure, {}).extremes())


def test_a_horizon_that_depends_on_what_is_searched_is_refused():
    dimensions = (Dimension("train.batch_size", "", choices=(32, 64)),)
    depends = Branch({}, dimensions, lambda values: of_horizon(values.get("train.batch_size", 32)), {})
    with pytest.raises(InvalidValueError, match=r"^train\.steps=64: must not depend on searched keys"):
        list(depends.extremes())


# --- spaces


def test_a_space_without_dimensions_is_refused_and_names_the_way_out():
    with pytest.raises(InvalidValueError, match=r"^space=.*mode=train"):
        Space({}, (branch(),))


def test_a_choice_among_groups_is_a_space():
    groups = {"optimizer": ("sgd", "adam")}
    space = Space(groups, (branch(optimizer="sgd"), branch(optimizer="adam")))
    assert space.conditional
    assert space.keys == ["optimizer"]


def test_keys_are_the_groups_then_each_key_once_in_the_order_of_its_first_branch():
    groups = {"schedule": ("exponential", "cosine")}
    first = branch("optimizer.lr", "schedule.decay_rate", schedule="exponential")
    second = branch("warmup.steps", "optimizer.lr", "schedule.end_factor", schedule="cosine")
    keys = ["schedule", "optimizer.lr", "schedule.decay_rate", "warmup.steps", "schedule.end_factor"]
    assert Space(groups, (first, second)).keys == keys


def test_without_groups_a_space_has_one_branch_whatever_is_selected():
    plain = branch("optimizer.lr")
    space = Space({}, (plain,))
    assert not space.conditional
    assert space.keys == ["optimizer.lr"]
    assert space.branch({}) is plain


def test_the_branch_of_a_selection_is_that_of_all_its_options():
    groups = {"schedule": ("linear", "cosine"), "optimizer": ("sgd", "adam")}
    space = Space(groups, tuple(branch("optimizer.lr", **selection) for selection in selections(groups)))
    chosen = space.branch({"optimizer": "adam", "schedule": "cosine", "cosine.adam.optimizer.lr": 0.1})
    assert chosen.selection == {"schedule": "cosine", "optimizer": "adam"}
    assert len({id(space.branch(selection)) for selection in selections(groups)}) == 4


def test_selections_are_every_combination():
    assert selections({"a": ("1", "2"), "b": ("3", "4")}) == [
        {"a": "1", "b": "3"},
        {"a": "1", "b": "4"},
        {"a": "2", "b": "3"},
        {"a": "2", "b": "4"},
    ]
    assert selections({}) == [{}]


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        ((1, 0.5, "a", True), (1, 0.5, "a", "True")),
        ((1, 1.5, False), (1, 1.5, False)),
        (([64], [64, 64], None), ("[64]", "[64, 64]", "None")),
        (([64], "[64]"), ("[64]", "'[64]'")),
        (("[64]", [64]), ("[64]", "[64] (2)")),
        ((None, "None", {"a": 1}, {"a": 2}), ("None", "'None'", "{'a': 1}", "{'a': 2}")),
        ((0, False, "False"), (0, "False", "'False'")),
    ],
)
def test_choices_that_compare_equal_or_have_equal_texts_stay_different(choices, labels):
    dimension = Dimension("model.x", "choice(...)", choices=choices)
    assert dimension.labels == labels
    assert [type(label) for label in dimension.labels] == [type(label) for label in labels]
    decoded = [dimension.decode(label) for label in labels]
    assert [(type(value), value) for value in decoded] == [(type(choice), choice) for choice in choices]
