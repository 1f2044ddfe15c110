"""Counts of the rows that went into a piece of work: nothing is lost or dropped silently.

Every row that a worker takes in ends as kept, as rejected (the worker decided against it)
or as failed (it could not be worked on); the last two with a reason. ``Tally.check`` refuses
one that does not add up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

#: How many dropped rows of each reason a tally keeps to look at.
SAMPLES_PER_REASON = 20

#: Characters of a text that a sample shows.
SHOWN_CHARS = 1_000

#: Dropped rows of one reason, by key.
Sample = dict[str, dict[str, Any]]

#: Dropped rows with their keys.
Rows = Iterable[tuple[str, Mapping[str, Any]]]


class LostRowsError(RuntimeError):
    """A piece of work ended with fewer or more rows than it took in."""


@dataclass
class Tally:
    """Counts of rows in, kept, rejected by reason and failed by reason, with samples.

    The sample of a reason is its rows with the smallest keys and, of rows with one key, the
    smallest: a function of the set of its rows, whatever the order in which they were met or
    tallies were added up. Texts are cut to what somebody would read.
    """

    rows_in: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    samples: dict[str, Sample] = field(default_factory=dict)

    def keep(self, rows: int = 1) -> None:
        self.rows_in += rows
        self.kept += rows

    def reject(self, reason: str, key: str, row: Mapping[str, Any]) -> None:
        """Count a row that was decided against; ``key`` orders the sample, ``row`` is shown."""
        self._drop(self.rejected, reason, key, row)

    def reject_many(self, reason: str, rows: int, sample: Rows) -> None:
        """Count ``rows`` rejected rows; ``sample`` has those with the smallest keys.

        Needs all that have the SAMPLES_PER_REASON smallest keys; more do no harm.
        """
        self.rows_in += rows
        self.rejected[reason] += rows
        self._show(reason, sample)

    def fail(self, reason: str, key: str, row: Mapping[str, Any]) -> None:
        """Count a row that could not be worked on."""
        self._drop(self.failed, reason, key, row)

    def _drop(self, counts: Counter[str], reason: str, key: str, row: Mapping[str, Any]) -> None:
        self.rows_in += 1
        counts[reason] += 1
        self._show(reason, [(key, row)])

    def _show(self, reason: str, rows: Rows) -> None:
        """Take rows into the sample of a reason, as far as they belong there."""
        sample = self.samples.setdefault(reason, {})
        for key, row in rows:
            name = _shown(key)
            if len(sample) == SAMPLES_PER_REASON and name > max(sample):
                continue
            shown = {what: _shown(value) for what, value in row.items()}
            if name in sample:
                shown = min(shown, sample[name], key=_content)
            sample[name] = shown
            if len(sample) > SAMPLES_PER_REASON:
                del sample[max(sample)]

    def check(self) -> None:
        """Raise LostRowsError unless rows in = kept + rejected + failed."""
        accounted = self.kept + self.rejected.total() + self.failed.total()
        if self.rows_in != accounted:
            raise LostRowsError(
                f"{self.rows_in} rows in, but {self.kept} kept + {self.rejected.total()} "
                f"rejected + {self.failed.total()} failed = {accounted}"
            )

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum of several tallies; the samples stay bounded."""
        result = cls()
        for tally in tallies:
            result.rows_in += tally.rows_in
            result.kept += tally.kept
            result.rejected.update(tally.rejected)
            result.failed.update(tally.failed)
            for reason, sample in tally.samples.items():
                result._show(reason, sample.items())
        return result

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> Tally:
        """The tally that ``counts`` was made of, without its samples."""
        return cls(
            counts["in"], counts["kept"], Counter(counts["rejected"]), Counter(counts["failed"])
        )

    def counts(self) -> dict[str, Any]:
        """The counts as plain JSON, reasons sorted."""
        return {
            "in": self.rows_in,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "failed": dict(sorted(self.failed.items())),
        }


_TALLIES = TypeAdapter(dict[str, Tally])


def write_tallies(tallies: Mapping[str, Tally], path: Path) -> None:
    """Write a file of tallies by name for ``take_tallies``: a pipeline gives its driver no rows."""
    from workers.base.storage import write_text  # with PyArrow, which a command's --help needs not

    write_text(_TALLIES.dump_json(dict(tallies)).decode(), path)


def take_tallies(path: Path) -> dict[str, Tally]:
    """The tallies that ``write_tallies`` wrote, whose file is removed."""
    tallies = _TALLIES.validate_json(path.read_bytes())
    path.unlink()
    return tallies


def _shown(value: Any) -> Any:
    """A value as a sample shows it: of a text, what can be read and written."""
    if not isinstance(value, str):
        return value
    text = value if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]}..."
    return text.encode(errors="backslashreplace").decode()


def _content(row: Mapping[str, Any]) -> str:
    """What decides between rows of one key."""
    return json.dumps(row, sort_keys=True, default=str)
