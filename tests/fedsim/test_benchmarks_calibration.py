"""The calibration benchmark: what it draws, what it counts, and that it finds what can be found."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adversary.batchnorm import batch_statistics
from benchmarks.calibration.__main__ import main
from benchmarks.calibration.choice import gain
from benchmarks.calibration.figures import figures, label_hits
from benchmarks.calibration.settings import CASES, defenses
from benchmarks.common import Pool, data_of, median, show
from benchmarks.victims import Victim, captures_of, groups_of
from fedsim.data.load import load_dataset
from fedsim.defenses import DEFENSES
from fedsim.errors import InputError

SMALL = ["--size", "12", "--per-weights", "2"]


def pool(size: int = 12) -> Pool:
    dataset = load_dataset("fashion_mnist", {}, 0)
    return Pool("fashion_mnist", dataset.train, (1, size, size), dataset.num_classes, None)


def row(**changes: Any) -> dict[str, Any]:
    close = {"mse": 1e-5, "mse_clipped": 1e-5, "psnr": 50.0, "ssim": 0.95, "ssim_affine": 0.96}
    counted = {"equations": 9, "unknowns": 4, "evaluations": 7, "starts": 1, "cpu_seconds": 1.0, "loss": 1e-9}
    base = {"capture": 0, "weights": 0, "label": 1, "label_found": 1, "status": "converged"}
    return {**base, **close, **counted, **changes}


def test_intervals_are_shown_without_powers_of_ten() -> None:
    assert show({"share": 1.0, "low": 0.963, "high": 1.0}, 2, 100) == "100 [96, 100]"
    assert show({"median": 1234.5, "low": 0.0123, "high": None}) == "1230"


def test_images_are_drawn_by_seed_without_replacement_and_resized() -> None:
    images, labels = pool().draw(50, seed=3)
    again, _ = pool().draw(50, seed=3)
    other, _ = pool().draw(50, seed=4)
    assert images.shape == (50, 1, 12, 12)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert len({image.numpy().tobytes() for image in images}) == 50
    hashes = {data_of(pool(), x, labels)["images_sha256"] for x in (images, again, other)}
    assert len(hashes) == 2
    with pytest.raises(InputError, match="--n = 10000000: allowed: at most"):
        pool().draw(10**7, seed=1)


def test_captures_are_float32_gradients_of_weights_drawn_for_each_group() -> None:
    images, labels = pool().draw(6, seed=1)
    victim = Victim()
    first, second, third = groups_of(victim, images, labels, 10, seed=1, per_weights=2)
    assert not torch.equal(first.weights["fc.weight"], second.weights["fc.weight"])
    assert first.weights["fc.weight"].abs().max() <= 0.5
    model = third.task.build(0)
    model.load_state_dict(dict(third.weights))
    (capture, _) = captures_of(third, victim, seed=1)
    expected = torch.softmax(model(images[4:5]), dim=1)[0] - F.one_hot(labels[4], 10)
    assert capture.arrays["fc.bias"].dtype == torch.float32
    torch.testing.assert_close(capture.arrays["fc.bias"], expected.detach())
    seeds = [*first.problem(victim, 1).seeds, *second.problem(victim, 1).seeds]
    assert len(set(seeds)) == 4


def test_defended_captures_are_given_to_both_attackers() -> None:
    images, labels = pool().draw(2, seed=1)
    settings = {setting.name: setting for setting in defenses("dlg", {})}
    assert len(settings) == 2 * (1 + 4 + 4 + 2 + 6)
    naive, adaptive = (settings[f"gaussian 0.01, {who}"].victim for who in ("naive", "adaptive"))
    (group,) = groups_of(naive, images, labels, 10, seed=1, per_weights=2)
    observed = [group.problem(victim, 1) for victim in (naive, adaptive)]
    plain = group.problem(Victim(), 1)
    assert torch.equal(observed[0].target["fc.weight"], observed[1].target["fc.weight"])
    noise = (observed[0].target["fc.weight"] - plain.target["fc.weight"]).std()
    assert noise == pytest.approx(0.01, rel=0.2)
    assert observed[0].knowledge is None
    assert observed[1].knowledge is not None
    assert observed[1].knowledge.noise_std == 0.01


def test_the_gradient_of_a_dpsgd_step_is_clipped_and_noised() -> None:
    images, labels = pool().draw(2, seed=1)
    private = {"name": "dpsgd", "clip_norm": 1.0}
    quiet, noisy = (Victim(defenses=({**private, "noise_multiplier": z},)) for z in (0.0, 0.01))
    clipped = Victim(defenses=({"name": "clipping", "norm": 1.0},))
    (group,) = groups_of(quiet, images, labels, 10, seed=1, per_weights=2)
    sent, expected, disturbed = (captures_of(group, victim, 1) for victim in (quiet, clipped, noisy))
    for one, other in zip(sent, expected, strict=True):
        torch.testing.assert_close(one.arrays, dict(other.arrays), rtol=1e-4, atol=1e-6)
    noise = [a.arrays["fc.weight"] - b.arrays["fc.weight"] for a, b in zip(disturbed, sent, strict=True)]
    assert [part.std().item() for part in noise] == pytest.approx([0.01, 0.01], rel=0.1)
    assert not torch.equal(*noise)


def test_a_case_of_each_defence_is_a_row_naive_beside_adaptive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {table["name"] for chain in CASES.values() for table in chain} == {*DEFENSES.names()} - {"none"}
    out = tmp_path / "cases.json"
    options = ["--n", "4", "--per-weights", "4", "--max-evaluations", "240", "--only", "masking"]
    assert main(["cases", *SMALL, *options, "--json", str(out)]) == 0
    capsys.readouterr()
    assert main(["table", str(out)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| masking(p=0.5)"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:6] == ["4", "SSIM > 0.5", "0 [0, 49]", "100 [51, 100]", "yes"]


def test_auto_stands_beside_the_attacks_that_it_chooses_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "auto.json"
    options = ["--n", "2", "--max-evaluations", "40", "--only", "mlp", "lenet"]
    assert main(["auto", *SMALL, *options, "--json", str(out)]) == 0
    entries = json.loads(out.read_text(encoding="utf-8"))["settings"]
    attacks = [(entry["name"], entry["attack"]) for entry in entries]
    assert attacks[:2] == [("mlp", "auto"), ("mlp", "analytic")]
    assert attacks[5:] == [("lenet", name) for name in ("auto", "idlg", "dlg", "inverting")]
    assert all(entry["options"].get("max_evaluations", 40) == 40 for entry in entries)
    rows = [entry["rows"]["single"] for entry in entries[5:]]
    differences = [ours["ssim"] - its["ssim"] for ours, its in zip(rows[0], rows[3], strict=True)]
    assert gain(entries[5], entries[8])["mean"] == pytest.approx(sum(differences) / 2)
    capsys.readouterr()
    assert main(["table", str(out)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "| mlp | 2 |" in line)
    assert row.count("100%") == 5
    assert "| analytic | 0 [0, 0] | 1 [1, 1] |" in row


def test_batches_are_drawn_with_so_many_different_labels() -> None:
    images, labels = pool().draw_batches(6, 4, 2, seed=1)
    again, _ = pool().draw_batches(6, 4, 2, seed=1)
    assert torch.equal(images, again)
    assert len({image.numpy().tobytes() for image in images}) == 24
    for batch in labels.reshape(6, 4).tolist():
        assert sorted(Counter(batch).values()) == [2, 2]
    with pytest.raises(InputError, match="no images left of a label"):
        pool().draw_batches(10**5, 4, 4, seed=1)


def test_batches_of_different_labels_are_measured_beside_repeated_ones(tmp_path: Path) -> None:
    out = tmp_path / "repeats.json"
    assert main(["repeats", *SMALL, "--n", "1", "--max-evaluations", "3", "--json", str(out)]) == 0
    entries = json.loads(out.read_text(encoding="utf-8"))["settings"]
    labels = [len({row["label"] for row in entry["rows"]["single"]}) for entry in entries]
    assert labels == [4, 2, 1]
    assert [entry["single"]["labels"]["share"] for entry in entries] == [1, 1, 1]


def test_local_steps_are_put_beside_the_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "local.json"
    options = ["--size", "8", "--n", "1", "--images", "2", "--evaluations", "2", "--json", str(out)]
    assert main(["local", *options]) == 0
    capsys.readouterr()
    assert main(["table", str(out)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| E" in line]
    assert [(row[1], row[2]) for row in rows[:5]] == [
        ("E1 B1", "2"),
        ("E1 B8", "1"),
        ("E1 B16", "1"),
        ("E2 B16", "2"),
        ("E5 B1", "10"),
    ]
    assert len(rows) == 7
    assert rows[3][-1] == "15.17 / .526 |"
    assert main(["local", *options, "--images", "17"]) == 2


def test_statistics_of_the_clients_own_batch_are_granted_where_asked() -> None:
    images, labels = pool().draw(2, seed=1)
    victim = Victim(model="convnet", model_options={"width": 1}, mode="train", statistics_known=True)
    (group,) = groups_of(victim, images, labels, 10, seed=1, per_weights=2)
    problem, without = group.problem(victim, 1), group.problem(replace(victim, statistics_known=False), 1)
    assert (problem.own_statistics, without.own_statistics) == (True, False)
    client = group.task.build(0).double()
    client.load_state_dict(dict(group.weights))
    for row in range(2):
        for name, pair in batch_statistics(client.train(), group.images[row].double()).items():
            for mine, theirs in zip(problem.statistics[name], pair, strict=True):
                torch.testing.assert_close(mine[row], theirs, rtol=1e-3, atol=1e-3)
            assert torch.equal(
                without.statistics[name][1][row], group.weights[f"{name}.running_var"].double()
            )


def test_inverting_gradients_is_put_beside_the_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["inverting", *SMALL, "--n", "1", "--width", "1", "--max-evaluations", "2"]
    data, out = tmp_path / "cifar.npz", tmp_path / "out.json"
    np.savez(data, x=np.full((20, 12, 12, 3), 128, np.uint8), y=np.arange(20) % 10)
    published = {("eval", "global"): "18.00 / 19.83", ("train", "global"): "-", ("train", "own"): "-"}
    for (mode, statistics), text in published.items():
        options = ["--data", str(data), "--mode", mode, "--statistics", statistics, "--json", str(out)]
        assert main([*short, *options]) == 0
        capsys.readouterr()
        assert main(["table", str(out)]) == 0
        (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| cifar |")]
        assert line.endswith(f"| {text} |")
        assert ("statistics granted" in line) == (statistics == "own")
    assert main([*short, "--data", str(data), "--weighting", "length", "--json", str(out)]) == 0
    assert "BatchNorm eval, weighting length" in capsys.readouterr().out
    (entry,) = json.loads(out.read_text(encoding="utf-8"))["settings"]
    assert entry["options"]["weighting"] == "length"
    assert main([*short, "--statistics", "own"]) == 2
    assert "--statistics = 'own': allowed: own with --mode train alone" in capsys.readouterr().err


def test_figures_count_what_is_not_finite_as_missed_and_labels_by_batch() -> None:
    rows = [
        row(mse=None, mse_clipped=0.3, status="diverged"),
        row(capture=1, mse=0.0009, status="stalled"),
        row(capture=2, label=1, label_found=2),
        row(capture=2, label=2, label_found=1),
        row(capture=3, label=4, label_found=5),
    ]
    found = figures(rows)
    assert found["mse_below"]["0.001"]["share"] == 0.8
    assert found["mse_below"]["0.0001"]["share"] == 0.6
    assert found["mse_below"]["0.001"]["low"] < 0.8 < found["mse_below"]["0.001"]["high"]
    assert label_hits(rows) == [True, True, True, True, False]
    assert (found["converged"], found["stalled"], found["diverged"]) == (2, 1, 1)
    assert (found["images"], found["captures"]) == (5, 4)
    assert found["median_mse"]["median"] == 1e-5
    assert json.dumps(found, allow_nan=False)


def test_idlg_finds_the_images_and_the_same_ones_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "idlg.json"
    assert main(["idlg", *SMALL, "--n", "3", "--json", str(out)]) == 0
    assert "MSE < 0.001 1 [0.439, 1]" in capsys.readouterr().out
    assert main(["idlg", *SMALL, "--n", "3", "--json", "-"]) == 0
    first, again = json.loads(out.read_text(encoding="utf-8")), json.loads(capsys.readouterr().out)
    (entry,), (same,) = first["settings"], again["settings"]
    assert entry["single"]["mse_below"]["0.0001"]["share"] == 1
    assert entry["single"]["labels"]["share"] == 1
    assert entry["single"]["weights_draws"] == 2
    assert [one["mse"] for one in entry["rows"]["single"]] == [one["mse"] for one in same["rows"]["single"]]
    assert entry["data"]["images_sha256"] == same["data"]["images_sha256"]
    assert main(["table", str(out)]) == 0
    table = capsys.readouterr().out
    assert "| fashion_mnist | idlg | batch 1 | 3 | 3 | 100 [43.9, 100] |" in table
    assert "python -m benchmarks.calibration idlg --n 3 --seed 1 --size 12" in table
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- lenet -->old<!-- end of lenet -->\nafter\n", encoding="utf-8")
    assert main(["table", str(out), "--into", str(document)]) == 0
    written = document.read_text(encoding="utf-8")
    assert written.startswith("before\n<!-- lenet -->\n\n| data |")
    assert written.endswith("<!-- end of lenet -->\nafter\n")
    assert "old" not in written
    assert main(["table", str(out), "--into", str(out)]) == 2


def test_a_start_that_explains_nothing_is_followed_by_others(tmp_path: Path) -> None:
    out = tmp_path / "short.json"
    main(["dlg", *SMALL, "--n", "2", "--max-evaluations", "5", "--json", str(out)])
    (entry,) = json.loads(out.read_text(encoding="utf-8"))["settings"]
    single, several = entry["rows"]["single"], entry["rows"]["restarted"]
    assert [one["starts"] for one in single] == [1, 1]
    assert [one["starts"] for one in several] == [3, 3]
    assert entry["single"]["converged"] == 0
    for one, more in zip(single, several, strict=True):
        assert more["loss"] <= one["loss"]
        assert more["evaluations"] > one["evaluations"]


def test_images_of_ones_own_and_more_classes_than_they_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file, out = tmp_path / "own.npz", tmp_path / "own.json"
    pixels = np.kron(rng.integers(0, 256, (12, 3, 3)), np.ones((4, 4))).astype(np.uint8)
    np.savez(file, x=pixels, y=np.arange(12) % 3)
    options = ["--data", str(file), "--n", "1", "--batches", "2", "--classes", "5", "--json", str(out)]
    assert main(["batches", *options, "--max-evaluations", "40"]) == 0
    (entry,) = json.loads(out.read_text(encoding="utf-8"))["settings"]
    assert entry["data"]["file_sha256"] is not None
    assert entry["data"]["classes"] == 5
    assert entry["single"]["images"] == 2
    assert entry["single"]["unknowns"] == 2 * 144
    # 312 + 3612 + 3612 of the convolutions, 5 biases, at most rank 2 in the 108 columns of the classifier
    assert entry["single"]["equations"] == 312 + 2 * 3612 + 5 + 2 * 108


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["idlg", "--n", "0"], "--n = 0: allowed: 1 or more"),
        (["idlg", "--classes", "3"], "--classes = 3: allowed: at least 10"),
        (["idlg", "--data", "nowhere.npz"], "no such file"),
        (["table", "nowhere.json"], "allowed: what --json of this benchmark wrote"),
    ],
)
def test_bad_input_is_one_line(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_the_median_of_draws_that_share_weights_has_a_wider_interval() -> None:
    values = [math.exp(-draw) for draw in range(8) for _ in range(10)]
    alone = median(values)
    clustered = median(values, [draw for draw in range(8) for _ in range(10)])
    assert clustered["median"] == alone["median"]
    assert clustered["high"] - clustered["low"] > alone["high"] - alone["low"]
