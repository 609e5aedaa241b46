import dataclasses
import json
import math
import time

import pytest
import torch

from adversary import metrics
from adversary.baseline import Baseline, blind_baseline
from adversary.leakage import NOTHING, summarise
from adversary.scoring import KEYS, Origin, failed, score

ORIGIN = Origin(
    capture="round-0001-client-00003", round=1, client=3, attack="idlg", defense="noising(std=0.1)"
)


@dataclasses.dataclass(frozen=True)
class Result:
    images: torch.Tensor
    labels: torch.Tensor
    loss: float = 1e-9
    evaluations: int = 120
    restarts: int = 1
    status: str = "converged"
    seconds: float = 0.5
    equations: int = 900
    unknowns: int = 256
    signal: float = 20.0


def images(count, seed=0, side=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.interpolate(
        torch.rand(count, 1, 5, 5, generator=generator), size=side, mode="bilinear"
    )


OWN = images(40)
TRUTH, LABELS = OWN[:4], torch.tensor([5, 6, 7, 7])
BASE = blind_baseline(images(200, 9), seed=1)


def test_an_exact_reconstruction_in_another_order():
    order = [2, 0, 3, 1]
    rows = score(Result(TRUTH[order], LABELS[order]), TRUTH, LABELS, OWN, BASE, ORIGIN, picture="a.png")
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    for row, blind in zip(rows, BASE.score(TRUTH), strict=True):
        assert tuple(row) == KEYS
        assert row["ssim"] == pytest.approx(1)
        assert (row["mse"], row["psnr"]) == (0, metrics.PSNR_CAP)
        assert row["label_found"] == row["label"]
        assert row["identified"]
        assert row["leaked"]
        assert row["chance"] == 1 / 40
        assert row["blind"] == pytest.approx(blind)
        assert (row["client"], row["defense"], row["picture"]) == (3, "noising(std=0.1)", "a.png")
        assert (row["loss"], row["evaluations"], row["restarts"], row["seconds"]) == (1e-9, 120, 1, 0.5)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_rows_hold_what_the_metrics_say():
    raw = 1.7 * TRUTH + 0.3 * images(4, 77) - 0.4
    rows = score(Result(raw, LABELS), TRUTH, LABELS, OWN, BASE, ORIGIN)
    for i, row in enumerate(rows):
        for name in ("mse", "psnr", "ssim", "ssim_affine"):
            assert row[name] == pytest.approx(getattr(metrics, name)(raw[i], TRUTH[i]).item(), abs=1e-6)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_is_scored_as_grey_and_flagged(junk):
    found = TRUTH.clone()
    found[1, 0, 0, 0] = junk
    rows = score(Result(found, LABELS, loss=junk), TRUTH, LABELS, OWN, BASE, ORIGIN)
    assert [row["status"] for row in rows] == ["converged", "diverged", "converged", "converged"]
    grey = torch.full((1, 16, 16), 0.5)
    assert rows[1]["mse"] == pytest.approx(metrics.mse(grey, TRUTH[1]).item())
    assert not rows[1]["identified"]
    assert not rows[1]["leaked"]
    assert rows[0]["ssim"] == pytest.approx(1)
    assert rows[1]["loss"] is None
    json.dumps(rows, allow_nan=False)


def test_fewer_and_more_reconstructions_than_images():
    rows = score(Result(TRUTH[2:3], LABELS[2:3]), TRUTH, LABELS, OWN, BASE, ORIGIN)
    assert [row["ssim"] > 0.99 for row in rows] == [False, False, True, False]
    assert [row["label_found"] for row in rows] == [None, None, 7, None]
    more = torch.cat([images(3, 50), TRUTH])
    rows = score(Result(more, torch.cat([torch.zeros(3), LABELS])), TRUTH, LABELS, OWN, BASE, ORIGIN)
    assert len(rows) == 4
    assert all(row["ssim"] > 0.99 for row in rows)
    assert score(Result(TRUTH, LABELS), TRUTH[:0], LABELS[:0], OWN, BASE, ORIGIN) == []


def test_leaked_needs_both_a_high_score_and_the_right_neighbour():
    strict = dataclasses.replace(BASE, p99=1.0)
    assert not any(row["leaked"] for row in score(Result(TRUTH, LABELS), TRUTH, LABELS, OWN, strict, ORIGIN))
    lenient = dataclasses.replace(BASE, p99=-1.0)
    swapped = score(Result(images(1, 50), LABELS[:1]), TRUTH[:1], LABELS[:1], OWN, lenient, ORIGIN)
    assert not swapped[0]["identified"]
    assert not swapped[0]["leaked"]


def rows_of(client, found, status="converged", **changes):
    origin = dataclasses.replace(ORIGIN, capture=f"c{client}", client=client, **changes)
    return score(Result(found, LABELS[:1], status=status), TRUTH[:1], LABELS[:1], OWN, BASE, origin)


def test_summary_counts_everything():
    rows = [row for client in range(6) for row in rows_of(client, TRUTH[:1])]
    rows += rows_of(6, images(1, 50), "stalled") + rows_of(7, images(1, 51) * math.nan, "stalled")
    rows += failed(LABELS[:1], 40, dataclasses.replace(ORIGIN, capture="c8", client=8), "killed by SIGKILL")
    (entry,) = summarise(rows, privileges=["updates", "batch_size"], seed=1, snr={ORIGIN.defense: 3.5})
    assert (entry["attack"], entry["defense"], entry["adaptive"]) == ("idlg", "noising(std=0.1)", False)
    assert entry["privileges"] == ["updates", "batch_size"]
    assert (entry["n"], entry["captures"]) == (9, 9)
    assert (entry["stalled"], entry["diverged"], entry["failed"]) == (1, 1, 1)
    assert entry["success"]["share"] == pytest.approx(6 / 9)
    assert entry["leaked"] == entry["identified"] == entry["success"]
    assert entry["labels"]["share"] == pytest.approx(8 / 9)
    values = [NOTHING["ssim"] if row["ssim"] is None else row["ssim"] for row in rows]
    assert entry["ssim"]["mean"] == pytest.approx(sum(values) / 9)
    assert entry["ssim"]["low"] < entry["ssim"]["mean"] < entry["ssim"]["high"]
    assert entry["ssim"]["worst"] == pytest.approx(1)
    assert (entry["mse"]["worst"], entry["psnr"]["worst"]) == (0, metrics.PSNR_CAP)
    assert entry["worst_client"] == {"client": 0, "ssim": pytest.approx(1)}
    assert entry["chance"] == pytest.approx(1 / 40)
    assert entry["blind_ssim_affine"] == pytest.approx(BASE.score(TRUTH[:1])[0])
    assert (entry["snr"], entry["note"]) == (3.5, "")
    json.dumps(entry, allow_nan=False)


def test_a_failed_attack_is_counted_as_no_leakage():
    rows = failed(LABELS, 40, ORIGIN, "timed out after 5 s")
    assert [row["label"] for row in rows] == LABELS.tolist()
    assert all(row["status"] == "failed" and row["reason"] == "timed out after 5 s" for row in rows)
    assert all(row[name] is None for row in rows for name in NOTHING)
    assert set(KEYS) | {"reason"} == set(rows[0])
    (entry,) = summarise(rows, privileges=[], seed=1)
    assert {name: entry[name]["mean"] for name in NOTHING} == NOTHING
    assert (entry["n"], entry["captures"], entry["failed"]) == (4, 1, 1)
    assert entry["success"]["share"] == entry["leaked"]["share"] == entry["labels"]["share"] == 0
    assert entry["blind_ssim_affine"] is None


def test_where_no_labels_are_looked_for_none_are_counted():
    rows = score(Result(TRUTH[:1], -torch.ones_like(LABELS[:1])), TRUTH[:1], LABELS[:1], OWN, BASE, ORIGIN)
    (entry,) = summarise(rows, privileges=[], seed=1)
    assert entry["labels"] is None
    assert entry["success"]["share"] == 1
    rows += failed(LABELS[1:2], 40, dataclasses.replace(ORIGIN, capture="c1"), "killed by SIGKILL")
    (entry,) = summarise(rows, privileges=[], seed=1)
    assert entry["labels"] is None
    assert entry["success"]["share"] == 0.5


def test_entries_are_by_attack_defence_and_attacker():
    rows = rows_of(0, TRUTH[:1]) + rows_of(0, TRUTH[:1], adaptive=True) + rows_of(0, TRUTH[:1], attack="dlg")
    entries = summarise(rows, privileges=[], seed=1, notes={("dlg", ORIGIN.defense, False): "adaptive: none"})
    assert [(e["attack"], e["adaptive"], e["note"]) for e in entries] == [
        ("idlg", False, ""),
        ("idlg", True, ""),
        ("dlg", False, "adaptive: none"),
    ]
    assert summarise([], privileges=[], seed=1) == []


def test_an_aggregate_has_no_worst_client_and_labels_match_as_multisets():
    origin = dataclasses.replace(ORIGIN, client=None)
    rows = score(Result(TRUTH, LABELS[[3, 2, 1, 0]]), TRUTH, LABELS, OWN, BASE, origin)
    (entry,) = summarise(rows, privileges=[], seed=1)
    assert entry["worst_client"] is None
    assert entry["labels"]["share"] == 1


def test_a_summary_can_be_had_again():
    rows = [r for c in range(8) for r in rows_of(c, TRUTH[:1] + 0.1 * c * images(1, 60))]
    assert summarise(rows, privileges=[], seed=1) == summarise(rows, privileges=[], seed=1)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads of a busy machine would count
    yield
    torch.set_num_threads(before)


def test_scoring_a_hundred_images_is_quick(one_thread):
    own = torch.rand(1000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    base = Baseline("mean image", own.mean(0, keepdim=True), 0.1, 0.4, 300)
    start = time.thread_time()
    for i in range(100):
        score(Result(own[i : i + 1], LABELS[:1]), own[i : i + 1], LABELS[:1], own, base, ORIGIN)
    assert time.thread_time() - start < 4


def scored(adaptive=False, raw=TRUTH, **changes):
    origin = dataclasses.replace(ORIGIN, adaptive=adaptive)
    return score(Result(raw, LABELS, **changes), TRUTH, LABELS, OWN, BASE, origin)


def test_figures_that_are_not_to_be_trusted_say_why():
    (fine,) = summarise(scored(), privileges=["updates"], seed=1)
    assert (fine["warnings"], fine["equations"], fine["unknowns"]) == ([], 900, 256)
    assert fine["exact"]["share"] == 1
    (silent,) = summarise(scored(signal=0.0), privileges=["updates"], seed=1)
    assert silent["warnings"] == ["no gradient signal in 4 of 4 images' uploads"]
    (stuck,) = summarise(scored(status="stalled"), privileges=["labels"], seed=1)
    assert stuck["warnings"] == ["attack not converged on 1 of 1 uploads", "private labels were granted"]
    worse = scored(adaptive=True, raw=0.5 * TRUTH + 0.5 * images(4, 55))
    _, adaptive = summarise(scored() + worse, privileges=[], seed=1)
    assert adaptive["warnings"] == ["the adaptive attacker sees less than the naive one"]
