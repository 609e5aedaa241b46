"""Random gradient masking: each entry is withheld with probability p."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedsim.defenses.upload import Adaptive, Upload, Values, identity, nonzero
from fedsim.options import require


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Withhold each entry independently: `m_i ~ Bernoulli(1 - p)`, sent are `m_i u_i` (Kim & Park 2024).

    BatchNorm statistics are never masked, and BatchNorm's affine weights and biases only on request: they act
    on a whole channel that the (unmasked) statistics normalise, are a sliver of the parameters, and the paper
    circumvents BatchNorm as a whole.
    """

    p: float
    """Probability that an entry is withheld, 0 <= p < 1."""
    fill: Literal["absent", "zero"] = "absent"
    """`absent`: marked, and left out of the server's mean or median. `zero`: sent as an unmarked zero."""
    rescale: bool = False
    """Multiply what is sent by 1 / (1 - p): unbiased where zeros are averaged; not needed with `absent`."""
    mask_affine: bool = False
    """Mask BatchNorm's affine weights and biases too."""

    def __post_init__(self) -> None:
        """Check the range of p."""
        require(0 <= self.p < 1, "p", self.p, "0 <= p < 1")

    def apply(self, upload: Upload, generator: torch.Generator) -> Upload:
        """Return the upload with random entries zero, and marked absent unless `fill` is `zero`."""
        values, present = {}, dict(upload.present)
        for name, value in upload.learnable().items():
            if not self.mask_affine and is_batchnorm_affine(name, upload.buffers):
                continue
            kept = (torch.rand(value.shape, generator=generator, dtype=torch.float32) >= self.p).to(
                value.device
            )
            values[name] = torch.where(kept, value * self._scale, torch.zeros_like(value))
            if self.fill == "absent":
                present[name] = kept & present[name] if name in present else kept
        return replace(upload.with_values(values), present=present)

    def adaptive(self, unit: float) -> Adaptive:  # noqa: ARG002
        """Leave withheld entries out of the match: by the capture's masks, or where the upload is zero."""
        present = nonzero if self.fill == "zero" else None
        return Adaptive(simulate=self._rescaled if self.rescale else identity, present=present)

    @property
    def _scale(self) -> float:
        return 1 / (1 - self.p) if self.rescale else 1.0

    def _rescaled(self, values: Values) -> dict[str, Tensor]:
        # Affine parameters are known by their layer's buffers; in a dummy without buffers all are scaled.
        whole = set() if self.mask_affine else {n for n in values if is_batchnorm_affine(n, values.keys())}
        return {name: value if name in whole else value * self._scale for name, value in values.items()}


def is_batchnorm_affine(name: str, buffers: Collection[str]) -> bool:
    """Return whether the parameter is the scale or shift of a layer with running statistics."""
    prefix, dot, last = name.rpartition(".")
    return last in ("weight", "bias") and f"{prefix}{dot}running_mean" in buffers
