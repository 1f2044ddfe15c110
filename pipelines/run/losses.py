"""What a changed setting would cost: finished shards that were made with others, and go.

A stage's part of the record has the settings that its shards were made with. Where they are not
those of now, and what would go is worth hours, somebody has to say that it is meant. What goes
since the input has changed is no mistake, and is not asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.run.config import ConfigError, GuardSettings
from pipelines.run.receipts import Shard
from pipelines.run.totals import StageTotals
from workers.base.credentials import shown_settings

if TYPE_CHECKING:
    from pipelines.stages.base import Stage

#: What stands for content in an identity, and is no setting.
_CONTENT = frozenset({"remote", "taken_down", "opt_outs", "number"})
#: Changed settings that a message names, and characters of a value.
_NAMED, _CHARS = 10, 120


@dataclass(frozen=True)
class Loss:
    """What of a stage a plan would discard since its settings have changed."""

    stage: str
    totals: StageTotals  # of what would go
    changes: tuple[str, ...]  # of settings; empty: what they were is not known

    @classmethod
    def of(cls, stage: Stage, kept: Sequence[Shard], todo: Sequence[Shard]) -> Loss | None:
        """None where nothing would go, or not for a setting.

        Args:
            kept: shards that stay as they are.
            todo: those that are to be made, or made anew.
        """
        keys = {shard.name: shard.key for shard in todo}
        others = stage.receipts.others({shard.name for shard in kept})
        # One of the same key is damaged: to make it anew loses nothing.
        gone = [receipt for receipt in others if receipt.key != keys.get(receipt.shard)]
        before = stage.run.made_with(stage.name)
        changes = () if before is None else tuple(_changes(before, made_with(stage)))
        if not gone or (before is not None and not changes):
            return None
        return cls(stage.name, StageTotals.of(gone), changes)

    def is_large(self, guard: GuardSettings) -> bool:
        totals = self.totals
        return totals.seconds > guard.hours * 3600 or totals.bytes > guard.gigabytes * 1e9

    def lines(self) -> Iterator[str]:
        """What would be lost, and why."""
        totals = self.totals
        rows = [*totals.rows.values()][-1]["kept"] if totals.rows else 0
        yield (
            f"{totals.shards:,} finished shards would be discarded: {rows:,} rows, "
            f"{totals.bytes / 1e9:,.1f} GB, {totals.seconds / 3600:,.1f} hours of work"
        )
        yield from self.changes[:_NAMED] or ["made by a version that did not note its settings"]
        if len(self.changes) > _NAMED:
            yield f"... and {len(self.changes) - _NAMED} more settings"


def refuse_large(loss: Loss | None, guard: GuardSettings) -> None:
    """Raise ConfigError for a loss that has to be meant."""
    if loss is not None and loss.is_large(guard):
        raise ConfigError(
            f"{loss.stage}: {'; '.join(loss.lines())}. Give --discard if that is meant, or the "
            "settings as they were, or another --run-dir (guard.hours and guard.gigabytes say what "
            "is asked for)"
        )


def made_with(stage: Stage) -> dict[str, Any]:
    """The settings of a planned stage as they may be stored, and the version of its code."""
    settings: dict[str, Any] = shown_settings(json.loads(json.dumps(stage.settings_of_shards)))
    known = {key: value for key, value in settings.items() if key not in _CONTENT}
    return {"version": stage.version, **known}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = dict(_flat(before)), dict(_flat(now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _CHARS else f"{text[:_CHARS]}..."
