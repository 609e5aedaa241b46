"""The figures of a study: the panel and series a cell belongs to, and what is computed for the plots."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_study import small_study, write_sample_study

from fedsim.studies.page.content import read_content
from fedsim.studies.page.datasets import spread_out
from fedsim.studies.page.embed import columns as as_columns
from fedsim.studies.page.export import columns
from fedsim.studies.page.front import front
from fedsim.studies.page.layout import Layout
from fedsim.studies.page.pictures import SIDE, reduced
from fedsim.studies.page.rounds import CROWD, thinned
from fedsim.studies.page.series import Defences
from fedsim.studies.page.steps import band

NUMBERS = st.floats(-1, 1).map(lambda x: round(x, 1))


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_the_front_is_what_no_other_beats(points: list[tuple[float, float]]) -> None:
    found = front(points)
    slowly = {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert set(found) == slowly
    assert len(found) == len(slowly)
    assert [points[i] for i in found] == sorted(points[i] for i in found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.1))
def test_labels_keep_their_order_and_distance(values: list[float], gap: float) -> None:
    found = spread_out(values, gap, 1.0)
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert all(found[b] - found[a] >= gap - 1e-9 for a, b in pairwise(order))
    assert max(found) <= 1.0


@given(st.integers(1, 1000), st.integers(2, 80))
def test_thinned_rounds_end_with_the_last(count: int, most: int) -> None:
    rounds = list(range(count))
    found = thinned(rounds, most)
    assert found[-1] == rounds[-1]
    assert found[0] == 0
    assert len(found) <= most + 1


def test_the_band_holds_the_fit_and_is_nothing_for_images_alike() -> None:
    generator = np.random.default_rng(0)
    sizes = [generator.integers(1, 4, size=20), np.ones(20, dtype=int)]  # uneven clients, and even ones
    scores = [[generator.normal(0.5, 0.1, size=n) for n in of] for of in sizes]
    low, high = band(scores, 0.5, seed=1)
    assert all(a < 0.5 + 0.1 and b > 0.5 - 0.1 and 0 < b - a < 0.3 for a, b in zip(low, high, strict=True))
    flat = [[np.array([0.3])] * 5, [np.array([0.2])] * 5]
    assert band(flat, 0.9, seed=1) == ([0.3, 0.2], [0.3, 0.2])


# ---- pictures -----------------------------------------------------------------------------------


def test_large_pictures_are_reduced() -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, format="PNG")
    with Image.open(io.BytesIO(reduced(buffer.getvalue()))) as image:
        assert image.size == (SIDE, SIDE * 2 // 3)


def test_what_a_data_set_tells_is_not_told_again() -> None:
    shared = {"attack": "idlg", "defense": "masking(p=0.1)", "defenses.0.name": "masking"}
    rows = [
        {
            **shared,
            "data.name": data,
            "model.name": model,
            "partition.name": partition,
            "partition.alpha": alpha,
        }
        for data, model in (("mnist", "lenet"), ("cifar10", "resnet20"))
        for partition, alpha in (("iid", None), ("dirichlet", 0.1))
    ]
    layout = Layout(rows)
    assert layout.factors == {"Data": ["mnist", "cifar10"], "Partition": ["IID", "dirichlet, alpha 0.1"]}
    assert [layout.panel(row).number for row in rows] == [0, 1, 2, 3]
    assert layout.panel({**shared, "data.name": "cifar10", "partition.name": "iid"}).number == 2


def test_attacks_have_panels_of_their_own_but_train_once(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study(), attacks=("idlg", "dlg"))
    content = read_content(out)
    assert [panel.title for panel in content.layout.panels] == ["iDLG", "DLG"]
    assert len(content.layout.places) == 1
    assert len(content.figures.rounds) == 1
    assert len(content.figures.strength) == 2


def test_defences_of_one_strength_are_learnt_in_one_panel_a_place(tmp_path: Path) -> None:
    axes = {"data.name": ["fashion_mnist"], "seed": [1], "strategy.name": ["fedavg", "fedmedian"]}
    chains: list[Any] = [[], [{"name": "masking", "p": 0.1}], [{"name": "noising", "std": 0.1}]]
    out = write_sample_study(tmp_path, small_study(axes=axes, grids=({"defenses": chains},)), attacks=())
    content = read_content(out)
    plots = content.figures.rounds
    assert [plot.title for plot in plots] == ["FedAvg", "FedMedian"]
    ends = plots[0].rows(content.figures.data)["ends"]
    assert [row["name"] for row in ends] == ["no defence", "masking, p = 0.1", "noising, std = 0.1"]
    assert all(f"{row['name']} " in plots[0].words for row in ends)
    drawn = {(row["series"], row["strength"]) for row in plots[0].rows(content.figures.data)["curves"]}
    assert len(drawn) == 3


@pytest.mark.parametrize(("strengths", "together"), [(CROWD - 2, True), (CROWD - 1, False)])
def test_a_few_strengths_share_a_panel_many_do_not(tmp_path: Path, strengths: int, together: bool) -> None:
    masks = [[{"name": "masking", "p": (1 + i) / 10}] for i in range(strengths)]
    chains: list[Any] = [[], *masks, [{"name": "noising", "std": 0.1}]]
    content = read_content(
        write_sample_study(tmp_path, small_study(grids=({"defenses": chains},)), attacks=())
    )
    ends = [plot.rows(content.figures.data)["ends"] for plot in content.figures.rounds]
    assert [len(rows) for rows in ends] == ([CROWD] if together else [1 + strengths, 2])
    names = {row["name"] for row in ends[0]}
    assert names >= ({"masking, p = 0.1", "masking, p = 0.2"} if together else {"p = 0.1", "p = 0.2"})


def test_a_shared_panel_of_a_single_defence_is_named_after_it(tmp_path: Path) -> None:
    mask, noise = [{"name": "masking", "p": 0.1}], [{"name": "noising", "std": 0.1}]
    grids = (
        {"strategy.name": ["fedavg"], "defenses": [[], mask, noise]},
        {"strategy.name": ["fedmedian"], "defenses": [[], mask]},
    )
    content = read_content(write_sample_study(tmp_path, small_study(grids=grids), attacks=()))
    assert [plot.title for plot in content.figures.rounds] == ["FedAvg", "masking · FedMedian"]


def test_variants_are_series_and_strengths_are_ordered() -> None:
    def row(**options: Any) -> dict[str, Any]:
        own = {f"defenses.0.{key}": value for key, value in options.items()}
        return {"attack": "idlg", "defense": options["name"], **own}

    rows = [
        row(name="noising", std=0.1, distribution="gaussian"),
        row(name="noising", std=0.01, distribution="laplace"),
        row(name="clipping", norm=1.0),
        row(name="clipping", norm=0.1),
        row(name="quantizing", dtype="fp16"),
        row(name="quantizing", dtype="int8"),
        {"attack": "idlg", "defense": "none"},
    ]
    found = [Defences(rows).of(one) for one in rows]
    assert [one.series for one in found[:2]] == ["noising (gaussian)", "noising (laplace)"]
    assert [one.strength for one in found[2:6]] == ["norm = 1", "norm = 0.1", "dtype = fp16", "dtype = int8"]
    assert found[2].order < found[3].order
    assert found[6].series == "no defence"


# ---- the rest -----------------------------------------------------------------------------------


def test_columns_come_back_as_rows() -> None:
    rows = [{"a": 1, "b": "x", "c": float("nan")}, {"a": 2, "b": "x", "c": 0.123456789}]
    found = as_columns(rows, 3)
    assert found == {"size": 2, "columns": {"a": [1, 2], "b": {"all": "x"}, "c": [None, 0.123]}}


@pytest.mark.parametrize(
    ("panels", "in_a_row"), [(2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (7, 3), (8, 4), (9, 3), (12, 4)]
)
def test_panels_stand_in_whole_rows(panels: int, in_a_row: int) -> None:
    assert columns(panels) == in_a_row
