"""The Mjolnir benchmark: its levels, its rows, its tables."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adversary.attacks.idlg import IDLG
from adversary.attacks.mjolnir import Mjolnir
from adversary.attacks.prior_weights import prior_weights
from adversary.mjolnir.denoisers import public_images
from adversary.mjolnir.vectors import flatten
from benchmarks.mjolnir.__main__ import main, parser, scene_of, table
from benchmarks.mjolnir.measure import (
    AT_TRUTH,
    BASELINES,
    DENOISED,
    MAP,
    METHODS,
    OURS,
    PRIORS,
    handed_on,
    measure,
    std_of_epsilon,
    std_of_ratio,
    told_noise,
)
from benchmarks.mjolnir.plot import COLOURS
from benchmarks.mjolnir.table import figures, gain, tables
from fedsim.errors import InputError

RESULTS = "benchmarks/results/mjolnir-mnist.json"
DENOISERS = "benchmarks/results/mjolnir-mnist-denoised.json"
TINY = ["--n", "2", "--size", "8", "--updates", "2", "--evaluations", "5", "--gradients", "64"]


def test_noise_is_the_papers_and_that_of_the_ratio(tmp_path: Path) -> None:
    assert std_of_epsilon(1.0) == pytest.approx(0.0869, abs=1e-4)
    assert std_of_epsilon(1.0, "laplace") == pytest.approx(0.02 * 2**0.5)
    assert std_of_epsilon(100.0) == pytest.approx(0.00087, abs=1e-5)
    scene, data = scene_of(parser().parse_args(["run", *TINY, "--n", "5", "--cache", str(tmp_path)]))
    assert data["name"] == "fashion_mnist"
    std = std_of_ratio(scene, 2.0)
    noise = scene.noisy(std, "gaussian")
    lengths = scene.truth.norm(dim=1)
    assert float(lengths.median()) / (std * scene.truth.shape[1] ** 0.5) == pytest.approx(2.0)
    assert noise.knowledge is not None
    assert noise.knowledge.noise_std == std


def test_the_controls_weigh_maps_prior_by_other_noise(tmp_path: Path) -> None:
    scene, _ = scene_of(parser().parse_args(["run", *TINY, "--cache", str(tmp_path)]))
    problem = scene.noisy(std_of_ratio(scene, 2.0), "gaussian")
    weights = prior_weights(problem)
    for times in PRIORS.values():
        told = prior_weights(told_noise(problem, times))
        assert all(torch.allclose(one, times * other) for one, other in zip(told, weights, strict=True))


def test_no_victim_is_among_the_public_images() -> None:
    scene, _ = scene_of(parser().parse_args(["run", "--n", "5"]))
    victims = scene.group.images

    public = public_images("fashion_mnist", {}, "train", 5)

    def nearest(public: torch.Tensor) -> float:
        return float((victims - public[None]).abs().amax(dim=(2, 3, 4)).min())

    assert nearest(public_images("fashion_mnist", {}, "train", 10**6)) == 0
    assert nearest(scene.surrogate.public) > 0
    with pytest.raises(InputError, match="--surrogate = 'fashion_mnist': allowed: a data set without"):
        _ = replace(scene, split="train", group=replace(scene.group, images=public[:5, None])).surrogate


def test_a_gain_is_paired() -> None:
    assert gain([True, True, False], [True, False, False])["mean"] == pytest.approx(1 / 3)
    same = gain([True, False] * 10, [True, False] * 10)
    assert (same["mean"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    assert gain([True] * 30 + [False] * 10, [False] * 40)["low"] > 0.5


def _levels(cache: Path) -> list[str]:
    """Return the options of one level of either kind, with the denoisers kept in `cache`."""
    return ["--ratios", "1", "--epsilons", "10", "--cache", str(cache)]


FEW = ["identity", "class mean", MAP, DENOISED, OURS]


@pytest.mark.parametrize(
    ("first", "methods"),
    [([], list(METHODS)), (["--clip", "1.0", "--training-seed", "2"], FEW), (["--mask", "0.3"], FEW)],
    ids=["all", "clip", "mask"],
)
def test_every_method_has_its_row(tmp_path: Path, first: list[str], methods: list[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["run", *TINY, *first, *_levels(tmp_path), "--methods", *methods, "--json", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    settings: list[dict[str, Any]] = written["settings"]
    assert [entry["rows"]["method"] for entry in settings] == 2 * methods
    trained = written["training"]
    assert trained["unrolled"]["updates"] == 2
    assert {kind: recipe["batch"] for kind, recipe in trained.items()} == (
        {"unrolled": 16, "squares": 8} if methods == list(METHODS) else {"unrolled": 16}
    )
    seed = trained["unrolled"]["seed"]
    assert seed == (2 if "--training-seed" in first else 0)
    assert (f"{OURS}, 2 updates, training seed {seed} |" in table([out])) == (seed != 0)
    for entry in settings:
        assert len(entry["rows"]["cosine"]) == 2
        assert torch.tensor(entry["rows"]["cosine"]).abs().max() <= 1 + 1e-6
        assert "success" in entry["rows"]
    means = [entry["rows"] for entry in settings if entry["rows"]["method"] == "class mean"]
    assert all(abs(value) < 1e-6 for rows in means for value in rows["centred"])  # it knows nothing more


def test_the_denoiser_of_the_figures_is_found_and_beats_what_knows_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On clothes that it has not seen, at noise as long as the gradient."""

    def trained(*_: Any, **__: Any) -> None:
        pytest.fail("there is no denoiser for this scene in benchmarks/denoisers")

    monkeypatch.setattr("adversary.mjolnir.denoisers.train", trained)
    given = ["run", "--n", "20", "--seed", "1", "--gradients", "500", "--cache", "benchmarks/denoisers"]
    scene, _ = scene_of(parser().parse_args(given))
    images = public_images("fashion_mnist", {}, "test", 20)
    group = replace(scene.group, images=images[:, None], labels=torch.arange(20)[:, None] % 10)
    scene = replace(scene, group=group, split="train")
    rows = measure(scene, std_of_ratio(scene, 1.0), "gaussian", [*BASELINES, DENOISED], images=False)
    found = {row["method"]: sum(row["centred"]) / 20 for row in rows}
    assert found.pop(DENOISED) > max(found.values()) + 0.05


