r"""Privacy accounting: the (epsilon, delta) that a run's noise promises, and to whom (docs/defenses.md).

A release is $x + \mathcal N(0, \sigma^2 I)$ with $\lVert x\rVert_2 \le C$. All promises take the sensitivity
$2C$: that is how far x moves where one client's update (or one example's gradient) becomes another.

- Without sampling: two runs whose data differ in one client, or one example, which is *replaced*.
- With a secret draw of exactly m of n, as Flower's strategies and FedSGD's batches make it: *added or
  removed*, at the rate q = m / n. Couple the draws: with probability q the one is in and stands in another's
  place, which moves the sum by up to 2C; otherwise the outputs are alike. So the outputs of the larger data
  are $q P_1 + (1 - q) P_0$ and those of the smaller $P_0$, where $P_1$ and $P_0$ are Gaussians, mixed alike,
  at most 2C apart: the Poisson-sampled Gaussian of sensitivity 2C dominates them. (Poisson sampling itself,
  which nobody does here, would move the sum by C only, and its figure would promise too much. Balle, Barthe &
  Gaboardi 2018; Zhu, Dong & Wang 2022; Lebeda et al. 2024.)

Promises are about the arrays of the replies. `train-loss` and `num-examples` travel beside them as they are.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from clients.federation import Federation
from fedsim.defenses.dpsgd import DPSGD
from fedsim.defenses.noising import Noising
from fedsim.defenses.none import NoDefense
from fedsim.options import require
from fedsim.scenario.schema import Scenario
from fedsim.simulation.federation import cohorts_of, federation_of
from fedsim.simulation.releases import Release, release_of
from fedsim.training.batches import number_of_batches

SUMS = frozenset({"fedavg", "fedavgm", "fedadam", "fedadagrad", "fedyogi", "fedprox"})
"""Strategies whose new weights follow from the weighted mean of the uploads, and nothing else of them."""
WEAKEST = 1e-6
"""Noise multiplier below which nothing is computed: epsilon would be above 10^11."""
Chain = list[tuple[Any, bool]]
"""Defences in order, and whether all clients use each."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """(epsilon, delta)-differential privacy against an observer of the whole run, or why there is none."""

    against: Literal["server", "models"]
    """`server`: sees who takes part, and each upload by itself; `models`: sees the global models alone."""
    protects: Literal["client", "example"]
    """What two runs differ in that can hardly be told apart: all data of a client, or one of its examples."""
    delta: float
    epsilon: float | None = None
    """Of a client that takes part in every round; None: no promise."""
    epsilon_expected: float | None = None
    """Of a client that is drawn as often as is to be expected (rounded up)."""
    adjacency: Literal["replaced", "added or removed"] | None = None
    """How the two runs differ in it."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise over the sensitivity 2C of what is released."""
    sample_rate: float = 1.0
    """Chance to be in a release where the draw is secret; 1 where it is not."""
    releases: int | None = None
    """Releases that are composed."""
    reason: str = ""
    """Why there is no promise, or what weakens it."""


def account(
    scenario: Scenario, delta: float = 1e-5, *, federation: Federation | None = None, failed: int = 0
) -> tuple[Promise, ...]:
    """Return what the defences of a scenario promise; nothing where none of them adds noise.

    `federation` spares loading the data again; `failed` is the number of replies that failed in the run.
    Raises InputError for a delta that is not between 0 and 1, and where the federation cannot be had.
    """
    require(0 < delta < 1, "delta", delta, "0 < delta < 1")
    cohorts, clients = cohorts_of(scenario), scenario.partition.clients
    chain = [
        (defense, members is None or int(members.sum()) == clients)
        for defense, members in zip(cohorts.defenses, cohorts.members, strict=True)
    ]
    noisy = any(isinstance(defense, Noising) for defense, _ in chain)
    private = next(((d, by_all) for d, by_all in chain if isinstance(d, DPSGD)), None)
    if not noisy and private is None:
        return ()
    known = federation or federation_of(scenario)
    model = known.task.build(0)
    state = _open_state(model)
    promises: list[Promise] = []
    if noisy:
        promises += _of_uploads(scenario, release_of(chain, model), chain, known, failed, delta)
    if private is not None:
        promises.append(_of_examples(scenario, *private, known, delta))
    return tuple(_void(promise, state) if state else promise for promise in promises)


def as_rows(promises: Sequence[Promise]) -> list[dict[str, Any]] | None:
    """Return promises for summary.json, None for none."""
    return [asdict(promise) for promise in promises] or None


def epsilon_of(noise_multiplier: float, sample_rate: float, releases: int, delta: float) -> float:
    r"""Return epsilon of so many releases, by Opacus' RDP accountant (Mironov 2017; Mironov et al. 2019).

    The conversion is Balle et al.'s (2020). Any Renyi order gives a valid epsilon: the best of a grid is
    taken, for a secret draw the one without amplification too (that promise holds as well, and is the better
    one where the orders are too coarse). 5 to 13 % above the exact value of one Gaussian, at epsilon 90 to
    0.03.
    """
    from opacus.accountants import RDPAccountant  # takes seconds

    found: list[float] = []
    for rate in {1.0, sample_rate}:
        accountant = RDPAccountant()
        accountant.history = [(noise_multiplier, rate, releases)]
        with warnings.catch_warnings():
            # Opacus warns where the best order is the first or the last: epsilon holds all the same.
            warnings.filterwarnings("ignore", "Optimal order is the")
            found.append(accountant.get_epsilon(delta, alphas=_ORDERS if rate == 1 else _SAMPLED_ORDERS))
    return max(0.0, min(found))


