"""Test the masks of dropout."""

import numpy as np
import pytest
import torch
from torch import nn

from sweep.training.dropout import hashed, seed_dropouts, set_draws, update_key, update_keys


def layers(*modules):
    model = nn.Sequential(*modules)
    return model, seed_dropouts(model)


def test_what_is_kept_is_scaled_and_as_much_as_asked_for():
    model, dropouts = layers(nn.Dropout(0.3))
    set_draws(dropouts, update_key(0, 0))
    out = model(torch.ones(1000, 500, dtype=torch.float64))
    np.testing.assert_allclose(out.unique().numpy(), [0, 1 / 0.7])
    assert float((out == 0).double().mean()) == pytest.approx(0.3, abs=0.003)  # 4.6 deviations


def test_masks_of_places_updates_seeds_and_layers_are_not_correlated():
    ones = torch.ones(400, 500)

    def mask(seed, step, layer=0):
        model, dropouts = layers(nn.Dropout(0.5), nn.Dropout(0.5))
        set_draws(dropouts, update_key(seed, step))
        return (model[layer](ones) > 0).double().numpy()

    first = mask(0, 0)
    others = [mask(0, 1), mask(1, 0), mask(0, 0, layer=1), first.T.copy().reshape(400, 500)]
    others += [np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)]
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.011  # 5 deviations


def test_whole_channels_are_dropped():
    model, dropouts = layers(nn.Dropout2d(0.5))
    set_draws(dropouts, update_key(3, 4))
    out = model(torch.ones(50, 20, 4, 4))
    flat = out.reshape(50, 20, -1)
    assert torch.equal(flat.amin(2), flat.amax(2))
    assert 0.4 < float((flat[..., 0] == 0).float().mean()) < 0.6


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_and_everything(p, expected):
    model, dropouts = layers(nn.Dropout(p))
    set_draws(dropouts, 7)
    assert (model(torch.ones(30, 30)) == expected).all()


def test_an_evaluation_drops_nothing():
    model, _ = layers(nn.Dropout(0.5))
    assert (model.eval()(torch.ones(30, 30)) == 1).all()


def test_micro_batches_draw_what_the_batch_draws():
    model, dropouts = layers(nn.Dropout(0.5), nn.Dropout(0.2))
    x = torch.ones(10, 6)
    set_draws(dropouts, 11)
    whole = model(x)
    set_draws(dropouts, 11)
    first = model(x[:4])
    set_draws(dropouts, 11, first_row=4)
    assert torch.equal(torch.cat([first, model(x[4:])]), whole)


def test_a_layer_that_is_used_twice_draws_twice():
    shared = nn.Dropout(0.5)
    model = nn.ModuleList([shared, shared])
    dropouts = seed_dropouts(model)
    set_draws(dropouts, 5)
    x = torch.ones(40, 40)
    first, second = model[0](x), model[1](x)
    assert len(dropouts) == 1
    assert not torch.equal(first, second)
    set_draws(dropouts, 5)
    assert torch.equal(model[1](x), first)


def test_the_keys_of_updates_are_those_of_each():
    assert update_keys(5, 10, 14).tolist() == [update_key(5, step) for step in range(10, 14)]
    assert len(set(update_keys(5, 0, 10_000).tolist())) == 10_000


def test_the_hash_is_the_same_for_tensors_and_arrays_and_has_no_collision():
    array = hashed(np.arange(100_000))
    assert hashed(torch.arange(100_000)).tolist() == array.tolist() == [hashed(x) for x in range(100_000)]
    assert len(np.unique(array)) == 100_000
    assert 0 <= array.min() < array.max() < 2**32


def test_a_model_keeps_its_other_modules_and_its_state():
    model, dropouts = layers(nn.Linear(3, 3), nn.Dropout(0.5), nn.AlphaDropout(0.5))
    assert len(dropouts) == 1
    assert isinstance(model[2], nn.AlphaDropout)
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
