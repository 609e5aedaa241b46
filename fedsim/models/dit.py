"""The diffusion transformer (Peebles & Xie 2023), as diffusers builds it, for images and without classes."""

import torch
from torch import Tensor, nn

from fedsim.models.diffusers import diffusers_model
from fedsim.models.layers import InputShape
from fedsim.options import require


class DiT(nn.Module):
    """Noisy images (n, C, H, H) and timesteps (n,) to a prediction (n, C, H, H); all of class 0."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        for module in transformer.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0  # type: ignore[assignment]

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the prediction."""
        classes = torch.zeros(len(noisy), dtype=torch.long, device=noisy.device)
        prediction: Tensor = self.transformer(noisy, timesteps, classes).sample
        return prediction


def dit(
    input_shape: InputShape,
    num_classes: int,
    *,
    patch: int = 4,
    depth: int = 4,
    heads: int = 4,
    head_dim: int = 16,
) -> nn.Module:
    """Return `depth` transformer blocks over patches of `patch` x `patch` pixels, `heads` x `head_dim` wide.

    Images are square, their side a multiple of `patch`. Raises InputError for options out of range, and where
    diffusers is not installed.
    """
    del num_classes
    channels, height, width = input_shape
    for key, value in (("depth", depth), ("heads", heads), ("head_dim", head_dim)):
        require(value >= 1, key, value, "an integer of at least 1")
    require((heads * head_dim) % 4 == 0, "head_dim", head_dim, "heads * head_dim a multiple of 4")
    fits = patch >= 1 and height == width and height % patch == 0
    require(fits, "patch", patch, f"a divisor of the side of square images; these are {height}x{width}")
    return DiT(
        diffusers_model("DiTTransformer2DModel")(
            sample_size=height,
            in_channels=channels,
            out_channels=channels,
            patch_size=patch,
            num_layers=depth,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            num_embeds_ada_norm=1,
        )
    )
