"""The commands on studies. Heavy imports are inside, as in `commands`."""

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.cli.progress import Bars

if TYPE_CHECKING:
    from fedsim.studies.study import Study


def study(options: Namespace) -> int:
    """Run the cells of a study, write table and page; 1 where a cell failed."""
    from fedsim.studies.api import run_study
    from fedsim.studies.study import find_study, read_study, with_axes

    given = with_axes(read_study(find_study(options.file)), options.axis)
    out = Path(options.out or f"runs/studies/{given.name}")
    if options.dry_run:
        return _dry_run(given, out, options)
    bars = Bars(quiet=options.json)
    devices = options.devices.split(",") if options.devices else None
    try:
        done = run_study(given, out, overrides=options.set, jobs=options.jobs, devices=devices, progress=bars)
    except KeyboardInterrupt:
        bars.close()
        raise KeyboardInterrupt(f"interrupted; the same command goes on in {out}") from None
    finally:
        bars.close()
    print(json.dumps(done.as_dict(), indent=2) if options.json else done.text())
    return int(bool(done.failures))


def _dry_run(given: "Study", out: Path, options: Namespace) -> int:
    from fedsim.cli.dry_run import dry_run
    from fedsim.studies.cells import cells_of

    devices = options.devices.split(",") if options.devices else None
    told = dry_run(cells_of(given, out, options.set), jobs=options.jobs, devices=devices)
    print(json.dumps(told.as_dict(), indent=2) if options.json else told.text())
    return 0


def threshold(options: Namespace) -> int:
    """Print the smallest strength of each defence that keeps leakage below the bound."""
    from fedsim.studies.api import thresholds
    from fedsim.studies.words import threshold_markdown, threshold_text

    found = thresholds(
        options.study,
        bound=options.bound,
        metric=options.metric,
        quantile=options.quantile,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        print(threshold_markdown(found) if options.markdown else threshold_text(found))
    return 0
