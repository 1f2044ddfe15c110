"""``python -m pipelines.takedown``: everything of some URLs, domains or images out of a run."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cli import at_work, open_run, parser, run_command, start
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.opt_outs import OPT_OUTS, opt_out_files
from pipelines.run.receipts import Receipts, Shard, Side
from pipelines.run.removal import (
    Mentions,
    remove_from_parquet,
    remove_from_samples,
    remove_from_text,
    remove_from_warc,
)
from pipelines.run.rewrite import Removed, counted, end_killed_work, mend_receipts, rekey, rewriting
from pipelines.stages import STAGES
from pipelines.stages.model import Model, remove_trainings
from pipelines.stages.pages import Pages
from pipelines.stages.queries import Queries
from workers.base.copies import bring_all, copy_of
from workers.base.exit_codes import ExitCode
from workers.base.opt_outs import Kind, OptOuts, entry_key, normal_entry, read_tombstones, url_names
from workers.base.output import say
from workers.base.storage import write_text

DESCRIPTION = """\
Remove URLs, whole domains or images from a run, with all that was made of them: pages, candidates,
pairs, requests, images, embeddings, labels, verdicts and rows of the data set, samples of dropped
rows, and what logs, reports and other pages say of them. With an image go all pairs that have it,
under whatever URL and caption. A tombstone stays, hashes alone, so that no later run asks for them
again. Pairs, images and embeddings that stay are not made again for it; the selection and the data
set are made anew by the next pipelines.build_dataset. Killed at any moment, it goes on when given
again.
"""

#: Stages whose shards stay valid: what was removed is not asked for, nor made, again.
KEPT = ("candidates", "pairs", "requests", "images", "embeddings", "labels")

#: Files of texts, by their ends.
_TEXTS = (".json", ".jsonl", ".txt", ".md", ".log", ".csv", ".tsv", ".yaml")
#: Files that hold rows, and that a run does not make.
_NOT_SEARCHED = (".tar", ".gz", ".zst", ".zip", ".arrow", ".feather")

Entry = tuple[Kind, str]


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser("takedown", DESCRIPTION)
    for kind, what in {
        Kind.URL: "an image or page; http or https and tracking parameters do not matter",
        Kind.DOMAIN: "a domain, with its sub-domains: its pages, and all images on them or there",
        Kind.SHA256: "an image, by the sha256 of the file that is served",
        Kind.PAIR_ID: "a pair, and its image wherever it is",
    }.items():
        name = f"--{kind.replace('_', '-')}"
        options.add_argument(name, action="append", default=[], dest=kind, metavar="X", help=what)
    options.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and change nothing"
    )
    arguments = options.parse_args(argv)
    return run_command(lambda: takedown(arguments))


def takedown(arguments: argparse.Namespace) -> ExitCode:
    """Remove what the arguments name; print what was removed, and what cannot be reached."""
    named = list(_named(arguments))
    if not named:
        raise ConfigError("name what is to go: --url, --domain, --sha256 or --pair-id")
    run = open_run(arguments)
    if not (run.directory / Side.RECEIPTS).is_dir():
        raise ConfigError(f"{run.directory} is no run: it has no folder {Side.RECEIPTS}")
    dry = arguments.dry_run
    with run.lock() if dry else at_work(run, arguments.command):
        end_killed_work(run.directory)
        bring_all(run.directory)
        entries = with_all_of_it(run.directory, named)
        removed = remove(run, entries, discard=dry)
    say("\n".join(_report(run, removed, dry=dry)))
    return ExitCode.COMPLETE


def _named(arguments: argparse.Namespace) -> Iterator[Entry]:
    for kind in (Kind.URL, Kind.DOMAIN, Kind.SHA256, Kind.PAIR_ID):
        for text in getattr(arguments, kind):
            try:
                yield kind, normal_entry(kind, text)
            except ValueError as error:
                raise ConfigError(f"--{kind.replace('_', '-')}: {error}") from error


def with_all_of_it(directory: Path, named: Sequence[Entry]) -> set[Entry]:
    """What is named, and all that goes with it: pairs, their URLs, and the same images elsewhere.

    Files are read until nothing more is found.
    """
    entries = set(named)
    before: set[Entry] = set()
    while entries != before:
        before = set(entries)
        gone = OptOuts.of(before)
        for path in _tables(directory):
            entries |= _found(path, gone)
    return entries


def _tables(directory: Path) -> Iterator[Path]:
    """The files that tell which pair has which URL and which image."""
    for stage in ("candidates", "pairs", "requests", "images", "dataset"):
        yield from Receipts(directory / stage).outputs()


def _found(path: Path, gone: OptOuts) -> set[Entry]:
    names = [name for name in pq.read_schema(path).names if name in _NAMING]
    if "pair_id" not in names:
        return set()
    table = pq.read_table(path, columns=names)
    rows = table.filter(pa.array(gone.has_rows(table)))
    found = {(Kind.PAIR_ID, pair_id) for pair_id in rows["pair_id"].to_pylist()}
    for name in {"url", "final_url"}.intersection(names):
        urls = rows[name].drop_null().combine_chunks()
        found |= {(Kind.URL, url) for url in url_names(urls)}
    if "sha256" in names:
        found |= {(Kind.SHA256, text) for text in rows["sha256"].drop_null().to_pylist()}
    return found


_NAMING = ("pair_id", "url", "page_url", "final_url", "sha256")


def bury(run: Run, entries: set[Entry]) -> None:
    """Leave a tombstone for each entry: a line KIND HASH DATE."""
    path = opt_out_files(run).taken_down
    old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    today = datetime.now(UTC).date().isoformat()
    new = {f"{kind} {entry_key(kind, value).hex()}" for kind, value in entries}
    new -= {line.rpartition(" ")[0] for line in old}
    write_text("".join(f"{line}\n" for line in [*old, *sorted(f"{e} {today}" for e in new)]), path)


def remove(run: Run, entries: set[Entry], *, discard: bool = False) -> dict[str, int]:
    """Remove all rows of the entries from a run, which must be locked. Returns rows by stage.

    Args:
        discard: leave the run as it is.
    """
    gone = OptOuts.of(entries)
    mentions = Mentions(gone, _hosts(entries))
    with rewriting(run, discard=discard) as state:
        bury(state, entries)
        removed = _remove_from_files(state.directory, gone, mentions)
        _remove_hosts(state.directory, gone)
        for stage in STAGES:
            mend_receipts(Receipts(state.directory / stage), removed)
        if any(file.startswith("dataset/") and some.total for file, some in removed.items()):
            # Of a training that has not ended: it has learnt from what goes.
            remove_trainings(state.directory / Model.name)
        rekey([STAGES[name] for name in KEPT if name in STAGES], run, state)
    rows: Counter[str] = Counter()
    for file, some in removed.items():
        rows[_stage_of(file)] += counted(some, Path(file)).total()
    return dict(rows)


def _hosts(entries: set[Entry]) -> set[str]:
    """The domains of entries, and the hosts of their URLs."""
    domains = {value for kind, value in entries if kind is Kind.DOMAIN}
    urls = (value for kind, value in entries if kind is Kind.URL and "://" not in value)
    return domains | {url.partition("/")[0].partition(":")[0] for url in urls}


def _remove_from_files(directory: Path, gone: OptOuts, mentions: Mentions) -> dict[str, Removed]:
    """Remove rows from all files of a run's next state: pages first, which say where others are."""
    removed: dict[str, Removed] = {}
    moved: dict[str, dict[int, int]] = {}
    files = sorted(_searched(directory), key=lambda path: path.suffix != ".warc")
    for path in files:
        if path.suffix == ".warc":
            found = remove_from_warc(path, gone, mentions)
            if any(old != new for old, new in found.moved.items()):
                moved[path.name] = found.moved
        elif path.suffix == ".parquet":
            found = remove_from_parquet(path, gone, mentions, moved)
        elif path.relative_to(directory).parts[0] == Side.REJECTED:
            found = remove_from_samples(path, gone, mentions)
        else:
            found = remove_from_text(path, mentions)
        removed[str(path.relative_to(directory))] = found
    return removed


