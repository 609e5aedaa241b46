"""What a scenario will cost: captures, gigabytes and minutes, from a probe of the real thing.

The probe is a federation of three rounds with a few clients and one local step, and a few evaluations of
each attack on what was captured there.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from adversary.attacks import ATTACKS
from adversary.captures import WEIGHTS, capture_paths, read_capture
from adversary.jobs import AttackJob, execute, read_reconstruction
from adversary.threat import parse
from adversary.workers import one_thread
from clients.federation import Federation
from fedsim.options import option_names
from fedsim.scenario import Scenario, dump_scenario, load_scenario
from fedsim.simulation.federate import SCENARIO, federate
from fedsim.simulation.federation import cohorts_of, federation_at, recipe_of
from fedsim.simulation.plan import plan
from fedsim.simulation.server import CAPTURES
from fedsim.simulation.targets import RunTarget
from fedsim.training import draw_batches, train
from fedsim.training.batches import number_of_batches

_CLIENTS, _STEPS, _EVALUATIONS = 4, 3, 10
_LOOKED_AT = 10_000
"""Clients whose cohort is looked up; of more, the first stand for all."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will cost on this machine; attacks are counted to the end of their budget."""

    parameters: int
    captures: int
    gigabytes: float
    federation_minutes: float
    attack_minutes: float
    """At most: an attack that converges stops sooner."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as plain tables."""
        return asdict(self)

    def text(self) -> str:
        """Return the estimate in a few lines."""
        lines = [
            f"parameters  {self.parameters:,}",
            f"captures    {self.captures:,} ({_size(self.gigabytes)})",
            f"federation  about {_time(self.federation_minutes)}",
        ]
        if self.attack_minutes:
            lines.append(f"attacks     at most {_time(self.attack_minutes)}, to the end of every budget")
        return "\n".join([*lines, *self.notes])


