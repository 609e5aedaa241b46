"""From axes to cells: products, zips and unions."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from fedsim.studies.study import Axes, Study

Overrides = dict[str, Any]
"""Key of the scenario -> value, in the order of the study's axes."""


def combinations(study: Study) -> Iterator[Overrides]:
    """Yield what each cell changes of the scenario: the first axis slowest, each combination once."""
    seen: list[Overrides] = []
    for grid in study.grids:
        for found in _products({**study.axes, **grid}, study.zipped):
            if found not in seen:
                seen.append(found)
                yield found


def _products(axes: Axes, zipped: tuple[tuple[str, ...], ...]) -> Iterator[Overrides]:
    bundles = _bundles(axes, zipped)
    choices = [list(zip(*(axes[key] for key in keys), strict=True)) for keys in bundles]
    for chosen in product(*choices):
        pairs = {
            key: value
            for keys, values in zip(bundles, chosen, strict=True)
            for key, value in zip(keys, values, strict=True)
        }
        yield {key: pairs[key] for key in axes}  # a table before the entries that change it


def _bundles(axes: Axes, zipped: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    """Return the axes that are multiplied: keys alone, or those of a zip at the place of their first."""
    of = {key: keys for keys in zipped for key in keys if key in axes}
    return list(dict.fromkeys(of.get(key, (key,)) for key in axes))
