"""From captures and an adversary to jobs: who is attacked how, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from adversary.attacks import ATTACKS
from adversary.captures import Capture
from adversary.jobs import AttackJob
from adversary.threat import Capability, ThreatModel, refuse
from fedsim.defenses import DEFENSES
from fedsim.defenses.chain import Chain
from fedsim.options import build
from fedsim.scenario.schema import Attack
from fedsim.simulation.federation import recipe_of
from fedsim.simulation.granting import grant_draws
from fedsim.simulation.joining import join_rounds
from fedsim.simulation.targets import MIXED, Chains, Target
from fedsim.training.batches import number_of_batches

GROUP = 8
"""Captures that one job attacks in lockstep: as many as fit the cache of a core."""
ENTRIES = 2_000_000
"""Gradient entries that one job holds at a time; a larger model is attacked one capture at a time."""

Key = tuple[str, str, bool]
"""(attack, cohort, adaptive)"""


@dataclass
class Plan:
    """Jobs to run, attacks that are refused, and what has to be said of an entry of the summary."""

    jobs: list[AttackJob] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    notes: dict[Key, str] = field(default_factory=dict)
    cohorts: dict[str, str] = field(default_factory=dict)
    """Capture name -> cohort."""


def plan(target: Target, captures: Sequence[Capture], threat: ThreatModel, out: Path) -> Plan:
    """Return the jobs that attack the captures with each of the scenario's attacks, naive and adaptive."""
    made = Plan()
    chains = Chains.of(target.scenario)
    made.cohorts = {capture.name: chains.cohort(capture) for capture in captures}
    later: Mapping[str, tuple[Capture, ...]] = {}
    if target.scenario.adversary.join_rounds:
        captures, later = join_rounds(captures)
    for attack in target.scenario.adversary.attacks:
        reason = _other_task(attack, target) or refuse(
            frozenset(map(Capability, _factory(attack).needs)), threat
        )
        if reason:
            made.refused.append({"attack": attack.name, "reason": reason})
            continue
        for group in _groups(captures, made.cohorts, later):
            further = tuple(zip(*(later.get(capture.name, ()) for capture in group), strict=True))
            _plan_group(made, target, attack, group, further, threat, chains, out)
    return made


def _plan_group(
    made: Plan,
    target: Target,
    attack: Attack,
    group: Sequence[Capture],
    further: tuple[tuple[Capture, ...], ...],
    threat: ThreatModel,
    chains: Chains,
    out: Path,
) -> None:
    first = group[0]
    reason = _too_much(attack, target, examples_of(first)) or _drawn_again(attack, target, first)
    if reason:
        _once(made.refused, {"attack": attack.name, "reason": reason})
        return
    job = _job(target, attack, group, further, threat, out)
    cohort, defenses = made.cohorts[first.name], _as_seen(chains.defenses(first), first)
    defenses = tuple(_as_trained(table, job, target) for table in defenses)
    made.jobs.append(job)
    notes = [f"{1 + len(further)} rounds of the same batch joined"] if further else []
    notes += filter(None, [_steps_note(attack, first, job.steps)])
    if cohort != "none" and attack.adaptive:
        why_not = _not_adaptive(cohort, defenses, threat)
        notes += filter(None, [why_not or _sum_note(first)])
        if not why_not:
            made.jobs.append(replace(job, adaptive=True, defenses=defenses))
    if notes:
        made.notes[attack.name, cohort, False] = "; ".join(notes)


def _other_task(attack: Attack, target: Target) -> str:
    """Return why an attack does not fit what is learnt: its `task`, a class variable, says what does."""
    made_for = getattr(_factory(attack), "task", "classification")
    learnt = target.scenario.task.name
    if ":" in learnt or learnt == made_for:
        return ""
    return f"reads the gradients of task {made_for}; these uploads are of task {learnt}"


def _too_much(attack: Attack, target: Target, batch: int) -> str:
    """Return why an attack cannot be made on uploads of so many images; nothing where it can."""
    limit, optimizer = _factory(attack).max_images, target.scenario.training.optimizer
    if batch > limit:
        return f"takes on at most {limit} images; these uploads are made of {batch}"
    falls_back = getattr(_factory(attack), "falls_back", False)
    if _unrolls(attack) and optimizer != "sgd" and not falls_back:
        return f"unrolls steps of SGD; these clients train with {optimizer}"
    return ""


def _drawn_again(attack: Attack, target: Target, first: Capture) -> str:
    """Return why draws that are granted cannot be used: an image that was trained on twice has two."""
    if not {"timesteps", "noise"} & set(_factory(attack).needs):
        return ""
    truth = target.truth(first)
    if truth is None or truth.draws is None or len(truth.draws[0]) == len(truth.images):
        return ""
    images, draws = len(truth.images), len(truth.draws[0])
    return f"reads uploads in which each image was drawn for once; here {images} were drawn for {draws} times"


