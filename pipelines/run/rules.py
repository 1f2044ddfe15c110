"""Which of the web's rules were applied, and in which versions, as receipts say it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipelines.run.receipts import Receipt

#: What stands between the versions of a rule where some shards were joined, and for a shard of
#: which none is known: the rule was not applied, or its receipt is older than such entries.
_BETWEEN, _NOT_SAID = "; ", "not said of some"


def joined_rules(members: Sequence[Receipt]) -> dict[str, str]:
    """The rules of shards that become one: of each the version, or else all that were applied."""
    names = dict.fromkeys(name for receipt in members for name in receipt.rules)
    return {name: _BETWEEN.join(_versions(name, members)) for name in names}


def _versions(name: str, members: Sequence[Receipt]) -> list[str]:
    versions = {
        version
        for receipt in members
        for version in receipt.rules.get(name, _NOT_SAID).split(_BETWEEN)
    }
    return sorted(versions, key=lambda version: (version == _NOT_SAID, version))


def agents_of_all(members: Sequence[Receipt]) -> tuple[str, ...]:
    """The crawlers whose rules were heard for every one of some shards, in the order of the first.

    Whom only some of them have obeyed is not said to be obeyed by the whole.
    """
    first, *others = members
    return tuple(name for name in first.agents if all(name in other.agents for other in others))


def rules_line(stages: Mapping[str, Sequence[Receipt]]) -> str:
    """All rules that stages have applied, by version, in one line; "" where there are none."""
    shards: dict[str, Counter[str]] = defaultdict(Counter)  # by what was applied, of each stage
    for stage, receipts in stages.items():
        for receipt in receipts:
            for name, version in receipt.rules.items():
                shards[f"{name} ({version})"][stage] += 1
            if receipt.agents:
                shards[f"what is said to {', '.join(receipt.agents)}"][stage] += 1
    said = [
        f"{what}: {', '.join(_share(stage, n, len(stages[stage])) for stage, n in by.items())}"
        for what, by in shards.items()
    ]
    return f"Rules that were applied, by stage: {'; '.join(said)}." if said else ""


def _share(stage: str, shards: int, of: int) -> str:
    return stage if shards == of else f"{stage} ({shards:,} of {of:,} shards)"
