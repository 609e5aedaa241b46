"""The rows of each subcommand: ways of attacking, and defences."""

import argparse
from dataclasses import replace
from typing import Any

from benchmarks.gidm.measure import Way
from fedsim.options import require

CHANNELS = [32, 64, 64]
"""Of the default U-Net."""
PIXELS = {"phases": "pixels", "start": "natural"}
INPUTS = {"phases": "pixels"}
RELEASED = {**PIXELS, "start": "normal", "coordinates": "pixels"}
KNOWN = [
    Way(name="GIDM, phase 2 from inputs", attack="gidm", options=INPUTS, known=True, restarts=3),
    Way(name="GIDM, phase 2 alone", attack="gidm", options=PIXELS, known=True, restarts=3),
]
PLUS = Way(name="GIDM+", attack="gidm_plus", options={}, restarts=5)
TIMESTEPS = Way(name="timesteps alone", attack="timesteps", options={})
JOINT = Way(name="joint descent", attack="joint", options={})
BOTH = Way(name="GIDM, both phases", attack="gidm", options={"start": "natural"}, known=True)
PHASE_2 = Way(name="GIDM, phase 2 alone", attack="gidm", options=PIXELS, known=True)
OTHER_PRIOR = ", prior of other data"
ABLATIONS = [
    BOTH,
    Way(name="phase 1 alone", attack="gidm", options={"phases": "latents"}, known=True),
    Way(name="DLG (pixels alone, from noise)", attack="gidm", options=RELEASED, known=True),
    PHASE_2,
    Way(
        name="Inverting Gradients",
        attack="gidm",
        options={**PIXELS, "start": "grey", "objective": "cosine", "optimizer": "adam", "tv": 0.1},
        known=True,
    ),
    PLUS,
    Way(name="prior alone, no gradient", attack="prior", options={}),
    Way(name="nearest other image", attack="nearest", options={}),
]
DEFENSES = (
    {"name": "quantizing", "dtype": "fp16"},
    {"name": "quantizing", "dtype": "bf16"},
    {"name": "quantizing", "dtype": "int8"},
    {"name": "clipping", "norm": 1.0},
    {"name": "noising", "std": 1e-4},
    {"name": "noising", "std": 1e-3},
    {"name": "pruning", "fraction": 0.5},
    {"name": "masking", "p": 0.5},
    {"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 1e-4},
    {"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 1e-3},
)
Setting = tuple[str, Way, dict[str, Any] | None, bool]
"""(name of the row, way, defence, whether the attacker knows it)"""


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Return the rows of the table that a subcommand measures."""
    if arguments.what == "defenses":
        way = replace(KNOWN[0] if arguments.granted else PLUS, restarts=2)
        return [
            (f"{', '.join(map(str, table.values()))}, {'adaptive' if known else 'naive'}", way, table, known)
            for known in (True, False)
            for table in DEFENSES
        ]
    if arguments.what == "timesteps":
        tables = (None, *DEFENSES)
        names = ["undefended", *(", ".join(map(str, table.values())) for table in DEFENSES)]
        return [(name, TIMESTEPS, table, True) for name, table in zip(names, tables, strict=True)]
    if arguments.what == "ablations":
        noise = {"name": "noising", "std": arguments.std} if arguments.std else None
        told = f", noise {arguments.std:g}" if noise else ""
        ways = [_with_prior(way, arguments.prior) for way in ABLATIONS]
        return [(f"{way.name}{told}", way, noise, bool(noise)) for way in ways]
    ways = {"known": KNOWN, "unknown": [PLUS, *([JOINT] if arguments.joint else [])]}[arguments.what]
    return [(way.name, way, None, False) for way in ways]


def _with_prior(way: Way, prior: str | None) -> Way:
    """Return the way with the denoiser of other data as its prior, where it makes use of one."""
    uses = way.attack == "prior" or (way.attack == "gidm" and way.options.get("phases") != "pixels")
    if prior is None or not uses:
        return way
    return replace(way, name=f"{way.name}{OTHER_PRIOR}", options={**way.options, "prior": prior})


def _limited(setting: Setting, evaluations: int | None) -> Setting:
    """Return the setting with so many evaluations at most, where its way counts any."""
    name, way, defense, known = setting
    if evaluations is None or way.attack not in ("gidm", "gidm_plus", "joint"):
        return setting
    return name, replace(way, options={**way.options, "max_evaluations": evaluations}), defense, known


def chosen(arguments: argparse.Namespace) -> list[Setting]:
    """Return the settings of which `--rows` names a part. Raises InputError where it names none."""
    settings = [_limited(setting, arguments.evaluations) for setting in settings_of(arguments)]
    found = [setting for setting in settings if (arguments.rows or "") in setting[0]]
    require(bool(found), "--rows", arguments.rows, "part of " + "; ".join(name for name, *_ in settings))
    return found
