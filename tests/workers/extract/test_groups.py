"""Groups of inputs: of about one size, and little changes where one input is new."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.base.tally import Tally
from workers.extract.dispatch import extract_pairs
from workers.extract.groups import Sized, cut, group_inputs, group_names
from workers.extract.inputs import Input, InputKind, find_inputs

TARGET = 1_000


def inputs_of(sizes):
    return [
        Sized(Input(f"/lists/{number:05d}.csv", InputKind.CSV), size)
        for number, size in enumerate(sizes)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=200))
def test_every_input_is_in_one_group_and_none_is_too_large(sizes):
    inputs = inputs_of(sizes)
    groups = list(group_inputs(inputs, TARGET))
    assert [one for group in groups for one in group] == [one.source for one in inputs]
    known = {one.source: one.bytes for one in inputs}
    assert all(groups)
    assert all(len(group) == 1 or max(map(known.__getitem__, group)) < TARGET for group in groups)
    assert all(
        sum(known[one] for one in group) <= 2 * TARGET or len(group) == 1 for group in groups
    )


def test_small_inputs_come_together():
    groups = list(group_inputs(inputs_of([10] * 10_000), TARGET))
    assert 70 < len(groups) < 140, "about a hundred inputs each"


@settings(deadline=None)
@given(st.integers(0, 399), st.integers(0, 500))
def test_a_new_input_changes_few_groups(place, size):
    inputs = inputs_of([100] * 400)
    before = set(group_names(group_inputs(inputs, TARGET)))
    new = Sized(replace(inputs[place].source, url=f"/lists/{place:05d}a.csv"), size)
    after = set(
        group_names(group_inputs([*inputs[: place + 1], new, *inputs[place + 1 :]], TARGET))
    )
    # A group that is full ends where the inputs say nothing, and moves those up to where they do.
    assert len(before - after) <= 4


def test_groups_are_called_alike_wherever_their_inputs_lie():
    groups = list(group_inputs(inputs_of([100] * 100), TARGET))
    moved = [tuple(replace(one, url=f"/moved{one.url}") for one in group) for group in groups]
    assert list(group_names(groups)) == list(group_names(moved))
    twice = list(group_names([*groups, *groups]))
    assert len(set(twice)) == len(twice) == 2 * len(groups)


def test_a_large_parquet_file_is_cut_between_row_groups(tmp_path):
    path = tmp_path / "list.parquet"
    table = pa.table(
        {
            "url": [f"http://a.example/{n}.jpg" for n in range(1_000)],
            "caption": [f"a cat, number {n}" for n in range(1_000)],
        }
    )
    pq.write_table(table, path, row_group_size=90)
    (whole,) = find_inputs([str(path)])
    pieces = list(cut(Sized(whole, path.stat().st_size), path.stat().st_size // 5))
    assert 3 <= len(pieces) <= 7
    bounds = [piece.source.row_groups or (0, 0) for piece in pieces]
    assert (bounds[0][0], bounds[-1][1]) == (0, 12)

    def rows(source):
        images = Tally()
        tables = list(extract_pairs(source, Tally(), images))
        assert images.kept == sum(map(len, tables))
        return pa.concat_tables(tables)

    assert pa.concat_tables(rows(piece.source) for piece in pieces).equals(rows(whole))


def test_what_cannot_be_cut_is_one_piece(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    for name, kind in (("bad.parquet", InputKind.PARQUET), ("a.warc", InputKind.WARC)):
        whole = Sized(Input(str(tmp_path / name), kind), 10_000)
        assert list(cut(whole, 10)) == [whole]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("target", [5, 100, 357, 5_000])
def test_json_lines_are_cut_at_line_ends(tmp_path, end, last, target):
    path = tmp_path / "list.jsonl"
    lines = [
        json.dumps({"url": f"http://a.example/{n}.jpg", "caption": f"a cat {'x' * (n % 90)}"})
        for n in range(60)
    ]
    lines[50] = "no JSON"
    text = end.join(lines) + end * last
    path.write_bytes(text.encode())
    (whole,) = find_inputs([str(path)])
    size = path.stat().st_size
    pieces = list(cut(Sized(whole, size), target))
    assert len(pieces) == -(-size // target)
    assert sum(piece.bytes for piece in pieces) == size

    total, found = Tally(), []
    for piece in pieces:
        images = Tally()
        for table in extract_pairs(piece.source, Tally(), images):
            found += table.to_pylist()
        total = Tally.total([total, images])
    (expected,) = extract_pairs(whole, Tally(), Tally())
    assert total.counts() == {"in": 60, "kept": 59, "rejected": {}, "failed": {"bad_row": 1}}
    without = [{**row, "source": ""} for row in found]
    assert without == [{**row, "source": ""} for row in expected.to_pylist()]
    assert len({row["source"] for row in found}) == 59
    for piece in pieces:
        start, _ = piece.source.span or (-1, -1)
        own = [row["source"] for row in found if f"@{start}+" in row["source"]]
        assert own == [f"list.jsonl@{start}+{number}" for number in range(len(own))]


def test_a_line_that_begins_where_a_piece_does_is_in_that_piece(tmp_path):
    path = tmp_path / "list.jsonl"
    lines = [f'{{"url": "http://a.example/{n}.jpg", "caption": "a cat"}}\n' for n in range(9)]
    path.write_text("".join(lines))
    (whole,) = find_inputs([str(path)])
    pieces = list(cut(Sized(whole, path.stat().st_size), 3 * len(lines[0])))
    read = [list(extract_pairs(piece.source, Tally(), Tally())) for piece in pieces]
    urls = [[url for table in tables for url in table["url"].to_pylist()] for tables in read]
    assert urls == [[f"http://a.example/{n + k}.jpg" for k in range(3)] for n in (0, 3, 6)]


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b'{"url": "http://a.example/1.jpg", "caption": "a cat"}\n' * 99),
        ('{"url": "http://a.example/1.jpg", "caption": "a cat"}\n' * 99).encode("utf-16"),
    ],
)
def test_json_lines_without_line_feeds_are_one_piece(tmp_path, content):
    path = tmp_path / ("list.jsonl.gz" if content[:2] == b"\x1f\x8b" else "list.jsonl")
    path.write_bytes(content)
    (whole,) = find_inputs([str(path)])
    assert list(cut(Sized(whole, len(content)), 10)) == [Sized(whole, len(content))]
