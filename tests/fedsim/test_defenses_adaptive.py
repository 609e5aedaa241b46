"""What an attacker who knows a defence does about it: correct, differentiable twice, and batched by vmap."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.func import vmap

from fedsim.defenses.chain import Chain, describe, snr
from fedsim.defenses.clipping import Clipping
from fedsim.defenses.dpsgd import DPSGD
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.none import NoDefense
from fedsim.defenses.pruning import Pruning
from fedsim.defenses.quantizing import Quantizing
from fedsim.defenses.upload import Adaptive, Upload, identity

CHAINS = [
    (),
    (NoDefense(),),
    (Masking(p=0.5, fill="zero", rescale=True),),
    (Clipping(norm=0.7),),
    (Clipping(norm=0.7, scope="tensor"),),
    (Clipping(norm=0.3, scope="entry"),),
    (Noising(epsilon=1.0, delta=1e-5, clip_norm=0.7),),
    (Noising(distribution="laplace", epsilon=1.0, clip_norm=0.7),),
    (Quantizing(),),
    (Clipping(norm=2.0), Masking(p=0.5), Noising(std=0.1), Clipping(norm=0.2, scope="entry")),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def values(seed=0, batch=()):
    draw = generator(seed)
    shapes = {"w": (3, 4), "b": (3,), "s": ()}
    return {n: torch.randn((*batch, *s), generator=draw, dtype=torch.float64) for n, s in shapes.items()}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Appends its digit to each value: the footprint of an order."""

    digit: int
    counter: bool = True

    def apply(self, upload, generator):
        return upload.with_values({n: 10 * v + self.digit for n, v in upload.learnable().items()})

    def adaptive(self, unit):
        if not self.counter:
            return None
        return Adaptive(simulate=lambda dummy: {n: 10 * v + self.digit for n, v in dummy.items()})


def test_what_changes_no_dummy_is_not_simulated():
    plain = (Masking(p=0.5), Pruning(fraction=0.5), Quantizing(dtype="int8"), Noising(std=0.1), NoDefense())
    assert Chain(plain).adaptive(1.0).simulate is identity
    for acting in (Masking(p=0.5, rescale=True), Clipping(norm=1.0)):
        assert Chain((*plain, acting)).adaptive(1.0).simulate is not identity


@pytest.mark.parametrize(
    "other", [Masking(p=0.5, fill="zero"), Pruning(fraction=0.5), Quantizing(dtype="fp16")]
)
def test_the_noise_of_training_comes_before_all_else(other):
    private, alone = DPSGD(clip_norm=1.0, noise_multiplier=0.1), other.adaptive(1.0)
    for chain in ((private, other), (other, private)):
        counter = Chain(chain).adaptive(1.0)
        assert (counter.present is None) == (alone.present is None)
        assert (counter.slack is None) == (alone.slack is None)
        assert counter.noise_std == pytest.approx(0.1)


def test_a_chain_applies_and_simulates_in_order():
    chain = Chain([Mark(digit=1), Mark(digit=2), Mark(digit=3)])
    assert chain.apply(Upload({"w": torch.zeros(2)}), generator()).values["w"].tolist() == [123, 123]
    assert chain.adaptive(1.0).simulate({"w": torch.zeros(2)})["w"].tolist() == [123, 123]


def test_one_defence_without_a_counter_leaves_the_chain_without():
    assert Chain([Mark(digit=1), Mark(digit=2, counter=False)]).adaptive(1.0) is None


@pytest.mark.parametrize("chain", CHAINS, ids=describe)
def test_simulate_is_the_same_alone_and_under_vmap(chain):
    simulate = Chain(chain).adaptive(-0.1).simulate
    batch = values(batch=(5,))
    together = vmap(simulate)(batch)
    for i in range(5):
        alone = simulate({name: value[i] for name, value in batch.items()})
        assert all(torch.allclose(together[name][i], alone[name], atol=1e-12) for name in batch)


@pytest.mark.parametrize("chain", CHAINS, ids=describe)
def test_simulate_is_differentiable_twice(chain):
    simulate = Chain(chain).adaptive(-0.1).simulate
    point = values(seed=3)

    def call(*tensors):
        return tuple(simulate(dict(zip(point, tensors, strict=True))).values())

    inputs = tuple(value.requires_grad_() for value in point.values())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("chain", CHAINS, ids=describe)
def test_simulate_at_zero_has_finite_derivatives(chain):
    zero = {name: torch.zeros_like(value).requires_grad_() for name, value in values().items()}
    out = sum(value.sum() for value in Chain(chain).adaptive(-0.1).simulate(zero).values())
    gradients = torch.autograd.grad(out, zero.values(), create_graph=True)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    "defense", [Clipping(norm=0.4, scope=s) for s in ("update", "tensor", "entry")], ids=repr
)
def test_a_deterministic_defence_is_simulated_exactly(defense):
    upload = Upload(values())
    after = defense.apply(upload, generator())
    dummy = defense.adaptive(-0.1).simulate(upload.values)
    assert all(torch.allclose(after.values[n], dummy[n]) for n in dummy)


def test_rescaled_masking_is_simulated_where_entries_are_present():
    defense = Masking(p=0.6, fill="zero", rescale=True)
    upload = Upload(values())
    observed = defense.apply(upload, generator(1)).values
    counter = defense.adaptive(1.0)
    dummy, present = counter.simulate(upload.values), counter.present(observed)
    assert any(mask.any() for mask in present.values())
    for name, mask in present.items():
        assert torch.allclose(dummy[name][mask], observed[name][mask])
        assert torch.equal(mask, observed[name] != 0)


