"""Crops of the photographs that come with scikit-image."""

import numpy as np
import pytest

from fedsim.data.load import load_dataset
from fedsim.data.photographs import PHOTOGRAPHS, SMALLEST
from fedsim.errors import InputError


def test_crops_are_real_balanced_and_follow_from_the_seed() -> None:
    found = load_dataset("photographs", {"size": 16, "crops": 3, "test_crops": 2}, 5)
    assert found.shape == (3, 16, 16)
    assert (len(found.train), len(found.test)) == (24, 16)
    assert np.bincount(found.train.labels).tolist() == [3] * 8
    images, _ = found.train.batch(range(24))
    assert images.flatten(1).std(dim=1).min() > 0.01  # none is a plain patch
    again = load_dataset("photographs", {"size": 16, "crops": 3, "test_crops": 2}, 5)
    other = load_dataset("photographs", {"size": 16, "crops": 3, "test_crops": 2}, 6)
    assert (again.train.batch(range(24))[0] == images).all()
    assert not (other.train.batch(range(24))[0] == images).all()


def test_every_photograph_is_as_large_as_promised() -> None:
    shapes = [read().shape for read in PHOTOGRAPHS.values()]
    assert all(len(shape) == 3 and shape[2] == 3 for shape in shapes)
    assert min(min(shape[:2]) for shape in shapes) == SMALLEST


@pytest.mark.parametrize(("key", "value"), [("size", 301), ("size", 4), ("crops", 0), ("test_crops", 0)])
def test_bad_options_name_their_key(key: str, value: int) -> None:
    with pytest.raises(InputError, match=key):
        load_dataset("photographs", {key: value}, 0)
