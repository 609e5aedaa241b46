"""The ServerApp of a scenario: the curious server over its strategy, and what a run leaves of the rounds."""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from safetensors.torch import save_file
from torch import Tensor

from adversary.threat import Capability, parse
from clients.federation import Federation
from fedsim.scenario.schema import Scenario
from fedsim.simulation.evaluation import Evaluator
from fedsim.simulation.federation import cohorts_of, manipulation_of
from fedsim.simulation.journal import ROUNDS, Journal, Row
from fedsim.simulation.sampling import sampler_of
from strategies.build import build_strategy
from strategies.convert import to_tensors
from strategies.curious import CuriousServer
from strategies.malicious import MaliciousServer
from strategies.ordered import OrderedGrid
from strategies.uploads import Uploads

CAPTURES = "captures"
WEIGHTS = "weights.safetensors"
PUBLIC = 2000
"""Images of the test split that a server with surrogate data holds."""
TIMEOUT = 12 * 3600.0
"""Seconds that a round may take: Flower's own limit on a message's life. A lost node answers sooner."""
PATIENCE = 30.0
"""Seconds within which the federation's nodes must be there."""


def server_app(
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    on_round: Callable[[Row], None] | None = None,
    *,
    patience: float = PATIENCE,
) -> ServerApp:
    """Return the ServerApp that runs the scenario's rounds and writes them into `folder`.

    Leaves `rounds.jsonl` (a line as each round ends, also passed to `on_round`), `captures/` and
    `weights.safetensors`. Its main raises FederationStopped for a round without a valid reply, and InputError
    where fewer nodes are there after `patience` seconds than the scenario has clients.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        clients = scenario.partition.clients
        ordered = OrderedGrid(grid, getattr(grid, "partitions", None), clients=clients)
        ordered.wait_for_nodes(clients, timeout=patience)
        ordered.get_node_ids()  # asks each for its partition, outside of the first round's time
        _run(scenario, federation, folder, on_round, ordered)

    return app


def _run(
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    on_round: Callable[[Row], None] | None,
    grid: OrderedGrid,
) -> None:
    model = federation.task.build(scenario.seed)
    initial = ArrayRecord(model.state_dict())
    model = model.to(federation.device)
    evaluator = Evaluator(federation.task, model, federation.dataset.test)
    sampler = sampler_of(scenario, federation.task, model, federation.dataset.test, folder)
    rounds = scenario.strategy.rounds
    journal = Journal(
        _strategy(scenario),
        folder / ROUNDS,
        client_of=grid.partition_of,
        captured=lambda server_round: curious.captured[server_round],
        on_round=on_round,
    )
    curious = _curious(scenario, Uploads(journal), folder / CAPTURES)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        due = server_round % scenario.strategy.evaluate_every == 0 or server_round == rounds
        metrics = evaluator(to_tensors(arrays)) if due else {}
        if sampler is not None and (sampler.due(server_round) or server_round == rounds):
            metrics |= sampler(server_round, to_tensors(arrays))
        journal.close_round(server_round, metrics)
        return MetricRecord(dict(metrics)) if metrics else None

    outermost = _malicious(scenario, federation, curious)
    result = outermost.start(grid, initial, rounds, TIMEOUT, evaluate_fn=evaluate)
    save_file(evaluator.state(to_tensors(result.arrays)), folder / WEIGHTS)


def _strategy(scenario: Scenario) -> Strategy:
    table = scenario.strategy
    return build_strategy(
        table.name,
        table.options,
        clients=scenario.partition.clients,
        clients_per_round=table.clients_per_round,
        seed=scenario.seed,
    )


def _malicious(scenario: Scenario, federation: Federation, curious: CuriousServer) -> Strategy:
    """Return the curious server, within the malicious one where the scenario asks for it."""
    manipulation, table = manipulation_of(scenario), scenario.adversary.manipulation
    if manipulation is None or table is None:
        return curious
    public = public_images(federation, scenario)

    def rewrite(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return manipulation.weights(weights, federation.task.input_shape, public)

    return MaliciousServer(curious, rewrite, rounds=table.rounds)


def public_images(federation: Federation, scenario: Scenario) -> Tensor | None:
    """Return what the adversary holds of public data: images of the test split, which no client has."""
    adversary, test = scenario.adversary, federation.dataset.test
    if not parse(adversary.threat_model, adversary.visibility).grants(Capability.SURROGATE_DATA):
        return None
    return test.batch(range(min(PUBLIC, len(test))))[0]


def _curious(scenario: Scenario, strategy: Uploads, folder: Path) -> CuriousServer:
    adversary = scenario.adversary
    return CuriousServer(
        strategy,
        folder,
        rounds=adversary.capture.rounds,
        clients=adversary.capture.clients,
        cohort=cohorts_of(scenario).cohort_of,
        visibility=adversary.visibility,
        max_gigabytes=adversary.capture.max_gigabytes,
    )
