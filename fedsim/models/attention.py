"""Attention that can be differentiated twice."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let attention in this block run as plain products and softmax, whose gradient has a gradient.

    The fused kernels of `scaled_dot_product_attention`, faster and the default elsewhere, have only a first.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
