"""The command line: ``python -m query_builder DUMP... [--views ...] [--wordnet ...] --out DIR``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from query_builder.inputs import Inputs, check_dumps, find_inputs
from query_builder.settings import KINDS, QuerySettings
from workers.base.bucket import Bucket, ChangedError, is_bucket
from workers.base.credentials import shown
from workers.base.exit_codes import ExitCode
from workers.base.file_systems import local_folder, size_of
from workers.base.output import say
from workers.base.supervisor import supervised
from workers.base.tally import Tally

EPILOG = """\
DIR may be a bucket's s3://, gs:// or az://; the list is there whole or not at all. Given again, a
command that was killed does not count again what it had counted of a folder DIR's list; of a
bucket's, with --counts.
DIR/00000.parquet has the columns query_id, query, kind (word, bigram, title or synset), count,
pmi, npmi and views. The same files and options always give the same bytes. docs/queries.md says
which terms become queries.

exit codes: 0 complete; 2 wrong options, missing file or DIR not empty; 3 a file is damaged and
what could be read of it was used; 4 the list is empty; 70 the process was killed, for lack of
memory for example, or has a fault; 130 interrupted (143: by SIGTERM, 129: by SIGHUP)
"""


#: The options and the settings that they are.
LISTS = {"--views": "views", "--view-projects": "view_projects"}
VALUES = {
    "--wordnet": "wordnet",
    "--min-count": "min_count",
    "--bigram-min-count": "bigrams.min_count",
    "--bigram-measure": "bigrams.measure",
    "--bigram-min-pmi": "bigrams.min_pmi",
    "--bigram-min-npmi": "bigrams.min_npmi",
    "--titles": "titles",
    "--min-views": "min_views",
    "--max-queries": "max_queries",
    **{f"--share-{kind}": f"shares.{kind}" for kind in KINDS},
}


def parser() -> argparse.ArgumentParser:
    """The options; their defaults and meanings are those of ``QuerySettings``."""
    result = argparse.ArgumentParser(
        prog="python -m query_builder",
        description="Make the list of queries that captions are matched against from Wikipedia.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that the settings give the defaults
    )
    result.add_argument("dumps", nargs="+", metavar="DUMP", help=_describe("dumps"))
    result.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="new or empty directory to write to, or such a bucket's URL (docs/buckets.md)",
    )
    for option, key in {**LISTS, **VALUES}.items():
        nargs = "+" if option in LISTS else None
        help_text = _describe(key) + _default(key)
        result.add_argument(option, nargs=nargs, dest=key, metavar=_metavar(key), help=help_text)
    result.add_argument(
        "--keep-case",
        action="store_false",
        dest="lower_case",
        help=f"do not {_describe('lower_case')}",
    )
    result.add_argument(
        "--counts",
        metavar="DIR",
        default=None,
        help="folder or URL where the counts of each part of a dump stay, for later lists: what it "
        "has is not counted again (default: they go when the list is there)",
    )
    result.add_argument(
        "--beam",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of Apache Beam, as --beam=--runner=FlinkRunner; may be repeated "
        "(default: run on all cores of this machine)",
    )
    result.add_argument(
        "--verbose", action="store_true", default=False, help="show Beam's own log too"
    )
    return result


def _field(key: str) -> FieldInfo:
    """The field of ``QuerySettings`` that a key such as ``bigrams.min_pmi`` names."""
    section, _, name = key.rpartition(".")
    settings = QuerySettings.model_fields[section].annotation if section else QuerySettings
    field: FieldInfo = settings.model_fields[name]  # type: ignore[union-attr]
    return field


def _describe(key: str) -> str:
    return str(_field(key).description).replace("%", "%%")


def _default(key: str) -> str:
    value = _field(key).default
    if value is None or value == ():
        return ""
    return f" (default: {' '.join(value) if isinstance(value, tuple) else value})"


def _metavar(key: str) -> str:
    field = _field(key)
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    names = {"views": "FILE", "view_projects": "PROJECT", "wordnet": "DIR"}
    return names.get(key, "N")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_intermixed_args(arguments)  # dumps and options in any order
    # Beam logs a traceback for what it then raises.
    logging.basicConfig(level=logging.INFO if options.verbose else logging.CRITICAL)
    try:
        place = Bucket(options.out) if is_bucket(options.out) else local_folder(options.out)
        _check_empty(place)
        settings = _settings(options)
        files = find_inputs(settings)
        check_dumps(files.dumps)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"query_builder: {shown(str(error))}\n")
        return ExitCode.CONFIGURATION
    try:
        return _build(files, place, settings, options)
    except ChangedError as error:
        sys.stderr.write(f"query_builder: {error}\n")
        return ExitCode.CONFIGURATION
    except KeyboardInterrupt:
        sys.stderr.write("query_builder: interrupted, no list was written\n")
        return ExitCode.INTERRUPTED


def _settings(options: argparse.Namespace) -> QuerySettings:
    """The settings of the options that were given."""
    tree: dict[str, Any] = {}
    for key, value in vars(options).items():
        section, _, name = key.rpartition(".")
        if section:
            tree.setdefault(section, {})[name] = value
        elif key in QuerySettings.model_fields:
            tree[key] = value
    return QuerySettings.model_validate(tree)


def _check_empty(out: Path | Bucket) -> None:
    if isinstance(out, Bucket):
        if out.check():
            raise FileExistsError(f"{out.url} has objects already; name another prefix")
        out.time()  # what cannot be written to is said before the work, not after it
    elif out.exists() and (not out.is_dir() or not all(map(_is_unfinished, out.iterdir()))):
        raise FileExistsError(f"{out} exists and is not an empty directory")


def _is_unfinished(path: Path) -> bool:
    """Whether a killed command has left it, with which the same command goes on."""
    return path.name.startswith(".tmp-")  # storage.TEMPORARY_PREFIX, which imports PyArrow


@contextmanager
def _folder_of(place: Path | Bucket) -> Iterator[Path]:
    """A folder for the list, which goes to a bucket when it is there in full."""
    if isinstance(place, Path):
        yield place
        return
    with TemporaryDirectory(prefix="queries-") as folder:
        yield Path(folder)
        for path in Path(folder).glob("*.parquet"):
            place.write(path.name, path.read_bytes(), None)


def _build(
    files: Inputs, place: Path | Bucket, settings: QuerySettings, options: argparse.Namespace
) -> int:
    # Beam takes seconds to import: not for --help, nor to say that a dump is missing.
    from query_builder import progress
    from query_builder.build import build_queries
    from workers.base.beam_pipeline import check_options

    try:
        check_options(options.beam)
    except (ValueError, ImportError) as error:
        sys.stderr.write(f"query_builder: --beam: {error}\n")
        return ExitCode.CONFIGURATION
    size = sum(map(size_of, files.all()))
    with _folder_of(place) as out, progress.shown(size, sys.stderr):
        tallies = build_queries(
            files.dumps,
            out,
            settings,
            options.beam,
            views=files.views,
            synsets=files.synsets,
            counts=options.counts,
        )
    say(f"{summary(tallies)}wrote {tallies['terms'].kept:,} queries to {place}")
    found = list(problems(tallies, settings))
    sys.stderr.writelines(f"query_builder: {problem}\n" for problem in found)
    if not tallies["terms"].kept:
        sys.stderr.write("query_builder: the list is empty: is --min-count too high?\n")
        return ExitCode.QUALITY
    return ExitCode.PARTIAL if found else ExitCode.COMPLETE


def problems(tallies: Mapping[str, Tally], settings: QuerySettings) -> Iterator[str]:
    """What of the input could not be used. A malformed line of views is only counted."""
    for name, reason in (("pages", "damaged_dump"), ("views", "damaged_views")):
        for damage in tallies.get(name, Tally()).samples.get(reason, {}).values():
            yield f"{damage['file']}: {damage['error']}"
    pages = tallies.get("pages", Tally())
    if left_out := pages.failed["text_left_out"]:
        yield f"the dumps leave out the texts of {left_out:,} articles; pages-articles has them"
    if not pages.kept:
        yield "no page of the dumps is an article with a text"
    for line in tallies.get("synsets", Tally()).samples.get("malformed_synset", {}).values():
        yield f"{line['file']}, line {line['line']}: {line['error']}"
    if "views" in tallies and not tallies["views"].kept:
        projects = " or ".join(settings.view_projects)
        yield (
            f"no line of the view files is about an article of the dumps in {projects}: "
            "is --view-projects right, and are the dumps of the same wiki?"
        )


def summary(tallies: Mapping[str, Tally]) -> str:
    """The counts by reason, one a line."""
    lines = []
    for name, tally in tallies.items():
        lines.append(f"{name}: {tally.rows_in:,} in, {tally.kept:,} kept")
        for outcome, reasons in (("rejected", tally.rejected), ("failed", tally.failed)):
            lines += [f"  {n:>12,} {outcome}: {reason}" for reason, n in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    # Not started again: a list is made as a whole, and DIR is no longer empty.
    sys.exit(supervised(main, restarts=0, lost=ExitCode.FAULT))
