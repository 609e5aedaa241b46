"""The scenario as a person reads it."""

from typing import Any

from fedsim.report.folder import Row, RunFolder
from fedsim.report.words import ABSENT, plural, title


def what_was_run(run: RunFolder) -> list[tuple[str, str]]:
    """Return the scenario as pairs of a name and a line that a person reads."""
    scenario = run.scenario
    training, adversary = scenario.get("training", {}), scenario.get("adversary", {})
    defenses = [_plugin(defense) for defense in scenario.get("defenses", [])]
    lines = [
        ("Data", _plugin(scenario.get("data", {}))),
        ("Partition", _plugin(scenario.get("partition", {}))),
        ("Task", _plugin(scenario.get("task", {}))),
        ("Model", _plugin(scenario.get("model", {})) + _parameters(run)),
        ("Training", _training(training)),
        ("Defences", "; then ".join(defenses) or "none"),
        ("Strategy", _plugin(scenario.get("strategy", {}))),
        ("Attacks", "; ".join(_plugin(attack) for attack in adversary.get("attacks", [])) or "none"),
        ("Captures", _settings(adversary.get("capture", {}))),
        ("Engine", _plugin(scenario.get("engine", {}))),
        ("Seed", str(scenario.get("seed", run.summary.get("seed", ABSENT)))),
    ]
    return [(name, text) for name, text in lines if text]


def _training(training: Row) -> str:
    batch = training.get("batch_size", 1)
    if training.get("algorithm") == "fedsgd":
        amount = f"one step on a batch of {batch}"
    elif training.get("steps"):
        amount = f"{plural(training['steps'], 'step')} on batches of {batch}"
    else:
        amount = f"{plural(training.get('epochs', 1), 'epoch')} on batches of {batch}"
    optional = {key: training.get(key) for key in ("momentum", "weight_decay") if training.get(key)}
    rate = {"learning_rate": training.get("learning_rate")} | optional
    parts = [amount, f"{title(training.get('optimizer', 'sgd'))}, {_settings(rate)}".removesuffix(", ")]
    upload = f"uploads the {training['upload']}" if training.get("upload") else ""
    name = title(training.get("algorithm", ""))
    return (f"{name}: " if name else "") + "; ".join([*parts, *([upload] if upload else [])])


def _parameters(run: RunFolder) -> str:
    size = run.summary.get("parameters")
    return f"; {size:,} parameters" if size else ""


def _plugin(table: Row) -> str:
    options = _settings({key: value for key, value in table.items() if key != "name"})
    name = title(str(table.get("name", "")))
    return f"{name}: {options}" if name and options else name or options


def _settings(table: Row) -> str:
    return ", ".join(_setting(key, value) for key, value in table.items() if value is not None)


def _setting(key: str, value: Any) -> str:
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"not {words}"
    if isinstance(value, str):
        value = title(value)
    if isinstance(value, dict):
        value = f"({_settings(value)})"
    return f"{words} {value}"
