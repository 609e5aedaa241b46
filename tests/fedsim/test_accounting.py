"""What a run's noise promises: against closed forms, against the exact divergence, and when there is none."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm
from test_simulation_api import scenario
from torch import nn

import fedsim
from fedsim.cli.summary import as_text
from fedsim.defenses.upload import Adaptive, Upload
from fedsim.errors import InputError
from fedsim.scenario import load_scenario
from fedsim.simulation.accounting import Promise, account, epsilon_of

DELTA = 1e-5
CLIP = {"name": "clipping", "norm": 0.5}
NOISE = {"name": "noising", "std": 2.0}


def promises(
    *defenses: dict[str, Any], rounds: int = 3, drawn: int = 3, failed: int = 0, **sections: Any
) -> tuple[Promise, ...]:
    table = {
        "data": {"name": "fashion_mnist", "train_limit": 120, "test_limit": 20},
        "partition": {"name": "iid", "clients": 12},
        "model": "mlp",
        "training": {"batch_size": 1},
        "strategy": {"rounds": rounds, "clients_per_round": drawn},
        "defenses": list(defenses),
    }
    return account(load_scenario(table | sections), DELTA, failed=failed)


def exact(noise_multiplier: float, delta: float = DELTA) -> float:
    """Return epsilon of one Gaussian release of sensitivity 1 (Balle & Wang 2018, Theorem 8)."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
        return float(norm.cdf(a - b) - math.exp(epsilon + norm.logcdf(-a - b)) - delta)

    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0, high))


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("releases", [1, 50])
def test_without_sampling_epsilon_is_a_little_above_the_exact_one(noise: float, releases: int) -> None:
    """k releases of a Gaussian are one whose noise is smaller by sqrt(k)."""
    closed = exact(noise / math.sqrt(releases))
    assert closed <= epsilon_of(noise, 1.0, releases, DELTA) <= 1.15 * closed


def test_more_releases_cost_more_and_more_noise_less() -> None:
    for rate in (1.0, 0.1):
        grows = [epsilon_of(1.5, rate, releases, DELTA) for releases in (1, 2, 10, 100, 1000)]
        falls = [epsilon_of(noise, rate, 10, DELTA) for noise in (0.01, 0.1, 0.5, 1.0, 2.0, 10.0)]
        assert grows == sorted(grows)
        assert falls == sorted(falls, reverse=True)
        assert len(set(grows)) == len(grows)
        assert len(set(falls)) == len(falls)


def test_the_rate_one_is_no_amplification_and_smaller_rates_amplify() -> None:
    whole = epsilon_of(1.0, 1.0, 20, DELTA)
    assert epsilon_of(1.0, 0.9999, 20, DELTA) == pytest.approx(whole, rel=1e-2)
    found = [epsilon_of(1.0, rate, 20, DELTA) for rate in (0.01, 0.1, 0.5, 0.9)]
    assert found == sorted(found)
    assert found[-1] < whole


def mixture(shift: float, mean: float, std: float, rate: float) -> Any:
    return lambda x: rate * norm.pdf(x, mean + shift, std) + (1 - rate) * norm.pdf(x, mean, std)


def divergence(p: Any, q: Any, epsilon: float, low: float, high: float) -> float:
    """Return `sup_S P(S) - e^epsilon Q(S)`: the least delta for this epsilon."""
    parts = itertools.pairwise(np.linspace(low, high, 41))
    return sum(quad(lambda x: max(0.0, p(x) - math.exp(epsilon) * q(x)), a, b)[0] for a, b in parts)


@pytest.mark.parametrize("delta", [1e-2, 1e-3])
def test_a_draw_of_exactly_m_of_n_keeps_the_promise_and_breaks_poissons(delta: float) -> None:
    """The worst data: every other client sends -C, and this one +C in the place of one of them."""
    bound, std, drawn, clients = 1.0, 2.0, 3, 12
    total, rate = std * math.sqrt(drawn), drawn / clients
    larger, smaller = mixture(2 * bound, -drawn, total, rate), mixture(0.0, -drawn, total, rate)
    reach = (-drawn - 12 * total, -drawn + 12 * total)

    def least(epsilon: float) -> float:
        both = (divergence(larger, smaller, epsilon, *reach), divergence(smaller, larger, epsilon, *reach))
        return max(both)

    assert least(epsilon_of(total / (2 * bound), rate, 1, delta)) <= delta
    # The exact epsilon of Poisson sampling (sensitivity C): it does not hold for a draw of exactly m.
    poisson = mixture(bound, 0.0, total, rate)
    alone = mixture(0.0, 0.0, total, rate)
    claimed = brentq(lambda e: divergence(poisson, alone, e, -12 * total, 12 * total) - delta, 0, 5)
    assert least(claimed) > 2 * delta


