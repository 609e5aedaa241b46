"""What surrogate clients are fed with: public images, moved about, and put together to scenes."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d
from torchvision.transforms.functional import resize

OUTLINES, NEGATIVES = 0.5, 0.1
"""Shares of grey images of which the outline is shown, and the negative."""
LAYERS = 4
"""Things in a colour scene at most."""


def draw_pictures(
    public: Tensor,
    shape: tuple[int, int, int],
    count: int,
    generator: torch.Generator,
    *,
    moved: bool = True,
) -> Tensor:
    """Return pictures (count, C, H, W) in [0, 1] made of public ones (N, c, h, w), for any shape.

    Grey: one image each, turned, scaled and shifted; half of them as outlines, a tenth as negatives. In
    colour: scenes of up to LAYERS such images over each other, each tinted ("dead leaves", whose edges are
    distributed as those of photographs: Lee, Mumford & Huang 2001); public images in colour keep their own.
    Not `moved`: one image each as it is, where the public's are of the victims' kind.
    """
    if not moved:
        chosen = public[torch.randint(len(public), (count,), generator=generator)]
        return _shaped(chosen, shape)
    if shape[0] == 1:
        grey = public if public.shape[1] == 1 else public.mean(dim=1, keepdim=True)
        return _grey(grey, shape[1:], count, generator)
    return _scenes(public, shape, count, generator)


def _shaped(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return images (n, c, h, w) resized, grey from colour or in as many channels, (n, *shape)."""
    if images.shape[1] != shape[0]:
        images = images.mean(dim=1, keepdim=True).expand(-1, shape[0], -1, -1)
    if images.shape[2:] != shape[1:]:
        images = resize(images, list(shape[1:]), antialias=True).clamp(0, 1)
    return images


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator)


def _moved(
    public: Tensor, size: tuple[int, int], count: int, scale: tuple[float, float], g: torch.Generator
) -> Tensor:
    """Return `count` of the images, turned, at a size of `scale` and shifted, (count, c, *size)."""
    chosen = public[torch.randint(len(public), (count,), generator=g)]
    angle, spread = 2 * math.pi * _uniform(g, count), scale[1] / scale[0]
    inverse = 1 / (scale[0] * spread ** _uniform(g, count))
    across, down = 0.6 * _uniform(g, count) - 0.3, 0.6 * _uniform(g, count) - 0.3
    cos, sin = inverse * angle.cos(), inverse * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = affine_grid(matrix, [count, public.shape[1], *size], align_corners=False)
    return grid_sample(chosen, grid, align_corners=False)


def _grey(public: Tensor, size: tuple[int, int], count: int, g: torch.Generator) -> Tensor:
    pictures = _moved(public, size, count, (0.6, 1.2), g)
    outlines = max_pool2d(pictures, 3, 1, 1) + max_pool2d(-pictures, 3, 1, 1)
    stretched = outlines * (1 + 2 * _uniform(g, count, 1, 1, 1)) - 0.3 * _uniform(g, count, 1, 1, 1)
    pictures = torch.where(_uniform(g, count, 1, 1, 1) < OUTLINES, stretched.clamp(0, 1), pictures)
    return torch.where(_uniform(g, count, 1, 1, 1) < NEGATIVES, 1 - pictures, pictures)


def _scenes(public: Tensor, shape: tuple[int, int, int], count: int, g: torch.Generator) -> Tensor:
    channels, *size = shape
    ramp = torch.linspace(-0.5, 0.5, size[0])[:, None] * (_uniform(g, count, channels, 1, 1) - 0.5)
    scene = (_uniform(g, count, channels, 1, 1) + ramp).expand(count, *shape).clamp(0, 1)
    for layer in range(LAYERS):
        thing = _moved(public, (size[0], size[1]), count, (0.5, 2.0), g)
        cover = (8 * thing.amax(dim=1, keepdim=True)).clamp(0, 1)
        tint = _uniform(g, count, channels, 1, 1)
        light = _uniform(g, count, 1, 1, 1)
        painted = tint * (1 - light * (1 - thing)) if public.shape[1] == 1 else thing
        shown = (_uniform(g, count, 1, 1, 1) < 0.8).to(scene) if layer else torch.ones(count, 1, 1, 1)
        scene = torch.lerp(scene, painted.expand_as(scene), cover * shown)
    return scene
