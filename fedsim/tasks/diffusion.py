"""Denoising diffusion models: their loss, and what a prediction says of image and noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.errors import InputError
from fedsim.models.build import denoiser_factory, initial_model
from fedsim.options import require
from fedsim.seeds import torch_generator
from fedsim.tasks.schedules import Schedule, alpha_bars
from fedsim.tasks.task import Draws

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class DiffusionTask:
    r"""Predict what was added to an image (Ho et al. 2020, algorithm 1), with clean images $x \in [-1, 1]$.

    $x_t = \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t} \epsilon, \quad
    L = \frac{1}{n C H W} \sum \| model(x_t, t) - target \|^2$

    Images come and go in [0, 1]; the map to [-1, 1] is in here. All methods run under `torch.func`, in the
    type of the images. It can be pickled where its factory can.
    """

    factory: Callable[[], nn.Module]
    """Returns a fresh denoiser: noisy images (n, C, H, W) and timesteps (n,) to a prediction (n, C, H, W)."""
    input_shape: tuple[int, ...]
    """(C, H, W)"""
    prediction: Prediction = "epsilon"
    schedule: Schedule = "cosine"
    timesteps: int = 1000
    num_classes: ClassVar[int] = 0
    alpha_bars: Tensor = field(init=False, repr=False, compare=False)
    """The share of the signal's variance that is left after each timestep: float64, (T,)."""

    def __post_init__(self) -> None:
        """Make the schedule."""
        # At once: a tensor made within torch.func.grad could not be kept beyond it.
        object.__setattr__(self, "alpha_bars", alpha_bars(self.schedule, self.timesteps))

    def build(self, seed: int) -> nn.Module:
        """Return the model with the initial weights of this seed; the global generators stay as they were."""
        return initial_model(self.factory, seed)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw timesteps (count,), uniform from 0 to T - 1, then standard normal noise (count, C, H, W)."""
        size, device = (count, *self.input_shape), generator.device
        timesteps = torch.randint(0, self.timesteps, (count,), generator=generator, device=device)
        return timesteps, torch.randn(size, generator=generator, device=device)

    def noisy(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Return $x_t$ of images (n, C, H, W) in [0, 1], noise of the same shape and timesteps (n,)."""
        signal, disturbance = self.scales(timesteps, images)
        return signal * (2 * images - 1) + disturbance * noise.to(images)

    def clean(self, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Return the images in [0, 1] of which `noisy` makes $x_t$ (n, C, H, W) with this noise."""
        signal, disturbance = self.scales(timesteps, noisy)
        return ((noisy - disturbance * noise.to(noisy)) / signal + 1) / 2

    def target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Return what the model is to predict, (n, C, H, W).

        The noise $\epsilon$, the image x in [-1, 1], or $v = \sqrt{\bar\alpha_t} \epsilon -
        \sqrt{1 - \bar\alpha_t} x$ (Salimans & Ho 2022, appendix D).
        """
        clean, noise = 2 * images - 1, noise.to(images)
        if self.prediction == "v_prediction":
            signal, disturbance = self.scales(timesteps, images)
            return signal * noise - disturbance * clean
        return noise if self.prediction == "epsilon" else clean

    def predict(self, model: nn.Module, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the model's prediction for noisy images (n, C, H, W) at timesteps (n,)."""
        prediction: Tensor = model(noisy, timesteps)
        return prediction

    def resolve(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a prediction says of the clean images, in [-1, 1], and of the noise."""
        signal, disturbance = self.scales(timesteps, noisy)
        if self.prediction == "epsilon":
            return (noisy - disturbance * prediction) / signal, prediction
        if self.prediction == "sample":
            return prediction, (noisy - signal * prediction) / disturbance
        return signal * noisy - disturbance * prediction, signal * prediction + disturbance * noisy

    def loss_at(self, model: nn.Module, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of the predictions, a scalar, for given timesteps and noise."""
        prediction = self.predict(model, self.noisy(images, noise, timesteps), timesteps)
        return F.mse_loss(prediction, self.target(images, noise, timesteps))

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Raise InputError: without timesteps and noise there is no loss (see `loss_at`)."""
        del model, inputs, labels
        needs = "its loss needs timesteps and noise; allowed: `loss_at`, and attacks made for it"
        raise InputError(f"task.name = 'diffusion': {needs}")

    @torch.no_grad()
    def evaluate(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the summed loss, with the same draws in every call: rounds can be compared.

        Timesteps are spread evenly over all T, so that the figure does not depend on which were drawn.
        """
        del labels
        count = len(inputs)
        if not count:
            return {"loss": 0.0}
        generator = torch_generator(0, "held-out draws")
        spread = (torch.arange(count) + 0.5) * self.timesteps / count
        timesteps = spread.long()[torch.randperm(count, generator=generator)]
        noise = torch.randn(inputs.shape, generator=generator)
        loss = self.loss_at(model, inputs, timesteps.to(inputs.device), noise.to(inputs.device))
        return {"loss": count * loss.item()}

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return $\sqrt{\bar\alpha_t}$ and $\sqrt{1 - \bar\alpha_t}$, (n, 1, 1, 1), typed as `like`."""
        left = self.alpha_bars.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
        return left.sqrt().to(like), (1 - left).sqrt().to(like)


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The diffusion task as a scenario names it, and the samples that its server draws.

    Raises InputError for options out of range.
    """

    prediction: Prediction = "epsilon"
    schedule: Schedule = "cosine"
    timesteps: int = 1000
    """T, 16 to 1000."""
    sample_every: int = 10
    """Rounds from one drawing of samples to the next; 0 draws none."""
    samples: int = 64
    """Samples a drawing, all of which are measured; the report shows ten."""
    sample_steps: int = 25
    """Steps of DDIM a sample; T where that is less."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(16 <= self.timesteps <= 1000, "timesteps", self.timesteps, "16 to 1000")
        require(self.sample_every >= 0, "sample_every", self.sample_every, "0 or more rounds")
        require(2 <= self.samples <= 10_000, "samples", self.samples, "2 to 10000")
        require(self.sample_steps >= 1, "sample_steps", self.sample_steps, "1 or more")

    def task(
        self, model: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
    ) -> DiffusionTask:
        """Return the task of a scenario's denoiser on images of this shape (C, H, W).

        Raises InputError where `fedsim.models.build.denoiser_factory` does.
        """
        del num_classes
        factory = denoiser_factory(model, options, input_shape)
        return DiffusionTask(factory, input_shape, self.prediction, self.schedule, self.timesteps)
