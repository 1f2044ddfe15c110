"""The command line: ``python -m query_builder DUMP... --out DIR``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from query_builder.settings import BigramSettings, QuerySettings
from workers.settings import find_files
from workers.tally import Tally

COMPLETE, CONFIGURATION, PARTIAL, INTERRUPTED = 0, 2, 3, 130

EPILOG = """\
DIR/00000.parquet has the columns query_id, query, kind (word, bigram or title), count, pmi and
views. The same dumps and options always give the same bytes.

exit codes: 0 complete; 2 wrong options, missing dump or DIR not empty; 3 a dump is damaged and
what could be read of it was used; 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The options; their defaults and meanings are those of ``QuerySettings``."""
    result = argparse.ArgumentParser(
        prog="python -m query_builder",
        description="Make the list of queries that captions are matched against from Wikipedia.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("dumps", nargs="+", metavar="DUMP", help=_describe(QuerySettings, "dumps"))
    result.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="new or empty directory to write to"
    )
    for option, kind, settings, name in (
        ("--min-count", int, QuerySettings, "min_count"),
        ("--bigram-min-count", int, BigramSettings, "min_count"),
        ("--bigram-min-pmi", float, BigramSettings, "min_pmi"),
        ("--titles", str, QuerySettings, "titles"),
        ("--max-queries", int, QuerySettings, "max_queries"),
    ):
        default = settings.model_fields[name].default
        metavar = "{all,none}" if kind is str else "N"
        help_text = f"{_describe(settings, name)} (default: {default})"
        result.add_argument(option, type=kind, default=default, metavar=metavar, help=help_text)
    result.add_argument("--keep-case", action="store_true", help="do not change to lower case")
    result.add_argument(
        "--beam",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of Apache Beam, as --beam=--runner=FlinkRunner; may be repeated "
        "(default: run in this process)",
    )
    result.add_argument("--verbose", action="store_true", help="show Beam's own log too")
    return result


def _describe(settings: type[QuerySettings | BigramSettings], name: str) -> str:
    return str(settings.model_fields[name].description).replace("%", "%%")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_intermixed_args(arguments)  # dumps and options in any order
    # Beam logs a traceback for what it then raises.
    logging.basicConfig(level=logging.INFO if options.verbose else logging.CRITICAL)
    try:
        settings = _settings(options)
        dumps = find_files(settings.dumps)
        _check_empty(options.out)
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"query_builder: {error}\n")
        return CONFIGURATION
    try:
        return _build(dumps, options.out, settings, options.beam)
    except KeyboardInterrupt:
        sys.stderr.write("query_builder: interrupted, no list was written\n")
        return INTERRUPTED


def _settings(options: argparse.Namespace) -> QuerySettings:
    return QuerySettings(
        dumps=tuple(options.dumps),
        min_count=options.min_count,
        bigrams=BigramSettings(min_count=options.bigram_min_count, min_pmi=options.bigram_min_pmi),
        titles=options.titles,
        lower_case=not options.keep_case,
        max_queries=options.max_queries,
    )


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty directory")


def _build(dumps: Sequence[Path], out: Path, settings: QuerySettings, beam: Sequence[str]) -> int:
    # Beam takes seconds to import: not for --help, nor to say that a dump is missing.
    from query_builder import progress
    from query_builder.build import build_queries

    with progress.shown(sum(dump.stat().st_size for dump in dumps), sys.stderr):
        tallies = build_queries(dumps, out, settings, beam)
    sys.stdout.write(summary(tallies))
    sys.stdout.write(f"wrote {tallies['terms'].kept:,} queries to {out}\n")
    if not tallies["pages"].failed:
        return COMPLETE
    for damage in tallies["pages"].samples["damaged_dump"].values():
        sys.stderr.write(f"query_builder: {damage['file']}: {damage['error']}\n")
    return PARTIAL


def summary(tallies: Mapping[str, Tally]) -> str:
    """The counts by reason, one a line."""
    lines = []
    for name, tally in tallies.items():
        lines.append(f"{name}: {tally.rows_in:,} in, {tally.kept:,} kept")
        for outcome, reasons in (("rejected", tally.rejected), ("failed", tally.failed)):
            lines += [f"  {n:>12,} {outcome}: {reason}" for reason, n in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
