"""What is measured: each subcommand is a list of settings, measured one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from adversary.attacks import ATTACKS
from benchmarks.victims import Victim
from fedsim.defenses.chain import describe
from fedsim.options import require

SIGMOID_RESNET: Mapping[str, Any] = {"activation": "sigmoid", "strides": False, "init": "uniform"}
"""DLG's changes to a ResNet: twice differentiable, no strides, weights and biases U(-0.5, 0.5)."""
NOISE = (1e-4, 1e-3, 1e-2, 1e-1)
PRUNING = (0.01, 0.1, 0.2, 0.3, 0.5, 0.7)
CASES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "masking": ({"name": "masking", "p": 0.5},),
    "clipping": ({"name": "clipping", "norm": 1.0},),
    "pruning": ({"name": "pruning", "fraction": 0.9},),
    "noising": ({"name": "noising", "std": 0.07},),
    "quantizing": ({"name": "quantizing", "dtype": "int8"},),
    "dpsgd": ({"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 0.003},),
    "chain": (
        {"name": "clipping", "norm": 1.0},
        {"name": "masking", "p": 0.5},
        {"name": "noising", "std": 0.002},
    ),
}
"""A strength of each defence at which knowing it decides, and a chain; gradients are 15 to 30 long."""
SMALL_IMAGES = {"noise": 0.01, "gradient": 1.0}
"""Weights of GradInversion that do better than the paper's below 64 pixels a side."""
LENET_CANDIDATES = ("idlg", "dlg", "inverting")
CHOICES: Mapping[str, tuple[Victim, tuple[str, ...]]] = {
    "lenet": (Victim(), LENET_CANDIDATES),
    "lenet, batch 4": (Victim(batch_size=4, assumed_noise=1e-5), LENET_CANDIDATES),
    **{
        f"lenet, {name}": (Victim(defenses=CASES[name], adaptive=True), LENET_CANDIDATES)
        for name in ("masking", "clipping", "pruning", "noising", "chain")
    },
    "mlp": (Victim(model="mlp"), ("analytic", "spear", "idlg", "inverting")),
    "convnet of width 8": (
        Victim(model="convnet", model_options={"width": 8}, mode="eval"),
        ("inverting", "idlg"),
    ),
}
"""Victims that ask for different attacks, and which of those `auto` has to choose from suit them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of a table."""

    name: str
    victim: Victim
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 1
    n: int | None = None
    """Captures, where it is not `--n`."""
    distinct: int | None = None
    """Different labels in a batch, each as often as the next; None for a batch as it falls."""
    leaked: tuple[str, str] = ("ssim_above", "0.5")
    """Which of the shares of `figures` says how many images leak."""


def lenet(attack: str, restarts: int, options: Mapping[str, Any]) -> list[Setting]:
    """Return DLG or iDLG on LeNet, batch 1 (iDLG, section 4)."""
    return [Setting(name="batch 1", victim=Victim(), attack=attack, options=options, restarts=restarts)]


def coordinates(attack: str, options: Mapping[str, Any]) -> list[Setting]:
    """Return LeNet with what the search moves and where it starts: natural coordinates and pixels."""
    return [
        Setting(
            name=f"{moved} from {start}",
            victim=Victim(),
            attack=attack,
            options={"coordinates": moved, "start": start, **options},
        )
        for moved in ("natural", "pixels")
        for start in ("natural", "normal")
    ]


def batches(
    sizes: list[int], attack: str, options: Mapping[str, Any], restarts: int, prior: float
) -> list[Setting]:
    """Return LeNet at several batch sizes (DLG, section 4.1); from 2 on with a prior.

    `prior` is the noise that the attacker assumes, by which total variation is weighed.
    """
    settings = []
    for size in sizes:
        noise = prior if size >= 2 else 0.0
        victim = Victim(batch_size=size, assumed_noise=noise)
        name = f"batch {size}{', prior' if noise else ''}"
        settings.append(Setting(name=name, victim=victim, attack=attack, options=options, restarts=restarts))
    return settings


def resnet(model: str, sizes: list[int], attack: str, options: Mapping[str, Any]) -> list[Setting]:
    """Return a ResNet as DLG changes them, at several batch sizes."""
    return [
        Setting(
            name=f"{model}, batch {size}",
            victim=Victim(model=model, model_options=SIGMOID_RESNET, batch_size=size),
            attack=attack,
            options=options,
        )
        for size in sizes
    ]


def defenses(attack: str, options: Mapping[str, Any]) -> list[Setting]:
    """Return DLG's table of defences, each with the attacker who does not know it and the one who does."""
    tables: dict[str, dict[str, Any]] = {"none": {"name": "none"}}
    for distribution in ("gaussian", "laplace"):
        for std in NOISE:
            table = {"name": "noising", "distribution": distribution, "std": std}
            tables[f"{distribution} {std:g}"] = table
    for dtype in ("fp16", "int8"):
        tables[dtype] = {"name": "quantizing", "dtype": dtype}
    for fraction in PRUNING:
        tables[f"pruning {fraction:.0%}"] = {"name": "pruning", "fraction": fraction}
    return _against({name: (table,) for name, table in tables.items()}, attack, options)


def cases(names: Sequence[str], attack: str, options: Mapping[str, Any]) -> list[Setting]:
    """Return a case of each named defence in which the naive and the adaptive attacker are far apart."""
    chosen = {describe(Victim(defenses=CASES[name]).chain()): CASES[name] for name in names}
    # int8 hides no image: what it takes, and what its intervals give back, are the last digits.
    finer = ("mse_below", "0.0001")
    return [
        replace(one, leaked=finer) if "quantizing" in one.name else one
        for one in _against(chosen, attack, options)
    ]


def auto(names: Sequence[str], options: Mapping[str, Any]) -> list[Setting]:
    """Return `auto` and the attacks that it chooses from on the same captures, each with the same budget."""
    return [
        Setting(
            name=name,
            victim=CHOICES[name][0],
            attack=attack,
            options=options if "max_evaluations" in _options(attack) else {},
        )
        for name in names
        for attack in ("auto", *CHOICES[name][1])
    ]


def _options(attack: str) -> set[str]:
    return {one.name for one in fields(ATTACKS.resolve(attack, "attack"))}


def prior(stds: Sequence[float], attack: str, options: Mapping[str, Any]) -> list[Setting]:
    """Return noise with the prior's weight as it is, threefold, and as a rule in sigma^2 would have it.

    The weight grows as the noise that the attacker assumes (`adversary.attacks.prior_weights`), so that
    assuming another noise scales it. Both rules agree at a standard deviation of 0.1.
    """
    return [
        Setting(
            name=f"noise {std:g}, weight x {factor:g}",
            victim=Victim(defenses=({"name": "noising", "std": std},), assumed_noise=factor * std),
            attack=attack,
            options=options,
        )
        for std in stds
        for factor in dict.fromkeys((std / 0.1, 1.0, 3.0))
    ]


def _against(
    chains: Mapping[str, tuple[Mapping[str, Any], ...]], attack: str, options: Mapping[str, Any]
) -> list[Setting]:
    return [
        Setting(
            name=f"{name}, {'adaptive' if adaptive else 'naive'}",
            victim=Victim(defenses=chain, adaptive=adaptive),
            attack=attack,
            options=options,
        )
        for name, chain in chains.items()
        for adaptive in (False, True)
    ]


def repeats(model: str, size: int, attack: str, options: Mapping[str, Any], prior: float) -> list[Setting]:
    """Return batches whose images have all different labels, then fewer, down to one that all share."""
    victim = Victim(model=model, mode="eval", batch_size=size, labels_known=True, assumed_noise=prior)
    return [
        Setting(
            name=f"{model}, batch {size}, labels {distinct}",
            victim=victim,
            attack=attack,
            options=options,
            distinct=distinct,
        )
        for distinct in range(size, 0, -1)
        if size % distinct == 0
    ]


def gradinversion(seeds: int, options: Mapping[str, Any]) -> list[Setting]:
    """Return GradInversion with the paper's weights, for 224x224, and with those that suit small images.

    On LeNet, which has no BatchNorm, and on a narrow ConvNet in train mode with the statistics of its batch.
    """
    plain: dict[str, Any] = {}
    batchnorm: dict[str, Any] = {"model": "convnet", "model_options": {"width": 8}, "statistics_known": True}
    return [
        Setting(
            name=f"{model}, {told}",
            victim=Victim(labels_known=True, **changes),
            attack="gradinversion",
            options={"seeds": seeds, **weights, **options},
        )
        for model, changes in (("lenet", plain), ("convnet of width 8, statistics granted", batchnorm))
        for told, weights in (("the paper's weights", {}), ("small images'", SMALL_IMAGES))
    ]


def inverting(
    model: str, width: int | None, mode: str, statistics: str, trained: bool, options: Mapping[str, Any]
) -> list[Setting]:
    """Return Inverting Gradients on one image, label known (Geiping et al. 2020, section 6).

    Raises InputError where the statistics of a batch are granted that eval mode makes none of.
    """
    own = statistics == "own"
    require(mode == "train" or not own, "--statistics", statistics, "own with --mode train alone")
    victim = Victim(
        model=model,
        model_options={} if width is None else {"width": width},
        mode="train" if mode == "train" else "eval",
        labels_known=True,
        statistics_known=own,
    )
    name = model if width is None else f"{model} of width {width}"
    name = f"{name}{', trained' if trained else ''}, BatchNorm {mode}{', statistics granted' if own else ''}"
    name += f", weighting {options['weighting']}" if "weighting" in options else ""
    return [Setting(name=name, victim=victim, attack="inverting", options=options)]
