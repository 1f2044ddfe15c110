"""Stage ``requests``: lists of the pairs whose images are to be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipelines.run.engines import in_process
from pipelines.run.gates import gate_of, is_met
from pipelines.run.outages import Unreached, is_outage
from pipelines.run.receipts import Check, Outcome, Receipt, Shard, Side
from pipelines.run.totals import StageTotals, settled
from pipelines.stages.base import Stage
from pipelines.stages.images import Images
from workers.base.copies import bring
from workers.base.tally import Tally
from workers.fetch.requests import AnsweredShard, write_requests


class Requests(Stage):
    """Only grows: a shard of work a night, several lists out, each a shard of images."""

    name = "requests"
    reads = ("pairs",)

    @cached_property
    def images(self) -> Images:
        return Images(self.run)

    @cached_property
    def answers(self) -> list[Receipt]:
        """The receipts of the images, as they are while lists are made."""
        return self.images.answered()

    @property
    def may_be_empty(self) -> bool:
        """Where the images are there, nothing more need be asked for."""
        return bool(self.answers)

    def plan(self) -> list[Shard]:
        """What was planned before stays, whatever was asked of it; only what is lost is made anew.

        One more where the pairs are not those of the last.
        """
        receipts = {receipt.shard: receipt for receipt in self.receipts.all()}
        shards = []
        for number in range(1 + max(map(int, receipts), default=-1)):
            shard = self._shard(number)
            receipt = receipts.get(shard.name)
            is_there = receipt and self.receipts.is_valid(receipt, receipt.key)
            shards.append(Shard(shard.name, receipt.key) if receipt and is_there else shard)
        if self.run.outputs("pairs") and not (shards and shards[-1].key == shard.key):
            shards.append(self._shard(len(shards)))
        return shards

    def rewritten(self) -> list[Shard]:
        """The last alone: the pairs are those that it has seen."""
        receipts = self.receipts.all()
        return [self._shard(len(receipts) - 1)] if receipts else []

    def again(
        self,
        shards: Sequence[Shard],
        receipts: Sequence[Receipt],
        *,
        missed: bool,  # noqa: ARG002
    ) -> list[Shard]:
        """One more where it is time to try something again."""
        last = max((receipt.ended for receipt in receipts), default=0.0)
        due = any(when >= last for when, _ in self._due().values())
        return [self._shard(len(shards))] if due or self.run.retry else []

    def _shard(self, number: int) -> Shard:
        name = f"{number:06d}"
        return self.shard(name, {"number": number}, {"pairs": self.run.outputs("pairs")})

    def _due(self) -> dict[str, tuple[float, frozenset[str]]]:
        """By shard of images: since when it is time to ask again, and for which failures."""
        receipts = [receipt for receipt in self.answers if receipt.ended < self.run.started]
        gate = gate_of(self.run.config, Images.name)
        missed = not is_met(gate, StageTotals.of(self.answers))
        due = {}
        for receipt in settled(receipts):
            if not (reasons := frozenset(Unreached.of([receipt]).reasons)):
                continue
            pauses = self.run.config.images.retry_hours[receipt.attempt - 1 :]
            when = receipt.ended + 3600 * pauses[0] if pauses else float("inf")
            if missed or self._is_lost(receipt):
                when = receipt.ended
            if when <= self.run.started:
                due[receipt.shard] = when, reasons
        return due

    def _is_lost(self, receipt: Receipt) -> bool:
        """Whether it is not the images' fault that some could not be reached."""
        return receipt.spoiled or is_outage(receipt, self.images.tolerance)

    def _answered(self) -> Iterator[AnsweredShard]:
        due, images = self._due(), self.images.folder
        tables = Side.TABLES.of(images)
        for receipt in settled(self.answers):
            name = receipt.shard
            retry = due[name][1] if name in due else frozenset[str]()
            if receipt.ended < self.run.started:
                retry |= self.run.retry
            yield AnsweredShard(
                name,
                images / f"{name}.parquet",
                tables / f"{name}.parquet",
                receipt.attempt + (not self._is_lost(receipt)),
                retry,
            )

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        answered = tuple(self._answered())
        names = {shard.name for shard in answered}
        unread = [
            replace(source, check=Check.AFTER_FAILURE) for source in self.images.receipts.sources()
        ]
        for shard in shards:  # one by one: what one puts on lists, the next leaves alone
            waiting = [path for path in self.run.outputs(self.name) if path.stem not in names]
            bring(waiting)
            work = WriteRequests(answered, tuple(waiting), self.run.config.images.pairs_per_shard)
            checked = replace(shard, sources=(*shard.sources, *unread))
            yield from in_process(work, [checked], self.folder)


@dataclass(frozen=True)
class WriteRequests:
    answered: tuple[AnsweredShard, ...]
    waiting: tuple[Path, ...]
    pairs_per_shard: int

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        pairs = shard.files["pairs"]
        return write_requests(pairs, self.answered, self.waiting, out, self.pairs_per_shard)
