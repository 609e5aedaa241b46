"""The benchmark of exact readings: what it prints, writes and puts into a document, and bad input."""

import json
from pathlib import Path

import pytest

from benchmarks.exact import SETTINGS, main


def test_exact_readings_are_measured_and_tabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, out = tmp_path / "doc.md", tmp_path / "out.json"
    document.write_text(
        "before\n<!-- exact: fashion_mnist -->\n<!-- end of exact: fashion_mnist -->\nafter\n"
    )
    options = ["--attack", "analytic", "--n", "2", "--json", str(out), "--into", str(document)]
    assert main(options) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(SETTINGS["analytic"][2])
    assert rows[0]["defense"] == "none"
    assert rows[0]["exact"]["share"] == rows[0]["labels"]["share"] == 1
    noisy = next(row for row in rows if "noising" in row["defense"])
    assert noisy["exact"]["share"] == 0
    assert max(noisy["scores"]["psnr"]) < 40
    text = document.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text.count("| analytic | mlp |") == len(rows) == capsys.readouterr().out.count("| analytic |")
    assert "python -m benchmarks.exact --n 2" in text


def test_an_attack_that_searches_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--attack", "dlg"]) == 2
    assert capsys.readouterr().err.strip() == "--attack = 'dlg': allowed: analytic, rgap, spear"
