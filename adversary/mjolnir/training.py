"""Training a denoiser: the same after an interruption as without one."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsim.errors import InputError
from fedsim.seeds import torch_generator

Loss = Callable[[torch.Generator, float], Tensor]
"""Draws a batch and returns the loss on it, a scalar; told the share of the updates that is done."""
Progress = Callable[[int, int, float], None]
"""(updates done, updates in all, loss)"""

WARM_UP = 30
"""Updates in which the rate rises."""
FALL = 0.4
"""Share of the updates, the last, in which it falls."""
BETAS = (0.9, 0.98)
"""Of Adam: with its usual .999 training in colour is thrown back after 1,000 updates at the full rate."""
EVERY = 100
"""Updates between checkpoints."""


def train(
    network: nn.Module,
    loss_of: Loss,
    *,
    updates: int,
    rate: float,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = lambda *_: None,
) -> None:
    """Minimise a loss over a network by Adam, whose rate rises, stays, and falls in a line.

    (Warm-up, stable, decay: Hu et al. 2024, MiniCPM.) What an update draws depends on `seed` and its number
    alone, and `checkpoint` (safetensors) holds network and moments: training that was cut off goes on from
    there, to the same end.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=BETAS)
    begun = _resume(network, optimizer, checkpoint)
    for number in range(begun, updates):
        done = number / updates
        share = min(1.0, (number + 1) / WARM_UP, (1 - done) / FALL)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = loss_of(torch_generator(seed, "denoiser", number), done)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (number + 1) % EVERY == 0 or number + 1 == updates:
            progress(number + 1, updates, float(loss.detach()))
            _keep(network, optimizer, number + 1, checkpoint)


def _keep(network: nn.Module, optimizer: torch.optim.Adam, done: int, path: Path | None) -> None:
    if path is None:
        return
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"{key}/{name}": state[key] for key in ("exp_avg", "exp_avg_sq")}
    partial = path.with_suffix(".writing")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"done": str(done)})
    partial.replace(path)


def _resume(network: nn.Module, optimizer: torch.optim.Adam, path: Path | None) -> int:
    """Put network and moments as a checkpoint left them, and return the updates done; 0 without one.

    Raises InputError for a damaged one.
    """
    if path is None or not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            done = int(file.metadata()["done"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: a damaged checkpoint ({error}): delete it") from None
    network.load_state_dict({name: tensors[f"network/{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(done)),
            **{key: tensors[f"{key}/{name}"].to(parameter) for key in ("exp_avg", "exp_avg_sq")},
        }
    return done
