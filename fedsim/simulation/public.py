"""Public images that an attacker brings: perhaps of the clients' kind, never theirs."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from torch import Tensor

from adversary.attacks import ATTACKS
from fedsim.data.dataset import Split
from fedsim.errors import InputError
from fedsim.options import build
from fedsim.scenario.schema import Scenario

COPIES = 0.01
"""Share of public images that clients may hold as well: data sets have a few pictures twice."""
CHUNK = 1000


def require_strangers(scenario: Scenario, train: Split) -> None:
    """Raise InputError where an attack's public images are those of the training split, which clients hold.

    An attack that brings some has a method `public` that returns them, (N, C, H, W) in [0, 1], or None.
    """
    for number, table in enumerate(scenario.adversary.attacks):
        key = f"adversary.attacks.{number}"
        attack = build(ATTACKS.resolve(table.name, f"{key}.name"), table.options, key)
        try:
            public: Tensor | None = attack.public() if hasattr(attack, "public") else None
        except InputError as error:
            raise InputError(f"{key}.surrogate: {error}") from None
        if public is not None and (share := _share(public, train)) > COPIES:
            raise InputError(
                f"{key}.surrogate: {share:.0%} of its images are the clients' own; allowed: the other split "
                f"(`split`), divided by `surrogate_seed = {scenario.seed}`, or other data"
            )


def _share(public: Tensor, train: Split) -> float:
    """Return which share of public images (N, C, H, W) the training split holds."""
    if not len(public) or not len(train) or public.shape[1:] != train.batch([0])[0].shape[1:]:
        return 0.0
    held = {digest for images in _chunks(train) for digest in _digests(images)}
    return sum(digest in held for digest in _digests(public)) / len(public)


def _chunks(split: Split) -> Iterator[Tensor]:
    for start in range(0, len(split), CHUNK):
        yield split.batch(range(start, min(start + CHUNK, len(split))))[0]


def _digests(images: Iterable[Tensor]) -> Iterator[bytes]:
    for image in images:
        yield blake2b(image.numpy().tobytes(), digest_size=16).digest()
