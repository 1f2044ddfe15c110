"""Removing rows from the files of a run: from Parquet, WARC, samples and texts.

What goes is told by hashes alone (``OptOuts``), so the same call with the same list goes on where
another was killed. Only what texts say of it in clear, a link in somebody else's page say, is found
by its name first.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.run.rewrite import Removed
from workers.base.arrays import Bools
from workers.base.opt_outs import URL_COLUMNS, VALUE_COLUMNS, Kind, OptOuts
from workers.base.storage import replacing, write_json, write_table
from workers.base.urls import UrlError, absolute_url, authority
from workers.crawl.warc_writer import rewritten_record
from workers.extract.warc_records import Damage, RawRecord, read_records

NOTHING: Mapping[str, pa.ChunkedArray] = {}

#: What a row is without: its text is mended, and the row stays.
_REMARKS = ("error_message",)

#: What stands before a host's name in a text, and behind it: no more of the name. Our own files are
#: named by the hosts that they are of.
_BEFORE, _AFTER = rb"(?:(?<![\w-])|(?<=%[0-9A-Fa-f]{2}))", rb"(?![\w-])(?!\.[\w-])"
_FILE = rb"(?P<file>(?:_[0-9]+)?(?:\.(?:warc|parquet|json|txt)(?:@[0-9]+)?)?)"
#: Signs that end a URL in a text, and those that may only seem to belong to it.
_URL = rb"""(?::[0-9]+)?(?:[/?#][^\s"'<>\\`]*)?"""
_TRAILING = ").,;:]}!"


class Mentions:
    """What texts say of what goes: URLs of these hosts, and names of hosts and domains.

    Each becomes as many dots: nothing moves, and no such URL is one to anybody who reads it.
    """

    def __init__(self, gone: OptOuts, hosts: Iterable[str]) -> None:
        """``hosts`` in clear: of URLs that go, and domains."""
        self._gone = gone
        self.hosts = tuple(sorted({host.lower() for host in hosts}))
        self._hosts = tuple(host.encode() for host in self.hosts)
        names = map(re.escape, self._hosts)
        host = rb"(?:[\w-]+\.)*(?:" + b"|".join(names) + rb")"
        self._pattern = re.compile(_BEFORE + host + _FILE + _AFTER + _URL, re.IGNORECASE)

    def redacted(self, text: bytes) -> bytes:
        """The text without them, as long as it was."""
        lower = text.lower()  # few texts have any
        if not any(host in lower for host in self._hosts):
            return text
        return self._pattern.sub(self._dots, text)

    def _dots(self, found: re.Match[bytes]) -> bytes:
        # The name of a host's file stands for the host.
        url = found.string[found.start() : found.start("file")]
        url += found.string[found.end("file") : found.end()]
        text = html.unescape(url.decode("utf-8", "replace"))
        return b"." * len(found[0]) if any(map(self._is_gone, _readings(text))) else found[0]

    def _is_gone(self, text: str) -> bool:
        try:
            url = absolute_url(f"http://{text}")
        except UrlError:
            return False
        is_url = any(sign in text for sign in "/?#")  # a host by itself is not its first page
        return self._gone.has_url(url) if is_url else self._gone.has_host(authority(url))

    def are_in(self, text: str) -> bool:
        content = text.encode()
        return self.redacted(content) != content

    def in_column(self, column: pa.ChunkedArray) -> Bools:
        """Which texts of a column hold one."""
        found: Bools = np.zeros(len(column), np.bool_)
        for host in self.hosts:
            maybe = pc.fill_null(pc.match_substring(column, host, ignore_case=True), False)
            for place in np.flatnonzero(maybe.to_numpy()):
                found[place] |= self.are_in(column[place].as_py())
        return found


def _readings(text: str) -> Iterator[str]:
    """A URL in a text, and without what may belong to the text."""
    yield text
    yield text.rstrip(_TRAILING)


def gone_rows(table: pa.Table, gone: OptOuts, mentions: Mentions) -> Bools:
    """Which rows of a table go: by what they are of, or what they say of what goes."""
    mask = gone.has_rows(table)
    for name in set(table.column_names) - {*URL_COLUMNS, *VALUE_COLUMNS, *_REMARKS}:
        mask |= mentions.in_column(table[name])
    return mask


def remove_from_parquet(
    path: Path, gone: OptOuts, mentions: Mentions, moved: dict[str, dict[int, int]]
) -> Removed:
    """Remove rows; those that stay are as they were, each where its page now is.

    Args:
        moved: by name of a WARC file, where its records were, and are: for the column ``source``.
    """
    schema = pq.read_schema(path)
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    table = pq.read_table(path, columns=texts)
    mask = gone_rows(table, gone, mentions)
    remarks = {name: _mended(table[name], mentions) for name in _REMARKS if name in texts}
    if "source" in texts and moved:
        remarks["source"] = _with_new_places(table["source"], moved)
    changed = {name: new for name, new in remarks.items() if not new.equals(table[name])}
    if not mask.any() and not changed:
        return Removed()
    return rewrite_table(path, mask, changed)


def rewrite_table(
    path: Path, gone: Bools, columns: Mapping[str, pa.ChunkedArray] = NOTHING
) -> Removed:
    """Write a Parquet file anew, without some rows and with some columns in place of its own."""
    table = pq.read_table(path)
    removed = _removed_rows(table.filter(pa.array(gone)))
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), column)
    write_table(table.filter(pa.array(~gone)), path)
    return removed


