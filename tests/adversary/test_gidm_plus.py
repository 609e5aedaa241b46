"""GIDM+ on a U-Net of 8x8 images: timestep and noise unknown, each of its steps against the truth."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from denoisers import Drawn, drawn
from torch import nn

from adversary.attacks.gidm_plus import GIDMPlus
from adversary.diffusion.by_inputs import solved_inputs
from adversary.diffusion.by_rows import by_row_spaces, coarsest, nearest_move
from adversary.diffusion.inputs import solve_input
from adversary.diffusion.layers import called, layer_gradient, patches, places, recording
from adversary.diffusion.noisy import find_noisy
from adversary.diffusion.residual import solve_target
from adversary.diffusion.rowspace import is_usable, row_spaces
from adversary.diffusion.timesteps import find_timesteps
from adversary.metrics import psnr
from adversary.problem import Problem, frozen_model
from adversary.reconstruct import reconstruct
from fedsim.defenses.upload import Adaptive
from fedsim.errors import InputError
from fedsim.tasks.diffusion import Diffusion


@pytest.fixture(scope="module")
def pair() -> Drawn:
    return drawn([[200], [900]])


def test_a_layers_gradient_is_a_product_with_its_patches(pair):
    """The rows of `[dW | db]` lie in the span of `[U | 1]`: least squares leaves nothing."""
    model, names = pair.problem.model, called(pair.problem, timed=False)
    with torch.no_grad(), recording(model, names) as seen:
        pair.task.predict(model, pair.noisy[0], pair.timesteps[0])
    assert len(names) > 10
    for name in names:
        rows = patches(model.get_submodule(name), seen[name], 1)[0]
        observed = layer_gradient(model.get_submodule(name), name, pair.problem.target)[0]
        fitted = torch.linalg.lstsq(rows.T, observed.T, driver="gelsd").solution
        assert (rows.T @ fitted - observed.T).norm() < 1e-5 * observed.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_timesteps_are_read_off_the_time_layers(dtype):
    found = drawn([[0], [1], [500], [998], [999]], dtype=dtype)
    assert find_timesteps(found.problem).tolist() == found.timesteps.tolist()


def test_timesteps_of_a_batch_and_under_masks():
    batch = drawn([[7, 300, 640], [20, 21, 999]])
    assert find_timesteps(batch.problem).tolist() == batch.timesteps.tolist()
    again = drawn([[300, 300], [20, 21], [640, 640]])
    assert find_timesteps(again.problem).tolist() == again.timesteps.tolist()
    single = drawn([[40], [873]])
    generator = torch.Generator().manual_seed(0)
    target = single.problem.target
    masks = {name: torch.rand(value.shape, generator=generator) < 0.2 for name, value in target.items()}
    hidden = {name: value * masks[name] for name, value in target.items()}
    masked = Problem(task=single.task, model=single.problem.model, target=hidden, present=masks, seeds=(0, 1))
    assert find_timesteps(masked).tolist() == single.timesteps.tolist()


def test_inputs_of_layers_of_full_rank_are_solved_for(pair):
    """The gradient alone gives them, to the precision of float32; no start, no noise, no timestep."""
    one = pair.problem.select([0])
    found = solved_inputs(one, places(one))
    with torch.no_grad(), recording(one.model, list(found)) as seen:
        pair.task.predict(one.model, pair.noisy[0], pair.timesteps[0])
    assert found
    for name, layer_input in found.items():
        error = (layer_input.value - seen[name][0]).norm() / seen[name][0].norm()
        assert layer_input.misfit < 1e-2
        assert error < 1e-2


def test_inputs_that_say_less_than_there_are_pixels_are_left_alone():
    """Three colours of 16x16, of which the one solvable stage sees 16 channels of 4x4: any image would do."""
    options = {"channels": [4, 4, 16], "attention": False, "norm_groups": 4}
    task = Diffusion().task("unet", options, (3, 16, 16), 10)
    model, generator = frozen_model(task, task.build(1).state_dict()), torch.Generator().manual_seed(0)
    image, noise = torch.rand(2, 1, 3, 16, 16, generator=generator, dtype=torch.float64)
    client = Problem(task=task, model=model, target={}, seeds=())
    gradient = client.gradient_of(lambda model: task.loss_at(model, image, torch.tensor([300]), noise))
    target = {name: value[None] for name, value in gradient.items()}
    problem = Problem(task=task, model=model, target=target, seeds=(0,))
    layer = "unet.down_blocks.2.resnets.0.conv2"
    (place,) = [place for place in places(problem) if place.name == layer]
    one = solve_input(model.get_submodule(layer), layer, target, place.shape)
    assert one.misfit < 1e-6
    assert solved_inputs(problem, places(problem)) == {}


@pytest.mark.parametrize("stride", [1, 2])
def test_what_went_into_a_convolution_is_solved_for_whatever_came_back(stride):
    """From D [U | 1] alone, D any square matrix; where strides divide, entries are in 1, 2 or 4 patches."""
    generator = torch.Generator().manual_seed(0)
    side = 4 * stride
    layer = nn.Conv2d(6, 16, 3, stride=stride, padding=1).double()
    truth = torch.randn(1, 6, side, side, generator=generator, dtype=torch.float64)
    back = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    gradient = back @ patches(layer, [truth], 1)[0]
    target = {"one.weight": gradient[None, :, :-1].reshape(1, *layer.weight.shape)}
    target["one.bias"] = gradient[None, :, -1]
    found = solve_input(layer, "one", target, truth.shape)
    torch.testing.assert_close(found.value, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("timesteps", [[200, 900], [20, 21, 500, 640]], ids=["two", "four"])
def test_inputs_of_a_batch_lie_on_the_plane_that_is_solved_for(timesteps):
    """Each on it to the gradient's precision, and nothing else: a dimension less than there are images."""
    batch = drawn([timesteps])
    found = solved_inputs(batch.problem, places(batch.problem))
    with torch.no_grad(), recording(batch.problem.model, list(found)) as seen:
        batch.task.predict(batch.problem.model, batch.noisy[0], batch.timesteps[0])
    assert found
    for name, plane in found.items():
        assert plane.directions.shape[0] == len(timesteps) - 1
        assert plane.gap(seen[name][0]).max() < 1e-9
        assert plane.gap(seen[name][0].roll(1, dims=-1)).min() > 1e-2


