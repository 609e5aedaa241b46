"""Partitions: each is what its name promises, seeded, lazy, and says where it cannot be."""

import time
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest
from flwr_datasets.partitioner import DirichletPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import partition_clients
from fedsim.data.dataset import ArraySplit, Dataset
from fedsim.data.partition import Partition
from fedsim.errors import InputError


def _dataset(labels, owners=None, num_classes=None):
    labels = np.asarray(labels, dtype=np.int64)
    split = ArraySplit(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
    classes = tuple(str(i) for i in range(num_classes or labels.max() + 1))
    return Dataset("made", split, split, (1, 1, 1), classes, owners)


TEN = _dataset(np.repeat(np.arange(10), 120))  # sorted by label: a contiguous cut would show
OWNED = _dataset(np.arange(60) % 3, owners=np.random.default_rng(0).integers(0, 12, 60) * 7)

PLANS = [
    ("iid", {}),
    ("iid", {"min_examples": 20}),
    ("dirichlet", {"alpha": 0.05}),
    ("dirichlet", {"alpha": 0.5}),
    ("dirichlet", {"alpha": 100}),
    ("pathological", {"classes_per_client": 1}),
    ("pathological", {"classes_per_client": 3}),
    ("shards", {"shards_per_client": 1}),
    ("shards", {"shards_per_client": 4}),
    ("size_skewed", {"growth": "linear"}),
    ("size_skewed", {"growth": "square"}),
    ("size_skewed", {"growth": "exponential"}),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in PLANS]


def _left_out(note):
    return int(note.split()[0]) if "left out" in note else 0


@pytest.mark.parametrize(("name", "options"), PLANS, ids=IDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**62), clients=st.integers(1, 60))
def test_a_partition_is_disjoint_and_covers_what_it_does_not_say_it_leaves_out(name, options, seed, clients):
    partition = partition_clients(TEN, name, options, clients, seed)
    parts = [partition.indices(client) for client in range(clients)]
    assert all(part.dtype == np.int64 and len(part) > 0 and np.all(np.diff(part) > 0) for part in parts)
    held = np.concatenate(parts)
    assert held.min() >= 0
    assert held.max() < 1200
    if partition.overlapping:
        assert f"cannot serve {clients} clients: they draw overlapping examples" in partition.note
    else:
        assert len(np.unique(held)) == len(held) == 1200 - _left_out(partition.note)
    counts = sum(partition.label_counts(client) for client in range(clients))
    assert counts.tolist() == np.bincount(TEN.train.labels[held], minlength=10).tolist()


@pytest.mark.parametrize("clients", [7, 5000])
@pytest.mark.parametrize(("name", "options"), PLANS, ids=IDS)
def test_the_seed_decides(name, options, clients):
    first, again, other = (partition_clients(TEN, name, options, clients, seed) for seed in (1, 1, 2))
    some = range(min(clients, 40))
    assert all(np.array_equal(first.indices(i), again.indices(i)) for i in reversed(some))
    assert any(not np.array_equal(first.indices(i), other.indices(i)) for i in some)
    assert len({first.indices(i).tobytes() for i in some}) > 1


def test_iid_is_equal_in_size_and_mixes_sorted_labels():
    partition = partition_clients(TEN, "iid", {}, 12, 1)
    counts = np.array([partition.label_counts(i) for i in range(12)])
    assert counts.sum(axis=1).tolist() == [100] * 12
    chi_square = ((counts - 10) ** 2 / 10).sum()  # 99 degrees of freedom
    assert 50 < chi_square < 160


