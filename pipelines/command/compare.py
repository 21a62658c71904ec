"""kfp-osft compare."""

import argparse
import shutil
from pathlib import Path

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "compare",
        help="compare runs: what differs, what came out, and their curves in one chart",
        description="Compares runs: prints a table of what differs between them and one of what came out, and writes a "
        "page with the curves on top of each other, which needs no network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="output folder of a run, folder of a model with its osft_run.json, table of steps (metrics.jsonl), or a "
        "folder of these, such as those of a sweep",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        metavar="FILE",
        help="page to write (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.compare.page import write_comparison
    from kfp_osft.pipelines.compare.runs import find_runs
    from kfp_osft.pipelines.compare.table import as_text, comparison
    from kfp_osft.shared.files.atomic import writable_folder
    from kfp_osft.shared.reporting.log import log

    page = options.output.expanduser().absolute()
    writable_folder("--output", str(page.parent))
    runs = find_runs(options.runs)
    names = [run.name for run in runs]
    width = shutil.get_terminal_size().columns
    tables = comparison(runs)
    different = tables.differences
    log("What differs\n" + "\n".join(as_text(names, different, width)) if different else "Nothing known differs")
    if tables.caution:
        log(f"\n{tables.caution}")
    log("\nWhat came out (* is the best)\n" + "\n".join(as_text(names, tables.results, width)))
    write_comparison(runs, tables, page)
    log(f"\nChart    {page}")
