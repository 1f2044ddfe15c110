"""``python -m pipelines.compact``: a run without what nothing refers to, in shards of full size."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.cli import at_work, open_run, parser, run_command, start
from pipelines.run.attempts import output_of
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.outages import is_outage
from pipelines.run.receipts import Again, Counts, Receipt, Receipts, Shard, Side
from pipelines.run.removal import rewrite_table
from pipelines.run.rewrite import (
    Removed,
    end_killed_work,
    is_changed,
    mend_receipts,
    rekey,
    rewriting,
)
from pipelines.run.rules import agents_of_all, joined_rules
from pipelines.run.runner import is_complete
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import Embeddings
from pipelines.stages.images import Images, failures_before
from pipelines.stages.labels import Labels
from workers.base.contracts import REQUESTS
from workers.base.copies import bring_all
from workers.base.exit_codes import ExitCode
from workers.base.opt_outs import Kind, OptOuts
from workers.base.output import say
from workers.base.storage import write_json, write_table
from workers.base.tally import Tally
from workers.fetch.requests import attempt_of, list_name, read_requests

DESCRIPTION = """\
Remove the images, and what was made of them, of pairs that are in pairs/ no more, and join small
shards of requests, images, embeddings and labels into full ones (images.pairs_per_shard). Nothing
is fetched or embedded again for it, and the data set has the same bytes. Killed at any moment, the
run is as it was or as it was to be. It needs as much free disk as what it joins takes.
"""

#: The stages whose shards are joined; those of one list have its name in all of them.
LISTED = ("requests", "images", "embeddings", "labels")
#: Those that stay valid.
KEPT = (*LISTED, "selection", "dataset")


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    arguments = parser("compact", DESCRIPTION).parse_args(argv)
    return run_command(lambda: compact(arguments))


def compact(arguments: argparse.Namespace) -> ExitCode:
    """Compact a run and print what it has become."""
    run = open_run(arguments)
    with at_work(run, arguments.command):
        if not is_complete(run, "pairs", {}):
            raise ConfigError(
                f"pairs/ in {run.directory} is not complete with this configuration, and tells "
                "what is referred to: run pipelines.build_dataset first"
            )
        end_killed_work(run.directory)
        bring_all(run.directory)
        before = _sizes(run)
        with rewriting(run) as state:
            removed = remove_unreferenced(state)
            joined = join_small(run, state)
            rekey([STAGES[name] for name in KEPT], run, state, joined)
        after = _sizes(run)
    say("\n".join(_report(run, removed, before, after)))
    return ExitCode.COMPLETE


def remove_unreferenced(state: Run) -> Counter[str]:
    """Remove what was asked for of pairs that are there no more. Returns rows by stage."""
    wanted = OptOuts.of(
        (Kind.PAIR_ID, pair_id)
        for path in state.outputs("pairs")
        for pair_id in pq.read_table(path, columns=["pair_id"])["pair_id"].to_pylist()
    )
    removed: dict[str, Removed] = {}
    rows: Counter[str] = Counter()
    for stage in LISTED:
        for path in state.receipts(stage).outputs():
            ids = pq.read_table(path, columns=["pair_id"])["pair_id"]
            gone = ~wanted.has_values(Kind.PAIR_ID, ids)
            name = os.path.relpath(path, state.directory)
            removed[name] = rewrite_table(path, gone) if gone.any() else Removed()
            rows[stage] += removed[name].total
    for stage in LISTED:
        mend_receipts(state.receipts(stage), removed)
    return rows


def join_small(run: Run, state: Run) -> set[str]:
    """Join small lists with what was made of them. Returns the names of the new ones."""
    renamed: dict[str, str] = {}
    labelled = _valid(Labels(run))
    for names in _groups(run, state):
        joined = _Joined.of(state, names)
        joined.write(state)
        if labelled.issuperset(names):  # else they are made anew, in seconds
            joined.write_follower(state.receipts(Labels.name))
        renamed |= dict.fromkeys(names, joined.name)
    if renamed:
        _rename(state, renamed)
    return set(renamed.values())


def _groups(run: Run, state: Run) -> Iterator[list[str]]:
    """Lists to be joined: of one attempt, small, and with all that was made of them valid."""
    images, embedded = Images(run), _valid(Embeddings(run))
    size = run.config.images.pairs_per_shard
    small: dict[int, list[str]] = defaultdict(list)
    rows: dict[str, int] = {}
    for receipt in images.answered():
        name, path = receipt.shard, state.directory / "requests" / f"{receipt.shard}.parquet"
        # Of what an outage has spoiled, the receipt says when it is tried again.
        is_whole = name in embedded and path.exists() and not receipt.spoiled
        if is_whole and not is_outage(receipt, images.tolerance):
            rows[name] = pq.read_metadata(path).num_rows
            if rows[name] <= size // 2:
                small[receipt.attempt].append(name)
    for names in small.values():
        group: list[str] = []
        for name in sorted(names):
            group.append(name)
            if sum(rows[some] for some in group) >= size:
                yield group
                group = []
        if len(group) > 1:
            yield group


def _valid(stage: Stage) -> set[str]:
    """The names of the shards of a stage that are done."""
    receipts = stage.run.receipts(stage.name)
    return {shard.name for shard in stage.plan() if receipts.valid(shard)}


@dataclass(frozen=True)
class _Joined:
    """Some lists of requests as one, in which every pair stands once: as it was asked for last."""

    members: Sequence[str]
    name: str
    requests: pa.Table

    @classmethod
    def of(cls, state: Run, names: Sequence[str]) -> _Joined:
        lists = [read_requests(state.directory / f"requests/{name}.parquet") for name in names]
        table = pa.concat_tables(lists)
        order = [("pair_id", "ascending"), ("tries", "ascending")]
        table = table.sort_by(order).combine_chunks()
        ids = table["pair_id"].combine_chunks()
        differs = pc.not_equal(ids[1:], ids[:-1])
        first = table.filter(pa.concat_arrays([pa.array([True]), differs]))
        last = table.filter(pa.concat_arrays([differs, pa.array([True])]))
        # Where it failed before the first of these is where it is counted no more.
        for name in ("failed_in", "failed_for"):
            at = REQUESTS.get_field_index(name)
            last = last.set_column(at, REQUESTS.field(at), first[name])
        return cls(names, list_name(last, attempt_of(names[0])), last)

    def write(self, state: Run) -> None:
        """Write the list, its images and their embeddings, with receipts but for the keys."""
        file = f"{self.name}.parquet"
        folder = state.directory / Images.name
        tables = Side.TABLES.of(folder)
        images = _concatenated(folder, self.members).sort_by("pair_id")
        answers = self._last(_concatenated(tables, self.members)).sort_by("pair_id")
        write_table(self.requests, state.directory / "requests" / file)
        write_table(images, folder / file)
        write_table(answers, tables / file)
        _join_samples(Side.REJECTED.of(folder), self.members, self.name)
        rows = {"images": _counts(images, answers)}
        again = failures_before(self.requests)
        self._write_receipt(
            Receipts(folder), [file, f"../{Side.TABLES}/images/{file}"], rows, again
        )
        self.write_follower(state.receipts(Embeddings.name))

    def write_follower(self, receipts: Receipts) -> None:
        """Write what a stage has made of the images, row for row, with its receipt."""
        file = f"{self.name}.parquet"
        table = _concatenated(receipts.folder, self.members).sort_by("pair_id")
        write_table(table, receipts.folder / file)
        _join_samples(Side.REJECTED.of(receipts.folder), self.members, self.name)
        members = filter(None, map(receipts.get, self.members))
        self._write_receipt(receipts, [file], StageTotals.of(list(members)).rows, {})

    def _last(self, answers: pa.Table) -> pa.Table:
        """The answers to what was asked last; earlier ones are history."""
        places = pc.index_in(
            answers["pair_id"], value_set=self.requests["pair_id"].combine_chunks()
        )
        return answers.filter(pc.equal(answers["tries"], self.requests["tries"].take(places)))

    def _write_receipt(
        self, receipts: Receipts, files: Sequence[str], rows: Mapping[str, Counts], again: Again
    ) -> None:
        members = [receipt for name in self.members if (receipt := receipts.get(name))]
        receipts.announce(self.name, files)
        receipts.write(
            Receipt(
                shard=self.name,
                key="",
                rows=rows,
                outputs=tuple(output_of(receipts.folder / file, file) for file in files),
                seconds=round(sum(receipt.seconds for receipt in members), 3),
                ended=max(receipt.ended for receipt in members),
                attempt=max(receipt.attempt for receipt in members),
                again=again,
                rules=joined_rules(members),
                agents=agents_of_all(members),
            )
        )


def _concatenated(folder: Path, names: Sequence[str]) -> pa.Table:
    return pa.concat_tables([pq.read_table(folder / f"{name}.parquet") for name in names])


def _counts(images: pa.Table, answers: pa.Table) -> Counts:
    tally = Tally()
    tally.keep(len(images))
    without = answers.filter(pc.is_valid(answers["reason"]))
    for reason, rejected in zip(
        *(without[c].to_pylist() for c in ("reason", "rejected")), strict=True
    ):
        (tally.rejected if rejected else tally.failed)[reason] += 1
    tally.rows_in += len(without)
    return tally.counts()


def _join_samples(folder: Path, members: Sequence[str], name: str) -> None:
    """The samples of dropped rows of some shards as those of one."""
    tallies: dict[str, list[Tally]] = defaultdict(list)
    for path in (folder / f"{member}.json" for member in members):
        for kind, samples in json.loads(path.read_bytes()).items() if path.exists() else ():
            tallies[kind].append(Tally(samples=samples))
    if tallies:
        joined = {kind: Tally.total(some).samples for kind, some in tallies.items()}
        write_json(joined, folder / f"{name}.json")


def _rename(state: Run, renamed: Mapping[str, str]) -> None:
    """Put the new lists in the place of those that they are made of, wherever these are named."""
    requests, images = state.receipts("requests"), state.receipts(Images.name)
    for name in renamed:
        (requests.folder / f"{name}.parquet").unlink()
    for path in sorted(requests.folder.glob("*.parquet")):
        table, changed = read_requests(path), {}
        for column in ("failed_in", "image_in"):
            before = table[column].to_pylist()
            new = [renamed.get(name, name) for name in before]
            if new != before:
                changed[column] = pa.chunked_array([new], pa.string())
        if changed:
            rewrite_table(path, np.zeros(len(table), np.bool_), changed)
    _give_to_nights(requests, renamed)
    for receipt in images.all():
        again: dict[str, Counter[str]] = defaultdict(Counter)
        for name, reasons in receipt.again.items():
            again[renamed.get(name, name)].update(reasons)
        if again != receipt.again:
            images.write(replace(receipt, again={name: dict(some) for name, some in again.items()}))
    for receipts in (images, state.receipts(Embeddings.name), state.receipts(Labels.name)):
        shards = {receipt.shard for receipt in receipts.all()} - renamed.keys()
        receipts.keep_only([Shard(name, "") for name in shards])


def _give_to_nights(receipts: Receipts, renamed: Mapping[str, str]) -> None:
    """Write the receipts of ``requests`` anew: a new list is of the last night that had a part."""
    given: set[str] = set()
    for receipt in reversed(receipts.all()):
        before = {output.file: output for output in receipt.outputs}
        names = {file.removesuffix(".parquet") for file in before}
        files = {f"{renamed.get(name, name)}.parquet" for name in names} - given
        given |= files
        outputs = [
            output_of(receipts.folder / file, file)
            if file not in before or is_changed(receipts.folder / file)
            else before[file]
            for file in sorted(files)
        ]
        tally = Tally()
        tally.keep(sum(output.rows or 0 for output in outputs))
        receipts.announce(receipt.shard, files)
        receipts.write(replace(receipt, outputs=tuple(outputs), rows={"pairs": tally.counts()}))


@dataclass(frozen=True)
class _Size:
    shards: int
    rows: int
    bytes: int


def _sizes(run: Run) -> dict[str, _Size]:
    return {stage: _size(run.receipts(stage)) for stage in LISTED}


def _size(receipts: Receipts) -> _Size:
    files = [path for path in receipts.outputs() if path.parent == receipts.folder]
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    return _Size(len(files), rows, sum(path.stat().st_size for path in files))


def _report(
    run: Run, removed: Counter[str], before: Mapping[str, _Size], after: Mapping[str, _Size]
) -> Iterator[str]:
    yield f"compaction of {run.directory}"
    yield ""
    yield "| stage | shards | now | rows | now | MB | now | referred to no more |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for stage in filter(lambda stage: before[stage].shards, LISTED):
        one, other = before[stage], after[stage]
        yield (
            f"| {stage} | {one.shards:,} | {other.shards:,} | {one.rows:,} | {other.rows:,} | "
            f"{one.bytes / 1e6:,.1f} | {other.bytes / 1e6:,.1f} | {removed[stage]:,} |"
        )
    if before == after:
        yield ""
        yield "nothing to do"


if __name__ == "__main__":
    start(main)
