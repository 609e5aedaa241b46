"""The server's side: a curious server over any Flower strategy, conversion of uploads, ordering and seeds."""

from typing import TYPE_CHECKING, Any

from fedsim.registry import Entry, Registry, import_object

if TYPE_CHECKING:
    from strategies.build import build_strategy
    from strategies.curious import CuriousServer
    from strategies.ordered import OrderedGrid
    from strategies.seeded import Seeded
    from strategies.uploads import Uploads

__all__ = ["STRATEGIES", "CuriousServer", "OrderedGrid", "Seeded", "Uploads", "build_strategy"]

_FLOWER = "flwr.serverapp.strategy"

STRATEGIES = Registry(
    "strategy",
    Entry("fedavg", f"{_FLOWER}:FedAvg", "mean, weighted by examples", "McMahan et al. 2017"),
    Entry("fedavgm", f"{_FLOWER}:FedAvgM", "mean, with momentum on the server", "Hsu, Qi & Brown 2019"),
    Entry("fedadam", f"{_FLOWER}:FedAdam", "Adam on the server", "Reddi et al. 2021"),
    Entry("fedadagrad", f"{_FLOWER}:FedAdagrad", "Adagrad on the server", "Reddi et al. 2021"),
    Entry("fedyogi", f"{_FLOWER}:FedYogi", "Yogi on the server", "Reddi et al. 2021"),
    Entry("fedmedian", f"{_FLOWER}:FedMedian", "median of each entry", "Yin et al. 2018"),
    Entry("fedtrimmedavg", f"{_FLOWER}:FedTrimmedAvg", "trimmed mean of each entry", "Yin et al. 2018"),
    Entry(
        "fedprox",
        f"{_FLOWER}:FedProx",
        "mean; clients stay near the global weights",
        "T. Li, Sahu et al. 2020",
    ),
    Entry(
        "qfedavg", f"{_FLOWER}:QFedAvg", "clients with a high loss weigh more", "T. Li, Sanjabi et al. 2020"
    ),
    Entry("krum", f"{_FLOWER}:Krum", "the one upload nearest to its neighbours", "Blanchard et al. 2017"),
    Entry(
        "multikrum", f"{_FLOWER}:MultiKrum", "mean of the uploads that Krum trusts", "Blanchard et al. 2017"
    ),
    Entry("bulyan", f"{_FLOWER}:Bulyan", "Krum, then a trimmed mean of each entry", "El Mhamdi et al. 2018"),
    Entry(
        "dp_server_fixed",
        f"{_FLOWER}:DifferentialPrivacyServerSideFixedClipping",
        "central DP: the server clips each update and adds noise",
        "McMahan et al. 2018",
    ),
    Entry(
        "dp_server_adaptive",
        f"{_FLOWER}:DifferentialPrivacyServerSideAdaptiveClipping",
        "central DP whose clipping norm follows a quantile",
        "Andrew et al. 2021",
    ),
    Entry(
        "dp_client_fixed",
        f"{_FLOWER}:DifferentialPrivacyClientSideFixedClipping",
        "central DP over clients that clip (add the clipping defence)",
        "McMahan et al. 2018",
    ),
)

_LAZY = {
    "CuriousServer": "strategies.curious:CuriousServer",
    "OrderedGrid": "strategies.ordered:OrderedGrid",
    "Seeded": "strategies.seeded:Seeded",
    "Uploads": "strategies.uploads:Uploads",
    "build_strategy": "strategies.build:build_strategy",
}


def __getattr__(name: str) -> Any:
    """Import torch and Flower only for who uses them (PEP 562): listing the names must stay quick."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_object(_LAZY[name])
