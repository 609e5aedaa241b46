"""The ClientApp: local training of a task, and the upload."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import Tensor

from clients.defending import defend, to_array, to_record, to_tensor, write_record
from clients.federation import Client, Federation, Partition
from clients.messages import accepts_absent, config_value, draw_name, partition_id, received, round_number
from clients.models import ModelCache
from fedsim.defenses import wire
from fedsim.defenses.upload import Upload
from fedsim.training import Trained, UploadKind, draw_batches, train, training_seed

__all__ = ["Federation", "Partition", "client_app"]

EVALUATION_BATCH = 256


def client_app(resolve: Callable[[Context], Federation], mods: Sequence[Mod] = ()) -> ClientApp:
    """Return the ClientApp whose clients train as the federation says that `resolve` finds from the context.

    A reply to `train` holds one ArrayRecord (the upload, after the client's defences), one MetricRecord
    (`num-examples`, `train-loss`) and the ConfigRecord `fedsim` (see fedsim.defenses.wire). `evaluate`
    answers with loss and accuracy of the weights received on the client's own examples, `query` with its
    partition id.
    """
    app = ClientApp(mods=list(mods))
    models, decoded = ModelCache(), Decoder()

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        federation = resolve(context)
        return _train_reply(message, context, federation, models, decoded(received(message)))

    @app.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:
        federation = resolve(context)
        return _evaluate_reply(message, context, federation, models, decoded(received(message)))

    @app.query()
    def _query(message: Message, context: Context) -> Message:
        record = ConfigRecord({wire.PARTITION_ID: partition_id(context)})
        return Message(RecordDict({wire.RECORD: record}), reply_to=message)

    return app


class Decoder:
    """Decodes arrays, and remembers the last: a server in this process sends all clients the same bytes."""

    def __init__(self) -> None:
        self._last: tuple[list[bytes], dict[str, Tensor]] = ([], {})

    def __reduce__(self) -> tuple[type["Decoder"], tuple[()]]:
        """Travel empty, as ModelCache does."""
        return Decoder, ()

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Return the arrays as tensors, not to be written to."""
        data, tensors = self._last
        same = tensors.keys() == arrays.keys() and all(
            array.data is known for array, known in zip(arrays.values(), data, strict=True)
        )
        if not same:
            tensors = {name: to_tensor(array) for name, array in arrays.items()}
            self._last = ([array.data for array in arrays.values()], tensors)
        return tensors


def _train_reply(
    message: Message, context: Context, federation: Federation, models: ModelCache, weights: dict[str, Tensor]
) -> Message:
    client, round_ = federation.client(partition_id(context)), round_number(message)
    trained = train(
        federation.task,
        models.load(federation.task, federation.seed, federation.device, weights),
        federation.dataset.train,
        draw_batches(client.recipe, client.indices, federation.seed, client.id, round_),
        client.recipe,
        seed=training_seed(federation.seed, client.id, round_),
        proximal_mu=config_value(message, "proximal-mu", 0.0),
    )
    upload = Upload(_values(trained, federation), frozenset(trained.buffers))
    upload = defend(upload, client.stages, draw_name(message, context))
    record = _record(client, federation.upload, trained)
    write_record(record, upload, client.stages, accepts_absent=accepts_absent(message))
    content = RecordDict(
        {
            "arrays": _arrays(upload, trained, federation.upload, weights),
            "metrics": MetricRecord({"num-examples": trained.examples, "train-loss": trained.loss}),
            wire.RECORD: record,
        }
    )
    return Message(content, reply_to=message)


def _values(trained: Trained, federation: Federation) -> dict[str, Tensor]:
    """Return what defences act on: the update, or the pseudo-gradient `-update / learning_rate`.

    After one step of plain SGD the latter is the gradient of the loss.
    """
    if federation.upload == "gradient":
        return {name: value / -federation.recipe.learning_rate for name, value in trained.update.items()}
    return trained.update


def _arrays(upload: Upload, trained: Trained, kind: UploadKind, weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return the upload under the received names and in their order; buffers are always absolute values."""
    arrays = {}
    for name, weight in weights.items():
        if name in trained.buffers:
            value = trained.buffers[name]
        else:
            value = upload.values[name].cpu()
            if kind == "weights":
                # Undefended weights go as they are: the sum would round them once more.
                whole = upload.values[name] is trained.update[name]
                value = trained.weights[name].cpu() if whole else weight.to(value.dtype) + value
        arrays[name] = to_array(value)
    return to_record(arrays)


def _record(client: Client, kind: UploadKind, trained: Trained) -> ConfigRecord:
    return ConfigRecord(
        {
            wire.PARTITION_ID: client.id,
            wire.UPLOAD: kind,
            wire.BUFFERS: list(trained.buffers),
            wire.LEARNING_RATE: client.recipe.learning_rate,
        }
    )


@torch.no_grad()
def _evaluate_reply(
    message: Message, context: Context, federation: Federation, models: ModelCache, weights: dict[str, Tensor]
) -> Message:
    client = federation.client(partition_id(context))
    model = models.load(federation.task, federation.seed, federation.device, weights).eval()
    sums: dict[str, float] = {}
    count = len(client.indices)
    for chunk in np.array_split(client.indices, max(1, -(-count // EVALUATION_BATCH))):
        inputs, labels = federation.dataset.train.batch(chunk)
        found = federation.task.evaluate(model, inputs.to(federation.device), labels.to(federation.device))
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    metrics = MetricRecord({"num-examples": count})
    for name, value in sums.items():
        metrics[name] = value / max(1, count)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
