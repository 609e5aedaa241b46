"""Thresholds: the monotone fit against its definition, known answers, intervals that cover."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.errors import InputError
from fedsim.studies.threshold import interval, monotone, smallest, thresholds
from fedsim.studies.words import threshold_markdown

Array = NDArray[np.float64]
LEAKAGE = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def max_min(values: list[float], weights: list[float]) -> list[float]:
    """The antitonic regression by its max-min formula (Barlow et al. 1972), slowly."""

    def mean(i: int, j: int) -> float:
        return float(np.average(values[i : j + 1], weights=weights[i : j + 1]))

    n = len(values)
    return [min(max(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


@settings(deadline=None)
@given(LEAKAGE, st.data())
def test_the_fit_is_the_nearest_sequence_that_never_rises(values: list[float], data: st.DataObject) -> None:
    size = len(values)
    weights = data.draw(st.lists(st.floats(1, 9), min_size=size, max_size=size))
    fitted = monotone(np.array(values), np.array(weights))
    assert all(a >= b - 1e-12 for a, b in pairwise(fitted))
    np.testing.assert_allclose(fitted, max_min(values, weights), atol=1e-9)


def draws(means: list[float], clients: int, spread: float, seed: int) -> list[list[Array]]:
    generator = np.random.default_rng(seed)
    return [[generator.normal(mean, spread, size=1) for _ in range(clients)] for mean in means]


def test_the_answer_is_the_weakest_strength_below_the_bound() -> None:
    scores = draws([0.9, 0.7, 0.2, 0.1], 10, 0.0, 0)
    assert [smallest(scores, bound, 0.9) for bound in (0.95, 0.7, 0.5, 0.15, 0.05)] == [0, 1, 2, 3, 4]
    assert interval(scores, 0.5, 0.9, seed=1) == (2, 2)


def test_a_few_images_that_leak_are_not_averaged_away() -> None:
    few = [[np.array([1.0])] * 3 + [np.array([0.1])] * 17, [np.array([0.1])] * 20]
    assert smallest(few, 0.5, 0.9) == 1
    assert smallest(few, 0.5, 0.5) == 0


def test_the_interval_covers_the_truth_and_narrows_with_more_clients() -> None:
    means = [0.9, 0.75, 0.6, 0.45, 0.3, 0.15]  # the median falls below .5 at index 3
    found = {
        clients: [interval(draws(means, clients, 0.2, seed), 0.5, 0.5, seed) for seed in range(10)]
        for clients in (5, 40)
    }
    for intervals in found.values():
        assert sum(low <= 3 <= high for low, high in intervals) >= 9
    widths = {clients: np.mean([high - low for low, high in found[clients]]) for clients in found}
    assert widths[40] < widths[5]


def row(cell: str, **values: Any) -> dict[str, Any]:
    name = values.get("defenses.0.name")
    defaults = {"attack": "idlg", "defense": name or "none", "accuracy": 0.5, "seed": 1}
    return {"cell": cell, **defaults, "blind_ssim_affine_p99": 0.4, "data.name": "mnist", **values}


def write_scores(folder: Path, cell: str, defense: str, naive: float, adaptive: float) -> None:
    place = folder / "cells" / cell
    place.mkdir(parents=True)
    lines = [
        {
            **{"attack": "idlg", "defense": defense, "adaptive": known, "client": client},
            **{"capture": f"c{client}", "ssim_affine": value, "ssim": value / 2},
        }
        for client in range(5)
        for known, value in ((False, naive), (True, adaptive))
    ]
    (place / "scores.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_clipping_is_stronger_where_its_norm_is_smaller_and_seeds_are_pooled(tmp_path: Path) -> None:
    rows = []
    for norm, naive in ((1.0, 0.9), (0.1, 0.2), (0.01, 0.1)):
        for seed in (1, 2):
            cell = f"{norm}-{seed}"
            write_scores(tmp_path, cell, "clipping", naive, 0.9)
            changes = {"defenses.0.name": "clipping", "defenses.0.norm": norm, "seed": seed}
            rows.append(row(cell, **changes, accuracy=norm + seed / 100))
    naive, adaptive = thresholds(rows, tmp_path)
    assert (naive.strength, naive.low, naive.high, naive.bound) == (0.1, 0.1, 0.1, 0.4)
    assert naive.grid == [1.0, 0.1, 0.01]
    assert naive.images == [10, 10, 10]
    assert naive.accuracy == pytest.approx(0.115)
    assert adaptive.strength is adaptive.low is adaptive.high is adaptive.accuracy is None
    assert thresholds(rows, tmp_path, metric="ssim", bound=0.46)[1].strength == 1.0


def test_a_file_is_told_by_its_name_and_not_by_where_it_lies(tmp_path: Path) -> None:
    rows = []
    for name in ("digits", "faces"):
        for norm, naive in ((1.0, 0.9), (0.1, 0.2)):
            cell = f"{name}-{norm}"
            write_scores(tmp_path, cell, "clipping", naive, 0.9)
            changes = {"defenses.0.name": "clipping", "defenses.0.norm": norm}
            rows.append(row(cell, **changes, **{"data.path": f"/home/me/{name}.npz"}))
    text = threshold_markdown(thresholds(rows, tmp_path))
    assert "| digits.npz" in text
    assert "| faces.npz" in text
    assert "/home/me" not in text


def test_without_a_baseline_the_bound_is_asked_for(tmp_path: Path) -> None:
    rows = []
    for p in (0.1, 0.5):
        write_scores(tmp_path, str(p), "masking", 0.9, 0.9)
        changes = {"defenses.0.name": "masking", "defenses.0.p": p}
        rows.append({**row(str(p), **changes), "blind_ssim_affine_p99": None})
    with pytest.raises(InputError, match=r"bound: nothing is known of a blind guess"):
        thresholds(rows, tmp_path)
    assert thresholds(rows, tmp_path, bound=0.95)[0].strength == 0.1


def test_each_setting_and_each_link_of_a_chain_has_its_own_threshold(tmp_path: Path) -> None:
    rows = [row("open")]
    for data in ("mnist", "lfw"):
        for std in (0.1, 1.0):
            cell = f"{data}-{std}"
            both = f"clipping(norm=1.0) + noising(std={std})"
            write_scores(tmp_path, cell, both, 0.9 / (1 + 9 * std), 0.9)
            chain = {"defenses.0.name": "clipping", "defenses.0.norm": 1.0, "defenses.1.name": "noising"}
            rows.append(row(cell, **chain, **{"defenses.1.std": std, "data.name": data, "defense": both}))
    found = [one for one in thresholds(rows, tmp_path) if one.attacker == "naive"]
    assert [(one.setting["data.name"], one.defense, one.option) for one in found] == [
        ("mnist", "clipping + noising", "noising.std"),
        ("lfw", "clipping + noising", "noising.std"),
    ]
    assert [one.strength for one in found] == [1.0, 1.0]


def test_no_score_is_made_up_between_two_and_so_few_images_are_told_of(tmp_path: Path) -> None:
    one_is_read = [[np.array([1.0]), *[np.array([0.1])] * 7], [np.array([0.1])] * 8]
    assert smallest(one_is_read, 0.5, 0.9) == 1
    rows = [row("open"), *masked(tmp_path, {0.1: 0.8, 0.5: 0.2})]
    (found, _) = thresholds(rows, tmp_path)
    assert any(
        "images cannot show that 90% of all stay below: that takes 29" in text for text in found.warnings
    )
    (found, _) = thresholds(rows, tmp_path, quantile=0.1)
    assert not any("cannot show" in text for text in found.warnings)


def masked(folder: Path, scores: dict[float, float], **more: Any) -> list[dict[str, Any]]:
    """Return rows of masking at some strengths, with the scores that are had there."""
    rows = []
    for p, score in scores.items():
        cell = "-".join(map(str, [p, *more.values()]))
        write_scores(folder, cell, "masking", score, score)
        rows.append(row(cell, **{"defenses.0.name": "masking", "defenses.0.p": p, **more}))
    return rows


def test_cells_that_tell_a_strength_otherwise_are_left_out(tmp_path: Path) -> None:
    rows = [row("open")]
    for cell, options in (("a", {"std": 0.1}), ("b", {"std": 1.0}), ("c", {"epsilon": 0.5})):
        write_scores(tmp_path, cell, "noising", 0.2, 0.2)
        own = {f"defenses.0.{key}": value for key, value in options.items()}
        rows.append(row(cell, **{"defenses.0.name": "noising", **own}))
    assert [one.grid for one in thresholds(rows, tmp_path)] == [[0.1, 1.0], [0.1, 1.0]]


def test_clients_without_a_defence_of_the_chain_do_not_count_for_it(tmp_path: Path) -> None:
    rows = []
    for p in (0.1, 0.5):
        chain = {"defenses.0.name": "masking", "defenses.0.p": p, "defenses.1.name": "noising"}
        for defense, score in ((f"masking(p={p}) + noising(std=0.1)", 0.2), ("noising(std=0.1)", 0.9)):
            write_scores(tmp_path, f"{p}{score}", defense, score, score)
            rows.append(row(f"{p}{score}", **chain, **{"defenses.1.std": 0.1, "defense": defense}))
    found = thresholds(rows, tmp_path)
    assert {(one.defense, one.option, one.strength) for one in found} == {
        ("masking + noising", "masking.p", 0.1)
    }


def test_an_attack_with_other_options_has_a_threshold_of_its_own(tmp_path: Path) -> None:
    rows = [
        *masked(tmp_path, {0.1: 0.2, 0.5: 0.1}, **{"attack.max_evaluations": 100}),
        *masked(tmp_path, {0.1: 0.9, 0.5: 0.8}, **{"attack.max_evaluations": 1000}),
    ]
    found = [one for one in thresholds(rows, tmp_path) if one.attacker == "naive"]
    assert [(one.setting["attack.max_evaluations"], one.strength) for one in found] == [
        (100, 0.1),
        (1000, None),
    ]


def test_what_cannot_be_judged_is_said_in_one_line(tmp_path: Path) -> None:
    rows = masked(tmp_path, {0.1: 0.2, 0.5: 0.1})
    with pytest.raises(InputError, match="metric = 'ssim': allowed: ssim_affine, or a bound of your own"):
        thresholds(rows, tmp_path, metric="ssim")
    with pytest.raises(InputError, match="bound = nan: allowed: a finite number"):
        thresholds(rows, tmp_path, bound=float("nan"))
    with pytest.raises(InputError, match="cell = 'gone': allowed: a study whose cells are there"):
        thresholds([*rows, {**rows[0], "cell": "gone"}], tmp_path)
