"""The committed tables of the benchmark against peers.

python -m benchmarks.attacks.table FILE.json ... [--into docs/benchmarks.md]

Inverting Gradients has a block of its own there; a block that no file is about stays as it is.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import command_line, markdown, replace_block, show

COLUMNS = (
    "data",
    "attack",
    "model",
    "method",
    "at once",
    "evaluations",
    "n",
    "MSE < .001, %",
    "PSNR",
    "CPU s a capture",
    "successes a CPU s",
    "with oracle",
    "peak MB (more than before)",
)
COMPARED = (
    "data",
    "attack",
    "model",
    "peer",
    "ours, at once",
    "times successes a CPU s",
    "with oracle",
    "on the clock",
)


def tables(files: Sequence[Path]) -> str:
    """Return the cells and ratios of several JSON files, with the commands that made them."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    cells = [_cell(result) for one in read for result in one["cells"]]
    ratios = [_ratio(one, found) for one in read for found in one["compared"] if "cpu" in found]
    equal = [_equal(one, found) for one in read for found in one["compared"] if "psnr" in found]
    blocks = [markdown(COLUMNS, cells)]
    if ratios:
        blocks.append(markdown(COMPARED, ratios))
    if equal:
        blocks.append(markdown(("model", "peer", "iterations", "PSNR", "ours", "times less CPU"), equal))
    blocks.append("\n".join(f"    {command_line('benchmarks.attacks', one['command'])}" for one in read))
    return "\n\n".join(blocks)


def _cell(result: Mapping[str, Any]) -> list[str]:
    cell, figures = result["cell"], result["figures"]
    speed = figures["successes_per_second"]
    processes = f", {result['processes']} processes" if result["processes"] > 1 else ""
    start = f", start {cell['start']}" if cell.get("start") else ""
    return [
        result["data"]["name"],
        cell["attack"],
        cell["model"],
        f"{cell['method']}{processes}{start}",
        str(cell["at_once"]),
        show(figures["evaluations"], 4),
        str(figures["n"]),
        show(figures["success"], 3, 100),
        show(figures["psnr"]),
        show(figures["cpu_seconds"], 2),
        show(speed["cpu"], 2),
        "-" if cell["method"] == "ours" else show(speed["good_cpu"], 2),
        f"{result['peak_mb']:.0f} (+{result['peak_mb'] - result['before_mb']:.0f})",
    ]


def _ratio(one: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    name, command = one["cells"][0]["data"]["name"], one["command"]
    ours = str(found["captures"]) + (f", start {command['start']}" if command.get("start") else "")
    shown = [show(found[clock], 2) if found[clock] else "no success" for clock in ("cpu", "good_cpu", "wall")]
    return [name, command["attack"], command["model"], found["peer"], ours, *shown]


def _equal(one: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    own = found["ours"]
    ours = [f"{own['iterations']} evaluations", show(own["cpu_ratio"], 2)] if own else ["not reached", "-"]
    return [one["command"]["model"], found["peer"], str(found["iterations"]), show(found["psnr"]), *ours]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into a document."""
    parser = argparse.ArgumentParser(description="JSON files of benchmarks.attacks as Markdown")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, metavar="DOC.md", help="replace the tables there")
    arguments = parser.parse_args(argv)
    for name, files in _blocks(arguments.files).items():
        if arguments.into:
            replace_block(arguments.into, name, tables(files))
        else:
            print(tables(files))
    return 0


def _blocks(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files by the block of the document that they fill; another block is left as it is."""
    blocks: dict[str, list[Path]] = {}
    for path in files:
        attack = json.loads(path.read_text(encoding="utf-8"))["command"]["attack"]
        blocks.setdefault("inverting" if attack == "inverting" else "attacks", []).append(path)
    return blocks


if __name__ == "__main__":
    sys.exit(main())