@pytest.mark.parametrize("first", [["--clip", "1.0"], ["--mask", "0.5"]], ids=["clip", "mask"])
def test_gradients_as_sent_are_attacked_as_such(tmp_path: Path, first: list[str]) -> None:
    """Without noise the image is found; as if nothing were clipped or absent it is not."""
    given = ["run", *TINY, "--n", "1", "--size", "12", *first, "--cache", str(tmp_path)]
    scene, _ = scene_of(parser().parse_args(given))
    problem = scene.noisy(1e-9, "gaussian")
    told = handed_on(problem, "identity", flatten(problem.target))
    for attacked, found in ((told, True), (replace(told, present={}, knowledge=None), False)):
        images = IDLG(max_evaluations=300).attack(attacked).images[:, 0]
        assert (float((images - scene.group.images[:, 0]).square().mean()) < 1e-3) == found


def test_the_gain_in_a_score_is_over_whatever_has_the_best_mean_without_a_denoiser() -> None:
    def entry(method: str, values: list[float]) -> dict[str, Any]:
        rows = {"method": method, "cosine": values, "centred": values, "gradient_psnr": values}
        row = {**rows, "cpu_seconds": 1.0, "snr": [1.0, 1.2], "label_right": [True, False]}
        return {"ratio": 1.0, "std": std_of_epsilon(0.4), "figures": figures(row), "rows": row}

    settings = [entry("identity", [0.1, 0.3]), entry(MAP, [0.5, 0.6]), entry(AT_TRUTH, [1.0, 1.0])]
    command = {"size": None, "seed": 1, "distribution": "gaussian", "updates": Mjolnir.updates}
    run = {"data": {"name": "mnist", "images_sha256": ""}, "command": command, "training": {"unrolled": {}}}
    given = {**run, "settings": [*settings, entry(OURS, [0.8, 0.9])]}
    less = {**run, "command": {**command, "updates": 9}, "settings": [entry(OURS, [0.6, 0.7])]}
    text = tables([given, less])
    assert text.count("| *epsilon* | 0.4 |\n| *labels right, %* | 50 |") == 3
    assert text.count(f"| **{OURS} over the best of them**, paired | 0.3 [0.3, 0.3] ({MAP}) |") == 3
    assert (
        text.count(f"| **{OURS}, 9 updates over the best of them**, paired | 0.1 [0.1, 0.1] ({MAP}) |") == 3
    )
    assert text.count("### mnist\n") == 1


