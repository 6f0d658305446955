"""Test that memory and operations of an evaluation are counted, and that small models get large batches."""

import pytest
import torch
from torch import nn

from sweep.training import costs
from sweep.training.costs import Costs, examples_within, operations_of

PERCEPTRON = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)).double()


def peak(model, inputs):
    with torch.no_grad(), Costs() as counted:
        kept = model(inputs)
    assert counted.live == kept.nbytes  # of what the operations have allocated, only the result still exists
    return counted.peak


def test_activations_are_counted_until_they_are_freed():
    """The input and the output of a layer exist at the same time. Views of weights and inputs allocate nothing."""
    assert peak(PERCEPTRON, torch.zeros(8, 100).double()) == 8 * 8 * (50 + 50)
    assert peak(nn.Sequential(*[nn.Linear(50, 50)] * 20), torch.zeros(8, 50)) == 4 * 8 * (50 + 50)


def test_operations_in_place_allocate_nothing():
    in_place = nn.Sequential(nn.Linear(100, 50), nn.ReLU(inplace=True))
    assert peak(in_place, torch.zeros(8, 100)) == 4 * 8 * 50


def test_a_compiled_model_is_counted_as_well():
    compiled = torch.compile(nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)), backend="eager")
    compiled(torch.zeros(8, 100))
    assert peak(compiled, torch.zeros(8, 100)) == 4 * 8 * (50 + 50)


@pytest.mark.parametrize(
    ("available", "examples"), [(2**20, 512), (14_400, 8), (14_399, 0), (28_800, 16), (57_599, 16), (57_600, 32)]
)
def test_a_power_of_two_times_the_batch_is_evaluated_at_once(available, examples, monkeypatch):
    monkeypatch.setattr(costs, "EVALUATION_BYTES", available)
    batch = {"x": torch.zeros(8, 100).double(), "y": torch.zeros(8, 25).double()}  # 8,000 bytes, and 6,400 of the model
    assert 8 * (800 + 200) + 8 * 8 * 100 == 14_400
    assert examples_within(lambda batch: PERCEPTRON(batch["x"]), batch) == examples


@pytest.mark.parametrize(
    ("model", "shape", "operations", "calls"),
    [
        (PERCEPTRON, [100], 2 * (100 * 50 + 50 * 10), 3),
        (nn.Conv2d(3, 8, 3, padding=1), [3, 10, 12], 2 * 10 * 12 * 8 * 3 * 9, 1),
        (nn.Conv2d(4, 4, 3, groups=4), [4, 5, 5], 2 * 3 * 3 * 4 * 9, 1),
        (nn.LayerNorm(7), [7], 0, 3),  # the normed, the mean and the deviation
    ],
)
def test_operations_are_those_of_one_example(model, shape, operations, calls):
    for n in (1, 3):
        assert operations_of(model.double(), torch.zeros(n, *shape).double()) == (operations, calls)