@pytest.mark.parametrize(
    "timesteps", [[200, 900], [300, 300], [20, 21, 500, 640]], ids=["two", "alike", "four"]
)
def test_images_of_a_batch_are_found_each_by_its_timestep(timesteps):
    batch = drawn([timesteps])
    start = 0.3 * batch.problem.draw_images().flatten(1)
    noisy, evaluations = find_noisy(batch.problem, batch.timesteps, start, 400)
    orders = (batch.noisy[0, list(order)] for order in permutations(range(len(timesteps))))
    assert min((noisy[0] - truth).abs().max() for truth in orders) < 1e-3
    assert int(evaluations[0]) < 400


def test_row_spaces_know_the_noisy_image_from_others(pair):
    where = [place for place in places(pair.problem) if place.positions < place.width]
    evaluate = row_spaces(pair.problem, where, pair.timesteps)
    right, other = pair.noisy.flatten(1), pair.noisy.flip(0).flatten(1)
    rows = torch.arange(2)
    assert evaluate(right, rows)[0].max() < 1e-5
    assert evaluate(other, rows)[0].min() > 0.02
    step = 1e-5 * torch.randn(right.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    up, down, slope = (
        evaluate(other + step, rows)[0],
        evaluate(other - step, rows)[0],
        evaluate(other, rows)[1],
    )
    torch.testing.assert_close(up - down, 2 * (slope * step).sum(dim=1), rtol=1e-4, atol=1e-12)


def test_row_spaces_of_masked_rows_go_by_the_entries_that_are_there(pair):
    """Zero for the truth, as unmasked; what stands in absent entries does not matter."""
    masks = {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) < 0.7
        for name, value in pair.problem.target.items()
    }
    target = {name: torch.where(masks[name], value, 7.0) for name, value in pair.problem.target.items()}
    masked = replace(pair.problem, target=target, present=masks)
    where = [place for place in places(masked) if is_usable(masked, place)]
    evaluate = row_spaces(masked, where, pair.timesteps)
    assert where
    assert evaluate(pair.noisy.flatten(1), torch.arange(2))[0].max() < 1e-5
    assert evaluate(pair.noisy.flip(0).flatten(1), torch.arange(2))[0].min() > 1e-3


