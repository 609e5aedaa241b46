"""The local training recipe: the batches that a client draws, and the update that comes of them."""

from fedsim.training.batches import draw_batches, truth_indices
from fedsim.training.draws import training_seed, truth_draws
from fedsim.training.local import train
from fedsim.training.recipe import PrivateSGD, Recipe, Trained, UploadKind
from fedsim.training.state import load_state

__all__ = [
    "PrivateSGD",
    "Recipe",
    "Trained",
    "UploadKind",
    "draw_batches",
    "load_state",
    "train",
    "training_seed",
    "truth_draws",
    "truth_indices",
]
