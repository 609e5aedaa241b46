"""From images to pictures."""

import torch
from PIL import Image
from torch import Tensor


def to_picture(image: Tensor) -> Image.Image:
    """Return an image (C, H, W), clipped to [0, 1], as 8-bit RGB or grey: the mean of the channels."""
    pixels = (image.detach().cpu().float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.shape[0] == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    grey = pixels[0] if pixels.shape[0] == 1 else pixels.float().mean(dim=0).to(torch.uint8)
    return Image.fromarray(grey.contiguous().numpy())
