"""torchvision's readers, each on small files in the format of the original that the test writes.

torchvision compares the MD5 of each file with the published one. Small files cannot have it, so where the
reader is tested the comparison is replaced by `is the file there`; that other files are refused is tested
without.
"""

import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image
from scipy.io import savemat

from fedsim.data import load_dataset
from fedsim.errors import InputError

RNG = np.random.default_rng(0)


def _bytes(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    )


def _same(split, index, expected):
    """Whether the split's image is the (H, W, C) array expected."""
    image = split.batch([index])[0][0]
    return torch.equal(image, torch.from_numpy(np.ascontiguousarray(expected)).permute(2, 0, 1).float() / 255)


@pytest.fixture
def any_md5(monkeypatch):
    """Take any file for the original one: see above."""
    for reader in (tv.cifar, tv.svhn, tv.stl10, tv.lfw, tv.celeba):
        monkeypatch.setattr(
            reader, "check_integrity", lambda path, md5=None: __import__("os").path.isfile(path)
        )


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist_full", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_mnist_family(tmp_path, name, folder):
    images = {"train": _bytes(20, 28, 28), "t10k": _bytes(10, 28, 28)}
    for part, pixels in images.items():
        _idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", pixels)
        _idx(
            tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte",
            np.arange(len(pixels), dtype=np.uint8) % 10,
        )
    old = tmp_path / folder / "processed"
    old.mkdir()
    for file in ("training.pt", "test.pt"):  # left by old versions, opened by torch.load: must not be touched
        (old / file).write_bytes(b"not a tensor")
    dataset = load_dataset(name, {"root": str(tmp_path)}, 1)
    assert (dataset.shape, dataset.num_classes, len(dataset.train), len(dataset.test)) == (
        (1, 28, 28),
        10,
        20,
        10,
    )
    assert _same(dataset.test, 3, images["t10k"][3][..., None])
    assert dataset.train.labels.tolist() == list(range(10)) * 2


@pytest.mark.parametrize(("split", "lowest", "classes"), [("letters", 1, 26), ("balanced", 0, 47)])
def test_emnist_stands_upright_and_counts_from_zero(tmp_path, split, lowest, classes):
    pixels = {part: _bytes(12, 28, 28) for part in ("train", "test")}
    labels = np.arange(lowest, lowest + 12, dtype=np.uint8)
    for part in pixels:
        _idx(tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{part}-images-idx3-ubyte", pixels[part])
        _idx(tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{part}-labels-idx1-ubyte", labels)
    dataset = load_dataset("emnist", {"root": str(tmp_path), "split": split}, 1)
    assert dataset.num_classes == classes
    assert dataset.train.labels.tolist() == list(range(12))
    assert dataset.classes[0] == ("a" if split == "letters" else "0")
    assert _same(dataset.train, 2, pixels["train"][2].T[..., None])


def _write_cifar(root, fine):
    """Write pickled batches: rows of 3072 bytes, red plane first."""
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir()
    parts = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    rows = {part: _bytes(4, 3072) for part in parts}
    for i, part in enumerate(parts):
        labels = {"fine_labels" if fine else "labels": [i, i + 1, 0, 9]}
        (folder / part).write_bytes(pickle.dumps({"data": rows[part], **labels}))
    names = [f"kind {i}" for i in range(100 if fine else 10)]
    meta = {"fine_label_names": names} if fine else {"label_names": names}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta))
    return rows


@pytest.mark.parametrize(
    ("name", "fine", "last"), [("cifar10", False, "test_batch"), ("cifar100", True, "test")]
)
def test_cifar(tmp_path, any_md5, name, fine, last):
    rows = _write_cifar(tmp_path, fine)
    dataset = load_dataset(name, {"root": str(tmp_path)}, 1)
    assert (dataset.shape, dataset.num_classes) == ((3, 32, 32), 100 if fine else 10)
    assert dataset.classes[3] == "kind 3"
    assert len(dataset.train) == (4 if fine else 20)
    assert _same(dataset.test, 1, rows[last][1].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_pickle_with_another_checksum_is_never_opened(tmp_path, monkeypatch, name):
    _write_cifar(tmp_path, name == "cifar100")
    monkeypatch.setattr(
        pickle, "load", lambda *_, **__: pytest.fail("unpickled a file that is not the original")
    )
    with pytest.raises(
        InputError, match=f"the files of {name} are missing or damaged in .*cifar-1.*download = true"
    ):
        load_dataset(name, {"root": str(tmp_path)}, 1)


def test_svhn_calls_the_zero_zero(tmp_path, any_md5):
    pixels = {part: _bytes(32, 32, 3, 12) for part in ("train", "test")}
    labels = np.arange(12) % 10 + 1  # the files call it 10
    for part in pixels:
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels[part], "y": labels[:, None].astype(np.uint8)})
    dataset = load_dataset("svhn", {"root": str(tmp_path)}, 1)
    assert dataset.train.labels.tolist() == (labels % 10).tolist()
    assert _same(dataset.train, 9, pixels["train"][..., 9])


@pytest.mark.parametrize("size", [96, 32])
def test_stl10(tmp_path, any_md5, size):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = {part: _bytes(3, 96, 96, 3) for part in ("train", "test")}
    for part, images in pixels.items():  # planes, columns first; labels from 1
        (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 10, 5]))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    dataset = load_dataset("stl10", {"root": str(tmp_path), "size": size}, 1)
    assert dataset.shape == (3, size, size)
    assert dataset.train.labels.tolist() == [0, 9, 4]
    assert dataset.classes[9] == "kind 9"
    resized = np.array(Image.fromarray(pixels["test"][1]).resize((size, size), Image.Resampling.BILINEAR))
    assert _same(dataset.test, 1, resized)


NAMES = [
    "mnist",
    "fashion_mnist_full",
    "kmnist",
    "emnist",
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "lfw_people",
    "celeba",
]


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_line_that_says_how_to_get_them(tmp_path, name):
    with pytest.raises(
        InputError, match=f"data.root = .*the files of {name} are missing or damaged in "
    ) as caught:
        load_dataset(name, {"root": str(tmp_path)}, 1)
    assert "put them there" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "root") for name in NAMES),
        ("npz", "path"),
        ("imagefolder", "path"),
        ("huggingface", "dataset"),
    ],
)
def test_the_home_of_nobody_is_no_damaged_file(name, key):
    line = rf"^data\.{key} = '~no-such-user/x': allowed: a path \([^()]+\)$"
    with pytest.raises(InputError, match=line):
        load_dataset(name, {key: "~no-such-user/x"}, 1)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no route to host\nand a second line")

    monkeypatch.setattr(tv.SVHN, "download", fail)
    with pytest.raises(
        InputError, match=r"data\.download = true: svhn could not be fetched into .* \(no route to host\)"
    ):
        load_dataset("svhn", {"root": str(tmp_path), "download": True}, 1)
