"""Pair lists of other people's making, written as they write them and read back."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.packing import zstd
from workers.base.tally import Tally
from workers.base.text_stream import MAX_LINE_BYTES
from workers.extract.candidates import CANDIDATES
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import Input, InputKind, find_inputs
from workers.extract.list_columns import ListColumns

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}

ROWS = [("http://a.example/1.jpg", "a cat"), ("https://b.example/2.jpg", "two dogs, é")]


def read(path: Path, **options):
    (source,) = find_inputs([str(path)], **options)
    pages, images = Tally(), Tally()
    tables = list(extract_pairs(source, pages, images))
    assert all(table.schema.equals(CANDIDATES) for table in tables)
    assert pages.rows_in == 0
    images.check()
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    assert images.kept == len(rows)
    return rows, images


def expected(path: Path, rows=ROWS):
    return [(url, text, None, f"{path.name}@{n}") for n, (url, text) in enumerate(rows)]


def write_parquet(path: Path, names, rows=ROWS, **options) -> Path:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({"id": range(len(rows)), **columns}), path, **options)
    return path


def delimited(delimiter: str, header: str, rows=ROWS, flip: bool = False) -> bytes:
    def field(text: str) -> str:
        return f'"{text}"' if delimiter in text else text

    lines = [header] if header else []
    lines += [delimiter.join(map(field, row[::-1] if flip else row)) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    "names", [("URL", "TEXT"), ("url", "text"), ("Image_URL", "Caption"), ("url", "alt")]
)
def test_parquet(tmp_path, names):
    path = write_parquet(tmp_path / "part-0.snappy.parquet", names)
    assert read(path)[0] == expected(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("laion.csv", delimited(",", "URL,TEXT")),
        ("windows.csv", b"\xef\xbb\xbf" + delimited(",", "URL,TEXT").replace(b"\n", b"\r\n")),
        ("cc3m.tsv", delimited("\t", "", flip=True)),
        ("cc12m.tsv", delimited("\t", "")),
        ("named.tsv", delimited("\t", "caption\turl", flip=True)),
        ("list.jsonl", b"".join(json.dumps({"n": 1, "url": u, "alt": t}).encode() + b"\n"
                                for u, t in ROWS)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_formats(tmp_path, name, content, suffix):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESS[suffix](content))
    assert read(path)[0] == expected(path)


def test_named_columns(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ("Link", "text_de"))
    assert read(path, columns=("link", "TEXT_de"))[0] == expected(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("link", "text"), "no URL column.*Its columns are id, link, text"),
        (("url", "description"), "no caption column.*Its columns are id, url, description"),
    ],
)
def test_unknown_columns_are_an_error_before_the_work(tmp_path, names, message):
    path = write_parquet(tmp_path / "a.parquet", names)
    with pytest.raises(ValueError, match=message):
        find_inputs([str(path)])


def test_two_caption_columns_are_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": "http://a/", "text": "a", "caption": "b"}\n')
    with pytest.raises(ValueError, match=r"more than one caption column \(text, caption\)"):
        find_inputs([str(path)])


def test_rows_by_reason(tmp_path):
    rows = [
        *ROWS,
        ("HTTP://A.example:80/1 2.jpg#top", "made normal"),
        ("http://a.example/".ljust(8000, "a"), "the longest"),
        ("http://a.example/".ljust(8001, "a"), "x"), ("http://a.example/" + "é" * 2000, "x"),
        ("", "x"), (None, "x"), ("ftp://a/b", "x"), ("data:,", "x"), ("http://u:p@a/", "x"),
        ("http://a/", ""), ("http://a/", " \t"), ("http://a/", None),
    ]  # fmt: skip
    path = write_parquet(tmp_path / "a.parquet", ("url", "text"), rows)
    found, images = read(path)
    normal = ("http://a.example/1%202.jpg", "made normal")
    longest = ("http://a.example/".ljust(8000, "a"), "the longest")
    assert found == expected(path, [*ROWS, normal, longest])
    assert images.rejected == {
        "no_url": 2, "not_http": 1, "data_uri": 1, "bad_url": 1, "no_caption": 3, "url_too_long": 2
    }  # fmt: skip


def test_a_quoted_caption_may_hold_line_feeds_and_a_row_of_the_wrong_width_fails(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('url,caption\nhttp://a/,"a cat\non ""two"" lines"\nhttp://b/\nhttp://c/,"x"\n')
    found, images = read(path)
    assert [row[1] for row in found] == ['a cat\non "two" lines', "x"]
    assert images.failed == {"bad_row": 1}


def test_bytes_that_are_not_utf8_fail_alone(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"http://a/\tcaf\xe9\nhttp://b/\tcafe\n")
    found, images = read(path)
    assert found == [("http://b/", "cafe", None, "a.tsv@1")]
    assert images.failed == {"not_utf8": 1}


def test_rows_that_are_neither_whole_nor_utf8_fail_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"url,text\nhttp://a/,caf\xe9\ncaf\xe9\nhttp://b/,\xef\xbf\xbd cafe\n")
    found, images = read(path)
    assert found == [("http://b/", "\ufffd cafe", None, "a.csv@1")]
    assert images.failed == {"not_utf8": 1, "bad_row": 1}


VALUES = (b"a cat", b"caf\xe9", b"\xed\xa0\x80", b"a dog")


def not_text(kind: pa.DataType) -> pa.Array:
    """VALUES in an array that says that they are of a kind, and whose maker did not look."""
    if kind in (pa.string(), pa.large_string()):
        ends = [0, *itertools.accumulate(map(len, VALUES))]
        offsets = pa.array(ends, pa.int32() if kind == pa.string() else pa.int64()).buffers()[1]
        data = pa.py_buffer(b"".join(VALUES))
        return pa.Array.from_buffers(kind, len(VALUES), [None, offsets, data])
    if kind == pa.string_view():
        return not_text(pa.binary_view()).view(kind)
    if pa.types.is_dictionary(kind):
        indices = pa.array([0, 1, 2, 3], kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, not_text(kind.value_type))
    return pa.array(VALUES, kind)


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
     pa.binary_view(), pa.dictionary(pa.int8(), pa.string()),
     pa.dictionary(pa.int32(), pa.large_string())],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("column", ["url", "text"])
def test_bytes_that_a_parquet_file_calls_text_fail_alone(tmp_path, kind, column):
    columns = {"url": pa.array(["http://a/"] * 4), "text": pa.array(["x"] * 4)}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns | {column: not_text(kind)}), path)
    found, images = read(path)
    rejected = 2 if column == "url" else 0  # "a cat" is no address
    assert images.failed == {"not_utf8": 2}
    assert (images.rows_in, len(found)) == (4, 2 - rejected)


@pytest.mark.parametrize(
    "text",
    [pa.array([["a"]]), pa.array([{"de": "a"}]), pa.array([1]), pa.array([b"a"], pa.binary(1))],
)
def test_a_column_that_is_no_text_is_an_error_before_the_work(tmp_path, text):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://a/"], "text": text}), path)
    with pytest.raises(ValueError, match=r"column text is .*, not text"):
        find_inputs([str(path)])


def test_a_column_of_nulls_has_no_captions(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://a/"] * 3, "text": pa.nulls(3)}), path)
    assert read(path)[1].rejected == {"no_caption": 3}


LONG = "x" * (MAX_LINE_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "lines", "failed"),
    [
        ("a.jsonl", ['{"url": "http://a/", "text": "a"}', f'{{"url": "{LONG}"}}',
                     '{"url": "http://b/", "text": "b"}'], {"row_too_long": 1}),
        ("a.tsv", ["url\ttext", "http://a/\ta", f"http://c/\t{LONG}", "http://b/\tb"],
         {"row_too_long": 1}),
        ("a.csv", ["url,text", "http://a/,a", f"http://c/,{LONG}", "http://b/,b"],
         {"row_too_long": 1}),
        ("quoted.csv", ["url,text", "http://a/,a", 'http://c/,"short', f'{LONG}"', "http://b/,b"],
         {"not_utf8": 1}),
        ("opened.csv", ["url,text", "http://a/,a", f'http://c/,"{LONG}', 'short"', "http://b/,b"],
         {"row_too_long": 1, "bad_row": 1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_row_that_is_too_long_fails_alone(tmp_path, name, lines, failed, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix]("\n".join(lines).encode()))
    found, images = read(path)
    assert [row[:2] for row in found] == [("http://a/", "a"), ("http://b/", "b")]
    assert images.failed == failed


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_a_list_in_one_long_line_is_refused_before_the_work(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(COMPRESS[path.suffix if path.suffix == ".gz" else ""](b"[" + LONG.encode()))
    with pytest.raises(ValueError, match=f"{name}: the first line has more than .* one row a line"):
        find_inputs([str(path)])


def test_a_first_line_longer_than_others_read_is_understood(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"html": "x" * 200_000, "url": "http://a/", "text": "a\u2028cat"}
    path.write_text(json.dumps(row, ensure_ascii=False))
    assert [row[:2] for row in read(path)[0]] == [("http://a/", "a\u2028cat")]


GOOD = b'{"url": "http://a/", "text": "a cat"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"url": ', "bad_row"),
        (b"[1]", "bad_row"),
        (b'"text"', "bad_row"),
        (b'{"url": "http://b/", "text": 5}', "bad_row"),
        (b'{"url": "http://b/", "text": NaN}', "bad_row"),
        (b'{"url": "http://b/", "text": ["b"]}', "bad_row"),
        (b'{"url": "http://b/", "text": {"de": "b"}}', "bad_row"),
        (b'{"url": "http://b/", "text": %s}' % (b"9" * 5000), "bad_row"),
        (b'{"url": "http://b/", "text": "b"},', "bad_row"),
        (GOOD + GOOD, "bad_row"),
        (b'{"url": "http://b/", "text": "a\0b"}', "bad_row"),
        (b'{"url": "http://b/", "text": %s}' % (b"[" * 50_000 + b"]" * 50_000), "bad_row"),
        (b'{"url": "http://b/", "text": "caf\xe9"}', "not_utf8"),
        (b'{"url": "http://b/", "text": "\xed\xa0\x80"}', "not_utf8"),
        (b'{"url": "http://b/", "text": "\\ud800"}', "not_utf8"),
        (b'{"url": "http://b/\\udfff", "text": "b"}', "not_utf8"),
        (b"null", "bad_row"),
        (b'{"url": "http://b/"}', "no_caption"),
        (b'{"url": null, "text": "b"}', "no_url"),
    ],
)
def test_a_json_line_that_is_no_row_costs_itself(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, b"", line, GOOD]))
    found, images = read(path)
    assert [row[:2] for row in found] == [("http://a/", "a cat")] * 2
    assert images.failed + images.rejected == {reason: 1}
    if reason == "bad_row":
        assert list(images.samples[reason]) == ["a.jsonl:3"]


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (b'"text": "\\ud83d\\ude00"', "\U0001f600"),
        (b'"text": "a\\u0000b"', "a\0b"),
        (b'"text": "a", "text": "b"', "b"),
        (b'"text": "b", "n": NaN', "b"),
        (b'"text": "b", "n": ' + b"9" * 5000, "b"),
        (b'"text": "b", "n": "\\ud800"', "b"),
        (b'"text": "b", "n": "\xe9"', "b"),
    ],
)
@pytest.mark.parametrize("other", [GOOD, b"{"])
def test_what_else_a_json_line_holds_costs_nothing(tmp_path, rest, text, other):
    """Read by Arrow or, beside a line that is none, by Python."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"url": "http://b/", %s}\n%s\n' % (rest, other))
    assert read(path)[0][0][:2] == ("http://b/", text)


