"""rounds.jsonl: one line a round, and the end of a run in which a round brought nothing."""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.exchange import Exchange, Sent, read_reply
from strategies.wrapper import Wrapper

ROUNDS = "rounds.jsonl"
Row = dict[str, Any]
"""One line of rounds.jsonl: see docs/run-folder.md."""


class FederationStopped(RuntimeError):
    """A round had no valid reply: the message says which and why."""


class Journal(Wrapper):
    """Writes down how each round went; it observes, as CuriousServer does.

    A line is written by `close_round`, which the central evaluation calls; a round without a valid reply is
    written at once, with its reason under `stopped`, and ends the run with FederationStopped (Flower itself
    would go on with the old weights). It stands inside Uploads, which makes errors of replies that make no
    sense.
    """

    def __init__(
        self,
        strategy: Strategy,
        path: Path,
        *,
        client_of: Callable[[int], int | None],
        captured: Callable[[int], int],
        on_round: Callable[[Row], None] | None = None,
    ) -> None:
        """Wrap `strategy`, write to `path`, and pass each row to `on_round`.

        client_of: node id -> partition id, where known. captured: round -> number of captures.
        """
        super().__init__(strategy)
        self._path, self._on_round = path, on_round
        self._client_of, self._captured = client_of, captured
        self._exchange = Exchange()
        self._row: Row = {"clients": [], "failed": [], "train_loss": None}
        self._started = time.perf_counter()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return the messages of the strategy, unchanged, and remember whom they address."""
        messages = super().configure_train(server_round, arrays, config, grid)
        self._exchange.sent(server_round, messages, arrays)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note who failed; raises FederationStopped where nothing is left to aggregate."""
        replies = list(replies)
        pairs, unanswered = self._exchange.pair(server_round, replies)
        valid = [(reply, sent) for reply, sent in pairs if sent is not None and not reply.has_error()]
        asked = [sent for _, sent in pairs if sent is not None] + unanswered
        self._row = {
            "clients": sorted(_known(self._name(sent) for sent in asked)),
            "failed": [
                *(self._failure(sent, _reason(reply)) for reply, sent in pairs if reply.has_error()),
                *(self._failure(sent, "no reply in time") for sent in unanswered),
            ],
            "train_loss": _train_loss(reply for reply, _ in valid),
        }
        if not valid:
            self._stop(server_round, self._why_nothing())
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            self._stop(server_round, "the strategy could not aggregate the replies")
        return arrays, metrics

    def close_round(self, server_round: int, evaluation: Mapping[str, float | None]) -> None:
        """Write the line of a round, with all that was measured after it; round 0 is the initial model."""
        now = time.perf_counter()
        row: Row = {
            "round": server_round,
            "accuracy": evaluation.get("accuracy"),
            "loss": evaluation.get("loss"),
            **{name: value for name, value in evaluation.items() if name not in ("accuracy", "loss")},
            **{key: self._row[key] for key in ("train_loss", "clients", "failed")},
            "seconds": round(now - self._started, 6),
            "captured": self._captured(server_round),
            **({"stopped": self._row["stopped"]} if "stopped" in self._row else {}),
        }
        self._started = now
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._on_round is not None:
            self._on_round(row)

    def _stop(self, server_round: int, reason: str) -> None:
        self._row["stopped"] = reason
        self.close_round(server_round, {})
        raise FederationStopped(f"round {server_round}: {reason}")

    def _why_nothing(self) -> str:
        failed = self._row["failed"]
        if not failed:
            return "no client was asked"
        first = failed[0]
        return f"no valid reply from {len(failed)} clients; client {first['client']}: {first['reason']}"

    def _name(self, sent: Sent) -> int | None:
        return self._client_of(sent.node)

    def _failure(self, sent: Sent | None, reason: str) -> dict[str, Any]:
        return {"client": None if sent is None else self._name(sent), "reason": reason}


def _known(names: Iterable[int | None]) -> list[int]:
    return [name for name in names if name is not None]


def _train_loss(replies: Iterable[Message]) -> float | None:
    """Return the mean of the clients' `train-loss`, weighted by their numbers of examples."""
    total = examples = 0.0
    for reply in replies:
        metrics = read_reply(reply.content).metrics
        loss, count = metrics.get("train-loss"), metrics.get("num-examples")
        if isinstance(loss, int | float) and isinstance(count, int | float):
            total, examples = total + loss * count, examples + count
    return total / examples if examples else None


def _reason(reply: Message) -> str:
    """Return what went wrong in one line, such as `ValueError: no data`: the same words on every engine.

    Flower writes `<class 'ValueError'>:<'no data'>`; under Ray a traceback whose end has lost the type.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", reply.error.reason or "").strip().removesuffix("'>")
    plain = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>:<'(.*)", text, re.DOTALL)
    wrapped = re.search(r"Exception ClientAppException occurred\. Message: (.*)", text)
    if wrapped:
        typed = re.search(rf"^\w+: {re.escape(wrapped[1])}$", text, re.MULTILINE)
        return typed[0] if typed else wrapped[1]
    if plain:
        return " ".join(f"{plain[1]}: {plain[2]}".split())
    return " ".join(text.split()) or f"error {reply.error.code}"
