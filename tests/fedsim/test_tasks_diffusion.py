"""The diffusion task: diffusers' schedulers, its identities, second derivatives through attention."""

import pickle
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.errors import InputError
from fedsim.models.attention import twice_differentiable
from fedsim.tasks.ddim import ddim_sample, ddim_timesteps
from fedsim.tasks.diffusion import Diffusion, DiffusionTask

SHAPE = (1, 8, 8)
SMALL = {"channels": [4, 8], "norm_groups": 2, "head_dim": 4}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCHEDULES = ("linear", "cosine", "sigmoid")


def task(model: str = "unet", shape: tuple[int, int, int] = SHAPE, **options: object) -> DiffusionTask:
    own = {"unet": SMALL, "dit": {"patch": 4, "depth": 2, "heads": 2, "head_dim": 4}}[model]
    return Diffusion(**options).task(model, own, shape, 10)


def batch(problem: DiffusionTask, count: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return images in [0, 1], timesteps and noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, *problem.input_shape, generator=generator).to(dtype)
    timesteps, noise = problem.draw(count, generator)
    return [images, timesteps, noise.to(dtype)]


def reference(problem: DiffusionTask, kind: type, **options: object):
    """Return diffusers' scheduler with the betas of the task."""
    left = problem.alpha_bars
    betas = 1 - left / torch.cat([left.new_ones(1), left[:-1]])
    return kind(
        num_train_timesteps=problem.timesteps,
        trained_betas=betas.numpy(),
        prediction_type=problem.prediction,
        **options,
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_loss_and_its_parts_are_those_of_diffusers(prediction, schedule):
    problem = task(prediction=prediction, schedule=schedule, timesteps=40)
    images, timesteps, noise = batch(problem)
    scheduler = reference(problem, DDPMScheduler)
    clean, model = 2 * images - 1, problem.build(0)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(problem.noisy(images, noise, timesteps), noisy)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    target = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction]
    torch.testing.assert_close(problem.target(images, noise, timesteps), target)
    expected = (model(noisy, timesteps) - target).square().mean()
    torch.testing.assert_close(problem.loss_at(model, images, timesteps, noise), expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_prediction_gives_back_image_and_noise(prediction):
    problem = task(prediction=prediction, timesteps=20, schedule="sigmoid")
    images, timesteps, noise = batch(problem, 6, torch.float64)
    timesteps = timesteps.clamp(max=17)
    noisy = problem.noisy(images, noise, timesteps)
    clean, found = problem.resolve(problem.target(images, noise, timesteps), noisy, timesteps)
    torch.testing.assert_close(clean, 2 * images - 1)
    torch.testing.assert_close(found, noise)


def test_a_noisy_image_less_its_noise_is_the_image():
    problem = task()
    images, timesteps, noise = batch(problem, dtype=torch.float64)
    noisy = problem.noisy(images, noise, timesteps)
    torch.testing.assert_close(problem.clean(noisy, noise, timesteps), images)


def test_velocity_is_orthogonal_to_the_noisy_image():
    """v and x_t are image and noise, rotated: their squares add up to the same (Salimans & Ho 2022)."""
    problem = task(prediction="v_prediction", timesteps=30)
    images, timesteps, noise = batch(problem, 5, torch.float64)
    noisy, velocity = problem.noisy(images, noise, timesteps), problem.target(images, noise, timesteps)
    torch.testing.assert_close(noisy**2 + velocity**2, (2 * images - 1) ** 2 + noise**2)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_is_that_of_diffusers(prediction, clip):
    problem = task(prediction=prediction, timesteps=40, schedule="linear")
    model, latents = problem.build(1).eval(), batch(problem)[2]
    scheduler = reference(problem, DDIMScheduler, clip_sample=clip, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    assert scheduler.timesteps.tolist() == ddim_timesteps(40, 8)
    x = latents
    with torch.no_grad():
        for now in scheduler.timesteps:
            prediction_ = model(x, now.repeat(len(x)))
            x = scheduler.step(prediction_, int(now), x, use_clipped_model_output=clip).prev_sample
        images = ddim_sample(problem, model, latents, 8, clip=clip)
    torch.testing.assert_close(2 * images - 1, x, rtol=1e-4, atol=1e-4)


def test_ddim_finds_the_image_if_the_model_knows_it():
    """With the exact noise of a single image as prediction, every latent becomes that image."""
    problem = task(timesteps=50)
    image = batch(problem, 1, torch.float64)[0]

    class Oracle(nn.Module):
        def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
            signal, disturbance = problem.scales(timesteps, noisy)
            return (noisy - signal * (2 * image - 1)) / disturbance

    latents = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = ddim_sample(problem, Oracle(), latents, 7)
    torch.testing.assert_close(found, image.expand_as(found), rtol=1e-6, atol=1e-6)


def test_checkpointing_changes_no_gradient():
    problem = task(timesteps=20)
    model = problem.build(0).double()
    latents = batch(problem, 2, torch.float64)[2].requires_grad_()
    found = []
    for checkpointing in (False, True):
        images = ddim_sample(problem, model, latents, 4, checkpointing=checkpointing)
        found.append(torch.autograd.grad(images.square().sum(), latents)[0])
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("steps", [0, 21])
def test_more_steps_than_timesteps_are_refused(steps):
    with pytest.raises(InputError, match=rf"steps = {steps}: allowed: 1 to timesteps = 20"):
        ddim_timesteps(20, steps)


@pytest.mark.parametrize("model", ["unet", "dit"])
def test_gradient_inversion_can_differentiate_twice(model):
    """The matching loss' gradient in the images, alone and in lockstep, against a difference quotient."""
    problem = task(model, timesteps=16)
    network = problem.build(0).double()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    images, timesteps, noise = batch(problem, 2, torch.float64)

    class Bound(nn.Module):
        def __init__(self, weights: dict[str, Tensor]) -> None:
            super().__init__()
            self._weights = (weights,)

        def forward(self, *inputs: Tensor) -> Tensor:
            return functional_call(network, self._weights[0], inputs)

    def matching(x: Tensor) -> Tensor:
        gradients = grad(lambda w: problem.loss_at(Bound(w), x, timesteps, noise))(parameters)
        return sum(gradient.square().sum() for gradient in gradients.values())

    with twice_differentiable():
        slope = grad(matching)(images)
        step = torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double()
        h = 1e-5 / step.norm()
        quotient = (matching(images + h * step) - matching(images - h * step)) / (2 * h)
        several = torch.stack([images, images.flip(0)])
        both = vmap(grad(matching))(several)
    torch.testing.assert_close((slope * step).sum(), quotient, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(both[0], slope)


def test_only_the_block_takes_the_plain_attention():
    backends = [torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.mem_efficient_sdp_enabled]
    before = [enabled() for enabled in backends]
    with twice_differentiable():
        assert not any(enabled() for enabled in backends)
        assert torch.backends.cuda.math_sdp_enabled()
    assert [enabled() for enabled in backends] == before


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 12, 20)], ids=str)
def test_the_unet_takes_colours_and_any_size_that_halves(shape):
    problem = task(shape=shape)
    images, timesteps, _ = batch(problem, 2)
    assert problem.predict(problem.build(0), images, timesteps).shape == images.shape


