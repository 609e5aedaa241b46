"""The commands on studies. Heavy imports are inside, as in `commands`."""

import json
from argparse import Namespace
from pathlib import Path

from fedsim.cli.progress import Bars
from fedsim.errors import InputError


def study(options: Namespace) -> int:
    """Run the cells of a study, write table and page; 1 where a cell failed."""
    from fedsim.cli.dry_run import dry_run
    from fedsim.studies.api import run_study
    from fedsim.studies.cells import cells_of
    from fedsim.studies.study import find_study, read_study

    given = read_study(find_study(options.file))
    out = Path(options.out or f"runs/studies/{given.name}")
    if options.dry_run:
        told = dry_run(cells_of(given, out, options.set), jobs=options.jobs)
        print(json.dumps(told.as_dict(), indent=2) if options.json else told.text())
        return 0
    bars = Bars(quiet=options.json)
    try:
        done = run_study(
            given,
            out,
            overrides=options.set,
            jobs=options.jobs,
            devices=options.devices.split(",") if options.devices else None,
            progress=bars,
        )
    except KeyboardInterrupt:
        bars.close()
        raise KeyboardInterrupt(f"interrupted; the same command goes on in {out}") from None
    finally:
        bars.close()
    print(json.dumps(done.as_dict(), indent=2) if options.json else done.text())
    return int(bool(done.failures))


def threshold(options: Namespace) -> int:
    """Print the smallest strength of each defence that keeps leakage below the bound."""
    from fedsim.studies.table import RESULTS, read_table
    from fedsim.studies.threshold import thresholds
    from fedsim.studies.words import threshold_text

    folder = Path(options.study)
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder}: no {RESULTS}; allowed: a folder that `fedsim study` wrote")
    found = thresholds(
        read_table(folder),
        folder,
        bound=options.bound,
        metric=options.metric,
        quantile=options.quantile,
        seed=options.seed,
    )
    if not found:
        raise InputError(f"{folder}: no defence with two strengths or more that was attacked")
    print(json.dumps([one.as_dict() for one in found], indent=2) if options.json else threshold_text(found))
    return 0
