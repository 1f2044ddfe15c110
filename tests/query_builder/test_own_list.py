import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from query_builder.own_list import build_list, check_list
from query_builder.settings import QuerySettings

QUERIES = ["Black Cat", "?!", "zebra", "", "black  cat", "New York", "Ä", "apple"]
KEPT = ["apple", "black cat", "new york", "zebra", "ä"]


def written(path, encoding="utf-8"):
    quoted = [f'"{query}"' for query in QUERIES]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(QUERIES)), "query": QUERIES}), path)
    elif path.suffix == ".csv":
        rows = [f"{number},{query}" for number, query in enumerate(quoted)]
        path.write_text("\r\n".join(["id,query", *rows]), encoding, newline="")
    elif path.suffix == ".tsv":
        path.write_text("\n".join(["query\tid", *(f"{query}\t0" for query in QUERIES)]), encoding)
    else:
        path.write_text("\n".join(QUERIES), encoding)
    return path


def built(paths, out, **settings):
    tallies = build_list(paths, out, QuerySettings(list="list", **settings))
    tallies["terms"].check()
    return pq.read_table(out / "00000.parquet").to_pylist(), tallies["terms"].counts()


@pytest.mark.parametrize(
    ("name", "encoding", "empty"),
    [("a.txt", "utf-8", 1), ("a.txt", "utf-16", 1), ("a", "utf-8-sig", 1), ("a.csv", "utf-8", 2),
     ("a.tsv", "utf-8", 2), ("a.TSV", "utf-16", 2), ("a.parquet", None, 2)],
)  # fmt: skip
def test_a_list_is_read_each_query_once_in_the_order_of_its_bytes(tmp_path, name, encoding, empty):
    rows, counts = built([written(tmp_path / name.lower(), encoding)], tmp_path)
    assert [row["query"] for row in rows] == KEPT
    assert [row["query_id"] for row in rows] == list(range(len(KEPT)))
    assert {row["kind"] for row in rows} == {"list"}
    assert counts["rejected"] == {"list_already_list": 1, "list_without_word": empty}


def test_the_first_queries_of_a_list_are_kept_and_case_where_it_is_asked_for(tmp_path):
    files = [written(tmp_path / "a.txt"), tmp_path / "b.txt"]
    files[1].write_text("last\n")
    rows, counts = built(files, tmp_path, max_queries=2)
    assert [row["query"] for row in rows] == ["black cat", "zebra"]
    assert counts["rejected"]["list_over_max_queries"] == 4
    rows, _ = built(files, tmp_path, lower_case=False)
    assert [row["query"] for row in rows] == [
        "Black Cat", "New York", "apple", "black cat", "last", "zebra", "Ä"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "there is no query"),
        ("a.txt", b"\n ? \n", "there is no query"),
        ("a.txt", b"cat\ncaf\xe9\n", "a.txt: line 2, character 4: this is no text in UTF-8; save"),
        ("a.txt", b"c\0a\0t\0", "line 1, character 2: this is no text in UTF-8"),
        ("a.csv", b"", "there is no column 'query'"),
        ("a.csv", b"id,term\n1,cat\n", "there is no column 'query'; there are id, term"),
        ("a.csv", b'query\n"cat\n', "unexpected end of data"),
        ("a.parquet", b"cat\n", "a.parquet: "),
    ],
)
def test_a_list_that_cannot_be_used_says_where_and_why(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_list([path], QuerySettings())


def test_text_of_a_table_that_is_none_is_told_by_row(tmp_path):
    column = pa.array([b"cat", b"caf\xe9"], pa.binary())
    pq.write_table(pa.table({"query": column.view(pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 1: this is no text in UTF-8"):
        check_list([tmp_path / "a.parquet"], QuerySettings())
    pq.write_table(pa.table({"query": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'query' holds int64, not text"):
        check_list([tmp_path / "a.parquet"], QuerySettings())
