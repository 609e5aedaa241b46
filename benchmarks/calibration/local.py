"""Local steps: epochs E and batches B as in the independent check of Inverting Gradients."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import data_of, markdown, read_pool, show
from benchmarks.local_steps import Case, Way, measured, problem_of
from fedsim.options import require
from fedsim.tasks.classification import classification_task
from fedsim.training import Recipe
from fedsim.training.batches import number_of_batches

PUBLISHED = {
    (1, 1): "12.02 / .303",
    (1, 8): "14.11 / .503",
    (1, 16): "14.50 / .505",
    (2, 16): "15.17 / .526",
    (5, 1): "11.51 / .346",
    (5, 8): "14.58 / .521",
    (5, 16): "14.85 / .525",
}
"""(E, B) -> PSNR / SSIM of Inverting Gradients on CIFAR-100 by a server that knows the local recipe
(arXiv 2503.11514, Table III); one that does not: 10.5 to 11.6 dB, .13 to .23."""

WAYS: tuple[Way, ...] = (
    ("as one gradient", "inverting", {}),
    ("surrogate point", "sme", {}),
    ("unrolled", "local_steps", {}),
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Give the subcommand its own options."""
    command.add_argument("--images", type=int, default=16, help="a client holds (default 16)")
    command.add_argument("--rate", type=float, default=0.03, help="the clients' learning rate")
    command.add_argument("--evaluations", type=int, default=200, help="of each attack's objective")


def entries(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of each pair of E and B, one attack after the other; labels are granted."""
    require(1 <= arguments.images <= 16, "--images", arguments.images, "1 to 16")
    pool = read_pool(arguments)
    task = classification_task("lenet", {}, pool.shape, pool.classes)
    images, labels = pool.draw(arguments.n * arguments.images, arguments.seed)
    batches = images.reshape(arguments.n, arguments.images, *pool.shape)
    targets = labels.reshape(arguments.n, arguments.images)
    for epochs, batch in PUBLISHED:
        case = Case(images=arguments.images, epochs=epochs, batch=batch)
        problem = problem_of(case, batches, targets, task, arguments.rate, arguments.seed)
        for row in measured(case, problem, batches, arguments.evaluations, WAYS):
            yield {**row, "n": arguments.n, "data": data_of(pool, images, labels)}


def line(entry: Mapping[str, Any]) -> str:
    """Return one attack's figures for people."""
    return (
        f"{entry['data']['name']}, E{entry['epochs']} B{entry['batch']}, {entry['way']}, n = {entry['n']}: "
        f"PSNR {show(entry['psnr'])}, SSIM {show(entry['ssim'], 2)}, {entry['seconds']:.0f} s a client"
    )


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table: a row for E and B, a column a way, PSNR / SSIM, the published beside."""
    ways = list(dict.fromkeys(entry["way"] for entry in found))
    groups: dict[tuple[str, int, int, int, int], dict[str, Mapping[str, Any]]] = {}
    for entry in found:
        key = (entry["data"]["name"], entry["n"], entry["images"], entry["epochs"], entry["batch"])
        groups.setdefault(key, {})[entry["way"]] = entry
    rows = []
    for (data, n, images, epochs, batch), mine in groups.items():
        recipe = Recipe(epochs=epochs, batch_size=batch)
        cells = [
            f"{show(mine[w]['psnr'], 3)} / {show(mine[w]['ssim'], 2)}" if w in mine else "-" for w in ways
        ]
        seconds = " / ".join(f"{mine[w]['seconds']:.0f}" if w in mine else "-" for w in ways)
        steps = number_of_batches(recipe, images)
        head = [data, f"E{epochs} B{batch}", str(steps), f"{n} x {images}"]
        rows.append([*head, *cells, seconds, PUBLISHED[epochs, batch]])
    columns = ["data", "client", "steps", "clients x images", *ways, "seconds a client", "published"]
    return markdown(columns, rows)
