"""Whose work a run stands on: the papers of the plug-ins that its scenario names."""

import re
from collections.abc import Iterator

from adversary.attacks import ATTACKS
from fedsim.data import DATASETS, PARTITIONS
from fedsim.defenses import DEFENSES
from fedsim.models import MODELS
from fedsim.registry import Registry
from fedsim.report.folder import Row, RunFolder
from fedsim.tasks import TASKS
from strategies import STRATEGIES

FLOWER = "Beutel et al. 2020, Flower: A Friendly Federated Learning Research Framework (arXiv 2007.14390)"
SSIM = (
    "Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity (IEEE TIP 13)"
)
DDIM = "Song, Meng & Ermon 2021, Denoising Diffusion Implicit Models, arXiv 2010.02502"
KERNEL_DISTANCE = "Binkowski et al. 2018, Demystifying MMD GANs, arXiv 1801.01401"
ARXIV = re.compile(r",? ?\(?arXiv[: ](\d{4}\.\d{4,5})\)?")


def citations(run: RunFolder) -> list[tuple[str, str]]:
    """Return each paper once, with its address (empty where it is not on arXiv)."""
    papers: dict[str, str] = {}
    for paper in _papers(run):
        found = ARXIV.search(paper)
        text = ARXIV.sub("", paper)
        papers[text] = f"https://arxiv.org/abs/{found[1]}" if found else papers.get(text, "")
    return [(text, address) for text, address in papers.items() if text]


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
