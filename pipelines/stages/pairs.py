"""Stage ``pairs``: candidates to pairs, each once and balanced, a shard a range of pair_id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.run.attempts import Work
from pipelines.run.config import digest
from pipelines.run.engines import on_text_engine
from pipelines.run.passes import PassError, do_pass, remove_passes
from pipelines.run.receipts import Check, Outcome, Shard, Side
from pipelines.stages.base import NOTHING, Stage
from workers.base.copies import copy_of
from workers.base.tally import Tally
from workers.pairs.settings import PairSettings

if TYPE_CHECKING:
    from workers.base.ranges import Range
    from workers.pairs.balance import Policy
    from workers.pairs.candidates import Candidates
    from workers.pairs.query_limits import Queries

#: The shard of the counts of every query, a side table: it is made when all pairs are.
QUERY_COUNTS = "query_counts"

#: The settings that the pairs of some candidates depend on.
_BALANCING = (
    *("max_captions_per_url", "max_urls_per_caption", "balance", "pairs_per_query"),
    *("shards", "max_rows_per_file"),
)


class Pairs(Stage):
    """Each range is made alone, once passes over all of them have told the queries' limits."""

    name = "pairs"
    reads = ("queries", "candidates")
    version = 7

    @property
    def settings(self) -> PairSettings:
        return self.run.config.pairs

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The settings that every shard depends on."""
        settings = self.settings.identity()
        return {name: settings[name] for name in _BALANCING} | {
            "seed": self.run.config.seed,
            "matched": self.run.config.queries != "none",
        }

    @cached_property
    def content(self) -> str:
        """What stands for all candidates in a key."""
        found = [source.sha256 for source in self.run.receipts("candidates").sources()]
        return digest(sorted(found))

    def _of_all(
        self, name: str, files: Mapping[str, Sequence[Path]] = NOTHING, **values: Any
    ) -> Shard:
        """A shard that depends on all candidates."""
        return self.shard(name, self.identity, files, {"candidates": self.content, **values})

    def plan(self) -> list[Shard]:
        if not self.run.outputs("candidates"):
            return []
        queries = {"queries": self.run.outputs("queries")}
        return [*self._on_ranges(), self._of_all(QUERY_COUNTS, queries)]

    def _on_ranges(self) -> list[Shard]:
        """Work on each range of pair_id.

        It reads a little of all candidates, where they lie: these are compared with their hashes
        when it has failed.
        """
        unread = () if copy_of(self.folder) else self.run.receipts("candidates").sources()
        sources = tuple(replace(source, check=Check.AFTER_FAILURE) for source in unread)
        shards = [
            self._of_all(f"{number:05d}", number=number) for number in range(self.settings.shards)
        ]
        return [replace(shard, sources=sources) for shard in shards]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        ranges = [shard for shard in shards if shard.name != QUERY_COUNTS]
        counts = [shard for shard in shards if shard.name == QUERY_COUNTS]
        try:
            learnt = self._learn()
        except PassError as error:
            yield from map(error.outcome_of, shards)
            return
        settings = self.settings
        work: Work = WritePairs(learnt, self.run.config.seed, settings.max_rows_per_file)
        failed = None
        for outcome in self._engine(work, ranges, self.folder):
            if not outcome.receipt:
                failed = outcome
            yield outcome
        if failed:
            yield from map(PassError(self.name, failed).outcome_of, counts)
            return
        pairs = tuple(self.run.outputs(self.name))
        yield from self._engine(WriteQueryCounts(learnt.counts, pairs), counts, self.folder)

    @cached_property
    def _engine(self) -> partial[Iterator[Outcome]]:
        return partial(on_text_engine, config=self.run.config)

    def _learn(self) -> Learnt:
        """What must be known of all pairs: which are too many of a caption, then the limits of
        queries. Raises PassError."""
        from workers.pairs.balance import POLICIES
        from workers.pairs.candidates import Candidates
        from workers.pairs.caption_limit import write_captions, write_surplus
        from workers.pairs.query_limits import add_counts, count_queries, write_draws, write_limits

        settings, ranges = self.settings, self._on_ranges()
        found = Candidates(tuple(self.run.outputs("candidates")), settings.max_captions_per_url)

        def on_ranges(name: str, write: Callable[[Range, Path], None]) -> tuple[Path, ...]:
            return self._pass(name, OnRange(len(ranges), write), ranges)

        if most := settings.max_urls_per_caption:
            captions = on_ranges("captions", partial(write_captions, found))
            surplus = on_ranges("surplus", partial(write_surplus, captions, most))
            found = replace(found, surplus=surplus)
        if not self.identity["matched"]:
            return Learnt(found, len(ranges))
        policy = POLICIES[settings.balance](settings.pairs_per_query)
        parts = on_ranges("counts", partial(count_queries, found))
        total = self._of_all("all")
        (counts,) = self._pass("total", OnAll(partial(add_counts, parts)), [total])
        if not policy.draws_needed:
            return Learnt(found, len(ranges), policy, counts)
        seed = self.run.config.seed
        draws = on_ranges("draws", partial(write_draws, found, counts, policy, seed))
        work = OnQueries(partial(write_limits, draws, counts, policy))
        limits = self._pass("limits", work, self._by_queries(counts, policy))
        return Learnt(found, len(ranges), policy, counts, limits)

    def _pass(self, name: str, work: Work, shards: Sequence[Shard]) -> tuple[Path, ...]:
        return tuple(do_pass(self.folder, name, work, shards, self._engine).outputs())

    def _by_queries(self, counts: Path, policy: Policy) -> list[Shard]:
        """Work on the queries that have too many pairs, some of them at a time."""
        from workers.pairs.query_limits import merged_together, read_counts

        parts = merged_together(read_counts(counts), policy)
        return [
            self._of_all(f"{number:05d}", first=some.first, last=some.last)
            for number, some in enumerate(parts)
        ]

    def tidy(self) -> None:
        remove_passes(self.folder)


@dataclass(frozen=True)
class Learnt:
    """What is known of all pairs together."""

    candidates: Candidates
    ranges: int
    policy: Policy | None = None  # None: captions were matched with nothing
    counts: Path | None = None  # of the pairs of every query
    limits: tuple[Path, ...] = ()  # of the queries that have too many


def _range_of(shard: Shard, ranges: int) -> Range:
    from workers.pairs.tables import id_ranges

    return id_ranges(ranges)[shard.values["number"]]


def _file(shard: Shard, out: Path) -> Path:
    return out / f"{shard.name}.parquet"


@dataclass(frozen=True)
class OnRange:
    """Writes a file of what is learnt of each range of pairs."""

    ranges: int
    write: Callable[[Range, Path], None]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        self.write(_range_of(shard, self.ranges), _file(shard, out))
        return {}


@dataclass(frozen=True)
class OnQueries:
    """Writes a file of what is learnt of some queries."""

    write: Callable[[Queries, Path], None]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.pairs.query_limits import Queries

        some = Queries(shard.values["first"], shard.values["last"])
        self.write(some, _file(shard, out))
        return {}


@dataclass(frozen=True)
class OnAll:
    """Writes the one file of what is learnt of all."""

    write: Callable[[Path], None]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        self.write(_file(shard, out))
        return {}


@dataclass(frozen=True)
class WritePairs:
    learnt: Learnt
    seed: int
    max_rows: int

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.pairs.query_limits import all_limits, read_counts
        from workers.pairs.writer import write_pairs

        learnt, balancing = self.learnt, None
        if learnt.policy and learnt.counts:
            limits = all_limits(read_counts(learnt.counts), learnt.limits, learnt.policy)
            balancing = learnt.policy, limits
        between = _range_of(shard, learnt.ranges)
        tally = write_pairs(
            learnt.candidates, between, balancing, self.seed, self.max_rows, out, shard.name
        )
        return {"pairs": tally}


@dataclass(frozen=True)
class WriteQueryCounts:
    counts: Path | None
    pairs: tuple[Path, ...]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.pairs.query_draws import QueryCounts
        from workers.pairs.query_limits import read_counts
        from workers.pairs.writer import write_query_counts

        before = read_counts(self.counts) if self.counts else QueryCounts.total([])
        path = out / Side.TABLES / f"{shard.name}.parquet"
        write_query_counts(shard.files["queries"], before, self.pairs, path)
        return {"pairs": Tally()}
