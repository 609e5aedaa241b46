"""From a model's name and options in a scenario to a function that builds it."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedsim.errors import InputError
from fedsim.models import MODELS
from fedsim.models.layers import InputShape, Normalize, group_norm_
from fedsim.options import check_options, option_names, require
from fedsim.registry import suggest
from fedsim.seeds import isolated_globals

WHERE = "model"
"""The table of the scenario, which errors name."""


def model_factory(
    name: str, options: Mapping[str, Any], input_shape: InputShape, num_classes: int
) -> Callable[[], nn.Module]:
    """Return a function that builds the model afresh; it can be pickled where the model's own factory can.

    `name` is one of `MODELS`, `torchvision:NAME` or `module:function`. Every model takes these options too:

    - `norm`: `"batch"` leaves it as it is, `"group"` replaces BatchNorm by GroupNorm;
    - `mean`, `std`: one number a channel (or one for all), by which inputs in [0, 1] are normalised.

    Builds the model once and passes two images of zeros through it. Raises InputError for an unknown name or
    option, and where the model does not make `num_classes` logits of an image.
    """
    make = _maker(name, options, input_shape, num_classes)
    _check_forward(make, name, (torch.zeros(2, *input_shape),), (2, num_classes), "logits")
    return make


def denoiser_factory(
    name: str, options: Mapping[str, Any], input_shape: InputShape
) -> Callable[[], nn.Module]:
    """Return a function that builds a denoiser afresh: `model_factory` for what diffusion learns.

    The model takes noisy images (n, *input_shape) and timesteps (n,), int64, and returns the like of the
    images; they come in [-1, 1], so that there is no `mean` and `std`. Raises InputError as `model_factory`.
    """
    for key in ("mean", "std"):
        require(
            key not in options, f"{WHERE}.{key}", options.get(key), "only with task.name = 'classification'"
        )
    make = _maker(name, options, input_shape, 0)
    inputs = (torch.zeros(2, *input_shape), torch.tensor([0, 1]))
    _check_forward(make, name, inputs, (2, *input_shape), "a prediction")
    return make


def initial_model(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a fresh model with the weights of this seed; the global generators stay as they were."""
    with isolated_globals(seed, "initial weights"):
        return factory()


def finish(
    model: nn.Module,
    *,
    norm: Literal["batch", "group"] = "batch",
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> nn.Module:
    """Apply the options that every model takes, and make activations safe to differentiate twice."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    if norm == "group":
        model = group_norm_(model)
    if not mean and not std:
        return model
    return nn.Sequential(Normalize(mean or (0.0,), std or (1.0,)), model)


def _maker(
    name: str, options: Mapping[str, Any], input_shape: InputShape, num_classes: int
) -> Callable[[], nn.Module]:
    """Return the function that builds the model, its options checked."""
    if name.startswith("torchvision:"):
        options = {"architecture": name.removeprefix("torchvision:"), **options}
        factory = MODELS.resolve("torchvision", f"{WHERE}.name")
    else:
        factory = MODELS.resolve(name, f"{WHERE}.name")
    own, common = _split(factory, options)
    _check_normalization(common, input_shape[0])
    return partial(_make, factory, own, common, input_shape, num_classes)


def _make(
    factory: Callable[..., nn.Module],
    own: Mapping[str, Any],
    common: Mapping[str, Any],
    input_shape: InputShape,
    num_classes: int,
) -> nn.Module:
    return finish(factory(input_shape, num_classes, **own), **common)


def _split(factory: Callable[..., Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the options' names and types; return the model's own ones and the common ones."""
    shared = option_names(finish)
    known = [*option_names(factory), *shared]
    for key, value in options.items():
        if key not in known:
            raise InputError(f"{WHERE}.{key} = {value!r}: unknown key; {suggest(key, known)}")
    own = {key: value for key, value in options.items() if key not in shared}
    common = {key: value for key, value in options.items() if key in shared}
    return check_options(factory, own, WHERE), check_options(finish, common, WHERE)


def _check_normalization(common: Mapping[str, Any], channels: int) -> None:
    for key in ("mean", "std"):
        values = common.get(key, ())
        fits = len(values) in (0, 1, channels)
        require(fits, f"{WHERE}.{key}", list(values), f"one number, or one for each of {channels} channels")
    positive = all(value > 0 for value in common.get("std", ()))
    require(positive, f"{WHERE}.std", list(common.get("std", ())), "numbers above 0")


def _check_forward(
    make: Callable[[], nn.Module],
    name: str,
    inputs: tuple[Tensor, ...],
    expected: tuple[int, ...],
    output: str,
) -> None:
    size = "x".join(map(str, inputs[0].shape[1:]))
    try:
        with isolated_globals(0, "model check"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = make()(*inputs)
    except InputError as error:
        raise InputError(f"{WHERE}.{error}") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{WHERE}.name = {name!r}: it cannot take images of {size} ({reason}); "
            "allowed: a model for images of this size, or other data"
        ) from None
    shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if shape != expected:
        raise InputError(
            f"{WHERE}.name = {name!r}: it makes {shape} of two images of {size}; "
            f"allowed: {output} of {expected}"
        )
