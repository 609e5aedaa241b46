"""Environment variables and torch's threads, set for a while; the devices there are."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from fedsim.errors import InputError


@contextmanager
def environment(defaults: Mapping[str, str], *touched: str) -> Iterator[None]:
    """Set the variables of `defaults` that are unset; restore them, and those in `touched`, afterwards."""
    before = {name: os.environ.get(name) for name in (*defaults, *touched)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and restore its number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_device(key: str, name: str) -> None:
    """Raise InputError where this machine has no such device."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # built without it, or not there
        why = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{key} = {name!r}: allowed: a device of this machine ({why})") from None
