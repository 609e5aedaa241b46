"""The GIDM benchmark: what it draws, and what it makes of the scores."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adversary.attacks.gidm_plus import GIDMPlus
from benchmarks.common import read_pool
from benchmarks.gidm.__main__ import main, parser
from benchmarks.gidm.cases import cases, task_of
from benchmarks.gidm.measure import Way, figures, measure
from benchmarks.gidm.settings import DEFENSES, chosen, settings_of
from benchmarks.gidm.table import gains
from fedsim.errors import InputError

SMALL = ["--n", "2", "--size", "8", "--channels", "8", "16", "--others", "5"]


def test_cases_are_gradients_of_their_own_draws():
    """The gradient recomputed from the truth is the observed one; timesteps are spread over T."""
    arguments = parser().parse_args(["unknown", *SMALL, "--n", "4"])
    pool = read_pool(arguments)
    images, _ = pool.draw(4, 1)
    found = list(cases(arguments, pool, images, None, adaptive=False))
    assert sorted(int(case.timesteps) // 250 for case in found) == [0, 1, 2, 3]
    assert not torch.equal(found[0].noise, found[1].noise)
    case = found[0]
    assert case.problem.timesteps is None
    assert case.granted.noise is not None
    gradient = case.problem.gradient_of(
        lambda model: case.task.loss_at(model, case.image.double(), case.timesteps, case.noise.double())
    )
    for name, value in gradient.items():
        torch.testing.assert_close(case.problem.target[name][0], value, rtol=1e-3, atol=1e-6)


def test_dp_sgd_clips_the_only_example_and_adds_noise():
    """The gradient of its only example has the length C, and noise of z C on each entry."""
    arguments = parser().parse_args(["defenses", *SMALL, "--n", "1"])
    pool = read_pool(arguments)
    images, _ = pool.draw(1, 1)
    sent = {}
    for std in (0.0, 1e-3):
        table = {"name": "dpsgd", "clip_norm": 0.01, "noise_multiplier": std / 0.01}
        (case,) = cases(arguments, pool, images, table, adaptive=True)
        sent[std] = torch.cat([value.flatten() for value in case.problem.target.values()])
    torch.testing.assert_close(sent[0.0].norm(), sent[0.0].new_tensor(0.01))
    torch.testing.assert_close((sent[1e-3] - sent[0.0]).std(), sent[0.0].new_tensor(1e-3), rtol=0.05, atol=0)
    with pytest.raises(InputError, match="--batch = 2: allowed: 1 with DP-SGD"):
        next(cases(parser().parse_args(["defenses", "--batch", "2"]), pool, pool.draw(2, 1)[0], table, True))


def test_figures_tell_the_quarters_of_timesteps_apart():
    near = {"psnr": 40.0, "ssim": 1.0, "timestep": 10, "timestep_found": 10, "starts": 1, "cpu_seconds": 1.0}
    far = {"psnr": 20.0, "ssim": 0.5, "timestep": 800, "timestep_found": 9, "starts": 3, "cpu_seconds": 3.0}
    assert list(figures([near, far], 1000)) == ["all"]
    found = figures([near, far] * 10, 1000)
    assert list(found) == ["all", "first quarter", "last quarter"]
    assert found["first quarter"]["n"] == 10
    assert found["first quarter"]["psnr"]["median"] == 40.0
    assert found["all"]["timestep"]["share"] == 0.5
    assert found["all"]["success"]["share"] == 0.5


def test_references_need_no_gradient():
    arguments = parser().parse_args(["ablations", *SMALL])
    pool = read_pool(arguments)
    images, _ = pool.draw(7, 1)
    some = list(cases(arguments, pool, images[:1], None, adaptive=False))
    (nearest,) = measure(Way(name="", attack="nearest", options={}), some, images, lambda _: None)
    assert nearest["psnr"] == 100.0  # the image itself is among them
    (prior,) = measure(Way(name="", attack="prior", options={}), some, images, lambda _: None)
    assert prior["psnr"] < 20


def test_evaluations_are_those_of_every_search():
    """And nothing to what needs no search."""
    ways = [way for _, way, *_ in chosen(parser().parse_args(["ablations", "--evaluations", "7"]))]
    limits = {way.name: way.options.get("max_evaluations") for way in ways}
    assert {name for name, limit in limits.items() if limit is None} == {
        "prior alone, no gradient",
        "nearest other image",
    }
    assert set(limits.values()) == {7, None}


@pytest.mark.parametrize("what", ["known", "unknown", "ablations", "defenses", "timesteps"])
def test_each_subcommand_has_rows_and_says_what_it_grants(what):
    rows = settings_of(parser().parse_args([what]))
    assert rows
    assert all(way.known == (way.attack == "gidm") for _, way, _, _ in rows)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("defense", DEFENSES, ids=str)
def test_under_each_defense_the_attack_runs_and_tells_the_timestep(defense, adaptive):
    arguments = parser().parse_args(["defenses", "--n", "1", "--size", "8", "--channels", "32", "64"])
    pool = read_pool(arguments)
    images, _ = pool.draw(1, 1)
    (case,) = cases(arguments, pool, images, defense, adaptive)
    attempt = GIDMPlus(max_evaluations=3, iterations=3, polish=3).attack(case.problem)
    assert attempt.images.isfinite().all()
    assert attempt.parts["timesteps"].tolist() == [case.timesteps.tolist()]


def test_timesteps_alone_are_counted_under_each_defense(capsys):
    assert main(["timesteps", "--n", "2", "--size", "8", "--channels", "32", "64"]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| all |" in line]
    assert len(lines) == 1 + len(DEFENSES)
    assert all(line[6].startswith("100 ") for line in lines)


def test_rows_are_chosen_by_a_part_of_their_name(capsys):
    only = chosen(parser().parse_args(["defenses", "--rows", "bf16"]))
    assert [name for name, *_ in only] == ["quantizing, bf16, adaptive", "quantizing, bf16, naive"]
    assert main(["defenses", "--rows", "fp17"]) == 2
    assert "allowed: part of quantizing, fp16, adaptive; " in capsys.readouterr().err


def test_a_table_of_what_was_measured(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["unknown", "--n", "1", "--size", "8", "--channels", "32", "64", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    (entry,) = written["settings"]
    assert entry["figures"]["all"]["timestep"]["share"] == 1.0
    assert entry["figures"]["all"]["psnr"]["median"] > 30
    assert main(["table", str(out)]) == 0
    row = "| fashion_mnist, 8x8 | untrained, channels 32, 64 | GIDM+ | 1 | all | 1 |"
    assert row in capsys.readouterr().out
    (tmp_path / "other.json").write_text("{}")
    assert main(["table", str(tmp_path / "other.json")]) == 2
    assert main(["table", str(tmp_path / "missing.json")]) == 2


def test_batches_have_a_row_an_image(capsys):
    """Two images with their own timesteps in one gradient, each scored by itself."""
    assert main(["known", "--n", "1", "--batch", "2", "--size", "8", "--channels", "32", "64"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "| all |" in line]
    assert [line.split(" | ")[2] for line in lines] == ["GIDM, phase 2 from inputs", "GIDM, phase 2 alone"]
    for line in lines:
        cells = line.split(" | ")
        assert cells[3] == "2"
        assert cells[6] == "2"
        assert float(cells[8].split()[0]) > 40
    assert main(["ablations", "--batch", "2"]) == 2


def test_the_nearest_training_image_is_looked_for_in_what_the_weights_saw(tmp_path, capsys):
    images, labels = read_pool(parser().parse_args(["ablations"])).draw(3, 1)
    seen = tmp_path / "seen.npz"
    pixels = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(seen, x=pixels.repeat(10, axis=0), y=labels.numpy().repeat(10))  # some are kept for its test set
    assert main(["ablations", *SMALL, "--n", "3", "--rows", "nearest", "--training", str(seen)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "| all |" in line]
    assert " | 100 [100, 100] | " in line  # victims among what was seen: PSNR to itself


def test_the_prior_may_be_of_other_data_and_its_worth_is_told_pair_by_pair(tmp_path):
    arguments = parser().parse_args(["ablations", *SMALL, "--n", "1"])
    pool = read_pool(arguments)
    other = tmp_path / "other.safetensors"
    save_file(dict(task_of(arguments, pool).build(5).state_dict()), other)
    named = parser().parse_args(["ablations", *SMALL, "--n", "1", "--std", "0.01", "--prior", str(other)])
    names = [name for name, *_ in settings_of(named)]
    assert "GIDM, both phases, prior of other data, noise 0.01" in names
    assert "GIDM, phase 2 alone, noise 0.01" in names
    images, _ = pool.draw(1, 1)
    drawn = []
    for way in (chosen(named)[6][1], chosen(arguments)[6][1]):
        assert way.attack == "prior"
        some = list(cases(arguments, pool, images, None, adaptive=False))
        drawn += measure(way, some, images, lambda _: None)
    assert drawn[0]["ssim"] != drawn[1]["ssim"]

    def entry(name, ssim, content="a"):
        rows = [{"case": number, "ssim": value} for number, value in enumerate(ssim)]
        return {"name": name, "data": {"name": "x", "images_sha256": content}, "rows": rows}

    tables = [
        {"settings": [entry("GIDM, both phases, noise 0.01", [0.5, 0.7])]},
        {"settings": [entry("GIDM, phase 2 alone, noise 0.01", [0.4, 0.4])]},
        {"settings": [entry("GIDM, both phases, noise 0.01", [0.9], "b")]},
        {"settings": [entry("GIDM, phase 2 alone, noise 0.01", [0.1], "b")]},
        {"settings": [entry("GIDM, both phases, prior of other data, noise 0.01", [0.3, 0.3])]},
        {"settings": [entry("GIDM, both phases, noise 0.02", [0.3, 0.3])]},
    ]
    first, second = gains(tables)
    assert first.startswith("SSIM of both phases less that of phase 2 alone, x, noise 0.01: 0.4 [")
    assert first.endswith("(n = 3)")
    assert "x, prior of other data, noise 0.01: -0.1" in second
