"""The table of cases: the naive attacker beside the one who knows the defence, a row a defence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.common import markdown, show

Entry = Mapping[str, Any]
Pair = Callable[[Entry, Entry], str]
"""(naive setting, adaptive setting) -> text."""


def _leaked(entry: Entry) -> Mapping[str, Any]:
    kind, bound = entry["leaked"]
    share: Mapping[str, Any] = entry["single"][kind][bound]
    return share


def _both(cell: Callable[[Mapping[str, Any]], str]) -> Pair:
    return lambda naive, adaptive: f"{cell(naive['single'])} / {cell(adaptive['single'])}"


def _criterion(naive: Entry, _: Entry) -> str:
    kind, bound = naive["leaked"]
    return f"{ {'ssim_above': 'SSIM >', 'mse_below': 'MSE <'}[kind] } {bound}"


CELLS: dict[str, Pair] = {
    "defence": lambda naive, _: naive["name"].removesuffix(", naive"),
    "n": lambda naive, _: str(naive["single"]["captures"]),
    "leaked is": _criterion,
    "naive, %": lambda naive, _: show(_leaked(naive), 3, 100),
    "adaptive, %": lambda _, adaptive: show(_leaked(adaptive), 3, 100),
    "apart": lambda naive, adaptive: "yes" if _leaked(naive)["high"] < _leaked(adaptive)["low"] else "no",
    "mean SSIM": _both(lambda found: show(found["mean_ssim"], 2)),
    "MSE < .01, %": _both(lambda found: show(found["mse_below"]["0.01"], 3, 100)),
    "MSE < .001, %": _both(lambda found: show(found["mse_below"]["0.001"], 3, 100)),
    "labels, %": _both(lambda found: show(found["labels"], 3, 100)),
    "equations : unknowns": lambda _, adaptive: (
        f"{adaptive['single']['equations']} : {adaptive['single']['unknowns']}"
    ),
    "CPU s an image": _both(lambda found: f"{found['cpu_seconds_per_image']['mean']:.1f}"),
}
"""Where two figures are given, the naive attacker's is first."""


def table(entries: Sequence[Entry]) -> str:
    """Return the Markdown table of settings that were measured naive and then adaptive."""
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return markdown(list(CELLS), [[cell(*pair) for cell in CELLS.values()] for pair in pairs])