def test_against_the_server_every_round_counts_and_no_sampling_helps() -> None:
    server, models = promises(CLIP, NOISE, rounds=40, drawn=3)
    assert (server.against, server.protects, server.adjacency) == ("server", "client", "replaced")
    assert server.noise_multiplier == pytest.approx(2.0 / (2 * 0.5))
    assert (server.releases, server.sample_rate) == (40, 1.0)
    assert server.epsilon == epsilon_of(2.0, 1.0, 40, DELTA)
    assert server.epsilon_expected == epsilon_of(2.0, 1.0, 10, DELTA)
    assert (models.against, models.adjacency) == ("models", "added or removed")
    assert models.noise_multiplier == pytest.approx(2.0 * math.sqrt(3))
    assert (models.releases, models.sample_rate) == (40, 3 / 12)
    assert models.epsilon == epsilon_of(2.0 * math.sqrt(3), 0.25, 40, DELTA)
    assert server.epsilon is not None
    assert models.epsilon is not None
    assert models.epsilon < server.epsilon


def test_where_all_clients_take_part_the_models_have_no_amplification() -> None:
    _, models = promises(CLIP, NOISE, drawn=12)
    assert (models.sample_rate, models.adjacency) == (1.0, "replaced")
    assert models.epsilon == epsilon_of(2.0 * math.sqrt(12), 1.0, 3, DELTA)


def test_more_rounds_cost_more_and_more_noise_less() -> None:
    by_rounds = [promises(CLIP, NOISE, rounds=rounds) for rounds in (1, 2, 8)]
    by_noise = [promises(CLIP, {"name": "noising", "std": std}) for std in (4.0, 2.0, 0.1)]
    for runs in (by_rounds, by_noise):
        for place in (0, 1):
            found = [run[place].epsilon for run in runs]
            assert None not in found
            assert found == sorted(found, key=float)  # type: ignore[arg-type]


def test_clients_of_different_size_weigh_differently() -> None:
    """The heaviest client stands out most where the others that are drawn are the lightest."""
    sizes = {"train_limit": 100}  # of 12 clients four hold nine, the others eight
    training = {"algorithm": "fedavg", "batch_size": 4}
    _, models = promises(CLIP, NOISE, training=training, data={"name": "fashion_mnist", **sizes})
    assert models.noise_multiplier == pytest.approx(2.0 * math.sqrt(81 + 2 * 64) / 9)
    assert (models.sample_rate, models.adjacency) == (1.0, "replaced")
    assert models.reason == "clients weigh by 8 to 9 examples: without amplification by sampling"
    assert models.epsilon == epsilon_of(2.0 * math.sqrt(81 + 2 * 64) / 9, 1.0, 3, DELTA)


@pytest.mark.parametrize(
    ("chain", "noise_multiplier"),
    [
        ([{"name": "noising", "epsilon": 2.0, "delta": 1e-5, "clip_norm": 0.5}], None),
        ([CLIP, {"name": "noising", "std": 0.5}, NOISE], 0.5),  # the second noise only adds to the first
        ([CLIP, NOISE, CLIP], 2.0),  # what follows sees no more than the server could
        ([CLIP, NOISE, {"name": "quantizing"}, {"name": "pruning", "fraction": 0.5, "fill": "absent"}], 2.0),
        ([{"name": "quantizing"}, {"name": "clipping", "norm": 4.0}, CLIP, NOISE], 2.0),
        ([CLIP, {"name": "masking", "p": 0.5}, NOISE], 2.0),
        ([CLIP, {"name": "masking", "p": 0.75, "rescale": True}, NOISE], 0.5),
        ([CLIP, {"name": "masking", "p": 0.75, "rescale": True, "share": 0.5}, NOISE], 0.5),
        ([CLIP, {"name": "pruning", "fraction": 0.5}, NOISE], 2.0),
        ([CLIP, NOISE, {"name": "noising", "std": 1.0, "distribution": "laplace"}], 2.0),
    ],
)
def test_chains_that_promise(chain: Sequence[dict[str, Any]], noise_multiplier: float | None) -> None:
    server = promises(*chain)[0]
    if noise_multiplier is None:
        noise_multiplier = math.sqrt(2 * math.log(1.25e5)) / 2.0 / 2
    assert server.noise_multiplier == pytest.approx(noise_multiplier)
    assert server.reason == ""
    assert server.epsilon is not None


