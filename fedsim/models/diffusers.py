"""What diffusers builds, imported only when such a model is built: it takes seconds."""

from typing import Any

from fedsim.errors import InputError


def diffusers_model(name: str) -> Any:
    """Return a class of diffusers; raises InputError where it is not installed."""
    try:
        import diffusers
    except ImportError:
        raise InputError(
            "name: needs the package diffusers; allowed: pip install 'fedsim[diffusion]', or another model"
        ) from None
    return getattr(diffusers, name)