def test_dirichlet_grows_one_sided_as_alpha_falls():
    def largest_share(alpha):
        partition = partition_clients(TEN, "dirichlet", {"alpha": alpha}, 10, 3)
        counts = [partition.label_counts(i) for i in range(10)]
        return np.mean([c.max() / c.sum() for c in counts])

    shares = [largest_share(alpha) for alpha in (0.1, 1, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.4
    assert shares[2] < 0.15


def test_min_examples_holds_in_and_beyond_a_partition():
    for clients in (10, 60, 200):
        partition = partition_clients(TEN, "dirichlet", {"alpha": 0.5, "min_examples": 5}, clients, 1)
        sizes = [len(partition.indices(i)) for i in range(clients)]
        assert partition.overlapping == (clients > 60)
        if not partition.overlapping:
            assert min(sizes) >= 5
    beyond = partition_clients(TEN, "iid", {"min_examples": 20}, 100, 1)
    assert beyond.overlapping
    assert {len(beyond.indices(i)) for i in range(100)} == {20}


@pytest.mark.parametrize(
    ("clients", "alpha", "least"), [(40, 0.05, 1), (40, 0.2, 1), (40, 0.5, 5), (90, 1.0, 4), (9, 0.1, 60)]
)
def test_overlap_begins_exactly_where_flower_gives_up(clients, alpha, least):
    """Whether the partitioner succeeds is foretold without its bookkeeping: the two must agree."""
    from datasets import Dataset as Table

    from fedsim.data.flower import dirichlet_succeeds
    from fedsim.seeds import derive

    for seed in range(6):
        flower = DirichletPartitioner(
            clients, "label", alpha, least, seed=derive(seed, "partition", "flower")
        )
        flower.dataset = Table.from_dict({"label": np.random.default_rng(seed).permutation(TEN.train.labels)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns at every try that fails
            try:
                flower.load_partition(0)
                works = True
            except ValueError:
                works = False
        assert works == dirichlet_succeeds(TEN.train.labels, clients, alpha, least, seed)
        partition = partition_clients(
            TEN, "dirichlet", {"alpha": alpha, "min_examples": least}, clients, seed
        )
        assert partition.overlapping != works


@pytest.mark.parametrize("clients", [12, 100, 5000])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_pathological_holds_so_many_classes(clients, classes):
    partition = partition_clients(TEN, "pathological", {"classes_per_client": classes}, clients, 1)
    assert partition.overlapping == (clients == 5000)
    for client in range(min(clients, 50)):
        assert np.count_nonzero(partition.label_counts(client)) == classes


def test_pathological_with_few_clients_says_what_nobody_holds():
    partition = partition_clients(TEN, "pathological", {"classes_per_client": 2}, 3, 1)
    held = np.count_nonzero(sum(partition.label_counts(i) for i in range(3)))
    assert (
        partition.note == f"{(10 - held) * 120} of 1200 examples of classes that no client holds are left out"
    )


def test_shards_are_equal_and_of_few_classes():
    partition = partition_clients(TEN, "shards", {"shards_per_client": 2}, 50, 1)
    assert {len(partition.indices(i)) for i in range(50)} == {24}
    assert max(np.count_nonzero(partition.label_counts(i)) for i in range(50)) <= 2
    uneven = partition_clients(TEN, "shards", {"shards_per_client": 2}, 7, 1)
    assert uneven.note == "10 of 1200 examples for shards of equal size are left out"
    crowd = partition_clients(TEN, "shards", {"shards_per_client": 2}, 5000, 1)
    assert max(np.count_nonzero(crowd.label_counts(i)) for i in range(50)) <= 2


@pytest.mark.parametrize(("growth", "power"), [("linear", 1), ("square", 2)])
def test_sizes_grow_as_asked(growth, power):
    partition = partition_clients(TEN, "size_skewed", {"growth": growth}, 10, 1)
    sizes = np.array([len(partition.indices(i)) for i in range(10)])
    expected = np.arange(1, 11) ** power / np.sum(np.arange(1, 11) ** power) * 1200
    assert np.abs(sizes[:-1] - expected[:-1]).max() <= 1
    crowd = partition_clients(TEN, "size_skewed", {"growth": growth}, 400, 1)
    assert crowd.overlapping
    assert len(crowd.indices(399)) > 4 * len(crowd.indices(40))


def test_exponential_sizes():
    partition = partition_clients(TEN, "size_skewed", {"growth": "exponential"}, 4, 1)
    sizes = [len(partition.indices(i)) for i in range(4)]
    assert [round(b / a, 1) for a, b in pairwise(sizes)] == pytest.approx([np.e] * 3, abs=0.15)


def test_natural_is_one_client_per_owner():
    owners = np.unique(OWNED.owners)
    partition = partition_clients(OWNED, "natural", {}, len(owners), 1)
    for client, owner in enumerate(owners):
        assert partition.indices(client).tolist() == np.flatnonzero(OWNED.owners == owner).tolist()
    assert partition.note == ""
    some = partition_clients(OWNED, "natural", {}, 4, 1)
    assert "4 of 12 owners take part, with " in some.note
    people = [set(OWNED.owners[some.indices(i)]) for i in range(4)]
    assert all(len(person) == 1 for person in people)
    assert len(set.union(*people)) == 4


def test_natural_with_more_clients_than_owners_shares_owners():
    partition = partition_clients(OWNED, "natural", {}, 30, 1)
    assert partition.overlapping
    for client in range(30):
        assert len(set(OWNED.owners[partition.indices(client)])) == 1
    covered = np.unique(np.concatenate([partition.indices(i) for i in range(30)]))
    assert len(np.unique(OWNED.owners[covered])) == 12


def test_overlapping_dirichlet_follows_its_label_shares():
    """One class over many clients: mean and variance of the Dirichlet-multinomial distribution."""
    alpha, size, classes = 0.5, 40, 10
    partition = partition_clients(TEN, "dirichlet", {"alpha": alpha, "min_examples": size}, 3000, 1)
    shares = np.array([partition.label_counts(i)[0] / size for i in range(1500)])
    total = alpha * classes
    spread = (1 / classes) * (1 - 1 / classes) / (total + 1)
    variance = spread + ((1 / classes) * (1 - 1 / classes) - spread) / size
    assert abs(shares.mean() - 1 / classes) < 0.015
    assert abs(shares.var() / variance - 1) < 0.2


def test_a_class_without_examples_is_no_trouble():
    dataset = _dataset(np.repeat([0, 2], 50), num_classes=5)
    for name, options in PLANS[:9]:
        if options.get("classes_per_client", 0) > 2:
            continue
        for clients in (4, 300):
            counts = partition_clients(dataset, name, options, clients, 1).label_counts(0)
            assert counts.shape == (5,)
            assert counts[[1, 3, 4]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("alpha", [1e-300, 1e-12, 1e6])
def test_extreme_alphas(alpha):
    partition = partition_clients(TEN, "dirichlet", {"alpha": alpha}, 1500, 1)
    assert all(len(partition.indices(i)) >= 1 for i in range(50))


@pytest.mark.parametrize(("name", "options"), PLANS, ids=IDS)
def test_ten_thousand_clients_cost_no_more_than_ten(name, options):
    dataset = _dataset(np.arange(12_000) % 10)
    partition_clients(dataset, name, options, 10, 1)  # imports and caches out of the way

    def cost(clients):
        tracemalloc.start()
        began = time.process_time()
        partition = partition_clients(dataset, name, options, clients, 1)
        for client in range(10):
            partition.indices(client)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return held, time.process_time() - began

    few, _ = cost(10)
    many, seconds = cost(10_000)
    assert many < few + 4_000_000  # a few hundred bytes a client; the images are 9 MB
    assert seconds < 10


def test_positions_given_out_are_the_callers_own():
    partition = partition_clients(TEN, "iid", {}, 4, 1)
    partition.indices(0)[:] = -1
    assert partition.indices(0).min() >= 0


BAD = [
    ("dirichlet", {"alpha": 0}, 5, r"partition\.alpha = 0\.0: allowed: above 0"),
    ("dirichlet", {"alpha": "x"}, 5, r"partition\.alpha = 'x': allowed: a number"),
    ("dirichlet", {"alpha": float("nan")}, 5, r"partition\.alpha = nan: allowed: above 0"),
    ("dirichlet", {"alhpa": 1}, 5, r"partition\.alhpa = 1: unknown key; did you mean 'alpha'"),
    ("dirichlet", {"min_examples": 0}, 5, r"partition\.min_examples = 0: allowed: 1 or more"),
    ("pathological", {"classes_per_client": 11}, 5, r"partition\.classes_per_client = 11: allowed: 1 to 10"),
    ("shards", {"shards_per_client": 0}, 5, r"partition\.shards_per_client = 0: allowed: 1 or more"),
    ("size_skewed", {"growth": "cubic"}, 5, r"partition\.growth = 'cubic': allowed: 'linear', 'square'"),
    ("natural", {}, 5, r"partition\.name = 'natural': made has no owners; allowed: lfw_people"),
    ("iid", {}, 0, r"partition\.clients = 0: allowed: 1 or more"),
    ("dirichlt", {}, 5, r"partition\.name = 'dirichlt': no such partition; did you mean 'dirichlet'"),
    (
        "builtins:dict",
        {},
        5,
        r"partition\.name = 'builtins:dict': allowed: a function \(dataset, clients, seed",
    ),
    ("builtins:max", {}, 5, r"partition\.name = 'builtins:max': allowed: a function \(dataset"),
    ("builtins:isinstance", {}, 5, r"partition\.name = 'builtins:isinstance': allowed: a function"),
]


@pytest.mark.parametrize(("name", "options", "clients", "message"), BAD)
def test_what_is_wrong_is_one_line(name, options, clients, message):
    with pytest.raises(InputError, match=message) as caught:
        partition_clients(TEN, name, options, clients, 1)
    assert "\n" not in str(caught.value)


def test_a_partitioner_that_breaks_is_one_line(monkeypatch):
    import flwr_datasets.partitioner as flower

    def broken(self, partition_id):
        raise AttributeError("something else\nin two lines")

    monkeypatch.setattr(flower.IidPartitioner, "load_partition", broken)
    with pytest.raises(
        InputError, match=r"^partition\.clients = 5: IidPartitioner failed \(something else\)$"
    ):
        partition_clients(TEN, "iid", {}, 5, 1)


def test_a_client_that_is_not_there():
    partition = partition_clients(TEN, "iid", {}, 5, 1)
    for client in (-1, 5):
        with pytest.raises(InputError, match=f"client = {client}: allowed: 0 to 4"):
            partition.indices(client)


def odd_and_even(dataset: Dataset, clients: int, seed: int, *, turn: int = 0) -> Partition:
    """A partition of one's own: client i holds every clients-th example."""
    return Partition(
        clients=clients,
        labels=dataset.train.labels,
        num_classes=dataset.num_classes,
        assign=lambda client: np.arange((client + turn) % clients, len(dataset.train), clients),
    )


def test_a_partition_of_ones_own(monkeypatch):
    import sys
    import types

    module = types.ModuleType("my_partitions")
    module.odd_and_even = odd_and_even
    monkeypatch.setitem(sys.modules, "my_partitions", module)
    partition = partition_clients(TEN, "my_partitions:odd_and_even", {"turn": 1}, 2, 1)
    assert partition.indices(0)[:3].tolist() == [1, 3, 5]
