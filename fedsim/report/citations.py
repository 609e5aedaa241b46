"""Whose work a run stands on: the papers of the plug-ins that its scenario names."""

from collections.abc import Iterator

from adversary.attacks import ATTACKS
from fedsim.data import DATASETS, PARTITIONS
from fedsim.defenses import DEFENSES
from fedsim.models import MODELS
from fedsim.papers import references
from fedsim.registry import Registry
from fedsim.report.folder import Row, RunFolder
from fedsim.tasks import TASKS
from strategies import STRATEGIES

FLOWER = "Beutel et al. 2020"
SSIM = "Wang et al. 2004"
DDIM = "Song, Meng & Ermon 2021"
KERNEL_DISTANCE = "Binkowski et al. 2018"


def citations(run: RunFolder) -> list[tuple[str, str]]:
    """Return each work once, in full, with its address (empty where it is not on arXiv)."""
    return list(dict.fromkeys(work for paper in _papers(run) for work in references(paper)))


def _papers(run: RunFolder) -> Iterator[str]:
    scenario = run.scenario
    yield FLOWER
    yield _paper(DATASETS, scenario.get("data", {}))
    yield _paper(PARTITIONS, scenario.get("partition", {}))
    yield _paper(TASKS, scenario.get("task", {}))
    yield _paper(MODELS, scenario.get("model", {}))
    yield _paper(STRATEGIES, scenario.get("strategy", {}))
    for defense in scenario.get("defenses", []):
        yield _paper(DEFENSES, defense)
    for attack in scenario.get("adversary", {}).get("attacks", []):
        yield _paper(ATTACKS, attack)
    if run.samples:
        yield from (DDIM, KERNEL_DISTANCE)
    if run.leakage:
        yield SSIM


def _paper(registry: Registry, plugin: Row) -> str:
    return next((entry.paper for entry in registry if entry.name == plugin.get("name")), "")
