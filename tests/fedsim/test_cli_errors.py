"""Bad input of every kind: exit code 2, one line on stderr with the key and what is allowed, no traceback."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsim.cli import main

Prepare = Callable[[Path], list[str]]


def scenario(text: str, *arguments: str) -> Prepare:
    """`fedsim check mine.toml ...` with this text in the file."""

    def prepare(folder: Path) -> list[str]:
        (folder / "mine.toml").write_text(text, encoding="utf-8")
        return ["check", "mine.toml", *arguments]

    return prepare


def file(name: str, content: bytes) -> Prepare:
    """`fedsim check NAME` with these bytes in the file."""

    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return ["check", name]

    return prepare


def command(*arguments: str) -> Prepare:
    """The arguments as they are."""
    return lambda folder: list(arguments)


def in_use(folder: Path) -> list[str]:
    (folder / "old").mkdir()
    (folder / "old" / "summary.json").write_text("{}")
    return ["run", "quickstart", "--out", "old"]


def behind_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["run", "quickstart", "--out", "file/run"]


def no_archive(folder: Path) -> list[str]:
    (folder / "images.npz").write_bytes(b"no archive")
    return ["check", "own_data", "--set", "data.path=images.npz"]


@dataclass(frozen=True)
class Bad:
    """A kind of bad input, and the words that its line must contain: the key, its value, what is allowed."""

    kind: str
    prepare: Prepare
    words: tuple[str, ...]


TABLE = [
    Bad(
        "missing file",
        command("check", "quickstar"),
        ("quickstar: no such file", "did you mean 'quickstart'?"),
    ),
    Bad("folder", command("check", "."), (".: is a folder", "allowed: a TOML file")),
    Bad("not TOML", file("a.toml", b"seed = 1\nmodel == 3"), ("a.toml: not TOML", "line 2")),
    Bad("not UTF-8", file("a.toml", b"name = '\xff'"), ("a.toml: not UTF-8", "allowed: a TOML file")),
    Bad(
        "unknown key",
        scenario("[training]\nlearning_rat = 0.1"),
        (
            "mine.toml: training.learning_rat = 0.1: unknown key",
            "allowed: algorithm,",
            "mean 'learning_rate'?",
        ),
    ),
    Bad(
        "unknown section",
        scenario("[trainig]"),
        ("trainig", "allowed: name, seed,", "did you mean 'training'?"),
    ),
    Bad(
        "misplaced key", scenario("batch_size = 4"), ("batch_size = 4", "did you mean 'training.batch_size'?")
    ),
    Bad(
        "wrong type",
        scenario("[training]\nbatch_size = '8'"),
        ("training.batch_size = '8'", "allowed: a whole number >= 1"),
    ),
    Bad("wrong table", scenario("training = 3"), ("training = 3", "allowed: a table")),
    Bad("out of range", scenario("[training]\nmomentum = 1.0"), ("training.momentum = 1.0", ">= 0 and < 1")),
    Bad("not a number", scenario("[training]\nlearning_rate = nan"), ("training.learning_rate = nan", "> 0")),
    Bad(
        "no such choice",
        scenario("[training]\nupload = 'weight'"),
        ("training.upload = 'weight'", "allowed: 'weights', 'update', 'gradient'", "did you mean 'weights'?"),
    ),
    Bad(
        "neither of a union",
        scenario("[adversary.capture]\nrounds = [1, 'x']"),
        ("adversary.capture.rounds.1 = 'x'", "'all', 'first', 'last', or a list of whole numbers >= 1"),
    ),
    Bad(
        "several at once",
        scenario("seed = -1\n[training]\nsteps = 0\nepoch = 1"),
        ("seed = -1", "allowed: a whole number from 0", "(and 2 more)"),
    ),
    Bad("no name", scenario("[[defenses]]\np = 0.5"), ("defenses.0.name is missing",)),
    Bad(
        "unknown model",
        scenario("model = 'lenett'"),
        ("model.name = 'lenett'", "did you mean 'lenet'?", "allowed:"),
    ),
    Bad(
        "unknown data",
        scenario("data = 'cifar'"),
        ("data.name = 'cifar'", "did you mean 'cifar10'?", "allowed:"),
    ),
    Bad(
        "unknown attack",
        scenario("[adversary]\nattacks = ['iDGL']"),
        (
            "adversary.attacks.0.name = 'iDGL'",
            "no such attack",
            "did you mean 'idlg'? allowed: auto, dlg, idlg",
        ),
    ),
    Bad(
        "unknown option of a plug-in",
        scenario("[[defenses]]\nname = 'masking'\nprobability = 0.5"),
        ("defenses.0.probability = 0.5", "unknown key", "allowed: p,"),
    ),
    Bad(
        "an attack twice",
        scenario("[adversary]\nattacks = ['idlg', { name = 'idlg', restarts = 2 }]"),
        ("adversary.attacks.1.name = 'idlg'", "allowed: each attack once"),
    ),
    Bad(
        "key beside the options of an attack",
        scenario("[adversary]\nattacks = [{ name = 'idlg', restart = 2 }]"),
        ("adversary.attacks.0.restart = 2", "unknown key", "did you mean 'restarts'?"),
    ),
    Bad(
        "key beside the options of a strategy",
        scenario("[strategy]\nround = 5"),
        ("strategy.round = 5", "unknown key", "did you mean 'rounds'?"),
    ),
    Bad(
        "option that is a list",
        scenario("[model]\nname = 'mlp'\nhidden = 'many'"),
        ("model.hidden = 'many'", "allowed: a list, each entry a whole number"),
    ),
    Bad(
        "option of a plug-in of a wrong type",
        scenario("[strategy]\nname = 'fedadam'\neta = 'fast'"),
        ("strategy.eta = 'fast'", "allowed: a number"),
    ),
    Bad(
        "option of a plug-in out of range",
        scenario("[[defenses]]\nname = 'masking'\np = 1.5"),
        ("defenses.0.p = 1.5", "allowed:"),
    ),
    Bad(
        "option of a plug-in missing",
        scenario("[data]\nname = 'npz'"),
        ("data.path is missing", "allowed: text"),
    ),
    Bad(
        "plug-in that cannot be imported",
        scenario("model = 'no_such_module:net'"),
        ("model.name = 'no_such_module:net'", "cannot be imported", "allowed: module:attribute"),
    ),
    Bad(
        "more clients a round than there are",
        scenario("[partition]\nclients = 5\n[strategy]\nclients_per_round = 6"),
        ("strategy.clients_per_round = 6", "allowed: at most partition.clients = 5"),
    ),
    Bad(
        "capture after the end",
        scenario("[strategy]\nrounds = 3\n[adversary.capture]\nrounds = [1, 4]"),
        ("adversary.capture.rounds = 4", "allowed: 1 to strategy.rounds = 3"),
    ),
    Bad(
        "steps of fedsgd",
        scenario("[training]\nalgorithm = 'fedsgd'\nsteps = 3"),
        ("training.steps = 3", "allowed: only with training.algorithm = 'fedavg'"),
    ),
    Bad(
        "epochs and steps",
        scenario("[training]\nalgorithm = 'fedavg'\nsteps = 3\nepochs = 2"),
        ("training.epochs = 2", "allowed: one of training.epochs and training.steps"),
    ),
    Bad(
        "gradient of Adam",
        scenario("[training]\noptimizer = 'adam'\nupload = 'gradient'"),
        ("training.upload = 'gradient'", "allowed: 'weights', 'update'"),
    ),
    Bad(
        "BatchNorm under DP-SGD",
        scenario("model = 'convnet'\n[[defenses]]\nname = 'dpsgd'\nclip_norm = 1\nnoise_multiplier = 1"),
        ("model.norm = 'batch'", "allowed: 'group'"),
    ),
    Bad(
        "threat model",
        scenario("[adversary]\nthreat_model = 'Z'"),
        ("adversary.threat_model = 'Z'", "allowed: A, B,"),
    ),
    Bad("override without value", scenario("", "--set", "seed"), ("--set seed", "allowed: key=value")),
    Bad(
        "override that is half a list",
        scenario("", "--set", "defenses=[1"),
        ("--set defenses=[1", "not a TOML value"),
    ),
    Bad("engine", scenario("", "--engine", "inlin"), ("engine.name = 'inlin'", "did you mean 'inline'?")),
    Bad("unknown command", command("rnu"), ("'rnu'", "choose from", "run")),
    Bad(
        "unknown option",
        command("run", "quickstart", "--enigne", "ray"),
        ("--enigne", "did you mean --engine?"),
    ),
    Bad("missing argument", command("run"), ("required: FILE",)),
    Bad(
        "unknown kind", command("list", "atacks"), ("atacks", "allowed: attacks,", "did you mean 'attacks'?")
    ),
    Bad("finished run", in_use, ("--out old", "holds a finished run", "allowed: a new or empty folder")),
    Bad("folder that cannot be written", behind_a_file, ("--out file/run", "allowed: a new or empty folder")),
    Bad("no run folder", command("report", "."), (".: no scenario.toml", "allowed: a folder")),
    Bad(
        "data that is not what it says",
        no_archive,
        ("own_data: data.path", "images.npz", "cannot be read as .npz (it is no archive)", "allowed:"),
    ),
]


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.kind)
def test_bad_input_is_one_line(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(bad.prepare(tmp_path))
    printed, complained = capfd.readouterr()
    assert (code, printed) == (2, "")
    assert complained.count("\n") == 1, complained
    assert complained.startswith("fedsim: ")
    assert "Traceback" not in complained
    for word in bad.words:
        assert word in complained


@pytest.mark.parametrize("bad", [TABLE[0], TABLE[4], TABLE[18]], ids=lambda bad: bad.kind)
def test_so_it_is_for_the_command_itself(bad: Bad, tmp_path: Path) -> None:
    arguments = bad.prepare(tmp_path)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "fedsim", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in bad.words:
        assert word in done.stderr


def test_a_folder_of_the_users_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    program = (
        "import sys, fedsim.cli; sys.path.insert(0, '.'); sys.exit(fedsim.cli.main(['check', 'quickstart']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "strategies: hides fedsim's 'strategies'; allowed: any other name" in done.stderr
    assert done.stderr.count("\n") == 1
