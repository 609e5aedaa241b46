"""The commands, their options and their help."""

import argparse
import contextlib
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

import fedsim
from fedsim.errors import InputError

_OVERVIEW = """\
examples:
  fedsim run quickstart                     a federation, a curious server, reconstructed images, a report
  fedsim check mine.toml                    is the scenario right, and what will it cost?
  fedsim list attacks                       what there is, each with its paper
  fedsim attack runs/quickstart --attack dlg   attack the captures again, without the federation
  fedsim study kim_park/quick               a scenario with axes: what accuracy costs in privacy
"""
_RUN = """\
examples:
  fedsim run quickstart
  fedsim run mine.toml --engine ray --out runs/mine
  fedsim run mine.toml --set training.batch_size=8 --set defenses.0.p=0.9
  fedsim run mine.toml --set 'adversary.attacks=[{name="dlg", restarts=3}]'
  fedsim run quickstart --json | jq .accuracy

Values of --set are TOML; a bare word is text. Every key: docs/scenario.md.
"""
_CHECK = """\
examples:
  fedsim check quickstart
  fedsim check mine.toml --set partition.clients=1000 --json
"""
_LIST = """\
examples:
  fedsim list
  fedsim list defenses --json
"""
_ATTACK = """\
examples:
  fedsim attack runs/quickstart --attack dlg --set adversary.attacks.0.restarts=3
  fedsim attack runs/quickstart --threat-model B
  fedsim attack captures/ --task my_app:task --truth truth.npz

A run folder knows its task and truth. Captures of a foreign app need --task, and --truth to be scored.
"""
_DIAGNOSE = """\
examples:
  fedsim diagnose runs/quickstart/captures/round-0001-client-00007.safetensors
  fedsim diagnose captures/round-0001-node-42.safetensors --task my_app:task --set training.learning_rate=0.1

In a run folder the task, the recipe and the truth follow from the scenario. Of a foreign app, --set says what
an attacker would claim of it: training.learning_rate, training.batch_size, training.steps, ...
"""
_STUDY = """\
examples:
  fedsim study kim_park/quick --dry-run
  fedsim study mine.toml --jobs 4 --out runs/mine
  fedsim study kim_park/thresholds --axis 'data=[{name="npz", path="faces.npz"}]' --axis 'seed=[1, 2, 3]'

The same command goes on where an earlier one was cut off. How a study is written: docs/studies.md.
"""
_THRESHOLD = """\
examples:
  fedsim threshold runs/studies/kim_park-quick
  fedsim threshold runs/studies/kim_park-quick --bound 0.3 --quantile 1 --json
"""


class Parser(argparse.ArgumentParser):
    """Raises InputError, one line, where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise InputError with argparse's message and where to read on."""
        raise InputError(f"{message}; see {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; raises InputError for a usage error, with the nearest option suggested."""
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        parser: Parser = options.parser if "parser" in options else build_parser()
        known = list(parser._option_string_actions)
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{unknown[0]}: no such option or argument{hint}; see {parser.prog} --help")
    return options


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="fedsim",
        description="A Flower federation that you can attack: read off what accuracy costs in privacy.",
        epilog=_OVERVIEW,
    )
    parser.add_argument("--version", action="version", version=f"fedsim {fedsim.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for add in _COMMANDS:
        add(commands)
    return parser


def _add_study(commands: Any) -> None:
    command = _command(commands, "study", "run a scenario with axes, cell by cell; table and page", _STUDY)
    command.add_argument("file", metavar="FILE", help="a TOML file, or the name of a bundled study")
    command.add_argument("--out", metavar="DIR", help="its folder (default: runs/studies/NAME)")
    command.add_argument(
        "--jobs", type=_count, metavar="N", help="cells at once (default: one a device or core)"
    )
    command.add_argument("--devices", metavar="NAME,NAME", help="given out to the cells in turn")
    command.add_argument("--dry-run", action="store_true", help="how many cells, and how long; run none")
    command.add_argument(
        "--axis", action="append", default=[], metavar="KEY=[...]", help="another axis, or others' values"
    )
    _add_set(command)
    _add_json(command, "print JSON")


def _add_threshold(commands: Any) -> None:
    command = _command(
        commands, "threshold", "the smallest strength of each defence that keeps leakage low", _THRESHOLD
    )
    command.add_argument("study", metavar="STUDY", help="the folder of a study")
    command.add_argument(
        "--bound", type=float, help="leakage allowed (default: what a blind guess stays below, 99 of 100)"
    )
    command.add_argument(
        "--quantile", type=_share, default=0.9, help="share of the images that stay below it (0.9)"
    )
    command.add_argument(
        "--metric", choices=("ssim_affine", "ssim"), default="ssim_affine", help="of an image (ssim_affine)"
    )
    command.add_argument("--seed", type=int, default=1, help="of the bootstrap (1)")
    command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    _add_json(command, "print JSON, with the measured and the fitted leakage at each strength")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed: a whole number of at least 1")
    return int(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) <= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text}: allowed: above 0, at most 1")


