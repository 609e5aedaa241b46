"""What the search of an image ends with: its matching loss, and whether that explains the gradient."""

import torch
from torch import Tensor

from adversary.attacks.match import CERTIFIED, EXPLAINED, sharpness
from adversary.balance import weighs_layers
from adversary.lockstep import matching_losses
from adversary.objectives import layer_squares, noise_floor
from adversary.problem import Attempt, Problem


def judged(problem: Problem, images: Tensor, labels: Tensor, evaluations: Tensor) -> Attempt:
    """Return the attempt that these images (P, B, *input_shape) and labels (P, B) are.

    Whatever an attack minimised, `losses` are those of `matching(problem)`, so that attacks compare; where
    layers are weighed alike (`adversary.balance`) those of `layer_squares`, as of DLG and iDLG there. The
    gradient counts as explained where the loss is at most EXPLAINED (less where the model tells images
    hardly apart: `sharpness`), or 1.5 times the noise floor; by layers at most CERTIFIED.
    """
    alike = weighs_layers(problem, "auto")
    losses = matching_losses(problem, images, labels, layer_squares if alike else None)
    noisy = noise_floor(problem)
    enough = torch.maximum(EXPLAINED * sharpness(problem), 1.5 * noisy)
    explained = losses <= (CERTIFIED if alike else enough)
    return Attempt(
        images=images, labels=labels, losses=losses, evaluations=evaluations, converged=explained.cpu()
    )
