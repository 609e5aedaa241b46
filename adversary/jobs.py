"""One unit of work for an attack worker: captures of one round, one attack, one attacker; JSON in and out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adversary.attacks import ATTACKS
from adversary.captures import Capture, read_capture, read_weights
from adversary.evidence import build_problem
from adversary.problem import Problem, Reconstruction, frozen_model
from adversary.reconstruct import reconstruct
from fedsim.defenses import DEFENSES
from fedsim.options import build
from fedsim.registry import import_object
from fedsim.seeds import derive
from fedsim.tasks.task import Task
from fedsim.training import Recipe

_TASKS: dict[str, Task] = {}


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """What a worker needs to know; every field is JSON."""

    captures: str
    """Folder of the captures."""
    names: tuple[str, ...]
    """Captures that share their global weights, kind of upload, defence and batch size."""
    joined: tuple[tuple[str, ...], ...] = ()
    """For each further round, the captures of the same clients' same batches, in the order of `names`."""
    task: str
    """`module:function` that returns the task, called with `task_argument` if there is one."""
    task_argument: str | None = None
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 1
    adaptive: bool = False
    defenses: tuple[Mapping[str, Any], ...] = ()
    """What the adaptive attacker knows: the chain's names and options, in order."""
    learning_rate: float = 1.0
    steps: int = 1
    batch_size: int = 1
    recipe: Mapping[str, Any] | None = None
    """The client's recipe (fedsim.training.Recipe's fields), where the threat model grants it."""
    own_statistics: bool = False
    """Whether the threat model grants the BatchNorm statistics of the clients' own batches."""
    labels: tuple[tuple[int, ...], ...] | None = None
    """Only where the threat model grants them."""
    granted: str | None = None
    """Folder with what a diffusion client drew, `<capture>.safetensors`, where the threat model grants it."""
    mode: Literal["train", "eval"] = "train"
    cuda_graphs: bool = False
    seed: int = 0
    out: str
    """Folder of the reconstructions."""

    @property
    def attacker(self) -> str:
        """Return `adaptive` or `naive`."""
        return "adaptive" if self.adaptive else "naive"

    def file(self, name: str) -> Path:
        """Return where the reconstruction of a capture goes."""
        return Path(self.out) / f"{name}--{self.attack.replace(':', '.')}--{self.attacker}.safetensors"

    def as_json(self) -> dict[str, Any]:
        """Return the job as plain tables."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "AttackJob":
        """Return the job that `as_json` wrote, also after a trip through JSON text (it knows no tuples)."""
        labels = table["labels"]
        return cls(
            **{
                **table,
                "names": tuple(table["names"]),
                "joined": tuple(tuple(names) for names in table["joined"]),
                "defenses": tuple(table["defenses"]),
                "labels": None if labels is None else tuple(tuple(row) for row in labels),
            }
        )


def execute(table: Mapping[str, Any], device: str = "cpu") -> list[str]:
    """Attack the captures of a job on a device, and return the names of those reconstructed.

    Each reconstruction is written as safetensors; one that is there already is not made again.
    """
    job = AttackJob.from_json(table)
    todo = [name for name in job.names if not job.file(name).exists()]
    if todo:
        attack = build(ATTACKS.resolve(job.attack, "attack"), job.options, job.attack)
        results = reconstruct(attack, _problem(job, todo, device), restarts=job.restarts)
        for name, result in zip(todo, results, strict=True):
            write_reconstruction(job.file(name), result)
    return list(job.names)


def write_reconstruction(path: Path, result: Reconstruction) -> None:
    """Store a reconstruction: `images`, `labels` and `parts/*`, and the rest as JSON in the header."""
    arrays = ("images", "labels", "parts")
    header = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in arrays}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tensors = {"images": result.images.contiguous(), "labels": result.labels.contiguous()}
    tensors |= {f"parts/{name}": value.contiguous() for name, value in result.parts.items()}
    save_file(tensors, partial, metadata={"reconstruction": json.dumps(header)})
    partial.replace(path)


def read_reconstruction(path: Path) -> Reconstruction:
    """Read what write_reconstruction wrote."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["reconstruction"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    images, labels = tensors.pop("images"), tensors.pop("labels")
    parts = {name.removeprefix("parts/"): value for name, value in tensors.items()}
    return Reconstruction(images=images, labels=labels, parts=parts, **header)


def load_task(reference: str, argument: str | None = None) -> Task:
    """Return the task that `module:function` makes (or is); a process keeps those it has loaded.

    Raises InputError if it cannot be imported.
    """
    key = f"{reference}({argument})"
    if key not in _TASKS:
        found = import_object(reference, "task")
        _TASKS[key] = found if hasattr(found, "loss") else found(*([] if argument is None else [argument]))
    return _TASKS[key]


def _problem(job: AttackJob, names: list[str], device: str) -> Problem:
    """Return the problem of some of the job's captures, with what further rounds show of the same batches."""
    places = [job.names.index(name) for name in names]
    first = _round_problem(job, names, names, device)
    rounds = [_round_problem(job, names, [later[place] for place in places], device) for later in job.joined]
    return replace(first, rounds=tuple(rounds), graphs=job.cuda_graphs)


def _round_problem(job: AttackJob, names: list[str], files: list[str], device: str) -> Problem:
    """Return the problem of the captures `files`, one round's; `names` are what they are known by."""
    folder = Path(job.captures)
    captures: list[Capture] = [read_capture(folder / f"{file}.safetensors") for file in files]
    weights = read_weights(folder, captures[0].weights)
    task = load_task(job.task, job.task_argument)
    defenses = [
        build(DEFENSES.resolve(table["name"]), {k: v for k, v in table.items() if k != "name"}, table["name"])
        for table in job.defenses
    ]
    known = dict(zip(job.names, job.labels or (), strict=False))
    problem = build_problem(
        captures,
        weights,
        task,
        frozen_model(task, weights, mode=job.mode, device=device),
        learning_rate=job.learning_rate,
        steps=job.steps,
        batch_size=job.batch_size,
        seeds=[derive(job.seed, "attack", job.attack, name) for name in names],
        defenses=defenses if job.adaptive else None,
        labels=torch.tensor([known[name] for name in names], device=device) if known else None,
        recipe=None if job.recipe is None else Recipe(**job.recipe),
        own_statistics=job.own_statistics,
    )
    return problem if job.granted is None else _with_draws(problem, Path(job.granted), files)


def _with_draws(problem: Problem, folder: Path, names: list[str]) -> Problem:
    """Return the problem with the timesteps and noise that were granted of each capture."""
    read = [load_file(folder / f"{name}.safetensors") for name in names]
    noise = torch.stack([one["noise"] for one in read]).to(problem.like) if "noise" in read[0] else None
    times = [one["timesteps"] for one in read if "timesteps" in one]
    device = problem.like.device
    return replace(problem, noise=noise, timesteps=torch.stack(times).to(device) if times else None)
