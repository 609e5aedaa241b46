"""Images from an .npz file of arrays."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fedsim.data.dataset import ArraySplit, Dataset
from fedsim.data.subset import stratified_split
from fedsim.errors import InputError
from fedsim.options import path_of, require
from fedsim.seeds import numpy_generator

Arrays = dict[str, np.ndarray]
MAX_CLASSES = 100_000
_MAGIC = (b"PK", b"\x93NUMPY")
"""How an archive and a single array begin."""


def npz(
    seed: int, *, path: str, x: str = "x", y: str = "y", names: str | None = None, test_share: float = 0.2
) -> Dataset:
    """Read images and labels from an .npz file.

    Keys: `{x}_train, {y}_train, {x}_test, {y}_test`; or `{x}, {y}`, of which `test_share` becomes the test
    set by a seeded draw within each class. Images: uint8, (N, H, W) or (N, H, W, C) with C of 1 or 3. Labels:
    integers from 0, (N,). Class names lie under the key `names` if there is one; other labels than `y` (such
    as `y = "coarse"`) have theirs under `{y}_names`. Raises InputError that names key and file.
    """
    require(0 < test_share < 1, "test_share", test_share, "a share between 0 and 1 (both excluded)")
    arrays = _read(path)
    train, test = _splits(arrays, path, x, y, test_share, seed)
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise InputError(
            f"path = {path!r}: {x}_train and {x}_test have images of different shapes, "
            f"{train.pixels.shape[1:]} and {test.pixels.shape[1:]}; allowed: one shape"
        )
    if names is not None and names not in arrays:
        raise InputError(f"names = {names!r}: no such key in {path}; the file has: {', '.join(arrays)}")
    key = names or ("names" if y == "y" else f"{y}_names")
    classes = _classes(arrays, path, key, int(max(train.labels.max(), test.labels.max())))
    height, width, channels = train.pixels.shape[1:]
    return Dataset(Path(path).stem, train, test, (channels, height, width), classes)


def _read(path: str) -> Arrays:
    """Return the arrays of the file; pickled objects are refused."""
    file = path_of("path", path)
    try:
        with file.open("rb") as stream:
            # Anything else numpy takes for a pickle, and offers to load it.
            if not stream.read(6).startswith(_MAGIC):
                raise zipfile.BadZipFile("it is no archive")
            stream.seek(0)
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                return {key: content[key] for key in content.files}
    except FileNotFoundError:
        raise InputError(f"path = {path!r}: no such file; allowed: an .npz file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"path = {path!r}: cannot be read as .npz ({reason}); "
            "allowed: plain arrays written by numpy.savez, no pickled objects"
        ) from None
    raise InputError(f"path = {path!r}: a single array; allowed: an .npz file (numpy.savez)")


def _splits(
    arrays: Arrays, path: str, x: str, y: str, test_share: float, seed: int
) -> tuple[ArraySplit, ArraySplit]:
    if f"{x}_train" in arrays:
        return _split(arrays, path, f"{x}_train", f"{y}_train"), _split(
            arrays, path, f"{x}_test", f"{y}_test"
        )
    if x not in arrays:
        raise InputError(
            f"path = {path!r}: has neither {x!r} nor '{x}_train'; allowed: {x}_train, {y}_train, {x}_test, "
            f"{y}_test or {x}, {y}; the file has: {', '.join(arrays) or 'nothing'}"
        )
    whole = _split(arrays, path, x, y)
    train, test = stratified_split(whole.labels, test_share, numpy_generator(seed, "data", "split"))
    if len(test) == 0:
        raise InputError(
            f"path = {path!r}: no class of {y!r} has two examples, so none can be kept for the test set"
        )
    return (
        ArraySplit(whole.pixels[train], whole.labels[train]),
        ArraySplit(whole.pixels[test], whole.labels[test]),
    )


def _split(arrays: Arrays, path: str, x: str, y: str) -> ArraySplit:
    for key in (x, y):
        if key not in arrays:
            raise InputError(f"path = {path!r}: no key {key!r}; the file has: {', '.join(arrays)}")
    return ArraySplit(
        check_pixels(arrays[x], f"path = {path!r}: {x}"), _labels(arrays[y], arrays[x], path, y)
    )


def check_pixels(pixels: np.ndarray, where: str) -> np.ndarray:
    """Return grey or channels-last images as (N, H, W, C); raises InputError that begins with `where`."""
    grey = pixels.ndim == 3
    shaped = grey or (pixels.ndim == 4 and pixels.shape[3] in (1, 3))
    if pixels.dtype != np.uint8 or not shaped or 0 in pixels.shape:
        raise InputError(
            f"{where} is {pixels.dtype} {pixels.shape}; "
            "allowed: uint8 (N, H, W) or (N, H, W, C) with C of 1 or 3, none of them empty"
        )
    return pixels[..., None] if grey else pixels


def _labels(labels: np.ndarray, pixels: np.ndarray, path: str, key: str) -> np.ndarray:
    if labels.shape == (len(labels), 1):  # as in the files of Keras
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (len(pixels),):
        raise InputError(
            f"path = {path!r}: {key} is {labels.dtype} {labels.shape}; "
            f"allowed: integers, one for each of the {len(pixels)} images"
        )
    for extreme in (labels.min(), labels.max()):
        if not 0 <= extreme < MAX_CLASSES:
            raise InputError(
                f"path = {path!r}: {key} has the label {extreme}; allowed: 0 to {MAX_CLASSES - 1}"
            )
    return labels.astype(np.int64)


def _classes(arrays: Arrays, path: str, key: str, highest: int) -> tuple[str, ...]:
    if key not in arrays:
        return tuple(str(label) for label in range(highest + 1))
    names = arrays[key]
    if names.ndim != 1 or names.dtype.kind != "U" or highest >= len(names):
        raise InputError(
            f"path = {path!r}: {key} is {names.dtype} {names.shape}; "
            f"allowed: text, one name for each label, which go up to {highest}"
        )
    return tuple(str(name) for name in names)