def _searched(directory: Path) -> Iterator[Path]:
    """The files of a run that may hold rows, or speak of them."""
    for path in directory.rglob("*"):
        is_known = path.suffix in (".warc", ".parquet", *_TEXTS)
        if is_known and path.is_file() and not _is_record(path.relative_to(directory)):
            yield path


def _is_record(path: Path) -> bool:
    """Whether no row of a file is from the web: it tells whose files are whose, or is of terms."""
    return path.parts[0] in (Side.RECEIPTS, Side.OUTPUTS, OPT_OUTS) or Queries.name in path.parts


def _remove_hosts(directory: Path, gone: OptOuts) -> None:
    """Remove all that stands of hosts of which nothing is left, their names among it."""
    receipts = Receipts(directory / Pages.name)
    names = {receipt.shard for receipt in receipts.all()} | set(receipts.begun())
    left = {name for name in names if not gone.has_host(re.sub(r"_\d+$", "", name))}
    if left != names:
        receipts.keep_only([Shard(name, "") for name in left])


def _stage_of(file: str) -> str:
    parts = Path(file).parts
    name = parts[1] if parts[0].startswith("_") and len(parts) > 1 else parts[0]
    return name if name in STAGES else "other files"


def _report(run: Run, removed: Mapping[str, int], *, dry: bool) -> Iterator[str]:
    total = sum(removed.values())
    yield f"takedown of {run.directory}"
    yield ""
    yield f"| stage | rows {'to remove' if dry else 'removed'} |"
    yield "|---|--:|"
    for stage in (*STAGES, "other files"):
        if stage in removed:
            yield f"| {stage} | {removed[stage]:,} |"
    yield ""
    if dry:
        yield "nothing was changed"
    elif total:
        yield "the next pipelines.build_dataset makes the selection and the data set anew"
    else:
        yield "nothing of it is in the run; a tombstone stays, so that nothing of it comes in"
    yield from _out_of_reach(run, removed)


def _out_of_reach(run: Run, removed: Mapping[str, int]) -> Iterator[str]:
    """What a takedown cannot do."""
    yield "out of reach: copies of the run, and what was listed in files outside of it"
    if copy_of(run.directory):
        yield (
            "out of reach: older versions of objects, and parts of uploads that never ended, where "
            "the bucket keeps them"
        )
    if removed.get("dataset") and run.receipts("model").all():
        yield "out of reach: model/ was trained on rows that are removed; pipelines.train anew"
    gone = read_tombstones(opt_out_files(run).taken_down)
    for number, seed in enumerate(run.config.pages.seeds):
        if gone.has_url(seed):
            yield f"pages.seeds.{number} is taken down and not crawled; take it out, too"
    for path in sorted(run.directory.rglob("*")):
        if path.is_file() and path.suffix in _NOT_SEARCHED:
            yield f"not searched: {path}"


if __name__ == "__main__":
    start(main)
