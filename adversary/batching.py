"""Which images met in a batch: relaxed to shares, which a search can follow."""

from torch import Tensor, nn

ROUNDS = 6
"""Of Sinkhorn's scaling."""


def shares(logits: Tensor, sizes: Tensor) -> Tensor:
    """Return how much of each image lies in each batch of an epoch, (E, S, N), of logits (E, S, N).

    Each image's shares sum to one. Those of a batch sum to its size (S,), nearly while logits are of order
    one, and less so the further they spread: rows and columns are scaled in turn (Sinkhorn & Knopp 1967), the
    columns last. Equal logits give `size / N`; the batchings that a client may draw are the corners.
    """
    logs = logits
    for _ in range(ROUNDS):
        logs = logs - logs.logsumexp(dim=-1, keepdim=True) + sizes.log()[:, None]
        logs = logs - logs.logsumexp(dim=-2, keepdim=True)
    return logs.exp()


def averages_images(model: nn.Module) -> bool:
    """Return whether a batch's loss is the mean of its images', as it is not under its own BatchNorm."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return not any(norm.training or norm.running_mean is None for norm in norms)
