"""What tells images apart in each layer's gradient, beside its length and what float32 leaves of it.

    python -m benchmarks.layer_spreads [--model resnet20|resnet56|lenet] [--data FILE.npz] [--n N] [--seed S]
        [--json OUT]

Behind many sigmoids gradients are nearly the same whatever the image (`adversary.attacks.match_layers`). For
each layer, of a ResNet as DLG changes them or of LeNet, weights U(-0.5, 0.5): the length of its gradient, the
length of what differs between random images over that, and of float32's error over it; medians of N images.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from adversary.balance import layer_spreads
from adversary.objectives import layer_of, layers_of
from adversary.problem import Problem, frozen_model
from benchmarks import common
from benchmarks.calibration.settings import SIGMOID_RESNET
from benchmarks.victims import Victim
from fedsim.seeds import derive

Row = dict[str, Any]


def rows_of(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Return a row for each layer, and the hash of the data."""
    pool = common.read_pool(arguments)
    images, labels = pool.draw(arguments.n, arguments.seed)
    options = {} if arguments.model == "lenet" else SIGMOID_RESNET
    task = Victim(model=arguments.model, model_options=options).task(pool.shape, pool.classes)
    found: list[dict[str, Row]] = []
    for number in range(arguments.n):
        weights = dict(task.build(derive(arguments.seed, "benchmark weights", number)).state_dict())
        double, single = (
            Problem(task=task, model=frozen_model(task, weights, dtype=dtype), target={}, seeds=())
            for dtype in (torch.float64, torch.float32)
        )
        image, label = images[number : number + 1], labels[number : number + 1]
        exact = double.gradient(image.double(), label)
        spreads = layer_spreads(Problem(task=task, model=double.model, target=exact, seeds=(0,)))
        found.append(_layers(exact, single.gradient(image, label), spreads))
    rows = [
        {"layer": layer, **{key: median(one[layer][key] for one in found) for key in found[0][layer]}}
        for layer in found[0]
    ]
    return rows, common.data_of(pool, images, labels)


def _layers(
    exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor], spreads: Mapping[str, float]
) -> dict[str, Row]:
    found = {}
    for names in layers_of(exact):
        length = _length([exact[name] for name in names])
        error = _length([rounded[name].double() - exact[name] for name in names])
        layer = layer_of(names[0])
        found[layer] = {
            "length": length,
            "spread": spreads[layer] ** 0.5 / length,
            "rounding": error / length,
        }
    return found


def _length(values: Sequence[Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in values]).norm())


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.layer_spreads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_options(top, 3, "images, each with weights of its own")
    top.add_argument("--model", choices=("resnet20", "resnet56", "lenet"), default="resnet20")
    return top


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a line a layer, and write the JSON file."""
    rows, data = rows_of(arguments)
    out = common.prints_to(arguments.json)
    for row in rows:
        print(
            f"{row['layer']:20} length {row['length']:.1e}   differs between images by {row['spread']:.1e}   "
            f"off in float32 by {row['rounding']:.1e}",
            file=out,
        )
    command = {key: value for key, value in vars(arguments).items() if key != "json"}
    table = {"benchmark": "layer_spreads", "command": command, "machine": common.machine(), "data": data}
    common.write_json({**table, "layers": rows}, arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    arguments = parser().parse_args(argv)
    return common.exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
