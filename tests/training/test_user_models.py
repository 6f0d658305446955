"""Test user code that writes into its arguments, and models with state outside of state_dict."""

import copy
import io
import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.core import Snapshot
from sweep.errors import InvalidValueError
from sweep.training import CPU, NotStackableError, SerialEngine, largest_checkpoint, refuse_unstackable
from sweep.training.contents import changes, contents, restore, same, storable
from sweep.training.device import DTYPES
from sweep.training.state import initial_state
from sweep.training.state_io import packed, read, unpacked
from tests.training.test_going_on import gone_on, resealed, run
from tests.training.test_snapshots import assert_equal, assert_same, content, cut_by_chance
from tests.training.test_snapshots import train as train_in_parts
from tests.training.user_models import Attributes, Hidden, own

OPTIONS = {"averaged": {"average": 0.9}, "accumulated": {"accumulate": 3}}


# --- models that write into what they receive


@pytest.mark.parametrize("name", ["Normalizing", "Scaling", "Reshaping"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_model_that_writes_into_its_input_trains_as_one_that_copies_it(
    request, digits, make_trial, make_engine, train, name, options
):
    if request.node.callspec.params["kind"] == "fused" and name == "Scaling":
        pytest.skip("torch's vmap refuses it in an evaluation, with and without the copy; refuse_unstackable says so")
    keys = {"steps": 12, "eval_every": 4, "batch_size": 61, **OPTIONS[options]}
    wanted, found = (
        train(make_engine(digits), make_trial(model=own(name, copies=copies), **keys))[0] for copies in (True, False)
    )
    assert (found.steps, found.lr, found.loss) == (wanted.steps, wanted.lr, wanted.loss)
    assert [one.metrics for one in found.evaluations] == [one.metrics for one in wanted.evaluations]


def test_the_check_gives_no_batch_twice(digits, make_trial):
    SerialEngine(digits, CPU, "float64").check(make_trial(model=own("Strict"), workers=3, accumulate=2).config)


def test_a_model_that_writes_into_its_input_is_stacked_and_the_data_stay_as_they_are(digits, make_trial):
    before = copy.deepcopy(digits)
    refuse_unstackable(digits, CPU, [make_trial(model=own("Normalizing")).config])
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(digits, name).inputs, getattr(before, name).inputs)


# --- state outside of state_dict

KEPT = {
    "Buffered": own("Buffered"),
    "Replaced": own("Replaced"),
    "Extra mapping": own("Extra", kind="mapping"),
    "Extra tensor": own("Extra", kind="tensor"),
    "Extra plain": own("Extra", kind="plain"),
    "Attributes": own("Attributes"),
    "Typed": own("Typed"),
    "Sparse": own("Sparse"),
    "Frozen": own("Frozen"),
    "Drawing": own("Drawing"),
    "Named": own("Named"),
    "Marked": own("Marked"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_training_in_parts_is_the_training_in_one(digits, make_trial, tmp_path, name):
    """The parts end with evaluations that the uninterrupted training does not have."""
    trial = make_trial(model=KEPT[name], optimizer="adam", steps=24, eval_every=24, precision="float32")
    rows, evaluations, _, end = run(SerialEngine(digits, CPU, "float32"), trial)
    found, found_evaluations, _, state = gone_on(digits, tmp_path, trial, 2, 9, None)
    assert found == rows
    assert found_evaluations[24] == evaluations[24]
    assert same(content(state), content(end))


@pytest.mark.parametrize("name", ["Attributes", "Replaced"])
def test_an_evaluation_does_not_change_the_training(digits, make_trial, name):
    often, once = (
        run(SerialEngine(digits, CPU, "float32"), make_trial(model=KEPT[name], steps=12, eval_every=every))
        for every in (3, 12)
    )
    assert often[0] == once[0]
    assert often[1][12] == once[1][12]


@pytest.mark.parametrize(("kind", "name"), [("data_parallel", "Typed"), ("fused", "Buffered"), ("fused", "Typed")])
def test_buffers_go_on_in_the_other_engines(digits, make_trial, kind, name):
    trial = make_trial(model=KEPT[name], steps=14, eval_every=7, precision="float32")
    whole = train_in_parts([kind], digits, "float32", [trial])
    assert_same(cut_by_chance([kind], digits, "float32", [trial], cuts=0.6, pauses=0.4), whole)
    alone = train_in_parts(["serial"], digits, "float32", [trial])
    held, wanted = content(whole[0].state)["contents"], content(alone[0].state)["contents"]
    for key in [key for key in wanted if key[0] == "buffer"]:
        assert_equal(held[key], wanted[key])


@pytest.mark.parametrize(
    ("precision", "real", "turning"), [("float32", "float32", "complex64"), ("float64", "float64", "complex128")]
)
def test_tensors_of_the_default_type_get_that_of_the_run_and_others_keep_theirs(
    digits, make_trial, precision, real, turning
):
    config = make_trial(model=own("Typed"), average=0.9).config
    state = initial_state(config, 0, digits, CPU, DTYPES[precision])
    names = state.model.state_dict(keep_vars=True).items()
    found = {name: str(t.dtype).removeprefix("torch.") for name, t in names}
    assert found == {
        "f64": "float64", "f16": "float16", "c64": turning, "c128": "complex128", "i64": "int64", "u8": "uint8",
        "flag": "bool", "fixed": "int64", "weight": "float16",
    } | {f"net.{layer}.{key}": real for layer in (1, 3) for key in ("weight", "bias")}  # fmt: skip
    assert state.model.c64 == 1 + 1j
    assert state.model.bf16.dtype == torch.bfloat16
    assert "fixed" not in state.average


def test_what_cannot_be_stored_and_changes_is_refused_before_training(digits, make_trial):
    engine = SerialEngine(digits, CPU, "float64")
    with pytest.raises(InvalidValueError, match=r"^model\._target_=.*Metered: meter changes in training.*Hidden"):
        engine.check(make_trial(model=own("Metered")).config)
    engine.check(make_trial(model=own("Constant")).config)


def test_what_all_models_of_a_class_share_may_not_change(digits, make_trial, monkeypatch):
    monkeypatch.setattr("tests.training.user_models.OfItsClass.calls", 0)
    with pytest.raises(InvalidValueError, match=r"^model\._target_=.*OfItsClass\.calls changes .*all models share it"):
        SerialEngine(digits, CPU, "float64").check(make_trial(model=own("OfItsClass")).config)


def test_a_parameter_may_not_change_in_an_evaluation(digits, make_trial):
    with pytest.raises(InvalidValueError, match=r"^model\._target_=.*changes scale in an evaluation.*eval_every"):
        SerialEngine(digits, CPU, "float64").check(make_trial(model=own("Evaluated")).config)


def test_generators_begin_with_the_seed_whatever_was_drawn_before(digits, make_trial):
    trial = make_trial(model=own("Drawing"), steps=6)
    first = run(SerialEngine(digits, CPU, "float64"), trial)
    random.random()
    np.random.rand(3)
    assert run(SerialEngine(digits, CPU, "float64"), trial)[0] == first[0]
    assert run(SerialEngine(digits, CPU, "float64"), replace(trial, seed=trial.seed + 1))[0] != first[0]


def test_workers_draw_the_same_after_a_checkpoint(digits, make_trial):
    """The last batch of an epoch has fewer examples than there are workers: one of them does not draw."""
    assert len(digits.train) % 98 == 1
    trial = make_trial(model=own("Drawing"), steps=24, eval_every=8, batch_size=98, precision="float32")
    whole = train_in_parts(["data_parallel"], digits, "float32", [trial])
    assert_same(cut_by_chance(["data_parallel"], digits, "float32", [trial], cuts=0.6, pauses=0.4), whole)


def test_an_extra_state_that_is_not_taken_back_is_refused(digits, make_trial, monkeypatch):
    monkeypatch.setattr("tests.training.user_models.Extra.set_extra_state", lambda self, state: None)
    with pytest.raises(InvalidValueError, match="hidden changes in training"):
        SerialEngine(digits, CPU, "float32").check(make_trial(model=own("Extra")).config)


def optimized(trial, name):
    component = Component("optimizer", f"tests.training.user_models.{name}", {}, trusted=("tests",))
    optimizer = replace(trial.config.optimizer, component=component, lr=0.05)
    return replace(trial, config=replace(trial.config, optimizer=optimizer))


def test_attributes_of_an_optimizer_go_on(digits, make_trial, tmp_path):
    trial = optimized(make_trial(steps=20, eval_every=20, precision="float32"), "Counting")
    whole = run(SerialEngine(digits, CPU, "float32"), trial)
    found = gone_on(digits, tmp_path, trial, 7, None)
    assert found[0] == whole[0]
    assert_equal(content(found[3]), content(whole[3]))


def test_an_optimizer_whose_state_cannot_be_stored_is_refused(digits, make_trial):
    with pytest.raises(InvalidValueError, match=r"^optimizer\._target_=.*Storing: its state cannot be stored"):
        SerialEngine(digits, CPU, "float32").check(optimized(make_trial(), "Storing").config)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Attributes", "changes count, ratio, "),
        ("Extra", r"changes get_extra_state\(\) in training, which all trials in a stack would share"),
        ("Frozen", "changes n"),
        ("Sparse", "mixed of the model is sparse"),
        ("Remembering", "changes mean"),
        ("Replaced", "stacked"),
        ("Drawing", "draws from Python's or NumPy's generator"),
        ("Marked", "has no attribute 'mask'"),
        ("Named", "changes state, defaults"),
    ],
)
def test_what_trials_in_a_stack_would_share_is_not_stacked(digits, make_trial, name, said):
    with pytest.raises(NotStackableError, match=said):
        refuse_unstackable(digits, CPU, [make_trial(model=own(name)).config])


def test_an_attribute_that_differs_among_workers_is_refused(digits, make_trial):
    engine = SerialEngine(digits, CPU, "float64")
    with pytest.raises(InvalidValueError, match=r"^train\.workers=2: share parameters and buffers only, and mean"):
        engine.check(make_trial(model=own("Remembering"), workers=2).config)
    engine.check(make_trial(model=own("Remembering")).config)
    engine.check(make_trial(model=own("Extra"), workers=2).config)  # a count of the updates is the same on all of them


def test_a_state_of_an_earlier_version_goes_on(digits, make_trial):
    trial = make_trial(steps=20)
    whole = run(SerialEngine(digits, CPU, "float64"), trial)
    part = replace(trial, config=replace(trial.config, train=replace(trial.config.train, more_steps=10)))
    given = run(SerialEngine(digits, CPU, "float64"), part)[3]
    held = content(given)
    del held["contents"]
    older = Snapshot(given.step, saved(held))
    rows = run(SerialEngine(digits, CPU, "float64"), replace(trial, state=older, first=10))[0]
    assert rows == whole[0][10:]


def saved(held):
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["Sparse", "Extra", "Typed"])
def test_the_size_of_a_checkpoint_is_known_for_every_model(digits, make_trial, name):
    trial = make_trial(model=own(name), steps=5, precision="float32", optimizer="adam")
    assert len(run(SerialEngine(digits, CPU, "float32"), trial)[3].content) < largest_checkpoint(trial.config, digits)


