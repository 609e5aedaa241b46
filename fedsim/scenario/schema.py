"""A scenario: the typed, validated description of one experiment.

Light to import (no torch, no Flower): names and options of plug-ins are checked in `fedsim.scenario.plugins`.
The text under each field is what docs/scenario.md and the error messages are made from.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Says:
    """What a field allows, in words, where its type alone does not say it."""

    text: str


class Section(BaseModel):
    """A table of the scenario: immutable, unknown keys refused, types taken as they are written."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Plugin(Section):
    """A table that names a plug-in; all its other keys are that plug-in's own options.

    A bare name stands for the table: `model = "lenet"` is `model = { name = "lenet" }`.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    """A name that `fedsim list` shows, or `module:attribute`."""

    @property
    def options(self) -> dict[str, Any]:
        """Return the plug-in's own options."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _table(cls, value: Any) -> Any:
        if isinstance(value, dict):
            # As in TOML, which has no word for it: None is a key that is not there.
            return {key: item for key, item in value.items() if item is not None}
        return {"name": value} if isinstance(value, str) else value


class Data(Plugin):
    """Which examples."""

    name: str = "fashion_mnist"
    """`fashion_mnist` is in the package; `npz`, `imagefolder` and `module:function` are your own data."""


class Partition(Plugin):
    """Who holds which examples."""

    name: str = "iid"
    """How the training examples are dealt out."""
    clients: int = Field(default=10, ge=1, le=1_000_000)
    """Number of clients in the federation."""


class Task(Plugin):
    """What is learnt."""

    name: str = "classification"
    """`classification`, or `diffusion` with a model that is made for it."""


class Model(Plugin):
    """Which network."""

    name: str = "lenet"
    """A network of the package, `torchvision:NAME` for any of torchvision's, or `module:function`."""


class Training(Section):
    """The local recipe, and what is uploaded."""

    algorithm: Literal["fedavg", "fedsgd"] = "fedsgd"
    """`fedsgd`: one step on one batch of `batch_size`; `fedavg`: `epochs`, or `steps` where given."""
    epochs: Count = 1
    """Passes over the client's data a round (fedavg)."""
    steps: Count | None = None
    """Local steps a round, instead of `epochs` (fedavg)."""
    batch_size: Count = 1
    """Images in a local batch."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """The client's optimiser."""
    learning_rate: float = Field(default=0.1, gt=0)
    """The client's learning rate."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty of the client's optimiser."""
    upload: Literal["weights", "update", "gradient"] = "update"
    """What the client sends: its new weights, `local - global`, or the gradient (sgd only)."""
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
    """Where clients train, and the server evaluates and draws samples: `cpu`, `cuda`, `cuda:1`, `mps`."""


class Defense(Plugin):
    """A defence; several are applied in the order of the list."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the clients that use it: a seeded draw, the same clients in every round."""


class Strategy(Plugin):
    """The server's strategy (Flower's), and how long it runs."""

    name: str = "fedavg"
    """Its own options go beside it, such as `eta` of fedadam."""
    rounds: Count = 10
    """Number of rounds."""
    clients_per_round: Count | None = None
    """Clients drawn each round; all of them where it is missing."""
    evaluate_every: Count = 1
    """Rounds from one evaluation on the test set to the next; the last round is always evaluated."""


def _all_is_none(value: Any) -> Any:
    return None if value == "all" else value


AtMost = Annotated[
    Count | None,
    BeforeValidator(_all_is_none),
    PlainSerializer(lambda value: "all" if value is None else value),
    Says("a whole number >= 1, or 'all'"),
]


class CapturePolicy(Section):
    """What the curious server keeps."""

    rounds: Literal["all", "first", "last"] | list[Count] = "first"
    """The rounds that it captures, counted from 1."""
    clients: AtMost = 10
    """At most so many clients per round and cohort (clients with the same defences); `"all"` for no limit."""
    max_gigabytes: float = Field(default=10.0, gt=0)
    """Capturing stops, with one line, before the captures of the run grow beyond so many 10^9 bytes."""


class Attack(Plugin):
    """An attack on every capture."""

    name: str = "idlg"
    """Its own options go beside it."""
    restarts: Count = 1
    """Attempts from fresh starting points; the best matching loss is kept (never the truth)."""
    adaptive: bool = True
    """Also run the attacker who knows the defence, beside the naive one; false runs the naive one only."""


class Manipulation(Plugin):
    """What a malicious server changes about the model that it sends; needs `modify_model`."""

    name: str = "imprint"
    """Its own options go beside it."""
    rounds: Literal["all", "first", "last"] | list[Count] = "first"
    """The rounds in which it writes its weights; afterwards they have their old values again."""


class Adversary(Section):
    """The curious server: its privileges, what it captures, how it attacks."""

    threat_model: str | list[str] = "C"
    """What the adversary knows: a letter A to H of the SoK, or a list of letters and capabilities."""
    visibility: Literal["client", "aggregate"] = "client"
    """Whether the server sees each upload, or only their sum (as under secure aggregation)."""
    join_rounds: bool = False
    """The attacker knows that a client's batch is the same in every captured round, and joins the rounds."""
    capture: CapturePolicy = CapturePolicy()
    """What the server keeps."""
    manipulation: Manipulation | None = None
    """A change of the model, and so of the architecture that clients run; none where it is missing."""
    attacks: list[Attack] = [Attack()]
    """The attacks; an empty list captures only."""
    workers: int | None = Field(default=None, ge=0)
    """Attack processes; one per device where it is missing, 0 attacks in the main process."""
    cuda_graphs: bool = False
    """On a GPU, record what an attack evaluates again and again, and replay it as a CUDA graph."""


class Engine(Plugin):
    """What runs the federation."""

    name: str = "inline"
    """`inline` in this process, `ray` (Flower's simulation) or `deployment` (SuperLink and SuperNodes)."""


Trackers = Annotated[
    list[Literal["tensorboard", "mlflow", "wandb"]],
    Says("a list of 'tensorboard', 'mlflow', 'wandb'"),
]


class Output(Section):
    """Where the run folder goes."""

    folder: str = "runs"
    """Holds the run folders, relative to where the command is run; `--out` names the run folder itself."""
    report: bool = True
    """Write report.html at the end."""
    trackers: Trackers = []
    """Who is told the figures as well; each needs the extra of its name (`pip install 'fedsim[mlflow]'`)."""


class Scenario(Section):
    """One experiment."""

    name: str = ""
    """Names the run; the file's name where it is missing."""
    seed: Annotated[int, Field(ge=0, lt=2**63), Says("a whole number from 0 to 2**63 - 1")] = 1
    """Every draw of the run follows from it."""
    data: Data = Data()
    """Which examples."""
    partition: Partition = Partition()
    """Who holds which examples."""
    task: Task = Task()
    """What is learnt."""
    model: Model = Model()
    """Which network."""
    training: Training = Training()
    """The local recipe, and what is uploaded."""
    defenses: list[Defense] = []
    """What clients do to an upload before it leaves, in this order."""
    strategy: Strategy = Strategy()
    """The server's strategy, and how long it runs."""
    adversary: Adversary = Adversary()
    """The curious server."""
    engine: Engine = Engine()
    """What runs the federation."""
    output: Output = Output()
    """Where the run folder goes."""
