"""Rows of shards, and whether a list of opt-outs says that they must not be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.opt_outs import URL_COLUMNS, VALUE_COLUMNS, Kind, OptOuts
from workers.base.urls import normal_urls
from workers.embedding.overlap import in_chunks
from workers.embedding.samples import Sample
from workers.embedding.settings import InputSettings
from workers.embedding.shard_reader import read_chunk
from workers.embedding.tar_reader import Chunk

#: Rows that are looked up in lists of opt-outs at once.
LOOKED_UP_AT_ONCE = 64


def read_listed(
    shard: Path, chunk: Chunk, source: InputSettings, opt_outs: Sequence[OptOuts]
) -> Iterator[tuple[Sample, str | None]]:
    """The rows of a chunk, each with the reason for which it is left out, if it is on a list.

    A row is known by its columns url, page_url, pair_id, sha256 and image_hash, and by the sha256
    of its image as it is here. Raises ShardError as ``read_chunk`` does.
    """
    others = (*URL_COLUMNS, *VALUE_COLUMNS) if opt_outs else ()
    for some in in_chunks(read_chunk(shard, chunk, source, others), LOOKED_UP_AT_ONCE):
        yield from zip(some, _reasons(some, opt_outs), strict=True)


def _reasons(samples: Sequence[Sample], opt_outs: Sequence[OptOuts]) -> list[str | None]:
    reasons: list[str | None] = [None] * len(samples)
    if not opt_outs:
        return reasons
    table = _columns([sample.others for sample in samples])
    for listed in opt_outs:
        for at in np.flatnonzero(listed.has_rows(table)):
            reasons[at] = reasons[at] or listed.reason
    return [
        reason or _of_image(sample.image, opt_outs)
        for reason, sample in zip(reasons, samples, strict=True)
    ]


def _of_image(image: bytes | None, opt_outs: Sequence[OptOuts]) -> str | None:
    sha256 = hashlib.sha256(image or b"").hexdigest()
    return next((one.reason for one in opt_outs if one.has(Kind.SHA256, sha256)), None)


def _columns(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """What rows say of themselves as texts in normal form, as ``OptOuts.has_rows`` takes them."""
    columns = {}
    for name in (*URL_COLUMNS, *VALUE_COLUMNS):
        values = [row.get(name) for row in rows]
        texts = pa.array([None if value is None else str(value) for value in values], pa.string())
        if name in URL_COLUMNS:
            texts = pc.fill_null(texts, "")
            normal, _ = normal_urls(texts)
            texts = pc.if_else(pc.starts_with(texts, "file://"), texts, normal)
        columns[name] = texts
    return pa.table(columns)