def test_clipping_by_tensor_or_entry_bounds_the_whole_by_their_number() -> None:
    from fedsim.models.build import model_factory

    parameters = list(model_factory("mlp", {}, (1, 28, 28), 10)().parameters())
    for scope, parts in (("tensor", len(parameters)), ("entry", sum(p.numel() for p in parameters))):
        server = promises({**CLIP, "scope": scope}, NOISE)[0]
        assert server.noise_multiplier == pytest.approx(2.0 / math.sqrt(parts))


LAPLACE = {"name": "noising", "distribution": "laplace", "epsilon": 1.0, "clip_norm": 1.0}


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([NOISE], "nothing bounds the update before the noise"),
        ([NOISE, CLIP], "nothing bounds the update before the noise"),
        ([CLIP, LAPLACE], "only Gaussian noise is accounted for"),
        ([CLIP, LAPLACE, NOISE], "another noise between"),
        ([{**CLIP, "share": 0.5}, NOISE], "only a share of the clients clips the update"),
        ([CLIP, {**NOISE, "share": 0.5}], "only a share of the clients adds the noise"),
        ([CLIP, {"name": "quantizing"}, NOISE], "quantizing between"),
        ([CLIP, {"name": "pruning", "fraction": 0.5, "fill": "absent"}, NOISE], "marks where the update is"),
        ([CLIP, {"name": "test_accounting:Own"}, NOISE], "nothing is known of Own"),
        ([CLIP, {"name": "noising", "std": 0.0}], "is 0"),
        ([CLIP, {"name": "noising", "std": 1e-9}], "next to nothing"),
    ],
)
def test_chains_that_promise_nothing_say_why(chain: Sequence[dict[str, Any]], reason: str) -> None:
    found = promises(*chain)
    assert [promise.epsilon for promise in found] == [None, None]
    assert reason in found[0].reason
    assert found[1].reason


@pytest.mark.parametrize(
    ("chain", "sections", "reason"),
    [
        ([CLIP, {"name": "masking", "p": 0.5}, NOISE], {}, "absent entries"),
        ([CLIP, NOISE, {"name": "quantizing"}], {}, "after the noise"),
        ([CLIP, NOISE], {"strategy": {"name": "fedmedian", "rounds": 2}}, "strategy fedmedian"),
        ([CLIP, NOISE], {"strategy": {"name": "fedavg", "weighted_by_key": "train-loss"}}, "fedavg is not"),
        ([CLIP, NOISE], {"failed": 2}, "2 replies failed"),
    ],
)
def test_models_that_are_not_made_of_the_sum_promise_no_more_than_the_uploads(
    chain: Sequence[dict[str, Any]], sections: dict[str, Any], reason: str
) -> None:
    server, models = promises(*chain, **sections)
    assert server.epsilon is not None
    assert models.epsilon is None
    assert reason in models.reason
    assert models.reason.endswith("what holds against the server holds here as well")


def test_buffers_that_travel_without_noise_void_every_promise() -> None:
    for promise in promises(CLIP, NOISE, model="convnet"):
        assert promise.epsilon is None
        assert "running_mean" in promise.reason
    assert all(
        p.epsilon is not None for p in promises(CLIP, NOISE, model={"name": "convnet", "norm": "group"})
    )


