"""Local training: from the global weights to the exact update."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.data.dataset import Indices, Split
from fedsim.seeds import derive, torch_generator
from fedsim.tasks.task import Draws, Task, draw_for, training_loss
from fedsim.training.draws import draw_generator
from fedsim.training.recipe import Recipe, Trained

Gradient = Callable[[Tensor, Tensor, Draws | None], tuple[Tensor, list[Tensor]]]
"""From inputs, labels and draws to the mean loss and its gradient, in the order of trainable parameters."""


def train(
    task: Task,
    model: nn.Module,
    split: Split,
    batches: Iterator[Indices],
    recipe: Recipe,
    *,
    seed: int,
    proximal_mu: float = 0.0,
) -> Trained:
    r"""Train `model` in place from its present weights, in train mode, and return what changed.

    With $w$ the global weights, $p$ the local ones and $u$ the update (from zero) the optimiser makes the
    same steps on $p$ and on $u$, with the same gradients:

    $g = \nabla L(p) + \lambda p + \mu u; \quad p \leftarrow opt(p, g); \quad u \leftarrow opt(u, g)$

    with weight decay $\lambda$ and FedProx' $\mu$ (Li et al. 2020). So $p$ is what ordinary training makes,
    bit for bit, and $u$ keeps all its digits: `local weights - global weights` in float32 loses those
    below the last digit of the weight (about $10^{-7} |w|$, against updates of $10^{-3} |w|$ and less),
    which a gradient inversion needs.

    `seed` belongs to this client and round (`training_seed`): dropout, the noise of DP-SGD and what the
    task's loss draws follow from it.
    Raises ValueError if there is no batch, InputError if DP-SGD meets BatchNorm.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    update = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    optimizer = _optimizer(recipe, [*parameters, *update])
    losses, seen = [], []
    device, generator = parameters[0].device, draw_generator(seed)
    with _seeded_layers(seed, device), _gradient(task, model, parameters, recipe, seed) as gradient:
        for batch in batches:
            inputs, labels = split.batch(batch)
            draws = draw_for(task, len(inputs), generator)
            loss, gradients = gradient(inputs.to(device), labels.to(device), draws)
            for p, u, g in zip(parameters, update, gradients, strict=True):
                p.grad = u.grad = _regularized(g, p, u, recipe.weight_decay, proximal_mu)
            optimizer.step()
            losses.append(loss)
            seen.append(batch)
    if not seen:
        raise ValueError("no batch to train on: the client holds no example")
    for p in parameters:
        p.grad = None
    return Trained(
        weights={name: p.detach().clone() for name, p in model.named_parameters()},
        update=_named_update(model, update),
        buffers=_buffers(model),
        examples=len(np.unique(np.concatenate(seen))),
        loss=float(torch.stack(losses).double().mean()),
    )


def _optimizer(recipe: Recipe, tensors: list[Tensor]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=recipe.learning_rate)
    return torch.optim.SGD(tensors, lr=recipe.learning_rate, momentum=recipe.momentum)


@contextmanager
def _gradient(
    task: Task, model: nn.Module, parameters: list[nn.Parameter], recipe: Recipe, seed: int
) -> Iterator[Gradient]:
    if recipe.private is None:
        yield partial(_mean_gradient, task, model, parameters)
        return
    from fedsim.training.private import private_gradient  # Opacus takes seconds to import

    generator = torch_generator(seed, "dp-sgd noise", device=parameters[0].device)
    with private_gradient(task, model, recipe.private, generator) as gradient:
        yield gradient


def _mean_gradient(
    task: Task,
    model: nn.Module,
    parameters: list[nn.Parameter],
    inputs: Tensor,
    labels: Tensor,
    draws: Draws | None,
) -> tuple[Tensor, list[Tensor]]:
    loss = training_loss(task, model, inputs, labels, draws)
    # A parameter that the loss does not reach has gradient zero.
    return loss.detach(), list(torch.autograd.grad(loss, parameters, materialize_grads=True))


@torch.no_grad()
def _regularized(gradient: Tensor, p: Tensor, u: Tensor, weight_decay: float, proximal_mu: float) -> Tensor:
    # Not left to torch's optimiser, whose weight decay would take the update for weights.
    if weight_decay:
        gradient = gradient.add(p, alpha=weight_decay)
    return gradient.add(u, alpha=proximal_mu) if proximal_mu else gradient


def _named_update(model: nn.Module, update: list[Tensor]) -> dict[str, Tensor]:
    """Name the updates; frozen parameters did not move."""
    trained = iter(update)
    return {
        name: next(trained).detach() if p.requires_grad else torch.zeros_like(p)
        for name, p in model.named_parameters()
    }


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the persistent buffers: those that are part of the model's state."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: value.clone() for name, value in model.state_dict().items() if name not in parameters}


@contextmanager
def _seeded_layers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generator that dropout draws from, the global one, and restore it."""
    draw = derive(seed, "dropout")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(draw)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(draw)
        yield