def _removed_rows(removed: pa.Table) -> Removed:
    found = Removed()
    if "reason" in removed.column_names:
        found.rows.update(removed["reason"].to_pylist())
    else:
        found.rows[None] = len(removed)
    if "failed_in" in removed.column_names:
        columns = (removed[name].to_pylist() for name in ("failed_in", "failed_for"))
        found.retries.update(pair for pair in zip(*columns, strict=True) if pair[0] is not None)
    return found


def _mended(column: pa.ChunkedArray, mentions: Mentions) -> pa.ChunkedArray:
    mask = mentions.in_column(column)
    if not mask.any():
        return column
    texts = column.to_pylist()
    for place in np.flatnonzero(mask):
        texts[place] = mentions.redacted(texts[place].encode()).decode()
    return pa.chunked_array([texts], pa.string())


def _with_new_places(column: pa.ChunkedArray, moved: dict[str, dict[int, int]]) -> pa.ChunkedArray:
    """``FILE@OFFSET`` with the offsets that records have now."""

    def new(source: str) -> str:
        file, _, offset = source.rpartition("@")
        if file not in moved or not offset.isdigit():
            return source
        return f"{file}@{moved[file].get(int(offset), int(offset))}"

    return pa.chunked_array([list(map(new, column.to_pylist()))], pa.string())


def remove_from_warc(path: Path, gone: OptOuts, mentions: Mentions) -> Removed:
    """Remove the records of pages that go, and what the others say of them.

    Of our own files, which are not compressed. Memory is that of a record.
    """
    found = Removed()
    if not _is_touched(path, gone, mentions):
        return found
    with (
        path.open("rb") as file,
        path.open("rb") as raw,
        replacing(path) as temporary,
        temporary.open("wb") as out,
    ):
        for record, following in _with_next(read_records(file)):
            content = raw.read(-1 if following is None else following - raw.tell())
            if isinstance(record, Damage):
                out.write(mentions.redacted(content))
            elif _is_gone(record, gone):
                found.rows[None] += record.kind == "response"
            else:
                found.moved[record.offset] = out.tell()
                out.write(_without_mentions(record, content, mentions))
    return found


def _is_touched(path: Path, gone: OptOuts, mentions: Mentions) -> bool:
    with path.open("rb") as file:
        return any(
            _is_gone(record, gone) or mentions.redacted(record.block) != record.block
            for record in read_records(file)
            if isinstance(record, RawRecord)
        )


def _is_gone(record: RawRecord, gone: OptOuts) -> bool:
    return bool(record.url) and gone.has_url(record.url)


def _with_next(
    records: Iterable[RawRecord | Damage],
) -> Iterator[tuple[RawRecord | Damage, int | None]]:
    """Each part of a file and where the next begins; None: the file ends behind it."""
    last: RawRecord | Damage | None = None
    for record in records:
        if last is not None:
            yield last, record.offset
        last = record
    if last is not None:
        yield last, None


def _without_mentions(record: RawRecord, content: bytes, mentions: Mentions) -> bytes:
    block = mentions.redacted(record.block)
    if block == record.block:
        return content
    return rewritten_record(content, record.block, block, record.url)


def remove_from_samples(path: Path, gone: OptOuts, mentions: Mentions) -> Removed:
    """Remove the rows that a sample of dropped rows shows."""
    samples = json.loads(path.read_bytes())
    places = [
        (rows, key) for reasons in samples.values() for rows in reasons.values() for key in rows
    ]
    shown = [
        (place, text)
        for place, (rows, key) in enumerate(places)
        for text in (key, *filter(_is_text, rows[key].values()))
    ]
    texts = pa.chunked_array([[text for _, text in shown]], pa.string())
    found = gone.has_urls(texts) | gone.has_values(Kind.PAIR_ID, texts) | mentions.in_column(texts)
    for place in {shown[text][0] for text in np.flatnonzero(found)}:
        rows, key = places[place]
        del rows[key]
    if found.any():
        write_json(samples, path)
    return Removed()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def remove_from_text(path: Path, mentions: Mentions) -> Removed:
    """Remove what a text says of what goes; as JSON it stays JSON."""
    before = path.read_bytes()
    if (after := mentions.redacted(before)) != before:
        with replacing(path) as temporary:
            temporary.write_bytes(after)
    return Removed()
