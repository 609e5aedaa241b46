"""The U-Net of denoising diffusion (Ho et al. 2020, appendix B), as diffusers builds it."""

from torch import Tensor, nn

from fedsim.models.diffusers import diffusers_model
from fedsim.models.layers import InputShape
from fedsim.options import require


class UNet(nn.Module):
    """Noisy images (n, C, H, W) and timesteps (n,) to a prediction (n, C, H, W)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the prediction."""
        prediction: Tensor = self.unet(noisy, timesteps).sample
        return prediction


def unet(
    input_shape: InputShape,
    num_classes: int,
    *,
    channels: tuple[int, ...] = (32, 64, 64),
    layers: int = 1,
    attention: bool = True,
    head_dim: int = 8,
    norm_groups: int = 8,
) -> nn.Module:
    """Return a U-Net with one resolution for each of `channels`, half the last one, of `layers` blocks each.

    `channels` are those of the resolutions, the full one first; with `attention` the smallest one has it, and
    the middle block. Height and width are multiples of 2^(resolutions - 1). 1,112,801 parameters by default
    for grey images. Raises InputError for options out of range, and where diffusers is not installed.
    """
    del num_classes
    _check(input_shape, channels, layers, head_dim, norm_groups)
    plain = len(channels) - 1
    last = "Attn" if attention else ""
    return UNet(
        diffusers_model("UNet2DModel")(
            sample_size=input_shape[1:],
            in_channels=input_shape[0],
            out_channels=input_shape[0],
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * plain + (f"{last}DownBlock2D",),
            up_block_types=(f"{last}UpBlock2D",) + ("UpBlock2D",) * plain,
            layers_per_block=layers,
            add_attention=attention,
            attention_head_dim=head_dim,
            norm_num_groups=norm_groups,
        )
    )


def _check(
    input_shape: InputShape, channels: tuple[int, ...], layers: int, head_dim: int, norm_groups: int
) -> None:
    given = list(channels)
    require(len(given) >= 2, "channels", given, "two numbers or more, one for each resolution")
    require(norm_groups >= 1, "norm_groups", norm_groups, "an integer of at least 1")
    fit = all(count >= 1 and count % norm_groups == 0 for count in given)
    require(fit, "channels", given, f"multiples of norm_groups = {norm_groups}")
    require(layers >= 1, "layers", layers, "an integer of at least 1")
    whole = head_dim >= 1 and given[-1] % head_dim == 0
    require(whole, "head_dim", head_dim, f"a divisor of the last of channels, {given[-1]}")
    factor = 2 ** (len(given) - 1)
    fits = all(size % factor == 0 for size in input_shape[1:])
    size = "x".join(map(str, input_shape[1:]))
    require(
        fits, "channels", given, f"resolutions into which {size} can be halved; {factor} does not divide it"
    )