PRIVATE = {"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 3.0}


@pytest.mark.parametrize(
    ("training", "rate", "releases"),
    [
        ({"batch_size": 2}, 0.2, 4),  # FedSGD: two of ten, drawn anew each round
        ({"batch_size": 16}, 1.0, 4),  # all ten
        ({"algorithm": "fedavg", "epochs": 3, "batch_size": 2}, 1.0, 12),  # each example once an epoch
        ({"algorithm": "fedavg", "steps": 1, "batch_size": 2}, 0.2, 4),
        ({"algorithm": "fedavg", "steps": 3, "batch_size": 2}, 1.0, 4),  # three of five batches of an epoch
        ({"algorithm": "fedavg", "steps": 6, "batch_size": 2}, 1.0, 8),  # into the second epoch
    ],
)
def test_dpsgd_protects_an_example(training: dict[str, Any], rate: float, releases: int) -> None:
    (found,) = promises(PRIVATE, rounds=4, training=training)
    assert (found.against, found.protects) == ("server", "example")
    assert (found.sample_rate, found.releases) == (rate, releases)
    assert found.noise_multiplier == 1.5
    assert found.epsilon == epsilon_of(1.5, rate, releases, DELTA)
    assert found.epsilon_expected == epsilon_of(1.5, rate, releases // 4, DELTA)


def test_dpsgd_promises_nothing_without_noise_or_for_some() -> None:
    (silent,) = promises({**PRIVATE, "noise_multiplier": 0.0})
    (some,) = promises({**PRIVATE, "share": 0.5})
    assert (silent.epsilon, some.epsilon) == (None, None)
    assert "noise_multiplier is 0" in silent.reason
    assert "only a share" in some.reason


def test_a_chain_may_promise_to_clients_and_to_examples() -> None:
    assert [promise.protects for promise in promises(CLIP, NOISE, PRIVATE)] == ["client", "client", "example"]


def test_without_noise_nothing_is_said() -> None:
    assert promises() == ()
    assert promises(CLIP) == ()
    assert promises({"name": "masking", "p": 0.5}) == ()


def test_delta_is_a_probability() -> None:
    with pytest.raises(InputError, match=r"delta = 1\.0: allowed: 0 < delta < 1"):
        account(load_scenario({}), 1.0)


class Own:
    """A defence of which the accounting knows nothing."""

    def apply(self, upload: Upload, generator: torch.Generator) -> Upload:
        return upload

    def adaptive(self, unit: float) -> Adaptive | None:
        return None


def test_the_bound_holds_for_what_the_defences_do() -> None:
    """Two updates that are as far apart as they can be: clipped, they differ by 2C at most, and reach it."""
    from fedsim.defenses.clipping import Clipping

    model = nn.Linear(5, 3)
    far = {name: torch.full_like(value, 1e3) for name, value in model.named_parameters()}
    for scope, parts in (("update", 1), ("tensor", 2), ("entry", 18)):
        one = Clipping(norm=0.5, scope=scope).apply(Upload(far), torch.Generator()).values  # type: ignore[arg-type]
        length = math.sqrt(sum(value.double().square().sum().item() for value in one.values()))
        assert 2 * length == pytest.approx(2 * 0.5 * math.sqrt(parts), rel=1e-6)


SHORT = {"attacks": [{"name": "idlg", "max_evaluations": 3}], "workers": 0}


def test_the_summary_of_a_run_says_what_its_noise_promises(tmp_path: Path) -> None:
    noisy = scenario(adversary=SHORT, strategy={"rounds": 2, "clients_per_round": 3})
    run = fedsim.run(noisy | {"defenses": [CLIP, NOISE]}, out=tmp_path / "run")
    server, models = run.summary["privacy"]
    assert (server["against"], server["releases"], models["sample_rate"]) == ("server", 2, 0.5)
    assert server["epsilon"] == epsilon_of(2.0, 1.0, 2, DELTA)
    assert json.loads(json.dumps(run.summary["privacy"])) == run.summary["privacy"]
    line = next(line for line in as_text(run.summary, run.folder).splitlines() if line.startswith("privacy"))
    assert line == (
        f"privacy   epsilon {server['epsilon']:.3g} for a client against the server, "
        f"{models['epsilon']:.3g} for a client against who sees the global models (delta 1e-05)"
    )
    again = fedsim.attack(run.folder, out=tmp_path / "again")
    assert again.summary["privacy"] is None
    assert "privacy" not in as_text(again.summary, again.folder)


def test_the_summary_says_why_noise_promises_nothing(tmp_path: Path) -> None:
    run = fedsim.run(scenario(adversary=SHORT) | {"defenses": [NOISE]}, out=tmp_path / "noise")
    assert [row["epsilon"] for row in run.summary["privacy"]] == [None, None]
    assert "privacy   no promise: nothing bounds the update" in as_text(run.summary, run.folder)
    run = fedsim.run(scenario(adversary=SHORT) | {"defenses": [CLIP]}, out=tmp_path / "clip")
    assert run.summary["privacy"] is None
