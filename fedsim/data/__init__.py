"""Data sets and partitions: what is learnt from, and who holds it.

Importing this is cheap; torch, torchvision and flwr-datasets are loaded when a data set is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsim.registry import Entry, Registry

if TYPE_CHECKING:
    from fedsim.data.dataset import Dataset
    from fedsim.data.partition import Partition

DATASETS = Registry(
    "dataset",
    Entry(
        "fashion_mnist",
        "fedsim.data.embedded:fashion_mnist",
        "in the package: 12,000 + 2,000 grey images of clothes, 28x28, 10 classes",
        "Xiao, Rasul & Vollgraf 2017",
    ),
    Entry(
        "photographs",
        "fedsim.data.photographs:photographs",
        "no download: crops of eight colour photographs, 8x8 to 300x300, 8 classes",
        "van der Walt et al. 2014",
    ),
    Entry(
        "fashion_mnist_full",
        "fedsim.data.vision:fashion_mnist_full",
        "all 70,000 grey images of clothes, 28x28, 10 classes",
        "Xiao, Rasul & Vollgraf 2017",
    ),
    Entry("mnist", "fedsim.data.vision:mnist", "70,000 grey digits, 28x28", "LeCun et al. 1998"),
    Entry(
        "kmnist",
        "fedsim.data.vision:kmnist",
        "70,000 grey cursive Japanese characters, 28x28, 10 classes",
        "Clanuwat et al. 2018",
    ),
    Entry(
        "emnist",
        "fedsim.data.vision:emnist",
        "up to 814,255 grey letters and digits, 28x28, 10 to 62 classes",
        "Cohen et al. 2017",
    ),
    Entry(
        "cifar10", "fedsim.data.vision:cifar10", "60,000 colour objects, 32x32, 10 classes", "Krizhevsky 2009"
    ),
    Entry(
        "cifar100",
        "fedsim.data.vision:cifar100",
        "60,000 colour objects, 32x32, 100 classes",
        "Krizhevsky 2009",
    ),
    Entry(
        "svhn",
        "fedsim.data.vision:svhn",
        "99,289 colour house numbers, 32x32, 10 digits",
        "Netzer et al. 2011",
    ),
    Entry(
        "stl10",
        "fedsim.data.vision:stl10",
        "13,000 colour objects, 96x96, 10 classes",
        "Coates, Ng & Lee 2011",
    ),
    Entry(
        "lfw_people",
        "fedsim.data.faces:lfw_people",
        "faces of public figures; the label is the person, who is also the owner",
        "G. B. Huang et al. 2007",
    ),
    Entry(
        "celeba",
        "fedsim.data.faces:celeba",
        "faces of celebrities; the label is one of 40 attributes, the owner is the person",
        "Liu et al. 2015; Caldas et al. 2018",
    ),
    Entry("npz", "fedsim.data.npz:npz", "your own arrays: x_train, y_train, x_test, y_test, or x, y"),
    Entry("imagefolder", "fedsim.data.folder:imagefolder", "your own images: one folder per class"),
    Entry(
        "huggingface", "fedsim.data.hub:huggingface", "the Hugging Face hub, or a local folder in its format"
    ),
)

PARTITIONS = Registry(
    "partition",
    Entry(
        "iid",
        "fedsim.data.partitions:iid",
        "every client draws from the same distribution",
        "McMahan et al. 2017",
    ),
    Entry(
        "dirichlet",
        "fedsim.data.partitions:dirichlet",
        "label shares follow Dirichlet(alpha): the smaller alpha, the more one-sided",
        "Yurochkin et al. 2019; Hsu, Qi & Brown 2019",
    ),
    Entry(
        "pathological",
        "fedsim.data.partitions:pathological",
        "every client holds classes_per_client classes",
        "Q. Li et al. 2022",
    ),
    Entry(
        "shards",
        "fedsim.data.partitions:shards",
        "sorted by label, cut into equal shards, shards_per_client each",
        "McMahan et al. 2017",
    ),
    Entry("natural", "fedsim.data.partitions:natural", "one client per owner, where the data has owners"),
    Entry(
        "size_skewed",
        "fedsim.data.partitions:size_skewed",
        "equal label shares, sizes that grow with the client's number: linear, square or exponential",
    ),
)


def load_dataset(name: str, options: Mapping[str, Any], seed: int) -> Dataset:
    """Return a data set by name: see fedsim.data.load.load_dataset."""
    from fedsim.data.load import load_dataset as load

    return load(name, options, seed)


def partition_clients(
    dataset: Dataset, name: str, options: Mapping[str, Any], clients: int, seed: int
) -> Partition:
    """Return who holds which train examples: see fedsim.data.partition.partition_clients."""
    from fedsim.data.partition import partition_clients as partition

    return partition(dataset, name, options, clients, seed)
