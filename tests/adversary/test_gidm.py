"""GIDM on a U-Net of 8x8 images, timestep and noise granted: both phases, both objectives, a batch."""

from dataclasses import replace

import pytest
import torch
from denoisers import drawn
from safetensors.torch import save_file

from adversary.attacks.gidm import GIDM, through, with_prior
from adversary.attacks.prior_weights import DIFFERENCE, likely_weight, noise_unit, noise_weight
from adversary.metrics import psnr
from adversary.problem import Problem
from adversary.reconstruct import reconstruct
from fedsim.defenses.upload import Adaptive
from fedsim.errors import InputError
from fedsim.tasks.ddim import ddim_sample


def granted(timesteps: list[list[int]]) -> tuple[Problem, torch.Tensor]:
    found = drawn(timesteps, channels=[8, 16])
    return replace(found.problem, timesteps=found.timesteps, noise=found.noise), found.images


@pytest.mark.parametrize("objective", ["l2", "cosine"])
def test_reads_the_image_from_its_pixels(objective):
    problem, images = granted([[200]])
    attack = GIDM(phases="pixels", objective=objective, start="grey", max_evaluations=400)
    (result,) = reconstruct(attack, problem)
    assert result.status == "converged"
    assert psnr(result.images, images[0].float()) > 40


def solvable(timesteps: list[list[int]]) -> tuple[Problem, torch.Tensor]:
    """Return captures of a U-Net wide enough that the inputs of its layers follow from their gradients."""
    found = drawn(timesteps, channels=[32, 64])
    return replace(found.problem, timesteps=found.timesteps, noise=found.noise), found.images


def test_what_the_layers_inputs_say_leaves_phase_2_next_to_nothing_to_do():
    problem, images = solvable([[200], [900]])
    attack = GIDM(phases="pixels", max_evaluations=8)
    told, alone = attack.attack(problem), replace(attack, start="natural").attack(problem)
    for row in range(2):
        assert psnr(told.images[row].float(), images[row].float()) > 60
        assert psnr(alone.images[row].float(), images[row].float()) < 40
    assert told.converged.all()


def test_where_no_layers_input_follows_it_starts_as_it_did():
    problem, _ = granted([[200]])
    attack = GIDM(phases="pixels", max_evaluations=3)
    plain = replace(attack, start="natural").attack(problem)
    assert torch.equal(attack.attack(problem).images, plain.images)


def test_inputs_of_two_images_at_one_timestep_do_not_say_which_is_which():
    """Taken with the other's noise they are no images; the loss says so, and the search starts elsewhere."""
    problem, images = solvable([[300, 300]])
    (result,) = reconstruct(GIDM(phases="pixels", max_evaluations=600), problem, restarts=2)
    assert psnr(result.images, images[0].float()).min() > 35


def test_the_chain_of_a_model_that_has_learnt_nothing_does_not_spoil_the_pixels():
    problem, images = granted([[200]])
    attempt = GIDM(latent_evaluations=3, steps=4, max_evaluations=400).attack(problem)
    assert attempt.parts["phase1"].abs().max() > 100  # divided by sqrt(alpha-bar_T) of the cosine schedule
    assert attempt.converged.all()
    assert psnr(attempt.images[0].float(), images[0].float()) > 40


def test_a_batch_of_two():
    problem, images = granted([[100, 300]])
    (result,) = reconstruct(GIDM(phases="pixels", start="grey", max_evaluations=600), problem)
    # Each image has its own timestep and noise, so that their order is told.
    assert psnr(result.images, images[0].float()).min() > 35


def test_latents_are_searched_through_the_chain_of_the_prior(tmp_path):
    problem, _ = granted([[200]])
    attack = GIDM(phases="latents", steps=4, latent_evaluations=3)
    few, more = attack.attack(problem), replace(attack, latent_evaluations=20).attack(problem)
    assert more.losses[0] < few.losses[0]
    assert torch.equal(more.images, more.parts["phase1"])
    other = problem.task.build(5)
    save_file(dict(other.state_dict()), tmp_path / "prior.safetensors")
    foreign = replace(attack, prior=str(tmp_path / "prior.safetensors")).attack(problem)
    assert (foreign.images - few.images).abs().max() > 1e-3


