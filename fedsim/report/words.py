"""Numbers and findings in plain words."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedsim.report.folder import Row, RunFolder

ACRONYMS = {
    "dlg": "DLG",
    "idlg": "iDLG",
    "gidm": "GIDM",
    "gidm_plus": "GIDM+",
    "mjolnir": "Mjolnir",
    "fedavg": "FedAvg",
    "fedsgd": "FedSGD",
    "iid": "IID",
    "fedadam": "FedAdam",
    "fedavgm": "FedAvgM",
    "fedmedian": "FedMedian",
    "fedprox": "FedProx",
    "fedyogi": "FedYogi",
    "fedadagrad": "FedAdagrad",
    "fedtrimmedavg": "FedTrimmedAvg",
    "sgd": "SGD",
    "adam": "Adam",
}
ABSENT = "–"
OBSERVERS = {"server": "the server", "models": "who sees the global models"}
"""Whom a promise of differential privacy holds against."""


def number(value: Any, digits: int = 2) -> str:
    """Return a number with fixed digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 0) -> str:
    """Return a share as a percentage; a dash where there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def interval(estimate: Row | None, digits: int = 2) -> str:
    """Return `low to high`, empty where the estimate has no interval."""
    if not estimate or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{number(estimate['low'], digits)} to {number(estimate['high'], digits)}"


def percent_interval(estimate: Row | None) -> str:
    """Return `low to high%`, empty where the share has no interval."""
    if not estimate or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{100 * estimate['low']:.0f} to {100 * estimate['high']:.0f}%"


def count(row: Row, key: str = "leaked") -> int:
    """Return how many of a leakage row's `n` images a share stands for."""
    share = (row.get(key) or {}).get("share")
    return 0 if share is None else round(share * (row.get("n") or 0))


def listed(items: Iterable[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    *first, last = list(items) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def plural(n: int, noun: str) -> str:
    """Return `1 image`, `2 images`, `1,000 images`."""
    plural_noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural_noun}"


def title(name: str) -> str:
    """Return a plug-in's name as people write it: `idlg` is iDLG."""
    return ACRONYMS.get(name, name)


def attacker(adaptive: bool, defense: str) -> str:
    """Return what kind of attacker a row is about."""
    if defense == "none":
        return "no defence"
    return "adapts to the defence" if adaptive else "ignores the defence"


def defense_names(chain: str) -> list[str]:
    """Return the plug-in names in a chain such as `clipping(norm=1.0) + masking(p=0.5)`."""
    names = re.findall(r"([A-Za-z_][\w:.]*)\s*(?:\(|$|[+,>|])", re.sub(r"\([^()]*\)", "(", chain))
    return [name for name in names if name != "none"]


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return leakage rows as they are shown: undefended first, naive beside adaptive."""

    def key(row: Row) -> tuple[bool, str, str, bool]:
        return row["defense"] != "none", row["defense"], row["attack"], bool(row["adaptive"])

    return sorted(rows, key=key)


def strongest(rows: Sequence[Row]) -> Row | None:
    """Return the row that leaks most: by leaked share, then by mean SSIM; None if none was scored."""
    scored = [row for row in rows if row.get("n") and (row.get("leaked") or {}).get("share") is not None]

    def key(row: Row) -> tuple[float, float]:
        return (row.get("leaked") or {}).get("share") or 0.0, (row.get("ssim") or {}).get("mean") or -1.0

    return max(scored, key=key, default=None)


def verdict(run: RunFolder) -> str:
    """Return the outcome in a few sentences, nothing without its sample size."""
    if not run.summary:
        done = max((row.get("round", 0) for row in run.rounds), default=0)
        planned = run.scenario.get("strategy", {}).get("rounds")
        return f"This run did not finish: {done}{f' of {planned}' if planned else ''} rounds are here."
    rows = [row for row in run.leakage if strongest([row])]
    if not rows and run.scores:
        return "Images were reconstructed; without the truth beside them none could be scored."
    if not rows:
        return "No image was attacked in this run; here is what the federation learnt."
    plain = strongest([row for row in rows if row["defense"] == "none"])
    chains = list(dict.fromkeys(row["defense"] for row in rows if row["defense"] != "none"))
    parts = [_undefended(plain)] if plain else []
    if len(chains) > 2:
        parts.append(_many(rows, chains))
    else:
        parts += [_defended(rows, chain) for chain in chains]
    return " ".join(parts)


def _undefended(row: Row) -> str:
    seen = count(row)
    if not seen:
        return f"The server could read none of {plural(row['n'], 'undefended image')}."
    return f"The server could read {seen} of {plural(row['n'], 'image')} that no defence protected."


def _defended(rows: Sequence[Row], chain: str) -> str:
    naive = strongest([row for row in rows if row["defense"] == chain and not row["adaptive"]])
    adaptive = strongest([row for row in rows if row["defense"] == chain and row["adaptive"]])
    name = listed(title(part) for part in defense_names(chain)) or chain
    if adaptive is None:
        leaked = _of(naive) if naive else "no image"
        return f"Under {name}, {leaked} leaked to an attacker that ignores it; no adaptive one was tried."
    name = name[0].upper() + name[1:]
    if naive is None:
        return f"{name} let {_of(adaptive)} through to the attacker that adapts to it."
    if not count(adaptive):
        if not count(naive):
            return (
                f"{name} held back all of {plural(adaptive['n'], 'image')}, even from the adaptive attacker."
            )
        return f"{name} let {_of(naive)} through to the naive attacker, none to the adaptive one."
    if not count(naive):
        return f"{name} stopped the naive attacker, not the adaptive one, who read {_of(adaptive)}."
    both = f"{_of(naive)} leaked to the naive attacker, {_of(adaptive)} to the adaptive one"
    return f"{name} did not stop it: {both}."


def _many(rows: Sequence[Row], chains: Sequence[str]) -> str:
    worst = {chain: strongest([row for row in rows if row["defense"] == chain]) for chain in chains}
    held = [chain for chain, row in worst.items() if row is not None and not count(row)]
    if not held:
        return f"None of the {len(chains)} defences kept every image from its strongest attacker."
    return f"Of {len(chains)} defences, {len(held)} let no image through to the strongest attacker tried."


def _of(row: Row) -> str:
    return f"{count(row)} of {plural(row['n'], 'image')}"
