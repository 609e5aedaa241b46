"""A client's local training unrolled: its update as a differentiable function of the images it trained on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vmap

from adversary.problem import Evidence, Problem
from fedsim.training import Recipe
from fedsim.training.batches import number_of_batches

Batch = tuple[Tensor, Tensor]
"""Images (b, *input_shape) and labels (b,) of one step."""
Loss = Callable[[nn.Module], Tensor]
"""The loss of one step, of the model."""


def recipe_of(problem: Problem) -> Recipe:
    """Return the client's recipe; one step of plain SGD on the whole batch where none is known.

    Raises ValueError for Adam: its first step is the gradient's sign, which has no slope to follow.
    """
    recipe = problem.recipe
    if recipe is None:
        return Recipe(algorithm="fedsgd", batch_size=problem.batch_size, learning_rate=abs(problem.unit))
    if recipe.optimizer != "sgd":
        raise ValueError(f"clients train with {recipe.optimizer}: only steps of SGD can be unrolled")
    return recipe


def number_of_epochs(recipe: Recipe, examples: int) -> int:
    """Return in how many passes over so many examples the client's steps lie, the last perhaps unfinished."""
    return -(-number_of_batches(recipe, examples) // _steps_per_epoch(recipe, examples))


def batch_sizes(recipe: Recipe, examples: int) -> list[int]:
    """Return the sizes of an epoch's batches."""
    if recipe.algorithm == "fedsgd":
        return [examples]
    return [min(recipe.batch_size, examples - first) for first in range(0, examples, recipe.batch_size)]


def batches_of(recipe: Recipe, images: Tensor, labels: Tensor, examples: int) -> list[Batch]:
    """Cut dummy images into the client's batches, in the order in which they come.

    With n = `examples` images (n, *input_shape) every epoch sees the same ones; with epochs * n each sees its
    own n.
    """
    if recipe.algorithm == "fedsgd":
        return [(images, labels)]
    apart = len(images) > examples
    per_epoch = _steps_per_epoch(recipe, examples)
    batches = []
    for step in range(number_of_batches(recipe, examples)):
        epoch, position = divmod(step, per_epoch)
        first = position * recipe.batch_size
        rows = slice(first, min(first + recipe.batch_size, examples))
        offset = epoch * examples if apart else 0
        rows = slice(rows.start + offset, rows.stop + offset)
        batches.append((images[rows], labels[rows]))
    return batches


def unrolled_update(problem: Problem, recipe: Recipe, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Return what SGD makes of the global weights in these batches: see `descent`."""

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return problem.task.loss(model, images, labels)

    return descent(problem, recipe, [partial(loss, images=x, labels=y) for x, y in batches])


def descent(problem: Problem, recipe: Recipe, losses: Iterable[Loss]) -> dict[str, Tensor]:
    r"""Return what SGD makes of the global weights $w$ by these losses, as a difference, by parameter.

    $v \leftarrow \beta v + \nabla L_k(w + u) + \lambda (w + u); \quad u \leftarrow u - \eta v$ from zero,

    with momentum $\beta$ and weight decay $\lambda$: `fedsim.training.train`, differentiable in the images
    (Geiping et al. 2020, section 5; Dimitrov et al. 2022, section 4.1).
    """
    start = dict(problem.model.named_parameters())
    update = {name: torch.zeros_like(value) for name, value in start.items()}
    velocity = update
    for loss in losses:
        here = {name: value + update[name] for name, value in start.items()}
        gradient = problem.gradient_of(loss, here)
        velocity = {
            name: recipe.momentum * velocity[name] + value + recipe.weight_decay * here[name]
            for name, value in gradient.items()
        }
        update = {name: value - recipe.learning_rate * velocity[name] for name, value in update.items()}
    return update


def unrolled(problem: Problem, images: Tensor, labels: Tensor, seen: Evidence) -> Mapping[str, Tensor]:  # noqa: ARG001
    """Return the dummy gradient of one capture that its client's steps come to, in the problem's unit.

    A `gradient` upload of several steps is `-update / learning_rate`. For `adversary.objectives.matching`.
    """
    recipe = recipe_of(problem)
    batches = batches_of(recipe, images, labels, problem.batch_size)
    return _in_unit(problem, unrolled_update(problem, recipe, batches))


def unrolled_shares(
    problem: Problem,
    images: Tensor,
    labels: Tensor,
    seen: Evidence,  # noqa: ARG001
    *,
    weights: Tensor,
) -> Mapping[str, Tensor]:
    """Return the same where every step sees all images of its epoch, each with a weight, (E, S, N).

    Images (sets, N, *input_shape) serve the epochs in turn, labels (N,) all of them. With the weights 1 / b
    in a batch of b and 0 outside it is `unrolled`.
    """
    recipe = recipe_of(problem)
    per_epoch = weights.shape[1]

    def loss(model: nn.Module, step: int) -> Tensor:
        epoch, position = divmod(step, per_epoch)
        each = vmap(lambda x, y: problem.task.loss(model, x[None], y[None]))
        own: Tensor = each(images[epoch % len(images)], labels)
        return (weights[epoch, position] * own).sum()

    steps = range(number_of_batches(recipe, problem.batch_size))
    return _in_unit(problem, descent(problem, recipe, (partial(loss, step=step) for step in steps)))


def _in_unit(problem: Problem, update: Mapping[str, Tensor]) -> dict[str, Tensor]:
    unit = problem.unit if problem.unit < 0 else -recipe_of(problem).learning_rate * problem.unit
    return {name: value / unit for name, value in update.items()}


def _steps_per_epoch(recipe: Recipe, examples: int) -> int:
    return -(-examples // recipe.batch_size)
