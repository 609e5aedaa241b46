"""What the benchmarks of attacks share: data and its hash, intervals, the machine, JSON out."""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from adversary.statistics import Interval, bca, wilson
from fedsim.data.dataset import Split
from fedsim.data.load import load_dataset
from fedsim.errors import InputError
from fedsim.options import require
from fedsim.seeds import numpy_generator

EMBEDDED = "fashion_mnist"
PHOTOGRAPHS = "photographs"


@dataclass(frozen=True, eq=False)
class Pool:
    """Images to draw victims from."""

    name: str
    split: Split
    shape: tuple[int, int, int]
    """(C, H, W), after resizing."""
    classes: int
    file_sha256: str | None
    """Of the file that `--data` names; None for the embedded data."""

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return images (count, C, H, W) in [0, 1] and labels (count,): a seeded draw without replacement."""
        require(count <= len(self.split), "--n", count, f"at most {len(self.split)} images in {self.name}")
        return self._read(numpy_generator(seed, "benchmark images").permutation(len(self.split))[:count])

    def draw_batches(self, count: int, size: int, distinct: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return `count` batches of `size` images, end to end, each of `distinct` labels in equal shares."""
        rng = numpy_generator(seed, "benchmark batches")
        order = rng.permutation(len(self.split))
        held = {label: list(order[self.split.labels[order] == label]) for label in range(self.classes)}
        chosen = []
        for _ in range(count):
            able = [label for label, rows in held.items() if len(rows) >= size // distinct]
            require(len(able) >= distinct, "--n", count, f"fewer: {self.name} has no images left of a label")
            labels = rng.permutation(able)[:distinct]
            chosen += [held[label].pop() for label in labels for _ in range(size // distinct)]
        return self._read(np.array(chosen))

    def _read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = self.split.batch(rows)
        if images.shape[1:] != self.shape:
            images = resize(images, list(self.shape[1:]), antialias=True).clamp(0, 1)
        return images.contiguous(), labels


def add_options(parser: argparse.ArgumentParser, n: int, what: str) -> None:
    """Give a benchmark the options that all share; `n` is the default number of `what`."""
    parser.add_argument(
        "--data", metavar="FILE.npz", help="images and labels, or photographs (default: the embedded data)"
    )
    parser.add_argument("--n", type=int, default=n, help=f"{what} (default {n})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="OUT", help="write the figures here; - for standard output")
    parser.add_argument("--size", type=int, help="resize the images to so many pixels a side")
    parser.add_argument("--classes", type=int, help="outputs of the model (default: the classes of the data)")


def read_pool(arguments: argparse.Namespace) -> Pool:
    """Return the images that the options name. Raises InputError for a file that cannot be used."""
    require(arguments.n >= 1, "--n", arguments.n, "1 or more")
    size, classes = arguments.size, arguments.classes
    require(size is None or 8 <= size <= 1024, "--size", size, "8 to 1024 pixels")
    name, options = ("npz", {"path": arguments.data}) if _is_file(arguments.data) else (arguments.data, {})
    dataset = load_dataset(name or EMBEDDED, options, 0)
    allowed = f"at least {dataset.num_classes}, the classes of the data"
    require(classes is None or classes >= dataset.num_classes, "--classes", classes, allowed)
    channels, height, width = dataset.shape
    return Pool(
        name=Path(arguments.data).stem if arguments.data else EMBEDDED,
        split=dataset.train,
        shape=(channels, size or height, size or width),
        classes=classes or dataset.num_classes,
        file_sha256=_file_hash(Path(arguments.data).expanduser()) if _is_file(arguments.data) else None,
    )


def _is_file(data: str | None) -> bool:
    """Return whether `--data` names a file, and not what is installed already."""
    return data is not None and data != PHOTOGRAPHS


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data_of(pool: Pool, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what identifies the images of a benchmark: name, shape and hashes (float32, row-major)."""
    content = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
    return {
        "name": pool.name,
        "shape": list(pool.shape),
        "classes": pool.classes,
        "file_sha256": pool.file_sha256,
        "images_sha256": content.hexdigest(),
    }


def share(hits: Sequence[bool]) -> Interval:
    """Return the share of hits with Wilson's interval."""
    return wilson(sum(hits), len(hits))


def median(values: Sequence[float], clusters: Sequence[int] | None = None) -> Interval:
    """Return the median with its bootstrap interval."""
    return bca(values, clusters, seed=0, statistic="median")


def mean(values: Sequence[float], clusters: Sequence[int] | None = None) -> Interval:
    """Return the mean with its bootstrap interval."""
    return bca(values, clusters, seed=0)


def show(interval: Mapping[str, Any], digits: int = 3, factor: float = 1.0) -> str:
    """Return an interval for people: `0.97 [0.92, 0.99]`."""
    value = next(interval[key] for key in ("share", "median", "mean") if key in interval)
    if value is None:
        return "-"
    bounds = [interval["low"], interval["high"]]
    text = rounded(value * factor, digits)
    if None in bounds:
        return text
    return f"{text} [{', '.join(rounded(bound * factor, digits) for bound in bounds)}]"


def rounded(value: float, digits: int) -> str:
    """Return a number of so many significant digits, 120 rather than 1.2e+02."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text else text


def machine() -> dict[str, Any]:
    """Return what a figure depends on: versions, cores, threads."""
    names = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "breaching")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def prints_to(out: str | None) -> TextIO:
    """Return where lines for people go: not to standard output where JSON does."""
    return sys.stderr if out == "-" else sys.stdout


def write_json(table: Mapping[str, Any], out: str | None) -> None:
    """Write the figures of a benchmark, as `--json` says."""
    if out is None:
        return
    text = json.dumps(table, indent=1, default=_plain) + "\n"
    if out == "-":
        sys.stdout.write(text)
    else:
        Path(out).write_text(text, encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_block(path: Path, name: str, text: str) -> None:
    """Put text between the marks `<!-- name -->` and `<!-- end of name -->` of a document.

    Raises InputError where the document lacks them.
    """
    document = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    require(begin in document and end in document, "--into", str(path), f"a file with the line {begin!r}")
    head, _, rest = document.partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")


def exit_code(work: Callable[[], None]) -> int:
    """Do the work of a command, and return 0; 2 for bad input, of which one line is printed."""
    try:
        work()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def put_table(kind: str, text: str, into: Path | None) -> None:
    """Print a table, or put it into a document. Raises InputError where there is no such document."""
    if into:
        require(into.is_file(), "--into", str(into), "a document that is there")
        replace_block(into, kind, text)
    else:
        print(text)


def command_line(module: str, command: Mapping[str, Any], skip: Sequence[str] = ("json",)) -> str:
    """Return the command with the options that were set; a file goes by its name."""
    words = [f"python -m {module}"]
    for key, value in command.items():
        if key in skip or value is None:
            continue
        if key in ("data", "weights", "training", "prior"):
            value = Path(value).name
        separator = "," if module == "benchmarks.attacks" else " "
        parts = value if isinstance(value, list) else [value]
        text = separator.join(shlex.quote(str(part)) for part in parts)
        flag = f"--{key.replace('_', '-')}"
        words.append(text if key == "what" else flag if value is True else f"{flag} {text}")
    return " ".join(words)