def _command(commands: Any, name: str, summary: str, epilog: str = "") -> Parser:
    command: Parser = commands.add_parser(name, help=summary, description=summary, epilog=epilog)
    command.set_defaults(command=name.replace("list", "list_plugins"), parser=command)
    return command


def _add_run(commands: Any) -> None:
    command = _command(commands, "run", "run a scenario: federation, attacks, scores, report", _RUN)
    _add_scenario(command)
    command.add_argument("--out", metavar="DIR", help="the run folder; new or empty (default: runs/NAME-...)")
    _add_json(command, "print summary.json and nothing else")


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "check a scenario, and estimate what it would cost", _CHECK)
    _add_scenario(command)
    _add_json(command, "print the estimate as JSON")


def _add_list(commands: Any) -> None:
    command = _command(commands, "list", "list what a scenario can name, each with its paper", _LIST)
    kinds = "attacks, defenses, models, datasets, partitions, strategies, engines, scenarios, studies"
    command.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {kinds} (default: all)")
    _add_json(command, "print JSON")


def _add_attack(commands: Any) -> None:
    command = _command(commands, "attack", "attack captures again, later, without the federation", _ATTACK)
    command.add_argument("target", metavar="RUN_OR_CAPTURES", help="a run folder, or a folder of captures")
    command.add_argument("--attack", metavar="NAME", help="the attack (default: those of the run's scenario)")
    _add_set(command)
    _add_foreign(command)
    command.add_argument(
        "--threat-model", metavar="LETTER", help="A to H, or capabilities with commas between"
    )
    command.add_argument("--out", metavar="DIR", help="the folder for the results; new, empty, or cut off")
    _add_json(command, "print summary.json and nothing else")


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", "write the page of a run or a study again")
    command.add_argument("run", metavar="RUN", help="the folder of a run or a study")


def _add_diagnose(commands: Any) -> None:
    command = _command(commands, "diagnose", "say why an attack on a capture would fail", _DIAGNOSE)
    command.add_argument("capture", metavar="CAPTURE", help="a capture's file")
    _add_foreign(command)
    _add_set(command)
    _add_json(command, "print the findings as JSON")


def _add_scenario(command: Parser) -> None:
    command.add_argument("file", metavar="FILE", help="a TOML file, or the name of a bundled scenario")
    command.add_argument("--engine", metavar="NAME", help="inline, ray or deployment")
    _add_set(command)


def _add_set(command: Parser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable"
    )


def _add_foreign(command: Parser) -> None:
    command.add_argument("--task", metavar="MODULE:FUNCTION", help="the task of a foreign app")
    command.add_argument("--truth", metavar="FILE.npz", help="its images and labels, where they are known")


def _add_json(command: Parser, what: str) -> None:
    command.add_argument("--json", action="store_true", help=what)


_COMMANDS = (
    _add_run,
    _add_check,
    _add_list,
    _add_attack,
    _add_report,
    _add_diagnose,
    _add_study,
    _add_threshold,
)