# --- contents


class Aliased(nn.Module):
    """Two attributes share a list, one is a view of a buffer, and one is itself in a list."""

    def __init__(self):
        super().__init__()
        self.register_buffer("buffer", torch.zeros(2, 3))
        self.weight = nn.Parameter(torch.zeros(4))
        self.one = [1]
        self.two = self.one
        self.three = self.one
        self.view = self.buffer[0]
        self.itself = [self]
        self.cycle = [0]
        self.cycle.append(self.cycle)


def through_bytes(held):
    """Store contents as bytes, and load them again."""
    return torch.load(io.BytesIO(saved(storable(held))), weights_only=True)


def test_what_is_shared_is_shared_again():
    given, found = Aliased(), Aliased()
    given.one.append(2)
    given.three = [7]  # no longer shared
    given.view += 1
    given.late = given.buffer[1]
    held_elsewhere = found.one
    restore(through_bytes(contents(given)), found, CPU)
    assert found.one is found.two is held_elsewhere
    assert (found.one, found.three) == ([1, 2], [7])
    found.view += 1
    found.late += 5
    assert found.buffer.tolist() == [[2.0] * 3, [5.0] * 3]
    assert found.itself[0] is found
    assert found.cycle[1] is found.cycle


def test_a_view_that_was_replaced_does_not_change_the_buffer():
    given, found = Aliased(), Aliased()
    given.view = torch.full((3,), 9.0)
    restore(through_bytes(contents(given)), found, CPU)
    assert found.buffer.tolist() == [[0.0] * 3] * 2
    assert found.view.tolist() == [9.0] * 3