def estimate(scenario: Scenario) -> Estimate:
    """Measure a probe in a temporary folder, and multiply; raises InputError where it cannot start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probe = _probe(scenario)
        (folder / SCENARIO).write_text(dump_scenario(probe), encoding="utf-8")
        federation = federation_at(folder / SCENARIO)
        rows: list[dict[str, Any]] = []
        federate(probe, folder, on_round=rows.append)
        counts = count_captures(scenario)
        gigabytes = _bytes(folder / CAPTURES, counts, _captured_rounds(scenario)) / 1e9
        work = _workload(scenario, federation)
        examples = max(min(held, steps * probe.training.batch_size) for held, steps in work)
        attacks, notes = _attack_seconds(RunTarget(probe, folder), counts, examples)
        return Estimate(
            parameters=sum(p.numel() for p in federation.task.build(0).parameters()),
            captures=sum(counts.values()),
            gigabytes=gigabytes,
            federation_minutes=_federation_seconds(scenario, federation, rows) / 60,
            attack_minutes=attacks / 60,
            notes=[*notes, *_remarks(scenario, gigabytes)],
        )


def count_captures(scenario: Scenario) -> dict[str, int]:
    """Return how many captures to expect by cohort, on average: clients are drawn."""
    rounds = _captured_rounds(scenario)
    if scenario.adversary.visibility == "aggregate":
        return {"aggregate": rounds}
    clients, cohorts = scenario.partition.clients, cohorts_of(scenario)
    asked = scenario.strategy.clients_per_round or clients
    members = Counter(cohorts.cohort_of(client) for client in range(min(clients, _LOOKED_AT)))
    limit = scenario.adversary.capture.clients or asked
    return {
        cohort: rounds * min(limit, ceil(asked * number / members.total()))
        for cohort, number in members.items()
    }


def _captured_rounds(scenario: Scenario) -> int:
    rounds = scenario.adversary.capture.rounds
    if isinstance(rounds, list):
        return len(set(rounds))
    return scenario.strategy.rounds if rounds == "all" else 1


def _probe(scenario: Scenario) -> Scenario:
    """Return the scenario cut short: round 1 warms up, round 2 trains, round 3 evaluates and captures."""
    table = scenario.model_dump()
    clients = min(_CLIENTS, scenario.partition.clients)
    table["strategy"] = {"name": "fedavg", "rounds": 3, "evaluate_every": 3, "clients_per_round": clients}
    table["training"] |= {"epochs": 1, "steps": 1 if scenario.training.algorithm == "fedavg" else None}
    table["adversary"]["capture"] = {"rounds": [3], "clients": 1}
    table["engine"] = {"name": "inline"}
    return load_scenario(table)


def _federation_seconds(scenario: Scenario, federation: Federation, rows: Sequence[dict[str, Any]]) -> float:
    """Return rounds x clients x (a client's message and first step + its further steps) + evaluations."""
    clients, strategy = scenario.partition.clients, scenario.strategy
    training, both = (float(row["seconds"]) for row in rows[2:4])
    per_client, evaluation = training / min(_CLIENTS, clients), max(0.0, both - training)
    steps = _mean([number for _, number in _workload(scenario, federation)])
    if steps > 1:
        per_client += (steps - 1) * _step_seconds(federation)
    trained = strategy.rounds * (strategy.clients_per_round or clients)
    return trained * per_client + (1 + ceil(strategy.rounds / strategy.evaluate_every)) * evaluation


def _workload(scenario: Scenario, federation: Federation) -> list[tuple[int, int]]:
    """Return (examples, local steps) of some clients."""
    recipe = recipe_of(scenario.training)
    held = [len(federation.client(c).indices) for c in range(min(20, scenario.partition.clients))]
    return [(examples, number_of_batches(recipe, examples)) for examples in held]


def _step_seconds(federation: Federation) -> float:
    """Time a local step of client 0, after one that warms up."""
    client, task = federation.client(0), federation.task
    recipe = replace(client.recipe, algorithm="fedavg", steps=_STEPS)
    seconds = []
    for _ in range(2):
        batches = islice(draw_batches(recipe, client.indices, 0, 0, 1), _STEPS)
        begun = time.perf_counter()
        train(task, task.build(0), federation.dataset.train, batches, recipe, seed=0)
        seconds.append((time.perf_counter() - begun) / _STEPS)
    return min(seconds)


def _attack_seconds(target: RunTarget, counts: dict[str, int], examples: int) -> tuple[float, list[str]]:
    """Return the time of all attacks to the end of their budgets, and what is left out of it."""
    adversary = target.scenario.adversary
    captures = [read_capture(path) for path in capture_paths(target.captures)]
    threat = parse(adversary.threat_model, adversary.visibility)
    made = plan(target, captures, threat, target.captures.parent)
    notes = [f"refused: {row['attack']}: {row['reason']}" for row in made.refused]
    timed: dict[tuple[str, bool], list[tuple[str, float]]] = {}
    for job in made.jobs:
        most = ATTACKS.resolve(job.attack).max_images
        if examples > most:
            notes.append(f"refused: {job.attack}: takes on at most {most} images; uploads are of {examples}")
            continue
        seconds, budget = _time_job(job)
        if budget is None:
            notes.append(f"{job.attack}: has no max_evaluations, so that its time is not counted")
            continue
        cohort = made.cohorts[job.names[0]]
        timed.setdefault((job.attack, job.adaptive), []).append((cohort, seconds * budget * job.restarts))
    total = sum(_all_cohorts(adaptive, times, counts) for (_, adaptive), times in timed.items())
    return total, list(dict.fromkeys(notes))


def _all_cohorts(adaptive: bool, times: Sequence[tuple[str, float]], counts: dict[str, int]) -> float:
    """Multiply by the captures; a cohort that the probe did not meet counts as the slowest that it met."""
    known, slowest = dict(times), max(seconds for _, seconds in times)
    attacked = {cohort: n for cohort, n in counts.items() if not (adaptive and cohort == "none")}
    return sum(n * known.get(cohort, slowest) for cohort, n in attacked.items())


def _time_job(job: AttackJob) -> tuple[float, int | None]:
    """Return the seconds of an evaluation and the budget of evaluations, None where the attack has none."""
    option = option_names(ATTACKS.resolve(job.attack)).get("max_evaluations")
    if option is None:
        return 0.0, None
    budget = int(job.options.get("max_evaluations", option.default))
    few = min(budget, _EVALUATIONS)
    short = replace(job, options={**job.options, "max_evaluations": few}, restarts=1)
    with one_thread("cpu"):  # as a worker has it
        execute(short.as_json())
    found = [read_reconstruction(short.file(name)) for name in short.names]
    return _mean([result.seconds / max(1, result.evaluations) for result in found]), budget


def _bytes(folder: Path, counts: dict[str, int], rounds: int) -> float:
    """Return the size of all captures, and of the global weights once a captured round."""
    uploads = [path.stat().st_size for path in capture_paths(folder)]
    weights = [path.stat().st_size for path in (folder / WEIGHTS).glob("*.safetensors")]
    return sum(counts.values()) * _mean(uploads) + rounds * _mean(weights)


def _remarks(scenario: Scenario, gigabytes: float) -> list[str]:
    engine, cap = scenario.engine.name, scenario.adversary.capture.max_gigabytes
    remarks = []
    if gigabytes > cap:
        remarks.append(f"capturing will stop at {_size(cap)} (adversary.capture.max_gigabytes)")
    if engine != "inline":
        remarks.append(f"engine {engine}: measured inline, without its start and its parallel clients")
    return remarks


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _time(minutes: float) -> str:
    if minutes < 2:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _size(gigabytes: float) -> str:
    return f"{1000 * gigabytes:.1f} MB" if gigabytes < 1 else f"{gigabytes:.1f} GB"
