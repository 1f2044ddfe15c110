"""Images of earlier nights, for captions that their URLs did not have then: nothing is asked.

The image is the same, byte for byte, and so is what its server said of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from workers.base.contracts import ANSWERS, IMAGES
from workers.base.opt_outs import OptOuts
from workers.base.pair_ids import URL_DIGITS, url_digits
from workers.base.ranges import SortedFile

#: The columns that a row of a list has itself; the others are its URL's.
_OF_ROW = ("pair_id", "url", "caption", "tries")


@dataclass(frozen=True)
class ShardFiles:
    """A shard of images."""

    images: Path  # the columns of ``contracts.IMAGES``
    answers: Path  # those of ``contracts.ANSWERS``


def images_before(
    asked: pa.Table, shards: Mapping[str, ShardFiles], opt_outs: Sequence[OptOuts]
) -> tuple[pa.Table, pa.Table]:
    """The rows of a list whose URL's image a shard has.

    Args:
        asked: a list (``contracts.REQUESTS``); its column ``image_in`` names the shards.
        shards: those of them that are there.
        opt_outs: an image that is listed by now is nobody's.

    Returns:
        Their images and answers (``contracts.IMAGES``, ``contracts.ANSWERS``), in no order.
    """
    found = [(IMAGES.empty_table(), ANSWERS.empty_table())]
    for name in sorted(shards.keys() & set(asked["image_in"].drop_null().to_pylist())):
        rows = asked.filter(pc.equal(asked["image_in"], name))
        found += _given(rows, shards[name], opt_outs)
    images, answers = zip(*found, strict=True)
    return pa.concat_tables(images), pa.concat_tables(answers)


def _given(
    rows: pa.Table, files: ShardFiles, opt_outs: Sequence[OptOuts]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The images and answers out of one shard, whose rows are looked at a group at a time."""
    file, answered = SortedFile.open(files.images), SortedFile.open(files.answers)
    for _, group in file.groups:
        urls = url_digits(rows["pair_id"])
        first, last = (end[:URL_DIGITS] for end in group)
        if not pc.any(pc.and_(pc.greater_equal(urls, first), pc.less_equal(urls, last))).as_py():
            continue
        images = file.read(group, IMAGES.names)
        for some in opt_outs:
            images = images.filter(pa.array(~some.has_rows(images)))
        places = pc.index_in(urls, url_digits(images["pair_id"]).combine_chunks())
        images = images.take(places.drop_null())
        # Each image has an answer under its own pair_id beside it.
        answers = answered.read(group, ANSWERS.names)
        answers = answers.take(pc.index_in(images["pair_id"], answers["pair_id"].combine_chunks()))
        given = rows.filter(pc.is_valid(places))
        yield _of_rows(given, images), _of_rows(given, answers)
        rows = rows.filter(pc.is_null(places))


def _of_rows(rows: pa.Table, table: pa.Table) -> pa.Table:
    """What is known of URLs, as that of other captions of theirs, for which nothing was asked."""
    own = {name: rows[name] for name in _OF_ROW} | {"attempts": pa.array([0] * len(rows))}
    for name in own.keys() & set(table.column_names):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), own[name].cast(table.schema.types[at]))
    return table
