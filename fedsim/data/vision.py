"""The data sets of torchvision that fit into memory: its readers, its downloads, its checksums."""

from typing import Any, Literal

import numpy as np
from PIL import Image

from fedsim.data.dataset import ArraySplit, Dataset
from fedsim.data.images import Framing
from fedsim.errors import InputError
from fedsim.options import path_of

DIGITS = tuple("0123456789")


def mnist(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """Handwritten digits, grey 28x28: 60,000 and 10,000. LeCun, Bottou, Bengio and Haffner 1998."""
    return _mnist_like("mnist", "MNIST", root, download, DIGITS)


def fashion_mnist_full(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """All of Fashion-MNIST, grey 28x28: 60,000 and 10,000. Xiao et al. 2017, arXiv:1708.07747."""
    return _mnist_like("fashion_mnist_full", "FashionMNIST", root, download)


def kmnist(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """Kuzushiji-MNIST, cursive Japanese, 28x28: 60,000 and 10,000. Clanuwat et al. 2018, arXiv:1812.01718."""
    return _mnist_like("kmnist", "KMNIST", root, download)


def emnist(
    _seed: int,
    *,
    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
    root: str = "data",
    download: bool = False,
) -> Dataset:
    """Handwritten letters and digits, grey 28x28, up to 814,255. Cohen et al. 2017, arXiv:1702.05373."""
    found = _mnist_like("emnist", "EMNIST", root, download, split=split)
    train, test = (_upright(part) for part in (found.train, found.test))
    if split != "letters":
        return Dataset(found.name, train, test, found.shape, found.classes)
    # Its labels begin at 1; torchvision calls the missing 0 "N/A".
    train, test = (ArraySplit(part.pixels, part.labels - 1) for part in (train, test))
    return Dataset(found.name, train, test, found.shape, found.classes[1:])


def cifar10(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """Ten kinds of objects, colour 32x32: 50,000 and 10,000. Krizhevsky 2009."""
    return _cifar("cifar10", "CIFAR10", root, download)


def cifar100(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """A hundred kinds of objects, colour 32x32: 50,000 and 10,000. Krizhevsky 2009."""
    return _cifar("cifar100", "CIFAR100", root, download)


def svhn(_seed: int, *, root: str = "data", download: bool = False) -> Dataset:
    """House numbers in street views, colour 32x32: 73,257 and 26,032. Netzer et al. 2011."""
    parts = [
        read("svhn", "SVHN", root, f"{root}/{split}_32x32.mat", download, split=split)
        for split in ("train", "test")
    ]
    train, test = (_arrays(part.data.transpose(0, 2, 3, 1), part.labels) for part in parts)
    return Dataset("svhn", train, test, (3, 32, 32), DIGITS)


def stl10(_seed: int, *, size: int = 96, root: str = "data", download: bool = False) -> Dataset:
    """Ten kinds of objects, colour 96x96 or `size`: 5,000 and 8,000 labelled. Coates, Ng and Lee 2011."""
    framing = Framing(size=size)
    where = f"{root}/stl10_binary"
    parts = [read("stl10", "STL10", root, where, download, split=split) for split in ("train", "test")]
    train, test = (_arrays(_resized(part.data.transpose(0, 2, 3, 1), framing), part.labels) for part in parts)
    return Dataset("stl10", train, test, (3, size, size), tuple(parts[0].classes))


def read(name: str, reader: str, root: str, where: str, download: bool, **options: Any) -> Any:
    """Return an instance of torchvision's `reader`; raises InputError that says how to get missing files.

    CIFAR comes as pickles: torchvision compares their MD5 with the published one before it opens them, so
    that no file of anybody else is ever unpickled.
    """
    from torchvision import datasets

    factory, folder = getattr(datasets, reader), path_of("root", root)
    if issubclass(factory, datasets.MNIST):
        # Without this it would prefer a `processed/training.pt` of old versions over the idx files.
        factory = type(reader, (factory,), {"_check_legacy_exist": lambda _: False})
    try:
        return factory(str(folder), download=download, **options)
    except (RuntimeError, ValueError, OSError, EOFError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if download:
            raise InputError(
                f"download = true: {name} could not be fetched into {where} ({reason})"
            ) from None
        raise InputError(
            f"root = {root!r}: the files of {name} are missing or damaged in {where}; "
            "allowed: put them there, or set download = true"
        ) from None


def _mnist_like(
    name: str, reader: str, root: str, download: bool, classes: tuple[str, ...] = (), **options: Any
) -> Dataset:
    where = f"{root}/{reader}/raw"
    parts = [read(name, reader, root, where, download, train=train, **options) for train in (True, False)]
    train, test = (_arrays(part.data.numpy()[..., None], part.targets.numpy()) for part in parts)
    return Dataset(name, train, test, (1, 28, 28), classes or tuple(parts[0].classes))


def _cifar(name: str, reader: str, root: str, download: bool) -> Dataset:
    where = f"{root}/{'cifar-10-batches-py' if reader == 'CIFAR10' else 'cifar-100-python'}"
    parts = [read(name, reader, root, where, download, train=train) for train in (True, False)]
    train, test = (_arrays(part.data, part.targets) for part in parts)
    return Dataset(name, train, test, (3, 32, 32), tuple(parts[0].classes))


def _arrays(pixels: np.ndarray, labels: Any) -> ArraySplit:
    return ArraySplit(np.ascontiguousarray(pixels), np.asarray(labels, dtype=np.int64))


def _upright(part: Any) -> ArraySplit:
    """Return EMNIST's images as one reads them: its files hold them transposed."""
    return ArraySplit(np.ascontiguousarray(part.pixels.transpose(0, 2, 1, 3)), part.labels)


def _resized(pixels: np.ndarray, framing: Framing) -> np.ndarray:
    return np.stack([framing.apply(Image.fromarray(image)) for image in np.ascontiguousarray(pixels)])
