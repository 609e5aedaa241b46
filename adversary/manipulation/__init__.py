"""Manipulations: what a malicious server changes about the model that it sends. Off unless asked for."""

from fedsim.registry import Entry, Registry

MANIPULATIONS = Registry(
    "manipulation",
    Entry(
        "imprint",
        "adversary.manipulation.imprint:Imprint",
        "a block in front of the model whose gradient sorts a batch's images into bins",
        "Fowl et al. 2022",
    ),
)
