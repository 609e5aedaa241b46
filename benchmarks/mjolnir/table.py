"""Figures of each method and level, and the tables that show them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adversary.attacks.mjolnir import Mjolnir
from adversary.mjolnir.denoisers import RECIPES, Kind
from benchmarks.common import markdown, mean, median, share, show
from benchmarks.mjolnir.measure import (
    BASELINES,
    DENOISED,
    DENOISERS,
    MAP,
    METHODS,
    OURS,
    epsilon_of,
)
from fedsim.options import require

Run = Mapping[str, Any]
Entry = Mapping[str, Any]
Held = dict[tuple[str, float], Entry]
"""(method, level) -> what was measured."""
Gains = Callable[[Held, Sequence[float], str], tuple[str, list[str]]]
"""(what was measured, levels, method) -> (over what, the method's gain by level)."""
ALIKE = ("labels", "evaluations", "surrogate", "gradients")
"""Options in which runs that share their rows must agree."""
WHOLE = {
    "command": {"seed", "size", "distribution", "updates", *ALIKE},
    "data": {"name", "images_sha256"},
}
"""What a file of a run has at least."""
TOLD = ("updates", "seed")
"""Of a training, what its row's name tells."""
RIVALS = (*BASELINES, MAP)
PAPERS = {"Cosine, median / mean": " (its mean: .992)", "PSNR of the gradient, dB, median": " (its: 37.68)"}
"""The paper's own figures, beside the tables of them at its levels."""


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


def gain(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return the mean paired difference of two methods' scores or successes, with its bootstrap interval."""
    return mean([float(a) - float(b) for a, b in zip(one, other, strict=True)])


def is_whole(run: Mapping[str, Any]) -> bool:
    """Return whether a file of this benchmark holds what tables and plots are made of."""
    held = all(isinstance(run.get(part), dict) and keys <= set(run[part]) for part, keys in WHOLE.items())
    settings = run.get("settings")
    rows = settings if isinstance(settings, list) and settings else [None]
    return held and all(isinstance(row, dict) and {"std", "rows", "figures"} <= set(row) for row in rows)


def tables(runs: Sequence[Run]) -> str:
    """Return each data set's tables: images, then gradients, by ratio of signal to noise and by epsilon.

    Of what several runs measured the later counts. Raises InputError for runs of one name that are of other
    victims, or differ in what the name does not tell.
    """
    return "\n\n".join(_tables_of(name, runs) for name in dict.fromkeys(map(label, runs)))


def _tables_of(name: str, runs: Sequence[Run]) -> str:
    alike = [run for run in runs if label(run) == name]
    _require_alike(name, alike)
    entries = [
        {
            **entry,
            "method": row_name(run, entry),
            "sought": not run["command"].get("gradients_only"),
            "as_epsilon": epsilon_of(entry["std"], run["command"]["distribution"]),
        }
        for run in alike
        for entry in run["settings"]
    ]
    blocks: list[tuple[str, Callable[[Entry], str], Gains]] = [
        ("Images found, % (median SSIM)", _images, _over_map),
        ("Cosine, median / mean", _pair("cosine"), _over_best("cosine", 2)),
        ("Cosine about the class mean, median / mean", _pair("centred"), _over_best("centred", 2)),
        ("PSNR of the gradient, dB, median", _median("gradient_psnr", 3), _over_best("gradient_psnr", 2)),
    ]
    found = [
        (
            title + where + (PAPERS.get(title, "") if where else ""),
            _table([entry for entry in entries if key in entry], key, cell, gains),
        )
        for key, where in (("ratio", ""), ("epsilon", ", at the paper's levels"))
        for title, cell, gains in blocks
    ]
    return "\n\n".join([f"### {name}", *(f"#### {title}\n\n{text}" for title, text in found if text)])


def _require_alike(name: str, runs: Sequence[Run]) -> None:
    """Raise InputError unless runs that share their rows can be paired."""
    victims = {(run["data"]["images_sha256"], run["command"]["seed"]) for run in runs}
    require(len(victims) == 1, "FILE", name, "runs on the same images with the same seed: gains are paired")
    for key in ALIKE:
        values = {str(run["command"].get(key)) for run in runs}
        require(len(values) == 1, "FILE", name, f"runs of one --{key}, not of {' and '.join(sorted(values))}")
    for kind in RECIPES:
        _require_trained_alike(name, kind, [run for run in runs if kind in kinds_of(_methods(run))])


def _require_trained_alike(name: str, kind: str, runs: Sequence[Run]) -> None:
    recipes = [run.get("training", {}).get(kind) for run in runs]
    require(None not in recipes, "FILE", name, "runs that tell how their denoisers were trained")
    alike = {str({key: value for key, value in one.items() if key not in TOLD}) for one in recipes}
    require(len(alike) <= 1, "FILE", name, "runs of denoisers that were trained alike")


def kinds_of(methods: Sequence[str]) -> set[Kind]:
    """Return which denoisers are trained for some methods."""
    return {kind for kind in RECIPES if any(name.startswith(kind) for name in methods)}


def _methods(run: Run) -> list[str]:
    return [entry["rows"]["method"] for entry in run["settings"]]


def label(run: Run) -> str:
    """Return the name of the data, and of what else was done to the gradients."""
    command = run["command"]
    parts = [run["data"]["name"] + (f", {side}x{side}" if (side := command["size"]) else "")]
    parts += [f"{key} {command[key]:g}" for key in ("clip", "mask") if command.get(key) is not None]
    parts += ["Laplace"] if command["distribution"] == "laplace" else []
    return ", ".join(parts)


def row_name(run: Run, entry: Entry) -> str:
    """Return the name of a method, and how its denoiser was trained where that is not as most are."""
    command, parts = run["command"], [entry["rows"]["method"]]
    if parts[0] in DENOISERS:
        parts += [f"{updates} updates"] if (updates := command["updates"]) != Mjolnir.updates else []
        parts += [f"training seed {seed}"] if (seed := command.get("training_seed", 0)) else []
    return ", ".join(parts)


def ordered(names: set[str]) -> list[tuple[str, str]]:
    """Return (method, row name), as METHODS has them."""
    known = list(METHODS)
    pairs = [(max((one for one in known if name.startswith(one)), key=len), name) for name in names]
    return sorted(pairs, key=lambda pair: (known.index(pair[0]), pair[1]))


def _table(entries: Sequence[Entry], key: str, cell: Callable[[Entry], str], gains: Gains) -> str:
    """Return a row for each method, a column for each level; nothing where nothing was measured.

    Below a level stands the same noise as it is told otherwise, and how many labels were read right in it.
    """
    held: Held = {(entry["method"], entry[key]): entry for entry in entries if cell(entry) != "-"}
    levels = sorted({level for _, level in held}, reverse=True)
    columns = [next(entry for entry in held.values() if entry[key] == level) for level in levels]
    rows = []
    names = ordered({name for name, _ in held})
    for _, name in names:
        cells = [cell(held[name, level]) if (name, level) in held else "-" for level in levels]
        rows += [[name, *cells]] if set(cells) != {"-"} else []
    for name in (name for method, name in names if method in (DENOISED, OURS)):
        over, cells = gains(held, levels, name)
        rows += [[f"**{name} over {over}**, paired", *cells]] if set(cells) != {"-"} else []
    if not rows:
        return ""
    told = [
        ["*epsilon*" if key == "ratio" else "*SNR*", *(_otherwise(entry, key) for entry in columns)],
        ["*labels right, %*", *(f"{100 * entry['figures']['label']['share']:.0f}" for entry in columns)],
    ]
    head = [f"SNR {level:g}" if key == "ratio" else f"epsilon {level:g}" for level in levels]
    return markdown(["method", *head], told + rows)


def _otherwise(entry: Entry, key: str) -> str:
    """Return a level that was set as ratio of signal to noise as the paper's epsilon, or the reverse."""
    return f"{entry['as_epsilon'] if key == 'ratio' else entry['figures']['snr']['median']:.3g}"


def _over_map(held: Held, levels: Sequence[float], ours: str) -> tuple[str, list[str]]:
    """Return what a method finds more than MAP, in percent of the victims, at each level."""
    cells = []
    for level in levels:
        pair = [held[name, level]["rows"] for name in (ours, MAP) if (name, level) in held]
        both = len(pair) == 2 and all("success" in rows for rows in pair)
        cells.append(show(gain(*(rows["success"] for rows in pair)), 2, 100) if both else "-")
    return MAP, cells


def _over_best(key: str, digits: int) -> Gains:
    """Return what tells the gain in a score over whatever without a denoiser has the best mean, by level."""

    def over_best(held: Held, levels: Sequence[float], name: str) -> tuple[str, list[str]]:
        cells = []
        for level in levels:
            others = {other: held[other, level]["rows"][key] for other in RIVALS if (other, level) in held}
            ours = held.get((name, level))
            if not others or ours is None:
                cells.append("-")
                continue
            best = max(others, key=lambda other: sum(others[other]))
            cells.append(f"{show(gain(ours['rows'][key], others[best]), digits)} ({best})")
        return "the best of them", cells

    return over_best


def _images(entry: Entry) -> str:
    """Return what a method found; of runs for gradients alone nothing, where no image was sought by most."""
    found, sought = entry["figures"], entry["sought"] and "success" in entry["figures"]
    return f"{show(found['success'], 2, 100)} ({show(found['ssim'], 2)})" if sought else "-"


def _pair(key: str) -> Callable[[Entry], str]:
    return lambda entry: f"{show(entry['figures'][key], 4)} / {show(entry['figures'][f'{key}_mean'], 3)}"


def _median(key: str, digits: int) -> Callable[[Entry], str]:
    return lambda entry: show(entry["figures"][key], digits)
