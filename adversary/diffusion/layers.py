"""The inputs of a model's linear and convolutional layers, as rows of a matrix: what its gradient is made of.

For a layer with weight (O, K) the gradient of a batch is `[dW | db] = D [U | 1]`: U (positions, K) are the
layer's input patches, whatever the loss was; only D depends on that.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary.problem import Problem
from fedsim.errors import InputError
from fedsim.tasks.diffusion import DiffusionTask

Recorded = dict[str, list[Tensor]]
"""Layer -> its inputs, in the order of its calls."""


@dataclass(frozen=True)
class Place:
    """A layer on the way, as one image passes it."""

    name: str
    shape: torch.Size
    """Of its input."""
    positions: int
    width: int
    """Weights per output, K, the bias included."""


class _Enough(Exception):
    """Raised once the layers that are looked at have been called."""


@contextmanager
def recording(model: nn.Module, names: Sequence[str], *, enough: bool = False) -> Iterator[Recorded]:
    """Note the inputs of the named layers while the block runs; with `enough`, stop once each was called.

    The model's forward then ends where the last of the layers begins: call it in this block alone.
    """
    seen: Recorded = {}

    def note(name: str, value: Tensor) -> None:
        seen.setdefault(name, []).append(value)
        if enough and len(seen) == len(names):
            raise _Enough

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs, name=name: note(name, inputs[0])
        )
        for name in names
    ]
    try:
        yield seen
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def linear_layers(model: nn.Module) -> list[str]:
    """Return the layers whose gradient is a product with their input patches, in the model's order."""
    return [name for name, module in model.named_modules() if name and _is_plain(module)]


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def patches(layer: nn.Module, inputs: Sequence[Tensor], batch: int) -> Tensor:
    """Return U (captures, positions, K) of a layer's inputs, each of captures * batch rows.

    Where the layer has a bias its column of ones is the last of K.
    """
    parts = [_positions(layer, value) for value in inputs]
    rows = torch.cat(parts, dim=1)
    rows = rows.reshape(-1, batch * rows.shape[1], rows.shape[2])
    return rows if layer.bias is None else torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)


def _positions(layer: nn.Module, value: Tensor) -> Tensor:
    """Return the input patches (rows, positions, K without the bias)."""
    if not isinstance(layer, nn.Conv2d):
        return value.reshape(len(value), -1, value.shape[-1])
    assert not isinstance(layer.padding, str)
    columns = F.unfold(value, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return columns.transpose(1, 2)


def layer_gradient(layer: nn.Module, name: str, values: Mapping[str, Tensor]) -> Tensor:
    """Return `[dW | db]` (captures, O, K) of a layer, from values (captures, *shape) by parameter."""
    weight = values[f"{name}.weight"].flatten(2)
    return weight if layer.bias is None else torch.cat([weight, values[f"{name}.bias"][..., None]], dim=2)


def presence(problem: Problem) -> dict[str, Tensor]:
    """Return which entries are there, as numbers, by parameter."""
    return {
        name: problem.present[name].to(value) if name in problem.present else torch.ones_like(value)
        for name, value in problem.target.items()
    }


def called(problem: Problem, *, timed: bool) -> list[str]:
    """Return the plain layers in the order of their calls: those that see the timestep alone, or the others.

    A layer sees the timestep alone where two images of noise give it the same input.
    """
    task, model = diffusion(problem), problem.model
    images = torch.randn(2, *task.input_shape, generator=torch.Generator().manual_seed(0)).to(problem.like)
    times = torch.zeros(2, dtype=torch.long, device=images.device)
    with torch.no_grad(), recording(model, linear_layers(model)) as seen:
        task.predict(model, images, times)
    alike = {name: all(torch.equal(one[0], one[1]) for one in inputs) for name, inputs in seen.items()}
    return [name for name, same in alike.items() if same == timed]


def places(problem: Problem) -> list[Place]:
    """Return the plain layers that see the image, in the order of their calls; those called once."""
    task, names = diffusion(problem), called(problem, timed=False)
    image = problem.like.new_zeros(1, *task.input_shape)
    with torch.no_grad(), recording(problem.model, names) as seen:
        task.predict(problem.model, image, torch.zeros(1, dtype=torch.long, device=image.device))
    found = []
    for name in names:
        if len(seen[name]) == 1:
            rows = patches(problem.model.get_submodule(name), seen[name], 1)
            found.append(Place(name, seen[name][0].shape, rows.shape[1], rows.shape[2]))
    return found


def diffusion(problem: Problem) -> DiffusionTask:
    """Return the problem's task as what it is here. Raises InputError for another one."""
    if not isinstance(problem.task, DiffusionTask):
        raise InputError(f"task = {type(problem.task).__name__}: reads gradients of DiffusionTask only")
    return problem.task