def test_images_that_are_moved_are_moved_back(pair):
    """By a position of the coarsest layer, where searches by row spaces also end."""
    where = [place for place in places(pair.problem) if is_usable(pair.problem, place)]
    evaluate, step = row_spaces(pair.problem, where, pair.timesteps), coarsest(pair.problem, where)
    moved = pair.noisy.roll((step, -step), dims=(-2, -1)).flatten(1)
    back, losses, tried = nearest_move(pair.problem, evaluate, moved, step)
    assert step == 2
    assert tried == 8
    torch.testing.assert_close(back, pair.noisy.flatten(1))
    assert losses.max() < 1e-5


def test_images_of_a_batch_in_each_others_place_are_put_back():
    batch = drawn([[200, 900]])
    where = [place for place in places(batch.problem) if is_usable(batch.problem, place)]
    evaluate, step = row_spaces(batch.problem, where, batch.timesteps), coarsest(batch.problem, where)
    swapped = batch.noisy.flip(1).flatten(1)
    back, losses, tried = nearest_move(batch.problem, evaluate, swapped, step)
    assert tried == 2 * 8 + 1
    torch.testing.assert_close(back, batch.noisy.flatten(1))
    assert losses.max() < 1e-5 < 1e-2 < float(evaluate(swapped, torch.arange(1))[0])


def test_a_batch_far_from_the_truth_is_given_up_early(monkeypatch):
    """Another start is worth more than the rest of its evaluations; an only image keeps them."""
    monkeypatch.setattr("adversary.diffusion.by_rows.HOPELESS", 0.0)
    monkeypatch.setattr("adversary.diffusion.by_rows.SETTLE", 5)
    for timesteps, least, most in (([[200, 900]], 15, 60), ([[200]], 100, 150)):
        problem = drawn(timesteps).problem
        where = [place for place in places(problem) if is_usable(problem, place)]
        start = 0.3 * problem.draw_images().flatten(1)
        found = by_row_spaces(problem, where, torch.tensor(timesteps), start, 120)
        assert least <= int(found.evaluations[0]) <= most


def test_noise_that_hides_layers_inputs_leaves_the_noisy_image_to_row_spaces(pair):
    """At a hundredth of the entries' size linear solving is over; the search is not."""
    one = pair.problem.select([0])
    std = 1e-2 * float(torch.cat([v.flatten() for v in one.target.values()]).square().mean().sqrt())
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: value + std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in one.target.items()
    }
    problem = replace(one, target=noisy, knowledge=Adaptive(noise_std=std))
    assert not solved_inputs(problem, places(problem))
    found, _ = find_noisy(problem, pair.timesteps[:1], 0.3 * problem.draw_images().flatten(1), 401)
    gap = (found - pair.noisy[:1]).square().mean() / 4
    assert -10 * gap.log10() > 25


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_given_the_noisy_image_the_target_is_linear(prediction):
    found = drawn([[150]], prediction)
    image, noise = solve_target(found.problem, found.noisy[0], found.timesteps[0], 60)
    assert psnr(image, found.images[0]) > 45
    assert (noise - found.noise[0]).norm() < 0.02 * found.noise.norm()


def test_reads_images_of_which_neither_timestep_nor_noise_is_known(pair):
    results = reconstruct(GIDMPlus(), pair.problem)
    for row, result in enumerate(results):
        assert result.status == "converged"
        assert result.parts["timesteps"].tolist() == pair.timesteps[row].tolist()
        assert psnr(result.images, pair.images[row].float()) > 40
        assert (result.parts["noise"] - pair.noise[row]).norm() < 0.01 * pair.noise[row].norm()


def test_a_classifiers_gradient_is_refused(victim):
    problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1])])
    with pytest.raises(InputError, match="DiffusionTask"):
        GIDMPlus().attack(problem)


def test_where_clipping_hid_the_length_the_noise_gives_it():
    """Noise of variance 1 in 64 pixels: its length is known to 9 %, and the noise no better."""
    found = drawn([[200]])
    clipped = {name: 0.3 * value for name, value in found.problem.target.items()}
    problem = replace(found.problem, target=clipped, knowledge=Adaptive(scale_free=True))
    image, noise = solve_target(problem, found.noisy[0], found.timesteps[0], 60)
    error = (noise - found.noise[0]).norm() / found.noise.norm()
    assert 1e-3 < error < 0.3
    assert psnr(image, found.images[0]) > 20
