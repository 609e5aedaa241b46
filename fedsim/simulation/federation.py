"""From a scenario to what its clients share, who defends how, and what each of them trained on."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from adversary.manipulation import MANIPULATIONS
from adversary.manipulation.surgery import Manipulation, manipulated
from clients.federation import Federation
from fedsim.data.dataset import Dataset
from fedsim.data.load import load_dataset
from fedsim.data.partition import partition_clients
from fedsim.defenses import DEFENSES
from fedsim.defenses.chain import describe
from fedsim.defenses.upload import Defense
from fedsim.engines.environment import require_device
from fedsim.options import build
from fedsim.scenario.load import load_scenario
from fedsim.scenario.schema import Scenario, Training
from fedsim.seeds import numpy_generator
from fedsim.tasks import TASKS
from fedsim.tasks.classification import ClassificationTask
from fedsim.tasks.task import Draws, Task
from fedsim.training import Recipe, truth_draws, truth_indices


@dataclass(frozen=True, eq=False)
class Cohorts:
    """Who uses which of the scenario's defences."""

    defenses: tuple[Defense, ...]
    members: tuple[np.ndarray | None, ...]
    """For each defence a boolean per client; None where all use it."""

    def defense_of(self, client: int) -> tuple[Defense, ...]:
        """Return a client's defences, in order."""
        return tuple(
            defense
            for defense, members in zip(self.defenses, self.members, strict=True)
            if members is None or members[client]
        )

    def cohort_of(self, client: int) -> str:
        """Return the name of the clients with the same defences, such as `masking(p=0.5)`, or `none`."""
        return describe(self.defense_of(client))


def cohorts_of(scenario: Scenario) -> Cohorts:
    """Draw who defends: of n clients exactly round(share * n) use a defence, by a seeded permutation.

    Raises InputError for a defence's options that are out of range.
    """
    clients = scenario.partition.clients
    defenses, members = [], []
    for index, table in enumerate(scenario.defenses):
        where = f"defenses.{index}"
        factory = DEFENSES.resolve(table.name, f"{where}.name")
        defenses.append(build(factory, table.options, where))
        members.append(_draw(clients, table.share, scenario.seed, index))
    return Cohorts(tuple(defenses), tuple(members))


def recipe_of(training: Training) -> Recipe:
    """Return how clients train (what they upload is the federation's)."""
    return Recipe(**training.model_dump(exclude={"upload", "device"}))


def federation_of(scenario: Scenario) -> Federation:
    """Load the data, deal it out and build the task; raises InputError in one line where that cannot be."""
    require_device("training.device", scenario.training.device)
    dataset = dataset_of(scenario)
    partition = scenario.partition
    return Federation(
        task=_task(scenario, dataset),
        dataset=dataset,
        partition=partition_clients(
            dataset, partition.name, partition.options, partition.clients, scenario.seed
        ),
        recipe=recipe_of(scenario.training),
        upload=scenario.training.upload,
        device=scenario.training.device,
        seed=scenario.seed,
        defense_of=cohorts_of(scenario).defense_of,
    )


def dataset_of(scenario: Scenario) -> Dataset:
    """Return the scenario's data set."""
    return load_dataset(scenario.data.name, scenario.data.options, scenario.seed)


def manipulation_of(scenario: Scenario) -> Manipulation | None:
    """Return what the scenario's server does to the model that it sends; None for an honest one."""
    table = scenario.adversary.manipulation
    if table is None:
        return None
    where = "adversary.manipulation"
    found: Manipulation = build(MANIPULATIONS.resolve(table.name, f"{where}.name"), table.options, where)
    return found


def federation_at(path: str | Path, overrides: tuple[str, ...] = ()) -> Federation:
    """Return the federation of a scenario file; a process keeps the last few, so asking again is cheap."""
    return _federation(*_identity(path), overrides)


def task_of(scenario_path: str) -> Task:
    """Return the task of a scenario file, for a process that attacks: no data is dealt out."""
    return _task_at(*_identity(scenario_path))


def truth_of(scenario_path: str, client: int, round_number: int) -> tuple[Tensor, Tensor]:
    """Return the images (n, C, H, W) and labels (n,) that entered a client's upload, in order of training.

    Recomputed from scenario, seed, client and round: the truth is never written down or sent.
    """
    federation = federation_at(scenario_path)
    one = federation.client(client)
    return federation.dataset.train.batch(
        truth_indices(one.recipe, one.indices, federation.seed, client, round_number)
    )


def draws_of(scenario_path: str, client: int, round_number: int) -> Draws | None:
    """Return the timesteps and noise that the client drew for the examples of `truth_of`; None for none."""
    federation = federation_at(scenario_path)
    one = federation.client(client)
    return truth_draws(federation.task, one.recipe, one.indices, federation.seed, client, round_number)


def client_images(scenario_path: str, client: int) -> tuple[Tensor, Tensor]:
    """Return all images and labels that a client holds, in the order of the train split."""
    federation = federation_at(scenario_path)
    return federation.dataset.train.batch(federation.client(client).indices)


def _task(scenario: Scenario, dataset: Dataset) -> Task:
    table, model = scenario.task, scenario.model
    kind = build(TASKS.resolve(table.name, "task.name"), table.options, "task")
    task: Task = kind.task(model.name, model.options, dataset.shape, dataset.num_classes)
    manipulation = manipulation_of(scenario)
    if manipulation is None:
        return task
    assert isinstance(task, ClassificationTask)
    return manipulated(task, manipulation)


def _identity(path: str | Path) -> tuple[str, str]:
    """Return what a federation is remembered by: the file may have been written anew since."""
    return str(path), Path(path).read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def _federation(path: str, text: str, overrides: tuple[str, ...]) -> Federation:
    del text
    return federation_of(load_scenario(Path(path), overrides))


@lru_cache(maxsize=4)
def _task_at(path: str, text: str) -> Task:
    del text
    scenario = load_scenario(Path(path))
    return _task(scenario, dataset_of(scenario))


def _draw(clients: int, share: float, seed: int, index: int) -> np.ndarray | None:
    if share >= 1:
        return None
    members = np.zeros(clients, dtype=bool)
    members[numpy_generator(seed, "cohort", index).permutation(clients)[: round(share * clients)]] = True
    return members
