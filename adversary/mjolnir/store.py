"""Trained denoisers on disk: safetensors, found again by what they were made of."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim.errors import InputError
from fedsim.options import path_of


def folder_of(named: str | Path | None) -> Path:
    """Return the folder of denoisers: the one named, by default `fedsim/denoisers` of the user's cache.

    Raises InputError unless denoisers can be kept in it; it need not be there yet.
    """
    if named is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim" / "denoisers"
    folder = path_of("cache", str(named))
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if os.access(path, os.F_OK))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise _not_written(folder, f"{there} is no such one")
    return folder


def content_key(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of settings (JSON) and named tensors, in hex."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def remembered(folder: Path, key: str, make: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights kept under a key; where there are none, those that `make` makes, which are kept.

    `make` is given a file for its checkpoints, which is gone once it is done. Of several processes that look
    for the same key one makes it, and the others wait.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    path, checkpoint = folder / f"{key}.safetensors", folder / f"{key}.checkpoint"
    with FileLock(folder / f"{key}.lock"):
        if not path.exists():
            made = {name: value.detach().cpu().contiguous() for name, value in make(checkpoint).items()}
            partial = path.with_suffix(".writing")
            save_file(made, partial)
            partial.replace(path)
            checkpoint.unlink(missing_ok=True)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: a damaged denoiser ({error}): delete it") from None


def _not_written(folder: Path, why: object) -> InputError:
    return InputError(f"cache = {str(folder)!r}: allowed: a folder that can be written ({why})")
