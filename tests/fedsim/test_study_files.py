"""Study files: axes, zips, grids and ranges become cells; what is wrong is one line."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import InputError
from fedsim.studies.cells import cells_of, content_hash, flat
from fedsim.studies.grid import combinations
from fedsim.studies.study import Study, bundled_studies, read_study, with_axes

BASE = 'scenario = "quickstart"\n'


def read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def test_axes_are_multiplied_grids_joined_zips_advance_together(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        BASE
        + """
zip = [["model.name", "strategy.rounds"]]
seeds = 2
[axes]
"model.name" = ["lenet", "mlp"]
"strategy.rounds" = [1, 2]
[[grids]]
defenses = [[]]
[[grids]]
"defenses.0.name" = "masking"
"defenses.0.p" = { from = 0.1, to = 0.9, num = 3 }
""",
    )
    cells = list(combinations(study))
    pairs = {("lenet", 1), ("mlp", 2)}
    assert len(cells) == 2 * 2 * (1 + 3)
    assert {(cell["model.name"], cell["strategy.rounds"]) for cell in cells} == pairs
    assert {cell.get("defenses.0.p") for cell in cells} == {None, 0.1, 0.5, 0.9}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
)
def test_without_zips_cells_are_the_product(axes: dict[str, list[int]]) -> None:
    cells = list(combinations(Study(name="s", scenario={}, axes=axes)))
    assert cells == [dict(zip(axes, chosen, strict=True)) for chosen in product(*axes.values())]


def test_a_range_on_a_log_scale_has_equal_factors(tmp_path: Path) -> None:
    text = BASE + '[axes]\n"training.learning_rate" = { from = 0.001, to = 1.0, num = 4, scale = "log" }\n'
    assert list(read(tmp_path, text).axes["training.learning_rate"]) == [0.001, 0.01, 0.1, 1.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "scenario = None: allowed: a file, a bundled name, or a table"),
        (BASE + "axis = 3", "axis = 3: unknown key; allowed: name, about"),
        (BASE + 'keep = "all"', "keep = 'all': allowed: figures, pictures, everything"),
        (BASE + "seeds = 0", "seeds = 0: allowed: how many, or a list"),
        (BASE + '[axes]\n"seed" = []', "axes.seed = []: allowed: at least one value"),
        (BASE + '[axes]\n"seed" = { from = 1, to = 3, num = 1 }', "num at least 2"),
        (BASE + '[axes]\n"seed" = { from = 0, to = 3, num = 2, scale = "log" }', "from and to above 0"),
        (BASE + 'zip = [["seed"]]', "lists of keys that advance together"),
        (BASE + 'zip = [["seed", "name"]]\n[axes]\nseed = [1, 2]', "seed has 2, name has 0 values"),
        (BASE + "grids = []", "grids = []: allowed: a list of tables"),
        ("scenario = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cell_that_is_no_scenario_is_named(tmp_path: Path) -> None:
    study = read(tmp_path, BASE + '[axes]\n"defenses.0.p" = [0.5, 1.5]\n')
    with pytest.raises(InputError, match=r"p = 1.5.*in the cell with defenses.0.p = 1.5"):
        cells_of(study, tmp_path)


def test_set_changes_the_scenario_but_no_axis(tmp_path: Path) -> None:
    study = read(tmp_path, BASE + '[axes]\n"defenses.0.p" = [0.5, 0.9]\n')
    cells = cells_of(study, tmp_path, ["strategy.rounds=3"])
    assert {cell.scenario.strategy.rounds for cell in cells} == {3}
    with pytest.raises(InputError, match=r"--set defenses.0.p: an axis of the study"):
        cells_of(study, tmp_path, ["defenses.0.p=0.3"])


def test_axes_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    text = (
        BASE + '[axes]\nseed = [1, 2]\n[[grids]]\n"defenses.0.p" = [0.5, 0.9]\n[[grids]]\ndefenses = [[]]\n'
    )
    study = with_axes(read(tmp_path, text), ["seed=[7]", "defenses.0.p=0.1", "strategy.rounds=[1, 2]"])
    cells = list(combinations(study))
    assert {cell["seed"] for cell in cells} == {7}
    assert [cell.get("defenses.0.p") for cell in cells] == [0.1, 0.1, None, None]
    assert [cell["strategy.rounds"] for cell in cells] == [1, 2, 1, 2]


def test_a_cells_name_follows_from_what_its_figures_depend_on(tmp_path: Path) -> None:
    data = tmp_path / "mine.npz"
    data.write_bytes(b"one")
    changes = [f"data.path={data}", "data.name=npz"]
    study = read(tmp_path, BASE + "[axes]\nseed = [1, 2]\n")
    first, second = cells_of(study, tmp_path, changes)
    assert first.name != second.name
    again = cells_of(study, tmp_path / "elsewhere", [*changes, "output.folder=there", "adversary.workers=0"])
    assert [cell.name for cell in again] == [first.name, second.name]
    data.write_bytes(b"two")
    assert content_hash(first.scenario) != first.name


def test_a_cells_name_follows_from_the_images_of_a_folder(tmp_path: Path) -> None:
    images = tmp_path / "mine"
    (images / "cats").mkdir(parents=True)
    (images / "cats" / "1.ppm").write_bytes(b"one")
    study = read(tmp_path, BASE)
    changes = [f"data.path={images}", "data.name=imagefolder"]

    def name() -> str:
        (cell,) = cells_of(study, tmp_path, changes)
        return cell.name

    names = [name(), name()]
    (images / "cats" / "1.ppm").write_bytes(b"two")  # as many bytes
    names.append(name())
    (images / "cats" / "1.ppm").rename(images / "cats" / "2.ppm")
    names.append(name())
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_a_scenario_beside_the_study_is_found(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seed = 7\n", encoding="utf-8")
    study = read(tmp_path, 'scenario = "base.toml"\n[axes]\n"strategy.rounds" = [1]\n')
    (cell,) = cells_of(study, tmp_path)
    assert cell.scenario.seed == 7


def test_flat_keys() -> None:
    table = {"a": {"b": 1, "c": [{"d": 2}, {"d": 3}]}, "e": [], "f": [1, 2]}
    assert dict(flat(table)) == {"a.b": 1, "a.c.0.d": 2, "a.c.1.d": 3, "f": [1, 2]}


def test_every_bundled_study_has_cells_that_can_be_run() -> None:
    bundled = dict(bundled_studies())
    assert "kim_park/quick" in bundled
    folders = {read_study(path).name for path in bundled.values()}
    assert len(folders) == len(bundled)  # by default each has a folder of its own
    for path in bundled.values():
        assert len(cells_of(read_study(path), Path("runs"))) > 1