def _job(
    target: Target,
    attack: Attack,
    group: Sequence[Capture],
    further: tuple[tuple[Capture, ...], ...],
    threat: ThreatModel,
    out: Path,
) -> AttackJob:
    """Return the naive attacker's job on captures that go in lockstep."""
    first = group[0]
    batch = examples_of(first)
    return AttackJob(
        captures=str(target.captures),
        names=tuple(capture.name for capture in group),
        joined=tuple(tuple(capture.name for capture in captures) for captures in further),
        task=target.task[0],
        task_argument=target.task[1],
        attack=attack.name,
        options=attack.options,
        restarts=attack.restarts,
        learning_rate=_learning_rate(target, first),
        steps=_steps(target, batch),
        batch_size=batch,
        recipe=_recipe(target, first) if threat.grants(Capability.RECIPE) else None,
        own_statistics=threat.grants(Capability.BATCHNORM_STATISTICS),
        labels=_labels(target, group) if threat.grants(Capability.LABELS) else None,
        granted=grant_draws(target, group, threat, out),
        cuda_graphs=target.scenario.adversary.cuda_graphs,
        seed=target.scenario.seed,
        out=str(out / "reconstructions"),
    )


def _as_seen(defenses: Sequence[Mapping[str, Any]], capture: Capture) -> tuple[Mapping[str, Any], ...]:
    """Return the chain as it acted on a capture: absent entries went out as zeros where nobody marked them.

    Clients mark them only for a server that says it leaves them out, as `Uploads` does.
    """
    unmarked = {"fill": "zero"} if not capture.present else {}
    return tuple({**table, **(unmarked if table.get("fill") == "absent" else {})} for table in defenses)


def _as_trained(table: Mapping[str, Any], job: AttackJob, target: Target) -> Mapping[str, Any]:
    """Return a defence with what it leaves to the recipe: the steps of an upload, the examples of a step."""
    batch = min(job.batch_size, target.scenario.training.batch_size)
    known = {"steps": job.steps, "batch_size": batch}
    return {**table, **{key: value for key, value in known.items() if table.get(key, value) is None}}


def _not_adaptive(cohort: str, defenses: Sequence[Mapping[str, Any]], threat: ThreatModel) -> str:
    if not threat.grants(Capability.DEFENSE):
        return f"adaptive: none (threat model {threat.name} does not grant {Capability.DEFENSE.value})"
    if cohort == MIXED:
        return "adaptive: none (the aggregate mixes clients with different defences)"
    chain = Chain(
        tuple(
            build(
                DEFENSES.resolve(table["name"]),
                {k: v for k, v in table.items() if k != "name"},
                table["name"],
            )
            for table in defenses
        )
    )
    return "adaptive: none" if chain.adaptive(1.0) is None else ""


def examples_of(capture: Capture) -> int:
    """Return how many examples are behind an upload, as its client reported; 1 where it did not."""
    return max(1, round(float(capture.metrics.get("num-examples", 1))))


def _groups(
    captures: Sequence[Capture], cohorts: Mapping[str, str], later: Mapping[str, tuple[Capture, ...]]
) -> list[list[Capture]]:
    """Return captures that can go in lockstep, in groups of about equal size."""
    alike: dict[tuple[Any, ...], list[Capture]] = {}
    for capture in captures:
        rounds = tuple(one.weights for one in (capture, *later.get(capture.name, ())))
        marked = bool(capture.present)
        key = (rounds, capture.upload, cohorts[capture.name], examples_of(capture), marked)
        alike.setdefault(key, []).append(capture)
    groups = []
    for members in alike.values():
        entries = sum(value.numel() for value in members[0].arrays.values())
        size = max(1, min(GROUP, ENTRIES // max(1, entries)))
        count = ceil(len(members) / size)
        even = ceil(len(members) / count)
        groups += [members[start : start + even] for start in range(0, len(members), even)]
    return groups


def _factory(attack: Attack) -> Any:
    return ATTACKS.resolve(attack.name, "adversary.attacks.name")


def _unrolls(attack: Attack) -> bool:
    """Return whether the attack follows the client's steps: `unrolls`, a class variable that it may have."""
    return bool(getattr(_factory(attack), "unrolls", False))


def _recipe(target: Target, capture: Capture) -> dict[str, Any]:
    known = asdict(recipe_of(target.scenario.training))
    del known["private"]  # a defence, and known as one
    return known | {"learning_rate": _learning_rate(target, capture)}


def _steps_note(attack: Attack, capture: Capture, steps: int) -> str:
    """Return what is to be said of several local steps that the attack takes for what they are not."""
    if steps == 1:
        return ""
    if not _unrolls(attack):
        return f"{steps} local steps matched as one"
    return f"{steps} local steps of several clients unrolled as one client's" if capture.clients else ""


def _sum_note(capture: Capture) -> str:
    """Return what is to be said of an adaptive attacker who sees several clients' uploads as one."""
    if not capture.clients:
        return ""
    return f"the defence of {len(capture.clients)} clients taken for that of one, but for its noise"


def _steps(target: Target, examples: int) -> int:
    return max(1, number_of_batches(recipe_of(target.scenario.training), examples))


def _learning_rate(target: Target, capture: Capture) -> float:
    """Return the client's learning rate: as it reported it (our clients do), else the scenario's."""
    return float(capture.config.get("learning-rate", target.scenario.training.learning_rate))


def _labels(target: Target, group: Sequence[Capture]) -> tuple[tuple[int, ...], ...] | None:
    truths = [target.truth(capture) for capture in group]
    if any(truth is None for truth in truths):
        return None
    return tuple(tuple(sorted(truth.labels.tolist())) for truth in truths if truth is not None)


def _once(rows: list[dict[str, str]], row: dict[str, str]) -> None:
    if row not in rows:
        rows.append(row)
