"""Which images of a data set are kept out of training, and how both parts are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from workers.base.sampling import draw
from workers.base.tally import Tally


@dataclass(frozen=True)
class Example:
    """A curated pair, as training and evaluation see it."""

    pair_id: str
    jpg: bytes
    caption: str


def is_held_out(jpg: bytes, seed: int, share: float) -> bool:
    """Whether an image belongs to the held-out part.

    The draw is by the image's bytes, not by the pair: one image under several URLs or
    captions falls on one side, so that nothing held out has been seen in training.
    """
    return is_held_out_sum(hashlib.sha256(jpg).hexdigest(), seed, share)


def is_held_out_sum(sha256: str, seed: int, share: float) -> bool:
    """The same, by the sha256 of the image's bytes in hexadecimal."""
    return draw(seed, "held out", sha256) < share


def read_held_out(
    shards: Sequence[Path], seed: int, share: float, tally: Tally
) -> Iterator[Example]:
    """The examples that are held out, in the order of the shards; memory holds one row group.

    The others, which ``Index`` gives to training, are counted in ``tally`` as rejected.
    """
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(columns=["pair_id", "jpg", "caption"]):
            for row in batch.to_pylist():
                if is_held_out(row["jpg"], seed, share):
                    tally.keep()
                    yield Example(**row)
                else:
                    tally.reject("for_training", row["pair_id"], {"caption": row["caption"]})