_ORDERS = [1 + 10 ** (exponent / 20) for exponent in range(-80, 81)]
"""Without sampling the divergence is alpha / (2 z^2) in closed form, for any order."""
_SAMPLED_ORDERS = [
    *(1 + 10 ** (exponent / 8) for exponent in range(-16, 1)),
    *map(float, range(3, 64)),
    *(80.0, 100.0, 128.0, 192.0, 256.0, 384.0, 512.0),
]
"""With sampling each is a sum; binomials of orders above 1000 overflow."""


def _of_uploads(
    scenario: Scenario,
    release: Release | str,
    chain: Chain,
    federation: Federation,
    failed: int,
    delta: float,
) -> list[Promise]:
    """Account for clients that bound and then noise their upload."""
    server = Promise(against="server", protects="client", delta=delta)
    models = replace(server, against="models")
    if isinstance(release, str):
        return [replace(promise, reason=release) for promise in (server, models)]
    rounds, clients = scenario.strategy.rounds, scenario.partition.clients
    drawn = scenario.strategy.clients_per_round or clients
    server = _composed(server, release.noise_multiplier, 1.0, rounds, _expected(rounds, drawn, clients))
    reason = _no_sum(scenario, chain, release, failed)
    if reason:
        return [server, replace(models, reason=f"{reason}; what holds against the server holds here as well")]
    weights = _weights(federation)
    if min(weights) == max(weights):
        noise = release.noise_multiplier * math.sqrt(drawn)
        return [server, _composed(models, noise, drawn / clients, rounds)]
    noise = release.noise_multiplier * _heaviest(weights, drawn)
    why = f"clients weigh by {min(weights)} to {max(weights)} examples: without amplification by sampling"
    return [server, replace(_composed(models, noise, 1.0, rounds), reason=why)]


def _of_examples(
    scenario: Scenario, defense: DPSGD, by_all: bool, federation: Federation, delta: float
) -> Promise:
    """Account for DP-SGD: an example of the client that holds the fewest.

    FedSGD draws exactly B of its n examples a round, in secret (q = B / n). Epochs take each example once, in
    a batch that no accountant of random sampling covers: one release an epoch, without amplification.
    """
    promise = Promise(against="server", protects="example", delta=delta)
    if not by_all:
        return replace(promise, reason="only a share of the clients trains by DP-SGD")
    if defense.noise_multiplier == 0:
        return replace(promise, reason="noise_multiplier is 0")
    recipe, rounds = federation.recipe, scenario.strategy.rounds
    held = max(1, min(_sizes(federation)))
    steps, batches = number_of_batches(recipe, held), -(-held // recipe.batch_size)
    rate = recipe.batch_size / held if steps == 1 and batches > 1 else 1.0
    each = -(-steps // batches)
    drawn = scenario.strategy.clients_per_round or scenario.partition.clients
    expected = each * _expected(rounds, drawn, scenario.partition.clients)
    return _composed(promise, defense.noise_multiplier / 2, rate, each * rounds, expected)


def _composed(
    promise: Promise, noise: float, rate: float, releases: int, expected: int | None = None
) -> Promise:
    if noise < WEAKEST:
        return replace(promise, reason="the noise is next to nothing beside the bound")
    return replace(
        promise,
        epsilon=epsilon_of(noise, rate, releases, promise.delta),
        epsilon_expected=None if expected is None else epsilon_of(noise, rate, expected, promise.delta),
        adjacency="replaced" if rate == 1 else "added or removed",
        noise_multiplier=noise,
        sample_rate=rate,
        releases=releases,
    )


def _no_sum(scenario: Scenario, chain: Chain, release: Release, failed: int) -> str:
    """Return why the global models are not made of the sum of the noisy uploads alone."""
    strategy = scenario.strategy
    if strategy.name not in SUMS or strategy.options.get("weighted_by_key", "num-examples") != "num-examples":
        return f"strategy {strategy.name} is not accounted for as a mean weighted by examples"
    if failed:
        return f"{failed} replies failed, and their noise is missing from the sums"
    if any(getattr(defense, "fill", "") == "absent" for defense, _ in chain):
        return "absent entries are left out of the sum, and their noise with them"
    if any(type(defense) not in (Noising, NoDefense, DPSGD) for defense, _ in chain[release.place + 1 :]):
        return "what clients do after the noise makes the sum another"
    return ""


def _weights(federation: Federation) -> list[int]:
    """Return by how many examples each client's upload weighs: those that it trained on in a round."""
    recipe = federation.recipe
    return [min(n, number_of_batches(recipe, n) * recipe.batch_size) for n in _sizes(federation)]


def _sizes(federation: Federation) -> list[int]:
    partition = federation.partition
    return [len(partition.indices(client)) for client in range(partition.clients)]


def _heaviest(weights: Sequence[int], drawn: int) -> float:
    """Return `sqrt(sum w_i^2) / max w_i` at its least: the heaviest client among the lightest others."""
    light, heavy = sorted(weights)[: drawn - 1], max(weights)
    return math.sqrt(heavy**2 + sum(weight**2 for weight in light)) / heavy


def _expected(rounds: int, drawn: int, clients: int) -> int:
    return -(-rounds * drawn // clients)


def _open_state(model: nn.Module) -> str:
    """Return the first array that is sent as it is, without defence: a buffer such as BatchNorm's mean."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return next((name for name in model.state_dict() if name not in parameters), "")


def _void(promise: Promise, state: str) -> Promise:
    reason = f"the model's buffers, such as {state}, are sent without noise"
    return Promise(against=promise.against, protects=promise.protects, delta=promise.delta, reason=reason)
