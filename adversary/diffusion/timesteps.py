"""Timesteps, read off the layers that see nothing else: rows of their gradients are embeddings of them."""

import math

import torch
from torch import Tensor, nn

from adversary.diffusion.layers import called, diffusion, layer_gradient, patches, presence, recording
from adversary.diffusion.rowspace import entry_noise
from adversary.problem import Problem
from fedsim.errors import InputError

LAYERS = 2
"""Time layers that are read: the first ones, whose inputs cost nothing to compute."""
CHUNK = 128
"""Timesteps that are embedded at a time."""


def find_timesteps(problem: Problem) -> Tensor:
    """Return the timesteps (P, B), int64, ascending, whose embeddings explain most of the gradients.

    For one image `[dW | db] = delta [e_t | 1]`: the energy that a least squares fit of delta explains is
    largest at the right t, also where entries are absent or noisy (maximum likelihood under white noise). For
    a batch the embeddings that lie nearest to the span of the gradient's first B right singular vectors
    (MUSIC, Schmidt 1986): of a batch with absent entries these are approximate. Where the gradient has fewer
    directions than images, timesteps occur more than once: that nearest to the span then, which is a guess
    from three images up. A learnt table of embeddings has a gradient in the rows that were looked up. Raises
    InputError for a model that has neither.
    """
    names, tables = called(problem, timed=True)[:LAYERS], _tables(problem)
    if not names and not tables:
        raise InputError("model: no layer sees the timestep alone; allowed: grant `timesteps`, or gidm_plus")
    scores = torch.stack([*(_scores(problem, name) for name in names), *tables]).sum(dim=0)
    found = scores.topk(problem.batch_size, dim=1).indices
    if names and problem.batch_size > 1:
        occurring = torch.arange(problem.batch_size, device=found.device) < _rank(problem, names[0])[:, None]
        found = torch.where(occurring, found, found[:, :1])
    return found.sort(dim=1).values


def _rank(problem: Problem, name: str) -> Tensor:
    """Return how many directions of a layer's gradient stand out of what disturbs it, (P,)."""
    gradient = layer_gradient(problem.model.get_submodule(name), name, problem.target)
    noise = entry_noise(problem, f"{name}.weight") * sum(math.sqrt(side) for side in gradient.shape[1:])
    found: Tensor = (torch.linalg.svdvals(gradient) > noise[:, None]).sum(dim=1)
    return found.clamp(min=1)


def shows_timesteps(problem: Problem) -> bool:
    """Return whether the model has a layer that sees the timestep alone."""
    return bool(called(problem, timed=True) or _tables(problem))


def _tables(problem: Problem) -> list[Tensor]:
    """Return of each table with T embeddings the energy of its rows' gradients, (P, T)."""
    count, modules = diffusion(problem).timesteps, problem.model.named_modules()
    names = [f"{name}.weight" for name, module in modules if isinstance(module, nn.Embedding)]
    squares = [problem.target[name].square().sum(dim=2) for name in names]
    return [rows for rows in squares if rows.shape[1] == count]


def _scores(problem: Problem, name: str) -> Tensor:
    """Return how much of a layer's gradient each timestep explains, (P, T)."""
    layer = problem.model.get_submodule(name)
    gradient = layer_gradient(layer, name, problem.target)
    mask = layer_gradient(layer, name, presence(problem))
    embeddings = _embeddings(problem, name)
    if problem.batch_size > 1:
        basis = torch.linalg.svd(gradient * mask, full_matrices=False).Vh[:, : problem.batch_size]
        shares: Tensor = (embeddings @ basis.mT).square().sum(dim=2) / embeddings.square().sum(dim=1)
        return shares
    products = (gradient * mask) @ embeddings.T
    lengths = (mask @ embeddings.T.square()).clamp(min=torch.finfo(mask.dtype).tiny)
    explained: Tensor = (products.square() / lengths).sum(dim=1)
    return explained


@torch.no_grad()
def _embeddings(problem: Problem, name: str) -> Tensor:
    """Return the layer's input for each timestep, (T, K)."""
    task, found = diffusion(problem), []
    for times in torch.split(torch.arange(task.timesteps, device=problem.like.device), CHUNK):
        with recording(problem.model, [name], enough=True) as seen:
            task.predict(problem.model, problem.like.new_zeros(len(times), *task.input_shape), times)
        found.append(patches(problem.model.get_submodule(name), seen[name], 1)[:, 0])
    return torch.cat(found)
