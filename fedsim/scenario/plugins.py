"""Names and options of a scenario's plug-ins, checked against registries and the plug-ins' signatures."""

import logging
from typing import Any

from fedsim.errors import InputError
from fedsim.options import build, check_options, option_names
from fedsim.registry import Registry, import_object, suggest
from fedsim.scenario.schema import Plugin, Scenario

REGISTRIES = {
    "attacks": "adversary.attacks:ATTACKS",
    "manipulations": "adversary.manipulation:MANIPULATIONS",
    "defenses": "fedsim.defenses:DEFENSES",
    "tasks": "fedsim.tasks:TASKS",
    "models": "fedsim.models:MODELS",
    "datasets": "fedsim.data:DATASETS",
    "partitions": "fedsim.data:PARTITIONS",
    "strategies": "strategies:STRATEGIES",
    "engines": "fedsim.engines:ENGINES",
}
"""Every kind of plug-in and where its registry is: text, since engines lie above scenarios."""

_BUILT = {"attacks", "manipulations", "defenses", "engines", "tasks"}
"""Kinds whose plug-ins are hyperparameters alone."""


def registry(kind: str) -> Registry:
    """Return the registry of a kind, such as `attacks`."""
    found = import_object(REGISTRIES[kind])
    assert isinstance(found, Registry)
    return found


def plugins(scenario: Scenario) -> list[tuple[str, str, Plugin]]:
    """Return (kind, key, table) of every plug-in of the scenario, such as (`defenses`, `defenses.0`, ...)."""
    manipulation = scenario.adversary.manipulation
    return [
        ("datasets", "data", scenario.data),
        ("partitions", "partition", scenario.partition),
        ("tasks", "task", scenario.task),
        ("models", "model", scenario.model),
        *(("defenses", f"defenses.{n}", defense) for n, defense in enumerate(scenario.defenses)),
        ("strategies", "strategy", scenario.strategy),
        *([("manipulations", "adversary.manipulation", manipulation)] if manipulation else []),
        *(("attacks", f"adversary.attacks.{n}", a) for n, a in enumerate(scenario.adversary.attacks)),
        ("engines", "engine", scenario.engine),
    ]


def check_plugins(scenario: Scenario) -> None:
    """Raise InputError for the first unknown plug-in, or the first of its options that is wrong.

    All names are looked up first, which imports nothing heavy; then each plug-in is imported.
    """
    found = plugins(scenario)
    _check_once(scenario)
    for kind, key, table in found:
        registry(kind).check(table.name, f"{key}.name")
    for kind, key, table in found:
        check_plugin(kind, key, table, clients=scenario.partition.clients)


def _check_once(scenario: Scenario) -> None:
    """Raise InputError where an attack is named twice: reconstructions and scores go by its name."""
    names = [attack.name for attack in scenario.adversary.attacks]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(
                f"adversary.attacks.{number}.name = {name!r}: allowed: each attack once; "
                "with other options `fedsim attack RUN` runs it again"
            )


def check_plugin(kind: str, key: str, table: Plugin, *, clients: int = 10) -> None:
    """Import one plug-in and check its options; raises InputError with the full dotted key.

    Those that are hyperparameters alone are built, which checks the ranges as well.
    """
    if kind == "models":
        _check_model(key, table)
    elif kind == "strategies":
        _check_strategy(table, clients)
    else:
        factory = _factory(kind, key, table.name)
        if not callable(factory):
            raise InputError(f"{key}.name = {table.name!r}: is not callable; allowed: module:function")
        check = build if kind in _BUILT else check_options
        check(factory, table.options, key, also=_own_keys(table))


def _own_keys(table: Plugin) -> list[str]:
    """Return the keys of a plug-in's table that are not its options, but for the name."""
    return [key for key in type(table).model_fields if key != "name"]


def _factory(kind: str, key: str, name: str) -> Any:
    if kind == "datasets":
        from fedsim.data.load import dataset_factory

        return dataset_factory(name)  # with the options that every data set takes
    return registry(kind).resolve(name, f"{key}.name")


def _check_model(key: str, table: Plugin) -> None:
    """Check a model's options: its own, and those that every model takes."""
    from fedsim.models.build import finish

    name, _, architecture = table.name.partition(":")
    torchvision = name == "torchvision" and architecture
    factory = registry("models").resolve(name if torchvision else table.name, f"{key}.name")
    common = option_names(finish)
    known = {**option_names(factory), **common}
    options = {"architecture": architecture, **table.options} if torchvision else table.options
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{key}.{option} = {value!r}: unknown key; {suggest(option, list(known))}")
    check_options(finish, {k: v for k, v in options.items() if k in common}, key)
    check_options(factory, {k: v for k, v in options.items() if k not in common}, key)


def uses_batch_norm(table: Plugin) -> bool:
    """Build the model for small images and look; False where it cannot be built for them."""
    from torch import nn

    from fedsim.models.build import model_factory

    try:
        model = model_factory(table.name, table.options, (3, 32, 32), 10)()
    except InputError:
        return False  # it is tried again with the data's own shape, and refused with the reason
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _check_strategy(table: Plugin, clients: int) -> None:
    from strategies.build import build_strategy

    asked = getattr(table, "clients_per_round", None)
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)  # Flower's constructors warn of what the scenario means them to do
    try:
        build_strategy(table.name, table.options, clients=clients, clients_per_round=asked, seed=0)
    finally:
        log.setLevel(level)
