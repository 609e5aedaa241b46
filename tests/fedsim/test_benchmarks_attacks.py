"""The benchmark against peers: one rule for all, the textbook loop as released, rates and ratios."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import compiled
from benchmarks.attacks import breaching_peer, table, textbook
from benchmarks.attacks.__main__ import cells_of, main, parser
from benchmarks.attacks.figures import equal_psnr, rates, ratio
from benchmarks.attacks.gauge import GOAL, Gauge, quality


def captured(model: nn.Module, image: Tensor, label: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(image), label), list(model.parameters())))


def small() -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth net of two layers, whose input the gradient of the first gives away."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 3))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model, torch.rand(1, 1, 4, 4), torch.tensor([2])


def test_the_gauge_stops_where_the_gradient_is_explained_or_no_number() -> None:
    truth = torch.zeros(1, 2, 2)
    gauge = Gauge(truth, square=4.0)
    gauge.saw(1.0)
    assert not gauge.check(truth + 0.5)
    gauge.saw(4 * GOAL)
    assert gauge.check(truth + 0.01)
    row = gauge.row(truth + 0.01, label=3)
    assert row["success"]
    assert row["loss"] == GOAL
    assert row["evaluations"] == 2
    assert 0 <= row["good_wall"] <= row["wall"]
    gauge.saw(math.nan)
    assert gauge.check(truth)
    assert quality(truth * math.nan, truth) == {"mse": None, "psnr": 0.0, "success": False}
    assert quality(truth + 0.1, truth)["psnr"] == pytest.approx(20.0)


def test_the_textbook_loops_find_image_and_label() -> None:
    model, image, label = small()
    observed = captured(model, image, label)
    square = float(sum(value.square().sum() for value in observed))
    for logits in (None, torch.zeros(1, 3)):
        gauge = Gauge(image[0], square)
        row = textbook.deep_leakage(model, observed, torch.zeros(1, 1, 4, 4), logits, gauge)
        assert row["success"]
        assert row["label_found"] == 2
        assert row["evaluations"] < 300 * 25


def test_the_first_step_of_inverting_gradients_is_a_sign_and_the_last_fits_better() -> None:
    model, image, label = small()
    observed = captured(model, image, label)
    start = torch.full((1, 1, 4, 4), 0.5)
    dummy = start.clone().requires_grad_()
    loss = F.cross_entropy(model(dummy), label)
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    flat, target = (torch.cat([value.flatten() for value in part]) for part in (gradient, observed))
    slope = torch.autograd.grad(1 - F.cosine_similarity(flat, target, dim=0), dummy)[0]
    # With one iteration all milestones are passed at once, after the only step.
    once, moved = Gauge(image[0], 1.0, -1.0), start - 0.1 * slope.sign()
    row = textbook.inverting(model, observed, start, label, once, 1, 0.0)
    assert row["mse"] == pytest.approx(float((moved - image).square().mean()), rel=1e-5)
    many = Gauge(image[0], 1.0, -1.0)
    assert textbook.inverting(model, observed, start, label, many, 100, 1e-6)["mse"] < 0.1 * row["mse"]
    assert many.loss < 0.1 * once.loss


def test_rates_count_failures_whole() -> None:
    def row(success: bool, cpu: float) -> dict[str, object]:
        clocks = {"cpu": cpu, "wall": 2 * cpu, "good_cpu": cpu / 2, "good_wall": cpu}
        return {"success": success, "psnr": 1.0, "evaluations": 1, "label": 0, "label_found": 0, **clocks}

    quick, slow = [row(True, 1.0), row(True, 1.0)], [row(True, 4.0), row(False, 6.0)]
    assert rates(quick)["successes_per_second"]["cpu"]["mean"] == 1.0
    assert rates(slow)["successes_per_second"]["cpu"]["mean"] == 0.1
    assert rates(slow)["successes_per_second"]["wall"]["mean"] == 0.05
    assert rates(slow, parallel_wall=5.0)["successes_per_second"]["wall"]["mean"] == 0.2
    found = ratio(quick, slow, "cpu")
    assert found is not None
    assert found["mean"] == 10.0
    assert found["low"] == 4.0
    assert ratio(quick, [row(False, 1.0), row(False, 1.0)], "cpu") is None


def test_equal_psnr_takes_the_cheapest_that_reaches_it() -> None:
    def cell(iterations: int, psnr: float, cpu: float) -> dict[str, Any]:
        rows = [{"psnr": psnr + shift, "cpu": cpu} for shift in (-1, 1)]
        of = {"iterations": iterations, "at_once": 1}
        return {"cell": of, "rows": rows, "figures": {"psnr": {"mean": psnr}}}

    own = [cell(100, 15.0, 1.0), cell(200, 20.0, 2.0), cell(400, 24.0, 4.0)]
    found = equal_psnr(cell(1000, 18.0, 10.0), own)
    assert found is not None
    assert found["iterations"] == 200
    assert found["cpu_ratio"]["mean"] == 5.0
    assert found["psnr_more"]["mean"] == 2.0
    assert equal_psnr(cell(1000, 30.0, 10.0), own) is None


def test_side_by_side_on_the_same_captures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaching_peer.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "attacks.json"
    options = ["--n", "2", "--captures", "2", "--size", "12", "--json", str(out)]
    assert main(["--attack", "idlg", *options]) == 0
    printed = capsys.readouterr().out
    assert (
        "breaching: left out, breaching, hydra, lpips not installed (pip install breaching==0.1.2)" in printed
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    peer, own = result["cells"]
    assert peer["data"] == own["data"]
    assert [one["label"] for one in peer["rows"]] == [one["label"] for one in own["rows"]]
    assert own["figures"]["success"]["share"] == 1
    assert own["peak_mb"] > own["before_mb"] > 0
    (compared,) = result["compared"]
    assert compared["peer"] == "textbook"
    assert main(["--peers", "nobody", *options]) == 2
    assert "--peers = 'nobody': allowed: textbook, breaching" in capsys.readouterr().err


def test_ours_and_peers_have_budgets_of_their_own() -> None:
    options = ["--attack", "inverting", "--captures", "1", "--peers", "breaching", "--iterations", "20,40"]
    found = [(cell.method, cell.iterations) for cell, _ in cells_of(parser().parse_args(options))]
    assert found == [("breaching", 20), ("ours", 20), ("breaching", 40), ("ours", 40)]
    options += ["--own-iterations", "10,40"]
    found = [(cell.method, cell.iterations) for cell, _ in cells_of(parser().parse_args(options))]
    assert found == [("ours", 10), ("breaching", 20), ("breaching", 40), ("ours", 40)]


def test_a_table_goes_to_its_block_and_leaves_the_other(tmp_path: Path) -> None:
    document, figures = tmp_path / "doc.md", tmp_path / "inverting.json"
    marks = "<!-- {0} -->\n{1}\n<!-- end of {0} -->\n"
    document.write_text(marks.format("attacks", "kept") + marks.format("inverting", "old"), encoding="utf-8")
    empty = {"command": {"attack": "inverting"}, "cells": [], "compared": []}
    figures.write_text(json.dumps(empty), encoding="utf-8")
    assert table.main([str(figures), "--into", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert "kept" in text
    assert "old" not in text
    assert "python -m benchmarks.attacks --attack inverting" in text


def test_what_compiling_would_do_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.compile", lambda function: function)  # which takes half a minute
    assert compiled.main(["--n", "2"]) == 0
    told = capsys.readouterr().out
    assert "largest error 0.0e+00" in told
    assert "compiled: " in told