@pytest.mark.parametrize(
    "first", [b'{"url": "http://b/"}', b'{"text": "b"}', b"{", b"null", b"{}", b'{"url": "\xff"}']
)
@pytest.mark.parametrize("times", [1, 4000])
def test_the_first_line_does_not_decide_what_a_json_file_is(tmp_path, first, times):
    path = tmp_path / "a.jsonl"
    path.write_bytes((first + b"\n") * times + GOOD)
    found, images = read(path)
    assert [row[:2] for row in found] == [("http://a/", "a cat")]
    assert images.rows_in == times + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"url": "http://a/", "text": "a"}], r"this is one JSON array.*jq -c '.\[\]' FILE"),
        ({"url": "http://a/", "text": "a"}, "no line is a JSON object; one JSON object a line"),
    ],
)
def test_json_of_another_form_is_refused_with_what_to_do(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(ValueError, match=message):
        find_inputs([str(path)])


LISTS = {
    "a.csv": 'url,text\nhttp://a/,a\nhttp://b/,"b, é"\n',
    "quoted.csv": '"url","text"\n"http://a/","a"\n"http://b/","b, é"\n',
    "spaces.csv": ' url , "text "\nhttp://a/,a\nhttp://b/,"b, é"\n',
    "semicolons.csv": "id;url;text\n1;http://a/;a\n2;http://b/;b, é\n",
    "bars.csv": "url|text\nhttp://a/|a\nhttp://b/|b, é\n",
    "tabs.csv": "url\ttext\nhttp://a/\ta\nhttp://b/\tb, é\n",
    "commas.tsv": 'url,text\nhttp://a/,a\nhttp://b/,"b, é"\n',
    "no_header.csv": "http://a/;a\nhttp://b/;b, é\n",
    "a.tsv": 'http://a/\ta\nhttp://b/\t"b, é"\n',
    "blank.tsv": "\n\nurl\ttext\n\nhttp://a/\ta\nhttp://b/\tb, é",
    "a.jsonl": '{"url": "http://a/", "text": "a"}\n{"url": "http://b/", "text": "b, é"}\n',
    "wide.csv": f'url,{"x" * 200_000},text\nhttp://a/,,a\nhttp://b/,,"b, é"\n',
}
ENCODINGS: dict[str, tuple[bytes, str]] = {
    "utf-8": (b"", "utf-8"),
    "utf-8 with a mark": (codecs.BOM_UTF8, "utf-8"),
    "utf-16-le": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-16-le without a mark": (b"", "utf-16-le"),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lists_as_all_programs_write_them(tmp_path, name, encoding, line_end, suffix):
    mark, codec = ENCODINGS[encoding]
    path = tmp_path / f"{name}{suffix}"
    content = mark + LISTS[name].replace("\n", line_end).encode(codec)
    path.write_bytes(COMPRESS[suffix](content))
    assert [row[:2] for row in read(path)[0]] == [("http://a/", "a"), ("http://b/", "b, é")]


def test_an_address_is_parted_by_no_other_sign_than_the_file_uses(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("http://a/x;id=3,some text,0.3\n")
    with pytest.raises(ValueError, match=r"no URL column.*http://a/x;id=3, some text, 0.3"):
        find_inputs([str(path)])


def test_columns_are_named_by_file(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a[1].csv").write_text("link,title\nhttp://a/,a\n")
    (tmp_path / "b.tsv").write_text("href\talt\nhttp://b/\tb\n")
    (tmp_path / "c.tsv").write_text("url\talt\nhttp://c/\tc\n")
    columns = {"shop/*.csv": ("link", "Title"), "b.*": ("href", "alt"), "*.csv": ("no", "no")}
    inputs = find_inputs([str(tmp_path)], columns)
    rows = [row for one in inputs for table in extract_pairs(one, Tally(), Tally())
            for row in table.to_pylist()]  # fmt: skip
    assert [row["caption"] for row in rows] == ["b", "c", "a"]
    find_inputs([str(tmp_path / "shop")], {"a[1].csv": ("link", "title")})
    with pytest.raises(ValueError, match=r"list_columns names 'd\*', and no pair list is called"):
        find_inputs([str(tmp_path)], columns | {"d*": ("url", "alt")})


def test_a_message_shows_the_first_of_many_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"column{n}" for n in range(10_000)))
    with pytest.raises(ValueError, match=r"no URL column.*column1.*\.\.\.: name") as error:
        find_inputs([str(path)])
    assert len(str(error.value)) < 1_000


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_a_file_that_breaks_before_its_first_row_is_damaged(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"url,text\nhttp://a/,a\n" * 100)[:15])
    assert read(path)[1].failed == {"damaged_file": 1}


def test_a_quote_that_is_not_closed_costs_its_row_of_a_large_file(tmp_path):
    lines = [f"http://a/{n},a picture with the number {n}" for n in range(300_000)]
    lines[4] = 'http://a/4,"a picture'
    lines[200_000] = 'http://a/200000,a screen of 55"'
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["url,text", *lines]))
    found, images = read(path)
    assert len(found) == images.rows_in - 1 == len(lines) - 1
    assert images.samples["bad_row"]["a.csv:6"]["error"].startswith("a quote is not closed: http")


