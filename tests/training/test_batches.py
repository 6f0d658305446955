"""Test that the order of the training examples depends on seed and epoch only."""

import pytest
import torch

from sweep.config import steps_per_epoch
from sweep.data import Split
from sweep.training.batches import Batches

CPU = torch.device("cpu")


def batches(n=10, batch_size=4, seed=0, **keys):
    """Return batches of examples whose inputs and targets are their indices."""
    numbers = torch.arange(n)
    return Batches(Split({"x": numbers.double()[:, None], "y": numbers}), batch_size, seed, CPU, **keys)


def drawn(order, begin, end):
    """Return the indices of the examples in each batch."""
    return [batch["y"].tolist() for batch in order.range(begin, end)]


def flat(lists):
    return [number for numbers in lists for number in numbers]


@pytest.mark.parametrize(
    ("n", "batch_size", "updates"), [(10, 4, 3), (12, 4, 3), (13, 4, 4), (1, 4, 1), (4, 1, 4), (1079, 64, 17)]
)
def test_an_epoch_has_as_many_updates_as_it_takes_to_use_every_example(n, batch_size, updates):
    assert steps_per_epoch(n, batch_size) == updates


@pytest.mark.parametrize(
    ("n", "batch_size", "updates"),
    [(10, 4, 2), (12, 4, 3), (13, 4, 3), (4, 4, 1), (7, 4, 1), (4, 1, 4), (1079, 64, 16)],
)
def test_with_drop_last_an_epoch_has_its_whole_batches(n, batch_size, updates):
    assert steps_per_epoch(n, batch_size, drop_last=True) == updates
    order = batches(n, batch_size, drop_last=True)
    first, second = order.order(0).tolist(), order.order(1).tolist()
    used = updates * batch_size
    assert flat(drawn(order, 0, 2 * updates)) == first[:used] + second[:used]
    assert {len(batch) for batch in drawn(order, 0, 2 * updates)} == {batch_size}


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (12, 4), (7, 7), (5, 1)])
def test_every_epoch_is_a_permutation(n, batch_size):
    order, updates = batches(n, batch_size), steps_per_epoch(n, batch_size)
    for epoch in range(4):
        seen = drawn(order, epoch * updates, (epoch + 1) * updates)
        assert sorted(flat(seen)) == list(range(n))


def test_the_last_batch_of_an_epoch_has_what_is_left():
    assert [len(batch) for batch in drawn(batches(10, 4), 0, 7)] == [4, 4, 2, 4, 4, 2, 4]


def test_inputs_and_targets_belong_to_the_same_examples():
    for batch in batches().range(0, 6):
        inputs, targets = batch["x"], batch["y"]
        assert inputs.shape == (len(targets), 1)
        assert inputs[:, 0].long().tolist() == targets.tolist()


def test_each_epoch_is_a_fresh_permutation():
    order = batches(50, 50)
    epochs = drawn(order, 0, 5)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert list(range(50)) not in epochs


@pytest.mark.parametrize("pieces", [[1] * 11, [2, 5, 4], [3, 3, 3, 2], [10, 1], [0, 11]])
def test_a_range_in_pieces_is_the_whole(pieces):
    order, seen, begin = batches(10, 4), [], 0
    for length in pieces:
        seen += drawn(order, begin, begin + length)
        begin += length
    assert seen == drawn(batches(10, 4), 0, 11)


def test_a_range_may_begin_anywhere():
    whole = drawn(batches(10, 4), 0, 12)
    for begin in range(12):
        assert drawn(batches(10, 4), begin, 12) == whole[begin:]


def test_an_empty_range_is_empty():
    assert drawn(batches(), 5, 5) == []


def test_the_order_depends_on_the_seed():
    assert drawn(batches(50, 10, seed=1), 0, 5) == drawn(batches(50, 10, seed=1), 0, 5)
    assert drawn(batches(50, 10, seed=1), 0, 5) != drawn(batches(50, 10, seed=2), 0, 5)


def test_epoch_and_seed_are_not_interchangeable():
    assert batches(50, seed=1).order(2).tolist() != batches(50, seed=2).order(1).tolist()
    assert batches(50, seed=0).order(1).tolist() != batches(50, seed=1).order(0).tolist()


def test_the_order_does_not_depend_on_the_batch_size():
    assert flat(drawn(batches(12, 4), 0, 3)) == flat(drawn(batches(12, 3), 0, 4))


def test_the_order_neither_uses_nor_moves_the_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = drawn(batches(), 0, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert drawn(batches(), 0, 6) == first
