"""Images from the Hugging Face hub, or from a local folder in its format, through flwr-datasets."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.dataset import Dataset, Indices
from fedsim.data.flower import offline, quiet_telemetry
from fedsim.data.images import Framing, ImageRows, open_cell
from fedsim.data.subset import stratified_split
from fedsim.errors import InputError
from fedsim.options import path_of, require
from fedsim.registry import suggest
from fedsim.seeds import numpy_generator


def huggingface(
    seed: int,
    *,
    dataset: str,
    subset: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    owner_key: str | None = None,
    train: str = "train",
    test: str = "test",
    test_share: float = 0.2,
    size: int | None = None,
    crop: int | None = None,
    grey: bool = False,
    download: bool = False,
) -> Dataset:
    """Read a data set of the Hugging Face hub (`owner/name`), or a folder with its parquet or arrow files.

    Through flwr-datasets' FederatedDataset; images are decoded as they are asked for. Without `download` only
    the local cache is used. `test = ""` draws `test_share` of the train split instead. `owner_key` names the
    column that says whose example it is (for the partition `natural`). Raises InputError that names the
    column or split.
    """
    require(0 < test_share < 1, "test_share", test_share, "a share between 0 and 1 (both excluded)")
    splits = _load(dataset, subset, [name for name in (train, test) if name], download)
    framing = Framing(size=size, crop=crop, grey=grey)
    rows = splits[train]
    _check_columns(rows, dataset, image_key, label_key, owner_key)
    classes = _classes(rows, label_key)
    labels = _labels(rows, label_key, classes)
    chosen = np.arange(len(labels))
    if test:
        _check_columns(splits[test], dataset, image_key, label_key, None)
        test_rows, test_labels = splits[test], _labels(splits[test], label_key, classes)
    else:
        chosen, held = stratified_split(labels, test_share, numpy_generator(seed, "data", "split"))
        test_rows, test_labels = rows.select(held), labels[held]
        rows = rows.select(chosen)
    height, width, channels = open_cell(rows, 0, image_key, framing).shape
    return Dataset(
        Path(dataset).name,
        ImageRows(rows, image_key, labels[chosen], framing),
        ImageRows(test_rows, image_key, test_labels, framing),
        (channels, height, width),
        classes,
        None if owner_key is None else _owners(rows, owner_key),
    )


def _load(name: str, subset: str | None, splits: list[str], download: bool) -> dict[str, Any]:
    quiet_telemetry()
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
    from flwr_datasets import FederatedDataset

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    local = path_of("dataset", name)
    # `load_dataset("pandas")` and its like are file readers (that one unpickles), not data sets.
    require(name not in _PACKAGED_DATASETS_MODULES, "dataset", name, "owner/name, or a folder")
    try:
        with offline(not download):
            if (local / "dataset_dict.json").is_file():
                found = datasets.load_from_disk(str(local))
                return {split: found[split] for split in splits}
            source = os.fspath(local.resolve()) if local.is_dir() else name
            federated = FederatedDataset(dataset=source, subset=subset, partitioners={}, shuffle=False)
            return {split: federated.load_split(split) for split in splits}
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        how = "" if download or local.is_dir() else "; download = true fetches it"
        raise InputError(f"dataset = {name!r}: cannot be loaded ({reason}){how}") from None


def _check_columns(rows: Any, dataset: str, image_key: str, label_key: str, owner_key: str | None) -> None:
    from datasets import Image

    for option, key in (("image_key", image_key), ("label_key", label_key), ("owner_key", owner_key)):
        if key is not None and key not in rows.column_names:
            raise InputError(
                f"{option} = {key!r}: no such column in {dataset}; {suggest(key, rows.column_names)}"
            )
    if not isinstance(rows.features[image_key], Image):
        raise InputError(
            f"image_key = {image_key!r}: is {rows.features[image_key]}; allowed: a column of images"
        )
    if len(rows) == 0:
        raise InputError(f"dataset = {dataset!r}: a split is empty; allowed: one example or more")


def _classes(rows: Any, key: str) -> tuple[str, ...]:
    """Return the class names: the column's own, or its values in order."""
    feature = rows.features[key]
    if hasattr(feature, "names"):
        return tuple(feature.names)
    values = sorted(rows.unique(key))
    if values and isinstance(values[0], int):
        return tuple(str(value) for value in range(values[-1] + 1))
    return tuple(str(value) for value in values)


def _labels(rows: Any, key: str, classes: tuple[str, ...]) -> np.ndarray:
    values = rows.with_format(None)[key][:]
    if values and isinstance(values[0], str):
        position = {name: label for label, name in enumerate(classes)}
        values = [position.get(value, -1) for value in values]
    kind = {type(value) for value in values}
    if kind != {int} or min(values) < 0 or max(values) >= len(classes):
        raise InputError(
            f"label_key = {key!r}: allowed: a label or name of the {len(classes)} classes in every row"
        )
    return np.array(values, dtype=np.int64)


def _owners(rows: Any, key: str) -> Indices:
    """Return a number for each row: equal values of the column have equal numbers."""
    values = np.array([str(value) for value in rows.with_format(None)[key][:]])
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
