"""Rows of CSV and TSV, whole and damaged, beside what Python's csv and Arrow make of them."""

from __future__ import annotations

import csv
import io
import re

import pyarrow.csv
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.base.text_stream import MAX_LINE_BYTES
from workers.extract.row_scanner import MAX_ROW_LINES, split_rows
from workers.extract.text_lists import parsed_rows

FIELD = st.text(st.sampled_from('ab,;|\t"\n\r é'), max_size=10)


def rows_of(good: bytes, delimiter: str, fields: int) -> list[list[str]]:
    if not good.strip(b"\r\n"):
        return []
    table = parsed_rows(good, delimiter, fields, list(range(fields)))
    return [[value.decode() for value in row.values()] for row in table.to_pylist()]


def split(text: str, delimiter: str = ",", fields: int = 2):
    """(rows, lines that are none) of a whole text."""
    found = split_rows(text.encode(), delimiter, fields, is_end=True)
    assert found.rest == b""
    assert found.lines == len(re.findall(r"\r\n|\r|\n", text)) + (not text.endswith(("\r", "\n")))
    return rows_of(found.good, delimiter, fields), [bad.line for bad in found.bad]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=5),
    st.sampled_from(",;|\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_is_well_formed_is_read_as_by_python_and_arrow(rows, delimiter, quoting):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)
    text = file.getvalue()
    assert split(text, delimiter, 3) == ([list(row) for row in rows], [])
    assert list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) == [
        *map(list, rows)
    ]
    arrow = pyarrow.csv.read_csv(
        io.BytesIO(text.encode()),
        pyarrow.csv.ReadOptions(column_names=["0", "1", "2"]),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys("012", pyarrow.string())),
    )
    assert [tuple(row.values()) for row in arrow.to_pylist()] == rows


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from('ab,"'), max_size=20), st.integers(2, 4))
def test_a_loose_line_is_read_as_by_python_or_not_at_all(line, fields):
    last = ["z"] * fields
    rows, bad = split(f"{line}\n{','.join(last)}\n", fields=fields)
    assert rows[-1] == last, "whatever a line is, the next is read"
    if not bad and line:
        assert rows[:-1] == list(csv.reader([line]))


LINES = st.lists(st.text(st.sampled_from('a,"\t'), max_size=8), max_size=8)


@settings(deadline=None, max_examples=200)
@example(['a,"x', "b,y", 'c,"z"'], ",", 2)
@example(['"', "\t", '"'], "\t", 2)
@given(LINES, st.sampled_from(",\t"), st.integers(2, 3))
def test_no_line_is_lost_nor_read_twice_in_one_piece_or_many(lines, delimiter, fields):
    lines = [f"#{n}#{line}#{n}#\n" for n, line in enumerate(lines)]
    whole = split_rows("".join(lines).encode(), delimiter, fields, is_end=True)
    good, bad, rest, line = b"", [], b"", 0
    for piece in [*lines, ""]:
        found = split_rows(rest + piece.encode(), delimiter, fields, is_end=not piece)
        good += found.good
        bad += [(line + one.line, one.error) for one in found.bad]
        rest, line = found.rest, line + found.lines
    assert (good, bad, rest, line) == (
        whole.good, [(one.line, one.error) for one in whole.bad], b"", len(lines)
    )  # fmt: skip
    values = ["".join(row) for row in rows_of(good, delimiter, fields)]
    told = "".join([*values, *(error for _, error in bad)])
    assert all(told.count(f"#{n}#") == 2 for n in range(len(lines)))


A, B = ["http://a/", "a"], ["http://b/", "b"]


@pytest.mark.parametrize(
    "damaged",
    [
        'http://x/,"x',  # nothing closes it
        'http://x/,"x, y',
        '"http://x/,x',
        'http://x/,"x""',
        'http://x/,"x\\"",y',
    ],
)
@pytest.mark.parametrize(
    "later",
    [
        "",
        'http://c/,"c, c"\n',  # what would close it is followed by text
        'http://c/,a 5"\n',  # it is closed well, and the lines between look like rows
        'http://c/,a 5", wide\n',
    ],
)
def test_a_quote_that_is_not_closed_costs_its_line(damaged, later):
    rows, bad = split(f"http://a/,a\n{damaged}\nhttp://b/,b\n{later}")
    assert rows[:2] == [A, B]
    assert bad[0] == 1
    assert len(rows) + len(bad) == 3 + bool(later)


@pytest.mark.parametrize(
    "text",
    [
        'http://a/,"one, two\nthree, ""four""\n\nfive"\nhttp://b/,b\n',
        '"one\r\nhttp://c/ two",http://a/\r\nb,http://b/\r\n',
        'http://a/,"see\nhttp://c/"\nhttp://b/,b\n',
    ],
)
def test_a_field_of_several_lines_is_one(text):
    rows, bad = split(text)
    assert rows == list(csv.reader(io.StringIO(text, newline="")))
    assert bad == []


@pytest.mark.parametrize("end", ['" z', '",y,z'])
def test_a_row_of_several_lines_is_flawless_or_none(end):
    assert split(f'http://a/,a\nhttp://x/,"x\ny{end}\nhttp://b/,b\n') == ([A, B], [1, 2])


def test_a_row_has_a_largest_number_of_lines_and_bytes():
    for lines, is_row in ((MAX_ROW_LINES, True), (MAX_ROW_LINES + 1, False)):
        rows, bad = split('http://a/,"' + "\n".join(["a"] * lines) + '"\nhttp://b/,b\n')
        assert rows[-1] == B
        assert (len(rows) == 2 and not bad) == is_row
    long = "a" * (MAX_LINE_BYTES // 2)
    rows, bad = split(f'http://a/,"{long}\n{long}\n{long}"\nhttp://b/,b\n')
    assert (rows, bad) == ([B], [0, 1, 2])


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('http://a/\t"a ""b""\tc"', ["http://a/", 'a "b"\tc']),  # as pandas writes it
        ('http://a/\t"a\nb"', ["http://a/", "a\nb"]),
        ('"http://a/"\t"a"', ["http://a/", "a"]),
        ('http://a/\ta 5" screen', ["http://a/", 'a 5" screen']),  # as others do
        ('http://a/\t"a" is "b"', ["http://a/", '"a" is "b"']),
        ('http://a/\t"a', ["http://a/", '"a']),
        ('"a\thttp://a/', ['"a', "http://a/"]),
        ('"a\t"b"', ['"a', '"b"']),  # the writer of a row quotes, or does not
        ('http://a/\t"a, b""', ["http://a/", '"a, b""']),
    ],
)
@pytest.mark.parametrize("after", ["", 'http://c/\t"c"\n', 'http://c/\tc "\n'])
def test_between_tabs_quotes_are_quotes_where_they_can_be(line, fields, after):
    rows, bad = split(f"http://b/\tb\n{line}\n{after}", "\t")
    assert rows[:2] == [B, fields]
    assert len(rows) == 2 + bool(after)
    assert bad == []
