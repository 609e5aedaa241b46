"""GIDM+: the images behind the gradient of a diffusion model whose timesteps and noise nobody told."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adversary.diffusion.enumeration import enumerate_timesteps
from adversary.diffusion.matching import judged
from adversary.diffusion.noisy import find_noisy
from adversary.diffusion.polish import polish
from adversary.diffusion.residual import solve_target
from adversary.diffusion.timesteps import find_timesteps, shows_timesteps
from adversary.precision import cast
from adversary.problem import Attempt, Problem
from fedsim.options import require

FAINT = 0.3
"""Standard deviation of the noise from which noisy images start, in [-1, 1]: near grey."""


@dataclass(frozen=True, kw_only=True)
class GIDMPlus:
    r"""Find timestep, noisy image and prediction one after the other, each by what does not need the next.

    1. The timestep: the layers that see it alone have a gradient whose rows are its embedding. Where there is
       none, the one at which a noisy image fits best.
    2. The noisy image $x_t$, without its noise: the inputs of convolutions whose gradient has full rank
       follow from it by linear least squares, and $x_t$ is what gives these inputs; where no layer is of that
       kind, or rounding, noise or absent entries hide it, by the row-space objective.
    3. What the model was to predict: given $x_t$ the gradient is linear in it. Image and noise follow.
    4. Where the gradient is not explained then, or noise calls for a prior, all together by L-BFGS.

    The setting is that of Huang et al., GIDM (2024, arXiv 2405.20380), section on GIDM+, with timestep and
    noise drawn by the client and kept; the method is ours (the released code is given the noise).
    """

    max_evaluations: int = 1000
    """Evaluations in search of the noisy image by row spaces, a start; by inputs five times as many."""
    iterations: int = 400
    """Of conjugate gradients, for what was to be predicted; they stop where the gradient is explained."""
    polish: int = 60
    """Evaluations of the matching loss over noisy image and prediction, where it is not explained before."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 8
    task: ClassVar[str] = "diffusion"

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")
        require(self.polish >= 0, "polish", self.polish, "0 or more")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture; granted timesteps are not looked for."""
        start = FAINT * problem.draw_images().flatten(1)
        timesteps = self._timesteps(problem, start) if problem.timesteps is None else problem.timesteps
        noisy, evaluations = find_noisy(problem, timesteps, start, self.max_evaluations)
        single = cast(problem, torch.float32)
        pairs = [
            solve_target(single.select([row]), noisy[row].float(), timesteps[row], self.iterations)
            for row in range(len(problem))
        ]
        images, noise = (torch.stack(part).to(noisy) for part in zip(*pairs, strict=True))
        found = judged(problem, images, noise, timesteps, evaluations)
        return polish(problem, found, self.polish) if self.polish else found

    def _timesteps(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the timesteps (P, B): read off, or those at which a noisy image fits best."""
        if shows_timesteps(problem):
            return find_timesteps(problem)
        return enumerate_timesteps(problem, start, max(1, self.max_evaluations // 4))
