"""Pictures of samples."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from sweep.report.figures import samples_picture


def tile(picture: bytes, index: int, side: tuple[int, int]) -> np.ndarray:
    """The pixels of a sample, without its frame: [height, width, 3]."""
    sheet, (height, width) = imread(BytesIO(picture)), (side[0] + 2, side[1] + 2)
    row, column = divmod(index, 8)
    return sheet[row * height + 1 : (row + 1) * height - 1, column * width + 1 : (column + 1) * width - 1, :3]


def drawn(samples: np.ndarray) -> bytes:
    picture = samples_picture(samples)
    assert picture is not None
    assert picture == samples_picture(samples)
    return picture


def test_samples_stand_side_by_side_eight_in_a_row() -> None:
    samples = np.random.default_rng(0).uniform(size=(19, 4, 8))
    picture = drawn(samples)
    assert imread(BytesIO(picture)).shape[:2] == (3 * (16 + 2), 8 * (32 + 2))
    for index, sample in enumerate(samples):
        pixels = tile(picture, index, (16, 32))
        for channel in range(3):
            np.testing.assert_allclose(pixels[::4, ::4, channel], sample, atol=1 / 255)
            np.testing.assert_array_equal(pixels[1::4, 3::4, channel], pixels[::4, ::4, channel])


def test_a_row_of_pixels_is_a_square_picture() -> None:
    samples = np.random.default_rng(0).uniform(size=(3, 64))
    assert drawn(samples) == drawn(samples.reshape(3, 8, 8)) == drawn(samples.reshape(3, 1, 8, 8))


def test_three_channels_are_colours() -> None:
    samples = np.random.default_rng(0).uniform(size=(2, 3, 40, 40))
    np.testing.assert_allclose(tile(drawn(samples), 1, (40, 40)), samples[1].transpose(1, 2, 0), atol=1 / 255)


def test_what_is_not_between_0_and_1_is_drawn_from_its_lowest_to_its_highest() -> None:
    samples = np.zeros((1, 2, 2))
    samples[0] = [[-3, 1], [-1, 0]]
    np.testing.assert_allclose(tile(drawn(samples), 0, (32, 32))[::16, ::16, 0], [[0, 1], [0.5, 0.75]], atol=1 / 255)


@pytest.mark.parametrize("shape", [(2, 30), (2,), (2, 2, 4, 4), (2, 1, 1, 4, 4)])
def test_what_is_no_picture_is_not_drawn(shape: tuple[int, ...]) -> None:
    assert samples_picture(np.zeros(shape)) is None


def test_what_is_no_number_is_not_drawn() -> None:
    assert samples_picture(np.full((1, 4, 4), np.nan)) is None