def test_a_table_and_a_plot_of_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "plot.png"
    chosen = ["--methods", "identity", MAP, OURS, *_levels(tmp_path)]
    assert main(["run", *TINY, *chosen, "--json", str(out), "--gradients-only"]) == 0
    assert main(["table", str(out)]) == 0
    text = capsys.readouterr().out
    assert "--gradients-only" in text
    assert (
        "### fashion_mnist, 8x8\n\n#### Cosine" in text
    )  # images, which only searches look for, are not compared
    assert text.count("#### ") == 6
    assert main(["run", *TINY, *chosen, "--json", str(out)]) == 0
    capsys.readouterr()
    assert main(["table", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| method | SNR 1 |" in text
    assert "| method | epsilon 10 |\n| --- | --- |\n| *SNR* | " in text
    assert text.count(f"| **{OURS}, 2 updates over {MAP}**, paired |") == 2
    assert text.count("#### ") == 8
    assert text.count(f"**{OURS}, 2 updates over the best of them**, paired") == 6
    assert f"--methods identity '{MAP}' '{OURS}'" in text
    assert main(["plot", str(out), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_runs_that_are_not_alike_have_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = json.loads(Path(DENOISERS).read_text(encoding="utf-8"))
    other = tmp_path / "other.json"
    for part, key, value, line in (
        ("command", "seed", 2, "runs on the same images with the same seed: gains are paired"),
        ("command", "evaluations", 6, "runs of one --evaluations, not of 500 and 6"),
        ("training", "unrolled", {"rate": 0.1}, "runs of denoisers that were trained alike"),
    ):
        changed = {**written, part: {**written[part], key: value}}
        other.write_text(json.dumps(changed), encoding="utf-8")
        assert main(["table", DENOISERS, str(other)]) == 2
        assert line in capsys.readouterr().err
    untold = {key: value for key, value in written.items() if key != "training"}
    less = {**written, "data": {}}
    for changed, line in (
        (untold, "allowed: runs that tell how their denoisers were trained"),
        (less, "JSON of this"),
    ):
        other.write_text(json.dumps(changed), encoding="utf-8")
        assert main(["table", str(other)]) == 2
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["run", *TINY, "--methods", "magic"], "--methods = 'magic': allowed: identity, "),
        (["run", *TINY, "--ratios", "0"], "--ratios = 0.0: allowed: above 0"),
        (["run", *TINY, "--gradients", "0"], "--gradients = 0: allowed: 1 or more"),
        (
            ["run", *TINY, "--json", "no/such/out.json"],
            "--json = 'no/such/out.json': allowed: a file in a folder",
        ),
        (["run", *TINY, "--ratios", "1", "nan"], "--ratios = nan: allowed: above 0"),
        (["train", *TINY, "--threads", "0"], "--threads = 0: allowed: 1 or more"),
        (["train", *TINY, "--json", "no/such/out.json"], "--json = 'no/such/out.json': allowed: a file in a"),
        (
            ["run", *TINY, "--methods", DENOISED, "--cache", "pyproject.toml/x"],
            "allowed: a folder that can be",
        ),
        (
            ["train", *TINY, "--cache", "~no-such-user/x"],
            "cache = '~no-such-user/x': allowed: a path (Could not",
        ),
        (["run", *TINY, "--json", "docs"], "--json = 'docs': allowed: a file, not a folder"),
        (["plot", RESULTS, "--out", "docs"], "--out = 'docs': allowed: a file, not a folder"),
        (["train", *TINY, "--device", "tpu"], "--device = 'tpu': allowed: a device of this machine"),
        (["table", "missing.json"], "FILE = missing.json: allowed: JSON of this benchmark"),
        (["table", "benchmarks/results/gidm-plus.json"], "gidm-plus.json': allowed: JSON of this benchmark"),
        (["table", "--into", "missing.md", RESULTS], "--into = 'missing.md': allowed: a document"),
        (["plot", RESULTS, "--out", "no/x.png"], "--out = 'no/x.png': allowed: a file in a folder"),
    ],
)
def test_bad_input_is_one_line(given: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    assert line in capsys.readouterr().err


def test_every_method_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == len(METHODS)


@pytest.mark.parametrize("denoiser", ["unrolled", "squares"])
def test_training_is_timed(denoiser: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["train", *TINY, "--denoiser", denoiser, "--json", str(out)]) == 0
    assert f"{denoiser}, 2 updates, cpu, 1 threads: " in capsys.readouterr().out
    assert json.loads(out.read_text(encoding="utf-8"))["seconds"] > 0
