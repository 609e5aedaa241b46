"""The end of a run, for reading: accuracy, leakage with its privileges and intervals, where the report is."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.report.words import OBSERVERS

Row = Mapping[str, Any]
_HEADER = (
    "attack",
    "defence",
    "attacker",
    "images",
    "SSIM",
    "MSE < .001",
    "leaked",
    "eq : unknowns",
    "status",
)


def as_text(summary: Row, folder: Path) -> str:
    """Return summary.json (docs/run-folder.md) as a few lines and a table."""
    notes = [*_notes(summary), *_unscored(summary, folder)]
    parts = [_head(summary), _leakage(summary), "\n".join(map(_wrapped, notes)), _where(folder)]
    return "\n\n".join(part for part in parts if part)


def _head(summary: Row) -> str:
    federation = summary.get("federation") or {}
    took = (summary.get("seconds") or {}).get("total")
    facts = [
        f"seed {summary.get('seed')}",
        _count(federation.get("clients"), "client"),
        _count(summary.get("rounds"), "round"),
        _count(summary.get("parameters"), "parameter"),
        f"engine {summary['engine']}" if summary.get("engine") else "",
        f"{took:.0f} s" if took is not None else "",
    ]
    lines = [f"{summary.get('name') or 'run'}: {', '.join(fact for fact in facts if fact)}"]
    if summary.get("accuracy") is not None:
        lines.append(f"accuracy  {100 * summary['accuracy']:.1f} % on the test set after the last round")
    elif summary.get("loss") is not None:
        lines.append(f"loss      {summary['loss']:.4f} on the test set after the last round")
    if summary.get("sample_distance") is not None:
        lines.append(f"samples   {summary['sample_distance']:.2f} from the test set's images (0: alike)")
    lines += _privacy(summary.get("privacy") or [])
    captures = federation.get("captures")
    if captures is not None:
        lines.append(f"captures  {captures} ({federation.get('capture_megabytes') or 0:.1f} MB)")
    if federation.get("failed_replies"):
        lines.append(f"failed    {_count(federation['failed_replies'], 'reply')} (reasons: rounds.jsonl)")
    return "\n".join(lines)


def _privacy(promises: Sequence[Row]) -> list[str]:
    """Return what the noise promises, the best that is known against each observer, or why nothing."""
    known = [promise for promise in promises if promise["epsilon"] is not None]
    if not known:
        return [f"privacy   no promise: {promise['reason']}" for promise in promises[:1]]
    found = [f"{p['epsilon']:.3g} for a {p['protects']} against {OBSERVERS[p['against']]}" for p in known]
    return [f"privacy   epsilon {', '.join(found)} (delta {known[0]['delta']:g})"]


def _count(number: int | None, noun: str) -> str:
    if number is None:
        return ""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _leakage(summary: Row) -> str:
    rows = summary.get("leakage") or []
    return columns([_HEADER, *map(_row, rows)]) if rows else ""


def _row(row: Row) -> Sequence[str]:
    attacker = "adaptive" if row.get("adaptive") else "naive"
    return (
        str(row["attack"]),
        str(row["defense"]),
        attacker if row["defense"] != "none" else "-",
        str(row["n"]),
        _interval(row.get("ssim"), "mean", 2, 1),
        _interval(row.get("exact"), "share", 0, 100, " %"),
        _interval(row.get("leaked"), "share", 0, 100, " %"),
        "-" if row.get("equations") is None else f"{row['equations']:,} : {row['unknowns']:,}",
        _status(row),
    )


def _interval(estimate: Row | None, key: str, digits: int, scale: float, unit: str = "") -> str:
    if not estimate or estimate.get(key) is None:
        return "-"
    text = f"{scale * estimate[key]:.{digits}f}{unit}"
    if estimate.get("low") is None or estimate.get("high") is None:
        return text
    return f"{text} [{scale * estimate['low']:.{digits}f}, {scale * estimate['high']:.{digits}f}]"


def _status(row: Row) -> str:
    counts = [(row.get(word) or 0, word) for word in ("stalled", "diverged", "failed")]
    return ", ".join(f"{number} {word}" for number, word in counts if number) or "all converged"


def _notes(summary: Row) -> list[str]:
    """Return what a leak score is not printed without: privileges, chance, baseline, refusals."""
    rows = summary.get("leakage") or []
    threat, baseline = summary.get("threat_model") or {}, summary.get("baseline") or {}
    lines = [f"{row['attack']} on {row['defense']}: {row['note']}" for row in rows if row.get("note")]
    lines += _cautions(rows)
    lines += [f"refused: {r['attack']}: {r['reason']}" for r in summary.get("refused") or []]
    failures = summary.get("failures") or []
    if failures:
        first = failures[0]
        lines.append(
            f"failed: {_count(len(failures), 'reconstruction')}; the first, {first['attack']} on "
            f"{first['capture']}: {first['reason']}"
        )
    if rows:
        privileges = ", ".join(threat.get("capabilities") or rows[0].get("privileges") or [])
        lines.append(f"privileges: threat model {threat.get('name', '?')} ({privileges})")
    if rows and baseline.get("ssim_affine_p99") is not None:
        bar, n = baseline["ssim_affine_p99"], baseline.get("n")
        lines.append(
            f"leaked: SSIM after the best brightness fit above {bar:.2f}, the 99th percentile of blind "
            f"guesses (n = {n}), and nearest to the client's own image; brackets: 95 % intervals"
        )
    return lines


def _cautions(rows: Sequence[Row]) -> list[str]:
    """Return the warnings, each with the rows that it is about; what did not converge, the status tells."""
    about: dict[str, list[str]] = {}
    for row in rows:
        who = "" if row["defense"] == "none" else f", {'adaptive' if row.get('adaptive') else 'naive'}"
        for text in row.get("warnings") or []:
            if not text.startswith("attack not converged"):
                about.setdefault(text, []).append(f"{row['attack']} on {row['defense']}{who}")
    return [f"warning: {text} ({'; '.join(found)})" for text, found in about.items()]


def _unscored(summary: Row, folder: Path) -> list[str]:
    """Say where the pictures are if there was no truth to score them against."""
    made = sum(1 for _ in (folder / "reconstructions").glob("*.safetensors"))
    if summary.get("leakage") or not made:
        return []
    return [f"not scored, without --truth: {_count(made, 'reconstruction')} in {folder / 'reconstructions'}"]


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, 110, subsequent_indent="  ", break_long_words=False))


def _where(folder: Path) -> str:
    page = folder / "report.html"
    return f"report: {page}" if page.exists() else f"run folder: {folder}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as left-aligned columns, the first row underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)] for row in rows)
    lines = ["  ".join(cells).rstrip() for cells in padded]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
