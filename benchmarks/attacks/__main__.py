"""Attacks side by side with peers: the same captures, starts, stopping rule and threads, in one run.

    python -m benchmarks.attacks --attack idlg|dlg|inverting --model lenet|mlp|vit|convnet|resnet18
        [--n N] [--captures 1,4,16] [--peers textbook,breaching] [--data FILE.npz] [--seed S] [--json OUT]

Peers attack N captures one after the other; ours attacks N of them (or more) for each number of
`--captures`, so many in lockstep. A reconstruction is a success at an MSE below 0.001, and stops when its
matching loss is 1e-9 of the squared length of the gradient, or after 300 steps of L-BFGS (ours: 6,000
evaluations). Printed are successes a second of processor time and on the clock; `oracle` is the time after
which a peer would have stopped that had been told of its success. Inverting Gradients runs for each number
of `--iterations` (ours: `--own-iterations`), for PSNR against processor time: a schedule is as long as its
budget, so each needs a run. Each method runs alone in a process of its own, whose peak
memory is given.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.attacks import breaching_peer
from benchmarks.attacks.cell import Cell
from benchmarks.attacks.figures import equal_psnr, rates, ratio
from benchmarks.attacks.gauge import BUDGET
from benchmarks.common import add_options, exit_code, machine, prints_to, read_pool, show, write_json
from fedsim.options import require

PEERS = ("textbook", "breaching")


def measure(cell: Cell, processes: int = 1) -> dict[str, Any]:
    """Return a cell's rows, memory and figures; its captures are dealt out to so many processes."""
    size = -(-cell.captures // processes)
    parts = [
        replace(cell, first=cell.first + start, captures=min(size, cell.captures - start))
        for start in range(0, cell.captures, size)
    ]
    begun = time.perf_counter()
    running = [_start(part) for part in parts]
    results = [_finish(process) for process in running]
    wall = time.perf_counter() - begun if len(parts) > 1 else None
    rows = [row for result in results for row in result["rows"]]
    return {
        "cell": asdict(cell),
        "processes": len(parts),
        "data": results[0]["data"],
        "peak_mb": sum(result["peak_mb"] for result in results),
        "before_mb": sum(result["before_mb"] for result in results),
        **{key: value for key, value in results[0].items() if key == "device_peak_mb"},
        "figures": rates(rows, wall),
        "rows": rows,
    }


def _start(cell: Cell) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.attacks.cell"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(cell)))
    process.stdin.close()
    process.stdin = None  # else communicate() would flush it
    return process


def _finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a cell failed:\n{err[-2000:]}")
    result: dict[str, Any] = json.loads(out)
    return result


def cells_of(arguments: argparse.Namespace) -> list[tuple[Cell, int]]:
    """Return all cells in order, each with its number of processes."""
    counts = arguments.captures
    base = Cell(
        method="textbook",
        attack=arguments.attack,
        model=arguments.model,
        captures=arguments.n,
        iterations=BUDGET,
        variation=arguments.variation,
        data=str(Path(arguments.data).expanduser().absolute()) if arguments.data else None,
        size=arguments.size,
        classes=arguments.classes,
        n=max(arguments.n, *counts),
        seed=arguments.seed,
        device=arguments.device,
        threads=arguments.threads,
        cuda_graphs=arguments.cuda_graphs,
    )
    theirs, own = [BUDGET], [BUDGET]
    if arguments.attack == "inverting":
        theirs, own = arguments.iterations, arguments.own_iterations or arguments.iterations
    found = []
    for iterations in sorted({*theirs, *own}):
        cell = replace(base, iterations=iterations)
        if iterations in theirs:
            found += [
                (replace(cell, method=peer), k) for peer in arguments.peers for k in arguments.processes
            ]
        for count in counts if iterations in own else []:
            captures = max(arguments.n, count)
            ours = replace(cell, method="ours", start=arguments.start, at_once=count, captures=captures)
            found.append((ours, 1))
    return found


def line(result: Mapping[str, Any]) -> str:
    """Return a cell's figures for people."""
    cell, figures = result["cell"], result["figures"]
    speed = figures["successes_per_second"]
    how = f"{cell['at_once']} at once" if cell["method"] == "ours" else f"{result['processes']} process(es)"
    return (
        f"{cell['method']:>9}, {how}, {cell['iterations']} evaluations: n = {figures['n']}, "
        f"success {show(figures['success'])}, PSNR {show(figures['psnr'])} dB, "
        f"successes a CPU second {show(speed['cpu'])} (oracle {show(speed['good_cpu'])}), "
        f"a second {show(speed['wall'])}, {show(figures['cpu_seconds'])} CPU s a capture, "
        f"{show(figures['evaluations'], 4)} evaluations, "
        f"memory {result['peak_mb']:.0f} MB (+{result['peak_mb'] - result['before_mb']:.0f})"
    )


def ratios_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ours over each peer, where both attacked the same captures with one process."""
    found = []
    for peer in results:
        for own in results:
            same = own["cell"]["iterations"] == peer["cell"]["iterations"]
            if own["cell"]["method"] != "ours" or peer["cell"]["method"] == "ours" or not same:
                continue
            pair = {"peer": peer["cell"]["method"], "processes": peer["processes"]}
            found.append({**pair, "captures": own["cell"]["at_once"], **_pair(own, peer)})
    return found


def equal_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each peer's cell what ours took to the same PSNR."""
    own = [result for result in results if result["cell"]["method"] == "ours"]
    peers = [result for result in results if result["cell"]["method"] != "ours"]
    return [
        {
            "peer": peer["cell"]["method"],
            "iterations": peer["cell"]["iterations"],
            "psnr": peer["figures"]["psnr"],
            "ours": equal_psnr(peer, own),
        }
        for peer in peers
    ]


def _pair(own: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, Any]:
    clocks = ("cpu", "wall", "good_cpu", "good_wall")
    return {clock: ratio(own["rows"], peer["rows"], clock) for clock in clocks}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(top, 16, "captures that peers attack")
    top.add_argument("--attack", choices=("idlg", "dlg", "inverting"), default="idlg")
    top.add_argument("--model", choices=("lenet", "mlp", "vit", "convnet", "resnet18"), default="lenet")
    top.add_argument("--captures", type=_numbers, default=[1, 4, 16], metavar="K,K", help="lockstep sizes")
    top.add_argument("--peers", type=lambda text: text.split(",") if text else [], default=list(PEERS))
    top.add_argument("--processes", type=_numbers, default=[1], help="of a peer, side by side")
    top.add_argument(
        "--iterations", type=_numbers, default=[250, 1000], help="budgets of Inverting Gradients"
    )
    top.add_argument(
        "--own-iterations", type=_numbers, metavar="N,N", help="budgets of ours (default: those of the peers)"
    )
    top.add_argument("--start", metavar="START", help="where ours starts (docs/attacks.md; its default)")
    top.add_argument("--variation", type=float, default=1e-4, help="the peers' weight of total variation")
    top.add_argument("--device", default="cpu")
    top.add_argument("--cuda-graphs", action="store_true", help="ours replays its evaluations on a GPU")
    top.add_argument("--threads", type=int, default=1)
    return top


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def run(arguments: argparse.Namespace) -> None:
    """Run all cells one after the other."""
    out = prints_to(arguments.json)
    for peer in arguments.peers:
        require(peer in PEERS, "--peers", peer, ", ".join(PEERS))
    lacking = breaching_peer.missing()
    if "breaching" in arguments.peers and lacking:
        arguments.peers.remove("breaching")
        print(lacking, file=out)
    read_pool(arguments)  # what is wrong with the data is told here, not by a cell
    results: list[dict[str, Any]] = []
    for cell, processes in cells_of(arguments):
        results.append(measure(cell, processes))
        print(line(results[-1]), file=out, flush=True)
    compared = equal_of(results) if arguments.attack == "inverting" else ratios_of(results)
    for found in compared:
        print(comparison(found), file=out)
    command = {key: value for key, value in vars(arguments).items() if key != "json"}
    table = {"benchmark": "attacks", "command": command, "machine": machine()}
    write_json({**table, "cells": results, "compared": compared}, arguments.json)


def comparison(found: Mapping[str, Any]) -> str:
    """Return a ratio for people."""
    if "psnr" in found:
        head = f"{found['peer']}, {found['iterations']} iterations, {show(found['psnr'])} dB: "
        if found["ours"] is None:
            return head + "not reached by ours"
        own = found["ours"]
        return head + f"ours at {own['iterations']}, {show(own['cpu_ratio'])} times less CPU time"
    head = f"{found['captures']} at once over {found['peer']} ({found['processes']} process(es)): "
    if found["cpu"] is None:
        return head + "the peer had no success"
    oracle = "" if found["good_cpu"] is None else f", {show(found['good_cpu'])} with the oracle"
    return head + f"{show(found['cpu'])} times its successes a CPU second{oracle}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
