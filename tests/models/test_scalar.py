import pytest
import torch

from models.scalar import Scalar


def test_the_output_is_the_input_times_the_weight():
    x = torch.tensor([[1.0], [-2.0]])
    assert Scalar(start=3.0)(x).tolist() == [[3.0], [-6.0]]


def test_it_has_one_weight_that_begins_at_five_unless_told_otherwise():
    (weight,) = Scalar().parameters()
    assert weight.item() == 5
    (weight,) = Scalar(start=-1).parameters()
    assert weight.item() == -1


@pytest.mark.parametrize("start", ["5", None, True, float("nan"), float("inf"), [5.0]])
def test_what_is_no_number_is_refused(start):
    with pytest.raises(ValueError, match=r"start=.* must be a finite number"):
        Scalar(start=start)
