"""DP-SGD's gradient: per-example clipping and noise, by Opacus."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.errors import InputError
from fedsim.tasks.task import Draws, Task, training_loss
from fedsim.training.recipe import PrivateSGD


class PrivateGradient:
    r"""The gradient of one DP-SGD step (Abadi et al. 2016, Algorithm 1, lines 5 to 8).

    $\tilde g = \frac{1}{B} ( \sum_i g_i / \max(1, \|g_i\|_2 / C) + \mathcal N(0, \sigma^2 C^2 I) )$

    with $g_i$ the gradient of example i over all parameters, C `clip_norm`, $\sigma$
    `noise_multiplier` and B the number of examples in the batch (drawn without replacement, and so
    not by Poisson sampling: what an accountant needs to know).
    """

    def __init__(self, task: Task, sampler: GradSampleModule, recipe: PrivateSGD, generator: torch.Generator):
        self._task = task
        self._sampler = sampler
        # Opacus' optimiser is used for what it does to the gradient; the step itself is the recipe's.
        self._private = DPOptimizer(
            torch.optim.SGD(sampler.parameters(), lr=1.0),
            noise_multiplier=recipe.noise_multiplier,
            max_grad_norm=recipe.clip_norm,
            expected_batch_size=1,
            generator=generator,
        )

    def __call__(
        self, inputs: Tensor, labels: Tensor, draws: Draws | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean loss of the batch, and the private gradient by parameter."""
        self._private.zero_grad()
        self._private.expected_batch_size = len(labels)
        # Inputs that require a gradient let the hooks of the first layer fire without a warning; those of a
        # layer that sees only timesteps (a denoiser's) have none that could, and fire all the same.
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            loss = training_loss(self._task, self._sampler, inputs.requires_grad_(), labels, draws)
            loss.backward()  # type: ignore[no-untyped-call]
        self._private.pre_step()
        return loss.detach(), [parameter.grad for parameter in self._sampler.parameters()]


@contextmanager
def private_gradient(
    task: Task, model: nn.Module, recipe: PrivateSGD, generator: torch.Generator
) -> Iterator[PrivateGradient]:
    """Hook the model for per-example gradients, and leave it as it was.

    Raises InputError where an example's gradient depends on the others (BatchNorm).
    """
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise InputError(
            'model.norm = "batch": DP-SGD needs the gradient of each example alone, and BatchNorm mixes '
            'them; allowed: model.norm = "group"'
        )
    sampler = GradSampleModule(model)
    hooks = [
        module.register_forward_pre_hook(_contiguous)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        yield PrivateGradient(task, sampler, recipe, generator)
    finally:
        for hook in hooks:
            hook.remove()
        sampler.to_standard_module()
        _clean(model)


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lay out a convolution's inputs as Opacus takes them to be: of others it makes a wrong gradient."""
    del module
    return tuple(tensor.contiguous() for tensor in inputs)


def _clean(model: nn.Module) -> None:
    """Take off what Opacus hung on the model (it holds a batch's activations and gradients)."""
    for module in model.modules():
        _delete(module, "activations", "max_batch_len")
    for parameter in model.parameters():
        parameter.grad = None
        _delete(parameter, "grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample")


def _delete(owner: object, *names: str) -> None:
    for name in names:
        vars(owner).pop(name, None)