def test_the_gradient_through_the_chain_is_the_derivative():
    problem, _ = granted([[200]])
    task, model = problem.task, problem.model

    def decode(latents):
        return ddim_sample(task, model, latents.reshape(1, 1, 8, 8), 3, checkpointing=True)

    def evaluate(points, rows):
        return points.pow(3).sum(dim=1), 3 * points.square()

    at = problem.draw_images().flatten(1)
    step = 1e-4 * torch.randn(at.shape, generator=torch.Generator().manual_seed(0), dtype=at.dtype)
    through_chain, rows = through(decode, evaluate), torch.tensor([0])
    slope = through_chain(at, rows)[1]
    up, down = through_chain(at + step, rows)[0], through_chain(at - step, rows)[0]
    torch.testing.assert_close((slope * step).sum(dim=1), (up - down) / 2, rtol=1e-3, atol=1e-9)


def test_what_is_missing_or_unfit_is_said(tmp_path):
    problem, _ = granted([[200]])
    with pytest.raises(InputError, match="timesteps and noise"):
        GIDM().attack(replace(problem, noise=None))
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="safetensors of a denoiser"):
        GIDM(prior=str(tmp_path / "other.safetensors")).attack(problem)


def test_under_known_noise_phase_2_leaves_alone_what_explains_the_gradient():
    """Noise so strong that any image does: phase 1 has the last word; without noise phase 2 goes on."""
    problem, _ = granted([[300]])
    attack = GIDM(latent_evaluations=2, steps=2, max_evaluations=5)
    free = attack.attack(problem)
    assert not torch.equal(free.images, free.parts["phase1"])
    std = 10 * float(torch.cat([value.flatten() for value in problem.target.values()]).abs().max())
    loud = {
        name: value + std * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).double()
        for name, value in problem.target.items()
    }
    found = attack.attack(replace(problem, target=loud, knowledge=Adaptive(noise_std=std)))
    assert torch.equal(found.images, found.parts["phase1"])


def test_the_prior_of_latents_weighs_as_the_noise_says():
    """D + w |z|^2 in units of the gradient is -2 sigma^2 log p: w = sigma^2 / |g*|^2."""
    problem = replace(granted([[300]])[0], knowledge=Adaptive(noise_std=0.5))
    weight = noise_unit(problem)
    square = sum(float(value.square().sum()) for value in problem.target.values())
    assert float(weight[0]) == pytest.approx(0.25 / square)
    assert noise_unit(replace(problem, knowledge=None)).tolist() == [0.0]

    def flat(points: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(rows), dtype=points.dtype), torch.zeros_like(points)

    points = torch.randn(1, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, slope = with_prior(flat, weight)(points, torch.tensor([0]))
    torch.testing.assert_close(loss, weight * points.square().sum(dim=1))
    torch.testing.assert_close(slope, 2 * weight * points)


def test_under_weak_noise_the_prior_of_images_weighs_as_bayes_has_it():
    """As sigma^2 where noise is weak, by 2 / b; as sigma where it is strong and that would be more."""
    problem = granted([[300]])[0]
    weak, strong = (replace(problem, knowledge=Adaptive(noise_std=std)) for std in (1e-6, 1e3))
    torch.testing.assert_close(likely_weight(weak), 2 / DIFFERENCE * noise_unit(weak))
    torch.testing.assert_close(likely_weight(strong), noise_weight(strong))
    assert (likely_weight(weak) < noise_weight(weak)).all()


def test_who_knows_of_weak_noise_is_not_worse_off_than_who_does_not():
    problem, images = granted([[200]])
    length = torch.cat([value.flatten() for value in problem.target.values()]).square().mean().sqrt()
    std, drawn_by = 0.02 * float(length), torch.Generator().manual_seed(0)
    noised = {
        name: value + std * torch.randn(value.shape, generator=drawn_by).double()
        for name, value in problem.target.items()
    }
    naive = replace(problem, target=noised)
    attack = GIDM(phases="pixels", start="grey", max_evaluations=100)
    told = [
        float(psnr(attack.attack(one).images[0].float(), images[0].float()))
        for one in (naive, replace(naive, knowledge=Adaptive(noise_std=std)))
    ]
    assert told[0] > 20
    assert told[1] > told[0] - 0.5
