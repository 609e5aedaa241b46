"""Natural coordinates: an invertible map, level where it should be, and nothing to what is no image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adversary.coordinates import CHROMA, Chart, Coordinates, cosines


@settings(deadline=None)
@given(
    channels=st.integers(1, 4), height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 2**32)
)
def test_of_is_the_inverse_of_images(channels: int, height: int, width: int, seed: int) -> None:
    images = torch.randn(
        2, 3, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    chart = Chart((channels, height, width))
    coordinates = chart.of(images)
    assert coordinates.shape == (2, 3, channels * height * width)
    torch.testing.assert_close(chart.images(coordinates), images)


def test_the_cosine_transform_is_orthonormal() -> None:
    torch.testing.assert_close(cosines(7) @ cosines(7).T, torch.eye(7, dtype=torch.float64))


def test_a_grey_level_is_the_first_coordinate_and_a_colour_half_of_it() -> None:
    chart = Chart((3, 4, 4))
    grey = chart.of(torch.full((3, 4, 4), 0.7, dtype=torch.float64))
    assert grey[0] == pytest.approx(0.2 * 3**0.5 * 4)
    assert grey[1:].abs().max() < 1e-12
    red = torch.zeros(48, dtype=torch.float64)
    red[16] = 1.0  # the first coordinate of red - green
    away = chart.images(red) - 0.5
    assert away.norm() == pytest.approx(CHROMA)
    torch.testing.assert_close(away[0], -away[1])


def test_fine_detail_is_smaller_in_images_than_coarse() -> None:
    lengths = [
        (Chart((1, 8, 8)).images(row) - 0.5).norm() for row in torch.eye(64, dtype=torch.float64)[[0, 2, 7]]
    ]
    assert lengths[0] == pytest.approx(1.0)
    assert lengths[0] > lengths[1] > lengths[2]
    assert lengths[1] == pytest.approx(2**-0.25)  # two half-waves: the corner


@pytest.mark.parametrize(("shape", "coordinates"), [((5, 7), "natural"), ((3, 4, 4), "pixels")])
def test_what_is_no_image_stays_as_it_is(shape: tuple[int, ...], coordinates: Coordinates) -> None:
    values = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    chart = Chart(shape, coordinates)
    assert torch.equal(chart.of(values), values.flatten(1))
    assert torch.equal(chart.images(values.flatten(1)), values)


def test_one_precision_or_the_other() -> None:
    single, double = (
        Chart((3, 6, 5)).images(torch.ones(90, dtype=d)) for d in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
