"""What the serial engine refuses before any training."""

import pytest
import torch

from sweep.config import Component
from sweep.training import SerialEngine
from sweep.validation import InvalidValueError


def engine(data, precision="float32"):
    return SerialEngine(data, torch.device("cpu"), precision)


def model(target, **arguments):
    return Component("model", target, arguments)


def test_it_has_one_slot(digits, make_trial):
    serial = engine(digits)
    assert serial.free == 1
    serial.start(make_trial())
    assert serial.free == 0


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
@pytest.mark.parametrize("target", ["models.mlp.MLP", "models.cnn.CNN"])
def test_what_can_be_trained_passes(digits, make_trial, target, precision):
    trial = make_trial(model=model(target), precision=precision)
    assert engine(digits, precision).check(trial.config) is None


def test_a_batch_of_the_whole_training_split_passes_and_a_larger_one_is_refused(digits, make_trial):
    engine(digits).check(make_trial(batch_size=1079).config)
    with pytest.raises(InvalidValueError, match=r"^train\.batch_size=1080: .*1079 examples"):
        engine(digits).check(make_trial(batch_size=1080).config)


def test_a_model_that_needs_pictures_is_refused_for_features(line, make_trial):
    with pytest.raises(InvalidValueError, match=r"^model=.*\[3\]"):
        engine(line).check(make_trial(model=model("models.cnn.CNN"), batch_size=16).config)


def test_a_model_of_another_input_is_refused(digits, make_trial):
    wrong = model("torch.nn.Linear", in_features=5, out_features=10)
    with pytest.raises(InvalidValueError, match=r"^model\._target_=torch\.nn\.Linear: .*\[1, 8, 8\]"):
        engine(digits).check(make_trial(model=wrong).config)


def test_a_model_with_too_few_classes_is_refused(digits, make_trial):
    wrong = model("torch.nn.Linear", in_features=8, out_features=3)
    with pytest.raises(InvalidValueError, match=r"^model\._target_="):
        engine(digits).check(make_trial(model=wrong).config)


def test_a_model_with_outputs_of_another_width_is_refused_for_a_regression(line, make_trial):
    """The mean squared error would broadcast them over the targets, with a warning at most."""
    wrong = model("torch.nn.Linear", in_features=3, out_features=4)
    with pytest.raises(InvalidValueError, match=r"^model\._target_="):
        engine(line).check(make_trial(model=wrong, batch_size=16).config)


def test_arguments_that_a_model_refuses_are_named(digits, make_trial):
    with pytest.raises(InvalidValueError, match=r"^model=.*hidden=\[0\]"):
        engine(digits).check(make_trial(model=model("models.mlp.MLP", hidden=[0])).config)


def test_checking_does_not_change_what_a_live_trial_draws(digits, make_trial, train):
    dropping = model("models.mlp.MLP", hidden=[16], dropout=0.5)
    expected = train(engine(digits), make_trial(model=dropping))[0].loss
    serial, losses = engine(digits), []
    serial.start(make_trial(model=dropping))
    while not serial.free:
        serial.check(make_trial(seed=4, model=dropping).config)
        for progress in serial.advance():
            losses += progress.rows[0].loss.tolist()
    assert losses == expected
