"""What the schema cannot say alone: names, options, and keys that contradict each other."""

from collections.abc import Callable

from adversary import threat
from fedsim.errors import InputError
from fedsim.models import DENOISERS, MODELS
from fedsim.scenario.plugins import check_plugins, registry, uses_batch_norm
from fedsim.scenario.schema import Scenario


def check_scenario(scenario: Scenario) -> None:
    """Raise InputError(`key = value: allowed: ...`) for the first thing that cannot run as it is written."""
    for check in _CHECKS:
        check(scenario)


def _clients(scenario: Scenario) -> None:
    asked, clients = scenario.strategy.clients_per_round, scenario.partition.clients
    if asked is not None and asked > clients:
        _refuse("strategy.clients_per_round", asked, f"at most partition.clients = {clients}")


def _captured_rounds(scenario: Scenario) -> None:
    adversary, rounds = scenario.adversary, scenario.strategy.rounds
    for key, table in (("capture", adversary.capture), ("manipulation", adversary.manipulation)):
        asked = table.rounds if table else "first"
        beyond = [number for number in asked if number > rounds] if isinstance(asked, list) else []
        if beyond:
            _refuse(f"adversary.{key}.rounds", beyond[0], f"1 to strategy.rounds = {rounds}")


def _recipe(scenario: Scenario) -> None:
    training = scenario.training
    if training.algorithm == "fedsgd":
        one_step = "only with training.algorithm = 'fedavg' (fedsgd is one step on one batch)"
        if training.steps is not None:
            _refuse("training.steps", training.steps, one_step)
        if training.epochs != 1:
            _refuse("training.epochs", training.epochs, one_step)
    elif training.steps is not None and training.epochs != 1:
        _refuse("training.epochs", training.epochs, "one of training.epochs and training.steps, not both")


def _optimizer(scenario: Scenario) -> None:
    training = scenario.training
    if training.optimizer == "adam" and training.upload == "gradient":
        _refuse("training.upload", "gradient", "'weights', 'update' with training.optimizer = 'adam'")
    if training.optimizer == "adam" and training.momentum:
        _refuse("training.momentum", training.momentum, "0 with training.optimizer = 'adam'")


def _threat_model(scenario: Scenario) -> None:
    threat.parse(scenario.adversary.threat_model, scenario.adversary.visibility)


def _task(scenario: Scenario) -> None:
    """Refuse a model of another task, and what is made for classifiers only."""
    diffusion, model = scenario.task.name == "diffusion", scenario.model.name
    known = MODELS.built_in()
    fitting = known & DENOISERS if diffusion else known - DENOISERS
    if model in known - fitting or (diffusion and model.startswith("torchvision:")):
        names = ", ".join(map(repr, sorted(fitting)))
        _refuse("model.name", model, f"{names}, or your own, with task.name = {scenario.task.name!r}")
    if diffusion and scenario.adversary.join_rounds:
        allowed = "false with task.name = 'diffusion': clients draw timesteps and noise anew in each round"
        _refuse("adversary.join_rounds", True, allowed)
    manipulation = scenario.adversary.manipulation
    if diffusion and manipulation is not None:
        _refuse("adversary.manipulation.name", manipulation.name, "none with task.name = 'diffusion'")


def _manipulation(scenario: Scenario) -> None:
    """Refuse a server that changes the model without being granted to."""
    adversary = scenario.adversary
    if adversary.manipulation is None:
        return
    key = "adversary.manipulation.name"
    needs = registry("manipulations").resolve(adversary.manipulation.name, key).needs
    granted = threat.parse(adversary.threat_model, adversary.visibility)
    reason = threat.refuse(frozenset(map(threat.Capability, needs)), granted)
    if reason:
        raise InputError(f"{key} = {adversary.manipulation.name!r}: {reason}")


def _public_images(scenario: Scenario) -> None:
    """Refuse an attack whose public images are the clients' own by name: it may know their kind, no more.

    What other names they have is seen where the data are read (`fedsim.simulation.public`).
    """
    for number, attack in enumerate(scenario.adversary.attacks):
        key = f"adversary.attacks.{number}"
        factory = registry("attacks").resolve(attack.name, f"{key}.name")
        images = [attack.options.get(name, getattr(factory, name, None)) for name in ("surrogate", "split")]
        source = attack.options.get("surrogate_options", {}).get("path")
        if [*images, source] == [scenario.data.name, "train", scenario.data.options.get("path")]:
            _refuse(f"{key}.split", "train", f"'test' with surrogate = {images[0]!r}: clients hold the other")


def _private(scenario: Scenario) -> None:
    """DP-SGD needs the gradient of each example alone, and BatchNorm mixes them."""
    model = scenario.model
    private = any(defense.name == "dpsgd" for defense in scenario.defenses)
    if private and model.options.get("norm", "batch") == "batch" and uses_batch_norm(model):
        _refuse(
            "model.norm", "batch", "'group' with the defence dpsgd (BatchNorm mixes the examples of a batch)"
        )


def _refuse(key: str, value: object, allowed: str) -> None:
    raise InputError(f"{key} = {value!r}: allowed: {allowed}")


_CHECKS: tuple[Callable[[Scenario], None], ...] = (
    _clients,
    _captured_rounds,
    _recipe,
    _optimizer,
    _threat_model,
    check_plugins,
    _public_images,
    _task,
    _manipulation,
    _private,
)