def test_rescaled_masking_spares_the_affine_parameters_that_it_did_not_mask():
    dummy = {"bn.weight": torch.ones(3), "bn.running_mean": torch.ones(3), "fc.weight": torch.ones(3)}
    out = Masking(p=0.5, rescale=True).adaptive(1.0).simulate(dummy)
    assert (out["bn.weight"][0], out["fc.weight"][0]) == (1, 2)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruned_entries_lie_below_the_smallest_survivor(scope):
    before = values()
    pruning = Pruning(fraction=0.5, scope=scope)
    observed = pruning.apply(Upload(before), generator()).values
    slack = pruning.adaptive(1.0).slack(observed)
    assert sum(int((width > 0).sum()) for width in slack.values()) > 0
    for name, width in slack.items():
        assert ((before[name] - observed[name]).abs() <= width).all()
        assert torch.equal(width > 0, observed[name] == 0)
    marked = Pruning(fraction=0.5, fill="absent").adaptive(1.0)
    assert (marked.slack, marked.present) == (None, None)


@pytest.mark.parametrize("dtype", ["int8", "fp16", "bf16"])
def test_rounding_stays_within_half_a_step(dtype):
    before = {"w": torch.randn(200, generator=generator()), "b": torch.tensor(1e-3)}
    quantizing = Quantizing(dtype=dtype)
    observed = quantizing.apply(Upload(before), generator()).values
    slack = quantizing.adaptive(1.0).slack(observed)
    for name, width in slack.items():
        assert ((before[name] - observed[name]).abs() <= width * (1 + 1e-5)).all()
        assert (width <= before[name].abs().max() / 200).all()
    assert Quantizing(dtype=dtype, rounding="stochastic").adaptive(1.0).slack is None


def test_slacks_add_and_are_not_used_under_noise():
    observed = {"w": torch.tensor([0.0, 1.0, 127.0])}
    chain = Chain([Pruning(fraction=0.3), Quantizing(dtype="int8")])
    assert chain.adaptive(1.0).slack(observed)["w"].tolist() == [1.5, 0.5, 0.5]
    assert Chain([Quantizing(), Noising(std=0.1)]).adaptive(1.0).slack is None


def test_zeros_that_noise_fills_are_not_taken_for_present():
    masked_then_noised = Chain([Masking(p=0.5, fill="zero"), Noising(std=0.1)])
    assert masked_then_noised.adaptive(1.0).present is None
    noised_then_masked = Chain([Noising(std=0.1), Masking(p=0.5, fill="zero")])
    observed = noised_then_masked.apply(Upload(values()), generator()).values
    present = noised_then_masked.adaptive(1.0).present(observed)
    assert all(torch.equal(present[name], observed[name] != 0) for name in observed)


def test_masks_intersect_and_noise_adds_in_quadrature():
    chain = Chain([Noising(std=0.3), Noising(std=0.4), Pruning(fraction=0.2), Masking(p=0.5, fill="zero")])
    counter = chain.adaptive(1.0)
    assert counter.noise_std == pytest.approx(0.5)
    observed = {"w": torch.tensor([0.0, 1.0]), "b": torch.tensor(2.0)}
    found = {name: mask.tolist() for name, mask in counter.present(observed).items()}
    assert found == {"w": [False, True], "b": True}


def test_only_a_bound_on_the_whole_update_is_scale_free():
    free = {describe(d): d.adaptive(1.0).scale_free for c in CHAINS for d in c}
    assert {name for name, value in free.items() if value} == {
        "clipping(norm=0.7)",
        "clipping(norm=2.0)",
        "noising(epsilon=1.0, delta=1e-05, clip_norm=0.7)",
        "noising(distribution='laplace', epsilon=1.0, clip_norm=0.7)",
    }


@pytest.mark.parametrize(
    ("chain", "text"),
    [
        ((), "none"),
        ((NoDefense(),), "none"),
        (Masking(p=0.5), "masking(p=0.5)"),
        (Masking(p=0.5, fill="zero", rescale=True), "masking(p=0.5, fill='zero', rescale=True)"),
        ((Masking(p=0.5), NoDefense(), Noising(std=0.01)), "masking(p=0.5) + noising(std=0.01)"),
        (Chain((Quantizing(), Chain((Mark(digit=1),)))), "quantizing + Mark(digit=1)"),
        (DPSGD(clip_norm=1.0, noise_multiplier=0.5), "dpsgd(clip_norm=1.0, noise_multiplier=0.5)"),
    ],
)
def test_a_chain_in_words(chain, text):
    assert describe(chain) == text


def test_snr_is_signal_over_realised_noise():
    before = {"w": torch.full((10_000,), 2.0), "b": torch.full((), 2.0)}
    noise = {n: 0.5 * torch.randn(v.shape, generator=generator()) for n, v in before.items()}
    after = {n: v + noise[n] for n, v in before.items()}
    assert snr(before, after) == pytest.approx(4, rel=0.03)
    assert snr(before, before) == math.inf
    half = torch.arange(10_000) % 2 == 0
    masked = {"w": after["w"] * half, "b": after["b"]}
    assert snr(before, masked, {"w": half}) == pytest.approx(4, rel=0.05)
    assert snr(before, masked) < 1.5


def test_defences_are_values():
    assert Masking(p=0.5) == Masking(p=0.5)
    assert hash(replace(Masking(p=0.5), p=0.6)) != hash(Masking(p=0.5))
