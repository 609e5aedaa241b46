"""Figures of each method and level, and the tables that show them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import markdown, mean, median, share, show
from benchmarks.mjolnir.measure import MAP, OURS

Run = Mapping[str, Any]


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return medians, means and shares over the victims of one method at one level."""
    found: dict[str, Any] = {"n": len(row["cosine"]), "cpu_seconds": row["cpu_seconds"]}
    for key in ("snr", "cosine", "centred", "gradient_psnr", "ssim", "mse"):
        if key in row:
            found[key] = median(row[key])
    for key in ("cosine", "centred"):
        found[f"{key}_mean"] = mean(row[key])
    if "success" in row:
        found["success"] = share(row["success"])
    found["label"] = share(row["label_right"])
    return found


def gain(one: Sequence[bool], other: Sequence[bool]) -> dict[str, Any]:
    """Return the mean paired difference of two methods' successes, with its bootstrap interval."""
    return mean([float(a) - float(b) for a, b in zip(one, other, strict=True)])


def image_table(runs: Sequence[Run]) -> str:
    """Return image success and SSIM of each method, a row, by ratio of signal to noise, a column."""
    ratios = sorted({entry["ratio"] for run in runs for entry in run["settings"] if "ratio" in entry})[::-1]
    head = ["data", "success, % (median SSIM)", *(f"SNR {ratio:g}" for ratio in ratios)]
    rows = []
    for run in runs:
        held = {(e["rows"]["method"], e["ratio"]): e for e in run["settings"] if "ratio" in e}
        for name in dict.fromkeys(method for method, _ in held):
            cells = [_image_cell(held.get((name, ratio))) for ratio in ratios]
            rows.append([run["data"]["name"], name, *cells])
        rows += _gains(run, held, ratios)
    return markdown(head, rows)


def _image_cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or "success" not in entry["figures"]:
        return "-"
    found = entry["figures"]
    return f"{show(found['success'], 2, 100)} ({found['ssim']['median']:.2f})"


def _gains(run: Run, held: Mapping[Any, Any], ratios: Sequence[float]) -> Iterator[list[str]]:
    if not {(OURS, ratio) for ratio in ratios} & set(held) or not any(name == MAP for name, _ in held):
        return
    cells = []
    for ratio in ratios:
        pair = [held.get((name, ratio)) for name in (OURS, MAP)]
        both = [entry["rows"]["success"] for entry in pair if entry]
        cells.append(show(gain(*both), 2, 100) if len(both) == 2 else "-")
    yield [run["data"]["name"], f"{OURS} over {MAP}, paired", *cells]


COLUMNS = ("data", "level", "method", "cosine", "mean", "centred", "mean ", "PSNR, dB", "CPU s")


def gradient_table(runs: Sequence[Run]) -> str:
    """Return cosine and PSNR of the gradients, a row for each method and level."""
    rows = []
    for run in runs:
        for entry in run["settings"]:
            found = entry["figures"]
            level = f"epsilon {entry['epsilon']:g}" if "epsilon" in entry else f"SNR {entry['ratio']:g}"
            rows.append(
                [
                    run["data"]["name"],
                    f"{level} (sigma {entry['std']:.2g}, SNR {found['snr']['median']:.2g})",
                    entry["rows"]["method"],
                    show(found["cosine"], 4),
                    show(found["cosine_mean"], 4),
                    show(found["centred"], 3),
                    show(found["centred_mean"], 3),
                    show(found["gradient_psnr"], 3),
                    f"{found['cpu_seconds']:.2g}",
                ]
            )
    return markdown(COLUMNS, rows)
