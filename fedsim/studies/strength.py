"""What makes each defence stronger."""

from collections.abc import Mapping
from typing import Any, NamedTuple


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


def strength_keys(rows: list[dict[str, Any]]) -> dict[str, Strength]:
    """Return the key of each defence's strength in the rows of a study: `defenses.0.p` -> its direction."""
    found = {}
    for row in rows:
        for key, name in row.items():
            if key.startswith("defenses.") and key.endswith(".name") and name in STRENGTHS:
                strength = STRENGTHS[name]
                found[f"{key.removesuffix('name')}{strength.option}"] = strength
    return found
