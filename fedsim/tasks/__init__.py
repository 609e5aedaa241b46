"""Tasks by name. A plug-in is a frozen, keyword-only dataclass of hyperparameters with one method.

It is `task(model, options, input_shape, num_classes) -> Task`, with model and options as in a scenario.
"""

from fedsim.registry import Entry, Registry

TASKS = Registry(
    "task",
    Entry(
        "classification",
        "fedsim.tasks.classification:Classification",
        "tell the classes of images apart, with cross entropy",
    ),
    Entry(
        "diffusion",
        "fedsim.tasks.diffusion:Diffusion",
        "draw new images: a denoising diffusion model (of the models unet and dit)",
        "Ho, Jain & Abbeel 2020",
    ),
)
