"""What an attack is given: observed gradients of captures that share their weights, and what is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_

from fedsim.defenses.upload import Adaptive
from fedsim.tasks.task import Task
from fedsim.training import Recipe

Status = Literal["converged", "stalled", "diverged"]


class Evidence(NamedTuple):
    """What one round shows of a batch, by parameter; with a leading row a capture, or of one capture."""

    target: dict[str, Tensor]
    """The observed gradient."""
    present: dict[str, Tensor]
    """Boolean masks of the entries that carry information; all do where a name is missing."""
    slack: dict[str, Tensor]
    """How far the true gradient may be from the observed one, per entry; exact where a name is missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """P captures to be inverted in lockstep: they share the weights, the attacker and the batch size."""

    task: Task
    model: nn.Module
    """The global model as the client ran it, without gradient: see `frozen_model`."""
    target: Mapping[str, Tensor]
    """Observed gradient by parameter, (P, *shape): the upload divided by `unit`."""
    present: Mapping[str, Tensor] = field(default_factory=dict)
    """Boolean masks (P, *shape) of the entries that carry information; all do where a name is missing."""
    slack: Mapping[str, Tensor] = field(default_factory=dict)
    """Half-widths (P, *shape) of the intervals in which the true gradient lies; exact where missing."""
    unit: float = 1.0
    """What one unit of gradient became in the upload: 1, or -learning_rate."""
    batch_size: int = 1
    seeds: tuple[int, ...]
    """One seed a capture: its starts do not depend on its neighbours."""
    labels: Tensor | None = None
    """(P, B), int64, only where the threat model grants them."""
    timesteps: Tensor | None = None
    """(P, B), int64: what the client drew for a diffusion loss, only where the threat model grants it."""
    noise: Tensor | None = None
    """(P, B, *input_shape), likewise."""
    rounds: tuple["Problem", ...] = ()
    """Further rounds that show the same batches under other weights (and fresh masks), row by row."""
    statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """BatchNorm layer -> mean and variance (P, C) that the batch's features are taken to have."""
    own_statistics: bool = False
    """Whether they are the client's own batch's, which the threat model grants, or the global model's."""
    recipe: Recipe | None = None
    """How the client trained, where the threat model grants it."""
    knowledge: Adaptive | None = None
    """What the attacker does about the defence; None for the naive attacker."""
    graphs: bool = False
    """Whether evaluations on a GPU are recorded and replayed as CUDA graphs."""

    def __len__(self) -> int:
        """Return P, the number of captures."""
        return len(self.seeds)

    @property
    def like(self) -> Tensor:
        """Return a tensor that has the dtype and device of the problem."""
        return next(iter(self.target.values()))

    def select(self, rows: list[int]) -> "Problem":
        """Return the problem of some of the captures."""
        if rows == list(range(len(self))):
            return self
        index = torch.tensor(rows, device=self.like.device)
        return replace(
            self,
            target={name: value[index] for name, value in self.target.items()},
            present={name: mask[index] for name, mask in self.present.items()},
            slack={name: width[index] for name, width in self.slack.items()},
            rounds=tuple(other.select(rows) for other in self.rounds),
            statistics={name: (mean[index], var[index]) for name, (mean, var) in self.statistics.items()},
            seeds=tuple(self.seeds[row] for row in rows),
            labels=None if self.labels is None else self.labels[index],
            timesteps=None if self.timesteps is None else self.timesteps[index],
            noise=None if self.noise is None else self.noise[index],
        )

    def evidence(self, rows: Tensor | None = None) -> tuple[Evidence, ...]:
        """Return what this round and the further ones show, of all captures or of some rows (k,)."""
        chosen = slice(None) if rows is None else rows
        return tuple(
            Evidence(
                *({name: v[chosen] for name, v in part.items()} for part in (p.target, p.present, p.slack))
            )
            for p in (self, *self.rounds)
        )

    def gradient(
        self, images: Tensor, labels: Tensor, at: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the gradient of the loss for one capture's dummy batch (B, *input_shape), by parameter.

        Taken at the weights `at`, the global ones by default.
        """

        return self.gradient_of(lambda model: self.task.loss(model, images, labels), at)

    def gradient_of(
        self, loss: Callable[[nn.Module], Tensor], at: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the gradient by parameter of any scalar that is made of the model, as `gradient` does."""

        def of(parameters: dict[str, Tensor]) -> Tensor:
            return loss(_Bound(self.model, parameters))

        result: dict[str, Tensor] = torch.func.grad(of)(
            dict(self.model.named_parameters() if at is None else at)
        )
        return result

    def draw(self, *shape: int) -> Tensor:
        """Draw standard normal starts (P, *shape), each from its capture's seed, on the CPU in float64."""
        rows = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        return torch.stack(rows).to(self.like)

    def draw_images(self) -> Tensor:
        """Draw the images to start from, (P, B, *input_shape)."""
        return self.draw(self.batch_size, *self.task.input_shape)


class _Bound(nn.Module):
    """A model that runs with given parameters: what a task's loss is called with."""

    def __init__(self, model: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._call = (model, parameters)

    def forward(self, *inputs: Tensor) -> Tensor:
        model, parameters = self._call
        output: Tensor = functional_call(model, parameters, inputs)
        return output


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """What an attack returns: one row a capture."""

    images: Tensor
    """(P, B, *input_shape), as found: may leave [0, 1]."""
    labels: Tensor
    """(P, B), int64; -1 where the task has none"""
    losses: Tensor
    """(P,): squared distance to the observed gradient over its squared length, without the prior; behind many
    sigmoids the mean of the layers'."""
    evaluations: Tensor
    """(P,), int64"""
    converged: Tensor
    """(P,), bool: the observed gradient is explained, up to the noise that the attacker knows of."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """What else was found, (P, B, ...) by name: of diffusion gradients `noisy`, `noise`, `timesteps`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What was read from one capture."""

    images: Tensor
    """(B, *input_shape), float32, as found: may leave [0, 1]."""
    labels: Tensor
    """(B,), int64; -1 where the task has none"""
    loss: float
    """Relative squared distance of the gradients (the matching loss), by which restarts are compared."""
    evaluations: int
    restarts: int
    status: Status
    seconds: float
    equations: int = 0
    """Independent equations that the upload gives, at most (adversary.counting)."""
    unknowns: int = 0
    """Pixels of the batch: with fewer equations than unknowns only a prior tells images apart."""
    signal: float = 1.0
    """Length of the observed gradient; near zero there is nothing to read."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """What else was found, (B, ...) by name: of diffusion gradients `noisy`, `noise`, `timesteps`."""


def frozen_model(
    task: Task,
    weights: Mapping[str, Tensor],
    *,
    mode: Literal["train", "eval"] = "train",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Return the task's model with the global weights, frozen, and run as the client ran it.

    In train mode BatchNorm uses the batch's own statistics and keeps none (`torch.func` allows no change in
    place); dropout is switched off, since its draws cannot be known.
    """
    model = task.build(0)
    state = model.state_dict()
    missing = sorted(set(state) - set(weights))
    if missing:
        raise ValueError(f"the weights lack {', '.join(missing[:3])}")
    model.load_state_dict(
        {name: weights[name].reshape(state[name].shape).to(state[name].dtype) for name in state}
    )
    model = model.to(device=device, dtype=dtype).requires_grad_(False)
    model.train(mode == "train")
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    if mode == "train":
        replace_all_batch_norm_modules_(model)
    return model
