"""Intervals: no aggregate is printed without its sample size and one of these."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from scipy.stats import binomtest, bootstrap

Interval = dict[str, float | int | None]
"""`{mean | median | share, low, high, n}`; bounds are None where the sample cannot give any."""

CONFIDENCE = 0.95
RESAMPLES = 2000


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the share `successes / n` with Wilson's score interval (1927); all None for n = 0."""
    if n == 0:
        return {"share": None, "low": None, "high": None, "n": 0}
    bounds = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return {"share": successes / n, "low": float(bounds.low), "high": float(bounds.high), "n": n}


def bca(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    statistic: Literal["mean", "median"] = "mean",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean or median with its BCa bootstrap interval (Efron 1987), resampling whole clusters.

    Images of one client are alike, so that `clusters` (a client for each value) are drawn with replacement. A
    single cluster cannot be resampled: then its values are. One value has no interval (None); equal values
    have one of width 0. Where BCa is undefined (degenerate jackknife) the percentile interval stands in.
    """
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        return {statistic: None, "low": None, "high": None, "n": 0}
    estimate = float(np.mean(data) if statistic == "mean" else np.median(data))
    groups = _groups(data, clusters)
    if len(groups) == 1:
        low = high = None
    elif np.ptp(data) == 0:
        low = high = estimate
    else:
        low, high = _bounds(groups, statistic, seed, confidence, resamples)
    return {statistic: estimate, "low": low, "high": high, "n": len(data)}


def _groups(data: np.ndarray, clusters: Sequence[Hashable] | None) -> list[np.ndarray]:
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(data.tolist(), clusters or range(len(data)), strict=True):
        members.setdefault(cluster, []).append(value)
    if len(members) == 1:
        return [np.array([value]) for value in data]
    return [np.array(group) for group in members.values()]


def _bounds(
    groups: list[np.ndarray], statistic: str, seed: int, confidence: float, resamples: int
) -> tuple[float, float]:
    """Bootstrap the indices of the groups; see scipy.stats.bootstrap."""
    options = {"confidence_level": confidence, "n_resamples": resamples, "rng": np.random.default_rng(seed)}
    function = _mean_of(groups) if statistic == "mean" else _median_of(groups)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of a degenerate BCa, which is handled here
        indices = (np.arange(len(groups)),)
        result = bootstrap(indices, function, vectorized=True, method="BCa", **options)
        interval = result.confidence_interval
        if not np.isfinite([interval.low, interval.high]).all():
            draws = result.bootstrap_distribution
            tail = 100 * (1 - confidence) / 2
            return float(np.percentile(draws, tail)), float(np.percentile(draws, 100 - tail))
    return float(interval.low), float(interval.high)


Statistic = Callable[..., np.ndarray]
"""(indices of groups (..., k), axis = -1) -> (...)."""


def _mean_of(groups: list[np.ndarray]) -> Statistic:
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])

    def mean(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        ratio: np.ndarray = sums[chosen].sum(axis=axis) / counts[chosen].sum(axis=axis)
        return ratio

    return mean


def _median_of(groups: list[np.ndarray]) -> Statistic:
    """For all draws at once: groups are filled up with infinities, which sorting leaves at the end."""
    counts = np.array([len(g) for g in groups])
    padded = np.stack([np.pad(g, (0, counts.max() - len(g)), constant_values=np.inf) for g in groups])

    def median(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = np.moveaxis(chosen, axis, -1)
        values = np.sort(padded[chosen].reshape(*chosen.shape[:-1], -1), axis=-1)
        number = counts[chosen].sum(axis=-1)[..., None]
        middle = [np.take_along_axis(values, at, axis=-1)[..., 0] for at in ((number - 1) // 2, number // 2)]
        half: np.ndarray = (middle[0] + middle[1]) / 2
        return half

    return median
