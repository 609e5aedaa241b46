"""Loading a scenario, and writing it back."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import InputError
from fedsim.scenario import Scenario, bundled_scenarios, dump_scenario, find_scenario, load_scenario
from fedsim.scenario.plugins import REGISTRIES, check_plugin, registry
from fedsim.scenario.schema import Plugin

BUNDLED = [path.stem for path in bundled_scenarios()]


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", '[data]\nname = "fashion_mnist"\n'])
def test_an_empty_file_but_for_data_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_scenario(written(tmp_path, text)) == Scenario(name="mine")


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_scenario_is_right_and_says_what_it_shows(name: str, tmp_path: Path) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert load_scenario(written(tmp_path, dump_scenario(scenario))) == scenario
    lines = find_scenario(name).read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines if line.startswith("#")]
    assert len(comment) >= 3
    assert any("Expect:" in line for line in comment)


def test_the_bundled_scenarios_cover_what_the_project_offers() -> None:
    assert {"quickstart", "iid", "noniid", "fedmedian", "fedavg_cnn", "own_data", "ray", "deployment"} <= set(
        BUNDLED
    )
    assert {f"defense_{name}" for name in registry("defenses").names() if name != "none"} <= set(BUNDLED)


def test_a_file_comes_before_a_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "seed = 5", name="quickstart")
    assert load_scenario("quickstart").seed == 5


defense = st.sampled_from(
    [
        {"name": "none"},
        {"name": "masking", "p": 0.5, "share": 0.25},
        {"name": "clipping", "norm": 2.0, "scope": "tensor"},
        {"name": "quantizing", "dtype": "fp16"},
    ]
)
tables = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=8),
        "seed": st.integers(0, 2**63 - 1),
        "partition": st.fixed_dictionaries({"clients": st.integers(5, 1_000_000)}),
        "training": st.fixed_dictionaries(
            {"algorithm": st.just("fedavg")},
            optional={
                "steps": st.none() | st.integers(1, 99),
                "learning_rate": st.floats(1e-9, 10),
                "momentum": st.floats(0, 0.99),
                "upload": st.sampled_from(["weights", "update", "gradient"]),
            },
        ),
        "defenses": st.lists(defense, max_size=3),
        "strategy": st.fixed_dictionaries(
            {"rounds": st.integers(9, 99), "clients_per_round": st.integers(1, 5)}
        ),
        "adversary": st.fixed_dictionaries(
            {},
            optional={
                "threat_model": st.sampled_from("ABCDEFGH") | st.just(["C", "labels"]),
                "capture": st.fixed_dictionaries(
                    {
                        "rounds": st.sampled_from(["all", "first", "last"]) | st.lists(st.integers(1, 9)),
                        "clients": st.just("all") | st.none() | st.integers(1, 99),
                    }
                ),
                "attacks": st.lists(
                    st.sampled_from(["dlg", "idlg", {"name": "dlg", "restarts": 3}]),
                    max_size=2,
                    unique_by=lambda attack: attack["name"] if isinstance(attack, dict) else attack,
                ),
                "workers": st.none() | st.integers(0, 4),
            },
        ),
        "output": st.fixed_dictionaries({"folder": st.text(min_size=1, max_size=8), "report": st.booleans()}),
    },
)


@given(tables)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_complete_and_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, raw: dict
) -> None:
    scenario = load_scenario(raw)
    path = written(tmp_path_factory.mktemp("dump"), dump_scenario(scenario))
    assert load_scenario(path) == scenario


def test_paths_are_relative_to_the_file_and_those_of_overrides_to_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = written(tmp_path, 'data = { name = "npz", path = "images.npz" }')
    assert load_scenario(path).data.options["path"] == str(tmp_path / "images.npz")
    changed = load_scenario(path, ["data.path=other.npz"])
    assert changed.data.options["path"] == str(tmp_path / "here" / "other.npz")
    tables = load_scenario({"data": {"name": "npz", "path": Path("x.npz")}})
    assert tables.data.options["path"] == str(tmp_path / "here" / "x.npz")


@pytest.mark.parametrize("key", ["path", "root"])
def test_the_home_of_nobody_is_named(tmp_path: Path, key: str) -> None:
    line = rf"data\.{key} = '~no-such-user/x': allowed: a path"
    path = written(tmp_path, f'data = {{ name = "npz", {key} = "~no-such-user/x" }}')
    with pytest.raises(InputError, match=line):
        load_scenario(path)
    with pytest.raises(InputError, match=line):
        load_scenario(written(tmp_path, "seed = 1"), [f"data.{key}=~no-such-user/x"])


def test_none_is_a_key_that_is_not_there() -> None:
    scenario = load_scenario(
        {"training": {"algorithm": "fedavg", "steps": None}, "model": {"name": "mlp", "mean": None}}
    )
    assert scenario.training.steps is None
    assert scenario.model.options == {}


def test_all_captures_of_a_round_are_no_limit() -> None:
    scenario = load_scenario({"adversary": {"capture": {"clients": "all"}}})
    assert scenario.adversary.capture.clients is None
    assert 'clients = "all"' in dump_scenario(scenario)


def test_a_plugin_of_ones_own_is_checked_by_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    written(
        tmp_path,
        "from torch import nn\n"
        "def tiny(shape, classes, *, width: int = 3) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n",
        name="own_plugin_for_test.py",
    )
    table = {"name": "own_plugin_for_test:tiny", "width": 4, "norm": "group"}
    assert load_scenario({"model": table}).model.options == {"width": 4, "norm": "group"}
    with pytest.raises(InputError, match=r"scenario: model\.width = 'wide': allowed: a whole number"):
        load_scenario({"model": table | {"width": "wide"}})


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_name_that_is_listed_can_be_imported_and_says_what_it_is(kind: str) -> None:
    entries = list(registry(kind))
    assert entries
    for entry in entries:
        assert entry.summary
        assert callable(registry(kind).resolve(entry.name))


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        ("models", "model", "lenet"),
        ("datasets", "data", "fashion_mnist"),
        ("partitions", "partition", "iid"),
        ("strategies", "strategy", "fedadam"),
        ("defenses", "defenses.0", "none"),
        ("attacks", "adversary.attacks.0", "idlg"),
        ("engines", "engine", "inline"),
    ],
)
def test_an_unknown_option_of_any_kind_of_plugin_is_refused_with_its_key(
    kind: str, key: str, name: str
) -> None:
    with pytest.raises(InputError, match=rf"^{key}\.qqq = 3: unknown key"):
        check_plugin(kind, key, Plugin.model_validate({"name": name, "qqq": 3}))