@pytest.mark.parametrize("model", ["unet", "dit"])
def test_training_mode_draws_nothing(model):
    """An attacker computes the client's gradient again: in train mode too there is no dropout."""
    problem = task(model)
    images, timesteps, noise = batch(problem)
    network = problem.build(0).train()
    first, second = (problem.loss_at(network, images, timesteps, noise).item() for _ in range(2))
    assert first == second == problem.loss_at(network.eval(), images, timesteps, noise).item()


def test_attention_can_be_left_out():
    names = dict(Diffusion().task("unet", SMALL | {"attention": False}, SHAPE, 0).build(0).named_parameters())
    assert not any("attention" in name for name in names)
    assert any("attention" in name for name in dict(task().build(0).named_parameters()))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (
            "unet",
            {"channels": [8, 12]},
            r"model\.channels = \[8, 12\]: allowed: multiples of norm_groups = 8",
        ),
        ("unet", {"channels": [8] * 5}, r"model\.channels = .*: allowed: resolutions .* 8x8"),
        ("unet", {"layers": 0}, r"model\.layers = 0: allowed"),
        ("unet", {"mean": [0.5]}, r"model\.mean = \[0\.5\]: allowed: only with task\.name"),
        ("dit", {"patch": 3}, r"model\.patch = 3: allowed: a divisor .* 8x8"),
        ("lenet", {}, r"model\.name = 'lenet': it cannot take images of 1x8x8"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(model, options, said):
    with pytest.raises(InputError, match=said) as raised:
        Diffusion().task(model, options, SHAPE, 0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timesteps": 15}, "timesteps = 15: allowed: 16 to 1000"),
        ({"sample_steps": 0}, "sample_steps = 0: allowed: 1 or more"),
        ({"samples": 1}, "samples = 1: allowed"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Diffusion(**options)


def test_draws_follow_from_the_generator_and_reach_every_timestep():
    problem = task(timesteps=16)
    first, second = (problem.draw(400, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert set(first[0].tolist()) == set(range(16))
    assert abs(first[1].std().item() - 1) < 0.02


def test_evaluation_sums_and_draws_the_same_each_time():
    problem = task(timesteps=16)
    model, images = problem.build(0), batch(problem, 16)[0]
    torch.manual_seed(1)
    first = problem.evaluate(model, images, torch.zeros(16))["loss"]
    torch.manual_seed(2)
    assert problem.evaluate(model, images, torch.zeros(16))["loss"] == first
    assert 16 * 0.3 < first < 16 * 5
    assert problem.evaluate(model, images[:0], torch.zeros(0)) == {"loss": 0.0}


def test_a_loss_without_draws_is_refused():
    problem = task()
    with pytest.raises(InputError, match="its loss needs timesteps and noise"):
        problem.loss(problem.build(0), torch.zeros(1, *SHAPE), torch.zeros(1))


def test_diffusers_is_imported_only_to_build_and_without_a_network():
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from fedsim.scenario import load_scenario\n"
        "import fedsim.models.dit, fedsim.models.unet, fedsim.tasks.ddim, fedsim.simulation.server\n"
        "load_scenario({'task': 'diffusion', 'model': 'unet'})\n"
        "assert 'diffusers' not in sys.modules\n"
        "fedsim.models.unet.unet((1, 8, 8), 0)\n"
        "assert 'diffusers' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_without_diffusers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"model\.name: needs the package diffusers; allowed: pip install"):
        task()


def test_it_can_be_sent_to_another_process():
    problem = task(prediction="v_prediction", timesteps=33)
    again = pickle.loads(pickle.dumps(problem))
    first, second = problem.build(3).state_dict(), again.build(3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(again.alpha_bars, problem.alpha_bars)
