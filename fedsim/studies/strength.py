"""What makes each defence stronger."""

from collections.abc import Mapping
from typing import NamedTuple


class Strength(NamedTuple):
    """The option of a defence that says how strong it is."""

    option: str
    rises: bool
    """Whether a larger value is a stronger defence."""


STRENGTHS: Mapping[str, Strength] = {
    "masking": Strength("p", True),
    "pruning": Strength("fraction", True),
    "noising": Strength("std", True),
    "clipping": Strength("norm", False),
    "dpsgd": Strength("noise_multiplier", True),
}