def test_every_change_of_an_attribute_is_seen():
    model = Attributes([3], 2)
    before = copy.deepcopy(contents(model))
    assert changes(before, contents(model)) == []
    model(torch.randn(4, 3))
    changed = {name for _, _, name in changes(before, contents(model))}
    constant = {"copies", "flat", "layers", "function"}
    assert changed == set(vars(model)) - set(vars(nn.Module())) - constant


def test_values_are_loaded_as_they_were():
    given, found = Attributes([3], 2), Attributes([3], 2)
    for _ in range(5):
        given(torch.randn(4, 3))
    restore(through_bytes(contents(given)), found, CPU)
    assert changes(contents(given), contents(found)) == []
    assert type(found.scalar) is np.float32
    assert found.recent.maxlen == 3
    assert found.array.flags.f_contiguous
    assert found.by.default_factory is list
    assert found.shared is found.nested["list"]
    assert found.function is torch.tanh


def test_an_object_that_cannot_be_stored_stays_as_it_is():
    given, found = Aliased(), Aliased()
    given.object, found.object = Hidden(1), Hidden(2)
    restore(through_bytes(contents(given)), found, CPU)
    assert found.object.n == 2


@dataclass
class Settings:
    """A configuration like those of transformers, which a forward pass may complete."""

    mode: str | None = None
    sizes: list[int] = field(default_factory=lambda: [1])
    more: Any = None


