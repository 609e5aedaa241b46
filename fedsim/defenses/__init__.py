"""Defences: what a client does to its update before it sends it. One file each."""

from fedsim.registry import Entry, Registry

DEFENSES = Registry(
    "defense",
    Entry("none", "fedsim.defenses.none:NoDefense", "send the update as it is"),
    Entry("masking", "fedsim.defenses.masking:Masking", "withhold random entries", "Kim & Park 2024"),
    Entry(
        "clipping",
        "fedsim.defenses.clipping:Clipping",
        "bound the L2 norm of the update or of each tensor, or each entry",
        "McMahan et al. 2018",
    ),
    Entry(
        "pruning", "fedsim.defenses.pruning:Pruning", "drop the smallest magnitudes", "Zhu, Liu & Han 2019"
    ),
    Entry(
        "noising",
        "fedsim.defenses.noising:Noising",
        "add Gaussian or Laplace noise, by standard deviation or by epsilon",
        "Dwork & Roth 2014",
    ),
    Entry(
        "quantizing",
        "fedsim.defenses.quantizing:Quantizing",
        "round to fp16, bf16 or int8",
        "Zhu, Liu & Han 2019",
    ),
    Entry(
        "dpsgd",
        "fedsim.defenses.dpsgd:DPSGD",
        "train with per-example clipping and Gaussian noise",
        "Abadi et al. 2016",
    ),
)
