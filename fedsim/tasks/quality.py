"""How like real images samples are: a kernel distance over random features, without download or training."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.seeds import torch_generator

WIDTHS = (32, 64, 128)
CHUNK = 250
"""Images whose features are computed at a time."""


def sample_distance(samples: Tensor, real: Tensor) -> float:
    r"""Return the squared maximum mean discrepancy of two sets of images, about 0 where they are alike.

    $\frac{\sum_{i \ne j} k(x_i, x_j)}{m (m - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{n (n - 1)} -
    \frac{2}{m n} \sum_{i, j} k(x_i, y_j), \quad k(x, y) = (x \cdot y / d + 1)^3$

    as in the Kernel Inception Distance (Binkowski et al. 2018, arXiv 1801.01401, section 4): unbiased at any
    number of images, so that it can be below 0, where the Frechet distance is biased by hundreds of samples.
    But the features are those of `random_features`, standardised by the real images', and so the figure is
    **not** comparable with KID or FID over Inception: only with itself, on the same real images.

    `samples` (m, C, H, W) and `real` (n, C, H, W) are in [0, 1], at least two each.
    """
    features, known = random_features(samples), random_features(real)
    mean, std = known.mean(dim=0), known.std(dim=0).clamp(min=1e-12)
    x, y = (features - mean) / std, (known - mean) / std
    return float(_between_others(x) + _between_others(y) - 2 * _kernel(x, y).mean())


@torch.no_grad()
def random_features(images: Tensor, seed: int = 0) -> Tensor:
    """Return features of images (n, C, H, W) in a random convolutional network: float64, (n, d).

    Three 3x3 convolutions of stride 2 with leaky ReLU and He et al.'s initial weights, drawn from the seed;
    the mean and the standard deviation of each channel over each quarter of the last map. Naeem et al.
    (2020, arXiv 2002.09797) argue for random embeddings where images are far from ImageNet.
    """
    weights = _weights(images.shape[1], seed)
    return torch.cat([_features(chunk.cpu(), weights) for chunk in torch.split(images, CHUNK)])


def _weights(channels: int, seed: int) -> list[Tensor]:
    generator = torch_generator(seed, "random features")
    sizes = zip((channels, *WIDTHS), WIDTHS, strict=False)
    return [
        torch.randn(after, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
        for before, after in sizes
    ]


def _features(images: Tensor, weights: list[Tensor]) -> Tensor:
    x = 2 * images.float() - 1
    for weight in weights:
        x = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
    mean, square = F.adaptive_avg_pool2d(x, 2), F.adaptive_avg_pool2d(x * x, 2)
    spread = (square - mean * mean).clamp(min=0).sqrt()
    return torch.cat([mean.flatten(1), spread.flatten(1)], dim=1).double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _between_others(x: Tensor) -> Tensor:
    """Return the mean of the kernel over pairs of different images."""
    values = _kernel(x, x)
    return (values.sum() - values.diagonal().sum()) / (len(x) * (len(x) - 1))
