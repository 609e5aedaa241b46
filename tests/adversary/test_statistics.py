import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from adversary.statistics import bca, wilson


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_is_the_closed_form(n, data):
    k = data.draw(st.integers(0, n))
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(k, n)
    assert found["share"] == p
    assert found["n"] == n
    assert found["low"] == pytest.approx(max(centre - half, 0), abs=1e-12)
    assert found["high"] == pytest.approx(min(centre + half, 1), abs=1e-12)


def test_wilson_of_nothing_and_of_everything():
    assert wilson(0, 0) == {"share": None, "low": None, "high": None, "n": 0}
    assert wilson(10, 10)["low"] == pytest.approx(0.7225, abs=1e-4)
    assert wilson(10, 10)["high"] == 1


def test_degenerate_samples_say_so():
    assert bca([], seed=1) == {"mean": None, "low": None, "high": None, "n": 0}
    assert bca([0.3], seed=1) == {"mean": 0.3, "low": None, "high": None, "n": 1}
    assert bca([0.3] * 5, seed=1) == {"mean": 0.3, "low": 0.3, "high": 0.3, "n": 5}
    assert bca([1, 2, 2], seed=1, statistic="median")["median"] == 2


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("values", [[0, 1], [0, 0, 0, 1], [1e-300, 1], [0.5, 0.5, 0.5000001]], ids=str)
def test_small_samples_have_finite_bounds_around_them(values, statistic):
    found = bca(values, seed=1, statistic=statistic)
    assert min(values) <= found["low"] <= found["high"] <= max(values)


def test_the_seed_decides():
    values = np.random.default_rng(0).random(30).tolist()
    assert bca(values, seed=1) == bca(values, seed=1)
    assert bca(values, seed=1) != bca(values, seed=2)


def test_coverage_of_the_mean():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = bca(rng.exponential(size=40).tolist(), seed=trial, resamples=400)
        covered += found["low"] <= 1 <= found["high"]
    assert 0.86 <= covered / 200 <= 1


def test_clusters_are_resampled_whole():
    """Ten clients with ten identical images each are ten observations, not a hundred."""
    rng = np.random.default_rng(0)
    per_client = rng.random(10)
    values = np.repeat(per_client, 10).tolist()
    clients = np.repeat(np.arange(10), 10).tolist()
    clustered, naive, single = (
        bca(values, clients, seed=1),
        bca(values, seed=1),
        bca(per_client.tolist(), seed=1),
    )
    width = clustered["high"] - clustered["low"]
    assert width > 2 * (naive["high"] - naive["low"])
    assert width == pytest.approx(single["high"] - single["low"], rel=1e-9)
    assert clustered["n"] == 100
    assert clustered["mean"] == pytest.approx(np.mean(values))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=3, max_size=9))
@example([[1], [1, 1], [0], [1], [1]])
def test_the_median_of_clusters_is_that_of_drawing_them_one_by_one(groups):
    def median(chosen):
        return np.median(np.concatenate([groups[i] for i in chosen]))

    values = [float(value) for group in groups for value in group]
    clusters = [index for index, group in enumerate(groups) for _ in group]
    assume(min(values) < max(values))
    found = bca(values, clusters, seed=1, statistic="median", resamples=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a BCa that is undefined: percentiles then stand in
        drawn = bootstrap(
            (np.arange(len(groups)),), median, vectorized=False, n_resamples=200, rng=np.random.default_rng(1)
        )
    low, high = drawn.confidence_interval
    if not np.isfinite([low, high]).all():
        low, high = np.percentile(drawn.bootstrap_distribution, [2.5, 97.5])
    # Between two medians the percentile is a sum, rounded by how its weights were found.
    assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-12)


def test_unequal_clusters_keep_the_mean_of_the_values():
    values, clients = [0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]
    found = bca(values, clients, seed=1)
    assert found["mean"] == 0.25
    assert (found["low"], found["high"]) == (0, 1)


def test_a_single_client_resamples_its_images():
    values = np.random.default_rng(0).random(20).tolist()
    assert bca(values, [7] * 20, seed=1) == bca(values, seed=1)
