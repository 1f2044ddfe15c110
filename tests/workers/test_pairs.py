"""The whole pipeline on real Beam: real WARC files in, real Parquet files out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.beam_pipeline import pipeline_options
from workers.contracts import PAIRS, QUERIES, make_pair_id
from workers.match import naive_match
from workers.pairs import QUERY_COUNTS_FILE, ReadPairs, build_pairs, shard_of
from workers.settings import PairSettings
from workers.storage import write_table
from workers.tally import Tally
from workers.warc_writer import response_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WORDS = ["cat", "dog", "red cat", "tree", "house", "unused"]

#: Pages as {URL: [(picture, alt), ...]}.
Site = Mapping[str, Sequence[tuple[str, str]]]

SITE: Site = {
    "http://a.example/1": [
        ("/1.png", "a red cat"),
        ("/2.png", "A Cat, and a dog"),
        ("/3.png", "IMG_0042.jpg"),
        ("/4.png", "logo"),
        ("/5.png", "nothing known"),
        ("/6.png", ""),
        ("data:image/gif;base64,AA", "a cat"),
    ],
    "http://a.example/2": [
        ("/1.png", "a red cat"),
        ("/1.png", "a&nbsp;red  cat"),
        ("/1.png", "the same picture of a cat"),
        ("/7.png", "xx"),
        ("/8.png", "cat " * 300),
    ],
    "http://b.example/": [
        *[(f"/{n}.png", f"tree number {n}") for n in range(40)],
        ("http://a.example/1.png", "a red cat"),
    ],
}


def write_warc(path: Path, site: Site) -> Path:
    html = {"Content-Type": "text/html; charset=utf-8"}
    with path.open("wb") as file:
        for url, images in site.items():
            body = "".join(f'<img src="{src}" alt="{alt}">' for src, alt in images)
            file.write(response_record(url, 200, html, b"<p>" + body.encode(), NOW))
    return path


def write_queries(path: Path, words: Sequence[str], first_id: int = 0) -> Path:
    rows = [
        {"query_id": first_id + n, "query": word, "kind": "word"} for n, word in enumerate(words)
    ]
    write_table(pa.Table.from_pylist(rows, schema=QUERIES), path)
    return path


def build(
    folder: Path, sites: Sequence[Site], out: str = "pairs", seed: int = 0, **changes: Any
) -> tuple[list[dict[str, Any]], dict[str, Tally], Path]:
    """Run the pipeline, a WARC file a site; returns the rows, the tallies and the folder."""
    warcs = [write_warc(folder / f"{n}.warc", site) for n, site in enumerate(sites)]
    queries = [
        write_queries(folder / "q0.parquet", WORDS[:3]),
        write_queries(folder / "q1.parquet", WORDS[3:], first_id=3),
    ]
    tallies = build_pairs(warcs, queries, folder / out, PairSettings(**changes), seed, [])
    rows = ds.dataset(str(folder / out), format="parquet").to_table().to_pylist()
    return rows, tallies, folder / out


def file_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("built"), [SITE], shards=3)


def test_rows(built):
    rows, _, _ = built
    found = {(row["url"], row["caption"]): row for row in rows}
    assert len(found) == len(rows) == 3 + 40
    row = found["http://a.example/1.png", "a red cat"]
    assert row["query_ids"] == [0, 2]
    assert row["page_url"] == "http://a.example/1", "the smallest page of its duplicates"
    assert row["source"] == "0.warc@0"
    assert row["pair_id"] == make_pair_id(row["url"], row["caption"])
    assert found["http://a.example/2.png", "A Cat, and a dog"]["query_ids"] == [0, 1]


def test_tallies(built):
    _, tallies, _ = built
    assert tallies["pages"].counts() == {"in": 3, "kept": 3, "rejected": {}, "failed": {}}
    assert tallies["images"].counts()["rejected"] == {"data_uri": 1, "no_alt": 1}
    assert tallies["pairs"].counts() == {
        "in": tallies["images"].kept,
        "kept": 43,
        "rejected": {
            "boilerplate": 1,
            "duplicate": 3,
            "file_name": 1,
            "no_query": 1,
            "too_long": 1,
            "too_short": 1,
        },
        "failed": {},
    }
    (sample,) = tallies["pairs"].samples["no_query"].values()
    assert sample["caption"] == "nothing known"
    assert json.dumps(sample), "samples are plain data"


def test_files(built):
    _, _, folder = built
    names = ["00000.parquet", "00001.parquet", "00002.parquet", QUERY_COUNTS_FILE]
    assert sorted(path.name for path in folder.iterdir()) == names
    tables = [pq.read_table(folder / name) for name in names[:3]]
    assert all(table.schema == PAIRS for table in tables)
    ids = [pair_id for table in tables for pair_id in table["pair_id"].to_pylist()]
    assert ids == sorted(ids)


def test_query_counts(built):
    rows, _, folder = built
    counts = pq.read_table(folder / QUERY_COUNTS_FILE).to_pylist()
    after = Counter(query_id for row in rows for query_id in row["query_ids"])
    assert counts == [
        {"query_id": n, "before": after[n], "after": after[n]} for n in range(len(WORDS))
    ]


def test_cap(tmp_path):
    rows, tallies, folder = build(tmp_path, [SITE], max_pairs_per_query=2, seed=5)
    after = Counter(query_id for row in rows for query_id in row["query_ids"])
    assert after == {0: 2, 1: 1, 2: 1, 3: 2}
    assert all(row["query_ids"] for row in rows)
    counts = pq.read_table(folder / QUERY_COUNTS_FILE).to_pydict()
    assert counts["before"] == [3, 1, 1, 40, 0, 0]
    assert counts["after"] == [2, 1, 1, 2, 0, 0]
    assert tallies["pairs"].rejected["over_cap"] == 43 - len(rows)


def test_nothing_in_gives_empty_shards(tmp_path):
    rows, tallies, folder = build(tmp_path, [], shards=2)
    assert rows == []
    assert {name: tally.rows_in for name, tally in tallies.items()} == {
        "pages": 0,
        "images": 0,
        "pairs": 0,
    }
    assert sorted(file_hashes(folder)) == ["00000.parquet", "00001.parquet", QUERY_COUNTS_FILE]


def test_bytes_do_not_depend_on_threads_or_on_how_rows_are_batched(tmp_path, monkeypatch):
    site = {**SITE, **{f"http://c.example/{n}": SITE["http://b.example/"] for n in range(4)}}
    _, _, once = build(tmp_path, [SITE, site], "once", max_pairs_per_query=7)
    monkeypatch.setattr("workers.pairs._BATCH_ROWS", 7)
    monkeypatch.setattr("workers.pairs._TABLE_ROWS", 12)
    warcs = [tmp_path / "1.warc", tmp_path / "0.warc"]
    queries = [tmp_path / "q1.parquet", tmp_path / "q0.parquet"]
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    build_pairs(warcs, queries, tmp_path / "again", PairSettings(max_pairs_per_query=7), 0, options)
    assert file_hashes(once) == file_hashes(tmp_path / "again")


IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["/1.png", "/2.png", "/3.png", "data:,"]),
        st.sampled_from(
            ["", "a cat", "red cat", "Dog. Cat", "logo", "1.png", "what", "tree house"]
        ),
    ),
    max_size=8,
)
SITES = st.lists(
    st.dictionaries(st.sampled_from([f"http://h.example/{n}" for n in range(3)]), IMAGES),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SITES, st.integers(1, 3), st.integers(1, 5), st.permutations(range(3)))
def test_order_and_shards_never_change_the_pairs(tmp_path_factory, sites, cap, shards, order):
    folder = tmp_path_factory.mktemp("any")
    one, tallies, _ = build(folder, sites, "one", shards=1, max_pairs_per_query=cap)
    # The same pages in files of other names: only the provenance may differ.
    moved = [sites[n] for n in order if n < len(sites)]
    two, again, _ = build(folder, moved, "two", shards=shards, max_pairs_per_query=cap)
    assert without_source(one) == without_source(two)
    assert [t.counts() for t in tallies.values()] == [t.counts() for t in again.values()]
    after = Counter(query_id for row in one for query_id in row["query_ids"])
    assert all(count <= cap for count in after.values())


def without_source(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "source"} for row in rows]


def test_every_match_is_the_naive_one(built):
    rows, _, _ = built
    queries = list(enumerate(WORDS))
    assert all(row["query_ids"] == naive_match(row["caption"].lower(), queries) for row in rows)


def test_case_is_kept_where_the_setting_says_so(tmp_path):
    rows, _, _ = build(tmp_path, [SITE], lowercase=False)
    found = {row["caption"]: row["query_ids"] for row in rows}
    assert found["A Cat, and a dog"] == [1]


def test_a_missing_input_is_an_error(tmp_path):
    queries = write_queries(tmp_path / "q.parquet", WORDS)
    with pytest.raises(RuntimeError, match=r"FileNotFoundError.*none\.warc"):
        build_pairs([tmp_path / "none.warc"], [queries], tmp_path / "out", PairSettings(), 0, [])


def test_shards_are_even_ranges():
    ids = [make_pair_id("http://a.example/", str(n)) for n in range(4_000)]
    sizes = Counter(shard_of(pair_id, 7) for pair_id in ids)
    assert set(sizes) == set(range(7))
    assert max(sizes.values()) < 1.3 * min(sizes.values())
    assert [shard_of(x, 7) for x in sorted(ids)] == sorted(shard_of(x, 7) for x in ids)
    assert shard_of("f" * 32, 7) == 6


def test_a_runner_is_named_only_where_none_is_given():
    assert pipeline_options([]).get_all_options()["runner"] == "FnApiRunner"
    assert pipeline_options(["--runner=Other"]).get_all_options()["runner"] == "Other"
    assert pipeline_options(["--runner", "Other"]).get_all_options()["runner"] == "Other"


def test_the_work_can_be_sent_to_another_machine(tmp_path):
    from apache_beam.internal import pickler

    pickler.loads(pickler.dumps(ReadPairs([tmp_path / "q.parquet"], PairSettings())))
