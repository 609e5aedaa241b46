"""Crops of the photographs that scikit-image carries: large colour images without a download."""

from collections.abc import Callable, Mapping

import numpy as np
import skimage.data
from PIL import Image

from fedsim.data.dataset import ArraySplit, Dataset
from fedsim.options import require
from fedsim.seeds import numpy_generator

PHOTOGRAPHS: Mapping[str, Callable[[], np.ndarray]] = {
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "rocket": skimage.data.rocket,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],  # type: ignore[no-untyped-call]
    "retina": skimage.data.retina,
    "galaxies": skimage.data.hubble_deep_field,
    "tissue": skimage.data.immunohistochemistry,
}
"""Name -> what reads it, (H, W, 3) uint8; each is part of the installed package."""
SMALLEST = 300
"""Pixels of the shortest side of any of them."""


def photographs(seed: int, *, size: int = 128, crops: int = 100, test_crops: int = 20) -> Dataset:
    """Square crops of eight photographs, 8 classes: the label is the photograph.

    A crop's side is drawn between `size` and the photograph's shorter side, its place within it, and it is
    resized to `size` x `size` (Lanczos). `crops` and `test_crops` are those of each photograph; crops of one
    may overlap, those of the test set with those of the training set too. From scikit-image (van der Walt et
    al. 2014), whose credits name the photographers.
    """
    require(8 <= size <= SMALLEST, "size", size, f"8 to {SMALLEST} pixels")
    require(crops >= 1, "crops", crops, "1 or more")
    require(test_crops >= 1, "test_crops", test_crops, "1 or more")
    whole = [read() for read in PHOTOGRAPHS.values()]
    train, test = (
        _crops(whole, size, count, numpy_generator(seed, "photographs", part))
        for part, count in (("train", crops), ("test", test_crops))
    )
    return Dataset("photographs", train, test, (3, size, size), tuple(PHOTOGRAPHS))


def _crops(whole: list[np.ndarray], size: int, count: int, generator: np.random.Generator) -> ArraySplit:
    pixels = [_crop(one, size, generator) for one in whole for _ in range(count)]
    labels = np.repeat(np.arange(len(whole), dtype=np.int64), count)
    return ArraySplit(np.stack(pixels), labels)


def _crop(photograph: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    side = int(generator.integers(size, min(height, width), endpoint=True))
    top, left = (int(generator.integers(0, length - side, endpoint=True)) for length in (height, width))
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS))
