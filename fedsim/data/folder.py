"""Images from a folder with one sub-folder per class."""

from pathlib import Path

import numpy as np
from PIL import Image

from fedsim.data.dataset import Dataset
from fedsim.data.images import UNREADABLE, Framing, ImageFiles, open_image
from fedsim.data.subset import stratified_split
from fedsim.errors import InputError
from fedsim.options import path_of, require
from fedsim.seeds import numpy_generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def imagefolder(
    seed: int,
    *,
    path: str,
    size: int | None = None,
    crop: int | None = None,
    grey: bool = False,
    test_share: float = 0.2,
) -> Dataset:
    """Read `path/train/CLASS/*.png` and `path/test/CLASS/*.png`; or `path/CLASS/*.png` with a seeded split.

    Files are opened as they are asked for. `size` (pixels) brings them to one square shape, after a centre
    cut of `crop` pixels; without it all must have one shape. Raises InputError that names the folder or file.
    """
    require(0 < test_share < 1, "test_share", test_share, "a share between 0 and 1 (both excluded)")
    framing = Framing(size=size, crop=crop, grey=grey)
    root = path_of("path", path)
    if not root.is_dir():
        raise InputError(f"path = {path!r}: no such folder; allowed: a folder with one sub-folder per class")
    parts = [folder for folder in (root / "train", root / "test") if folder.is_dir()]
    if len(parts) == 1:
        raise InputError(f"path = {path!r}: has only {parts[0].name}/; allowed: train/ and test/, or neither")
    classes = _classes(parts[0] if parts else root)
    if parts:
        train, test = (_scan(part, classes, framing) for part in parts)
    else:
        train, test = _divide(_scan(root, classes, framing), test_share, seed)
    height, width, channels = _shape(train, test)
    return Dataset(root.name, train, test, (channels, height, width), tuple(classes))


def _classes(folder: Path) -> list[str]:
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise InputError(
            f"path = {str(folder)!r}: no sub-folders; allowed: a folder with one sub-folder per class"
        )
    return names


def _scan(folder: Path, classes: list[str], framing: Framing) -> ImageFiles:
    unknown = sorted(set(_classes(folder)) - set(classes))
    if unknown:
        raise InputError(
            f"path = {str(folder / unknown[0])!r}: a class that train/ has not; allowed: {classes}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise InputError(f"path = {str(folder)!r}: no images; allowed: {', '.join(SUFFIXES)}")
    return ImageFiles(paths, np.array(labels, dtype=np.int64), framing)


def _divide(whole: ImageFiles, test_share: float, seed: int) -> tuple[ImageFiles, ImageFiles]:
    train, test = stratified_split(whole.labels, test_share, numpy_generator(seed, "data", "split"))
    if len(test) == 0:
        raise InputError("test_share: no class has two images, so none can be kept for the test set")
    halves = [
        ImageFiles([whole.paths[i] for i in part], whole.labels[part], whole.framing)
        for part in (train, test)
    ]
    return halves[0], halves[1]


def _shape(train: ImageFiles, test: ImageFiles) -> tuple[int, int, int]:
    """Return (H, W, C) of all images; without `size` or `crop` it compares the headers of all files."""
    framing = train.framing
    first = open_image(train.paths[0], framing)
    if framing.size is None and framing.crop is None:
        for path in (*train.paths, *test.paths):
            width, height = _extent(path)
            if (height, width) != first.shape[:2]:
                raise InputError(
                    f"size is missing: {path} has {width}x{height} pixels, {train.paths[0]} "
                    f"has {first.shape[1]}x{first.shape[0]}; allowed: size, to bring them to one shape"
                )
    height, width, channels = first.shape
    return height, width, channels


def _extent(path: Path) -> tuple[int, int]:
    """Return (width, height) from the header of an image file."""
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE as error:
        raise InputError(f"path = {str(path)!r}: cannot be read as an image ({error})") from None