SIGNS = [
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"\0",
    b"\xff",
    b"\\ud800",
    b"{",
    b"",
    b"[",
    b";",
    b"null\n",
]
MUTANTS = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 12), st.sampled_from(SIGNS) | st.binary(max_size=3)
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["a.csv", "a.tsv", "a.jsonl"]), st.sampled_from([*ENCODINGS]), MUTANTS)
def test_no_damage_of_a_list_leaves_its_reader(tmp_path_factory, name, encoding, mutants):
    mark, codec = ENCODINGS[encoding]
    content = mark + (LISTS[name] * 3).encode(codec)
    for at, length, new in mutants:
        content = content[:at] + new + content[at + length :]
    path = tmp_path_factory.mktemp("mutant") / name
    path.write_bytes(content)
    try:
        found, images = read(path)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise
        return
    assert not images.failed["damaged_file"]
    assert images.rows_in >= len(found)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.tsv.zst"])
def test_a_cut_file_gives_its_whole_rows(tmp_path, name):
    rows = [(f"http://a.example/{n * 7919 % 65521:x}", f"picture {n:06d}") for n in range(40_000)]
    content = {
        "a.csv.gz": delimited(",", "url,text", rows),
        "a.tsv.zst": delimited("\t", "url\ttext", rows),
        "a.jsonl.gz": "".join(f'{{"url":"{u}","text":"{t}"}}\n' for u, t in rows).encode(),
    }[name]
    path = tmp_path / name
    packed = COMPRESS[path.suffix](content)
    path.write_bytes(packed[: len(packed) * 9 // 10])
    found, images = read(path)
    assert found == expected(path, rows)[: len(found)]
    assert len(found) > 10_000
    assert images.failed == {"damaged_file": 1}


def test_a_damaged_row_group_loses_its_own_rows_alone(tmp_path):
    rows = [(f"http://a.example/{n}", f"picture {n}") for n in range(300)]
    path = write_parquet(tmp_path / "a.parquet", ("url", "text"), rows, row_group_size=100)
    group = pq.ParquetFile(path).metadata.row_group(1)
    start = group.column(1).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    found, images = read(path)
    assert found == expected(path, rows)[:100] + expected(path, rows)[200:]
    assert images.failed == {"damaged_row_group": 100}


def test_a_cut_parquet_file_is_counted_and_stops_nothing(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ("url", "text"))
    path.write_bytes(path.read_bytes()[:-20])
    assert read(path)[1].failed == {"damaged_file": 1}


def test_an_empty_list_has_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"")
    assert read(path)[0] == []


@pytest.mark.parametrize("login", ["", "user:S3CRET@"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_store_that_is_away_is_no_damaged_list(tmp_path, kind, login):
    url = f"http://{login}127.0.0.1:9/list.{kind}"
    source = Input(url, InputKind(kind), ListColumns("url", "text"))
    images = Tally()
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9|list\.") as error:
        list(extract_pairs(source, Tally(), images))
    assert images.rows_in == 0
    assert "S3CRET" not in str(error.value)


def test_names_of_columns_that_are_no_utf8_are_damage(tmp_path):
    """As a flipped bit in a Parquet file's end makes them."""
    path = tmp_path / "list.parquet"
    table = pa.table({"url": ["http://a.example/1.jpg"], "caption": ["a cat"], "zzzz": ["x"]})
    pq.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"zz\x80z"))
    (source,) = find_inputs([str(path)])
    images = Tally()
    assert list(extract_pairs(source, Tally(), images)) == []
    assert images.failed == {"damaged_file": 1}