@dataclass
class Mapped(dict):
    """A dataclass with more content than its fields."""

    n: int = 0


def configured() -> Aliased:
    model = Aliased()
    model.settings = Settings()
    model.inner = nn.Identity()
    model.inner.settings = model.settings
    return model


def test_the_fields_of_a_dataclass_are_stored():
    given, found = configured(), configured()
    before, held_elsewhere = copy.deepcopy(contents(given)), found.settings
    given.settings.mode = "labels"
    given.settings.sizes.append(2)
    given.settings.late = 3
    assert changes(before, contents(given)) == [("attribute", "", "settings"), ("attribute", "inner", "settings")]
    restore(through_bytes(contents(given)), found, CPU)
    assert found.settings is found.inner.settings is held_elsewhere
    assert vars(found.settings) == {"mode": "labels", "sizes": [1, 2], "more": None, "late": 3}


def test_a_dataclass_that_cannot_be_stored_stays_as_it_is():
    given, found = configured(), configured()
    given.settings.more = Hidden(1)
    found.settings.mode = "own"
    given.mapped, found.mapped = Mapped(), Mapped()
    given.mapped["key"] = 1
    restore(through_bytes(contents(given)), found, CPU)
    assert found.settings.mode == "own"
    assert found.mapped == {}


def test_a_dataclass_that_the_constructor_does_not_make_is_refused():
    given, found = configured(), configured()
    found.settings = found.inner.settings = None
    with pytest.raises(ValueError, match=r"contains a .*Settings that the constructor of the model does not create"):
        restore(through_bytes(contents(given)), found, CPU)


def test_contents_of_another_model_are_refused(digits, make_trial):
    trial = make_trial(steps=5, precision="float32")
    state = initial_state(trial.config, 0, digits, CPU, torch.float32)
    held = read(packed(state))["contents"]
    for other in ({("buffer", "nowhere", "x"): None}, {("attribute", "layers", "x"): ["unknown", 1]}):
        with pytest.raises(InvalidValueError, match="none of this training"):
            unpacked(resealed(packed(state), contents={**held, **other}), trial, digits, CPU)
