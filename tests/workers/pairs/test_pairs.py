"""The whole way of the text: real WARC files in, real Parquet files out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.pairs.local_build import QUERY_COUNTS_FILE, build_pairs
from workers.base.beam_pipeline import pipeline_options
from workers.base.contracts import PAIRS, QUERIES
from workers.base.opt_outs import Kind, entry_key
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.base.urls import without_tracking
from workers.crawl.warc_writer import response_record
from workers.extract.inputs import Input, InputKind, find_inputs
from workers.pairs.candidates import Candidates, find_candidates
from workers.pairs.captions import CaptionCleaner
from workers.pairs.match import Matcher, naive_match
from workers.pairs.reader import PairReader, as_captions
from workers.pairs.settings import CaptionSettings, PairSettings
from workers.pairs.tables import even_parts, id_ranges, limit_captions, sort_pairs

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WORDS = ["cat", "dog", "red cat", "tree", "house", "unused"]

#: Pages as {URL: [(image, alt), ...]}.
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


def inputs_of(paths: Sequence[Path]) -> list[Input]:
    return find_inputs(map(str, paths))


def build(
    folder: Path,
    sites: Sequence[Site],
    out: str = "pairs",
    seed: int = 0,
    lower_case: bool = True,
    groups: int = 1,
    **changes: Any,
) -> tuple[list[dict[str, Any]], dict[str, Tally], Path]:
    """Run the pipeline, a WARC file a site; returns the rows, the tallies and the folder."""
    warcs = [write_warc(folder / f"{n}.warc", site) for n, site in enumerate(sites)]
    queries = [
        write_queries(folder / "q0.parquet", WORDS[:3]),
        write_queries(folder / "q1.parquet", WORDS[3:], first_id=3),
    ]
    changed = PairSettings.model_validate(changes)
    inputs = inputs_of(warcs)
    tallies = build_pairs(
        inputs, queries, folder / out, changed, seed, groups, lower_case=lower_case
    )
    rows = ds.dataset(str(folder / out), format="parquet").to_table().to_pylist()
    return rows, tallies, folder / out


def file_hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


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
            "duplicate_pair": 3,
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
    names = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "_tables"]
    assert (folder / QUERY_COUNTS_FILE).is_file()
    tables = [pq.read_table(folder / name) for name in names]
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
    rows, tallies, folder = build(tmp_path, [SITE], pairs_per_query=2, seed=5)
    after = Counter(query_id for row in rows for query_id in row["query_ids"])
    assert after == {0: 2, 1: 1, 2: 1, 3: 2}
    assert all(row["query_ids"] for row in rows)
    counts = pq.read_table(folder / QUERY_COUNTS_FILE).to_pydict()
    assert counts["before"] == [3, 1, 1, 40, 0, 0]
    assert counts["after"] == [2, 1, 1, 2, 0, 0]
    assert tallies["pairs"].rejected["over_cap"] == 43 - len(rows)


def test_metaclip_keeps_all_queries_of_a_pair(tmp_path):
    """Every pair matches "tree" or a query that only few match, whose coins all show heads."""
    rows, tallies, folder = build(tmp_path, [SITE], balance="metaclip", pairs_per_query=3, seed=5)
    after = Counter(query_id for row in rows for query_id in row["query_ids"])
    assert all(
        row["query_ids"] == naive_match(row["caption"].lower(), list(enumerate(WORDS)))
        for row in rows
    )
    counts = pq.read_table(folder / QUERY_COUNTS_FILE).to_pydict()
    assert counts["before"] == [3, 1, 1, 40, 0, 0]
    assert counts["after"] == [3, 1, 1, after[3], 0, 0]
    assert 0 < after[3] < 12
    assert tallies["pairs"].rejected["not_drawn"] == 43 - len(rows)


@pytest.mark.parametrize("changes", [{}, {"max_captions_per_url": 1, "balance": "metaclip"}])
def test_without_queries_every_pair_stays(tmp_path, changes):
    captions = ["zebra crossing", "nothing that is asked for", "a dog"]
    images = [("/a.jpg", caption) for caption in captions] + [("/b.jpg", "x"), ("/a.jpg", "a dog")]
    warc = write_warc(tmp_path / "a.warc", {"http://a/": images})
    settings = PairSettings.model_validate({"pairs_per_query": 1, "shards": 2, **changes})
    tallies = build_pairs(inputs_of([warc]), None, tmp_path / "pairs", settings, 0)
    rows = ds.dataset(str(tmp_path / "pairs"), format="parquet").to_table().to_pylist()
    kept = 1 if changes else 3
    assert len(rows) == tallies["pairs"].kept == kept
    assert {row["caption"] for row in rows} <= set(captions)
    assert all(row["query_ids"] == [] for row in rows)
    rejected = {"too_short": 1, "duplicate_pair": 1}
    assert tallies["pairs"].rejected == (rejected | {"duplicate_url": 2} if changes else rejected)
    assert len(pq.read_table(tmp_path / "pairs" / QUERY_COUNTS_FILE)) == 0


def test_nothing_in_gives_empty_shards(tmp_path):
    rows, tallies, folder = build(tmp_path, [], shards=2)
    assert rows == []
    assert {name: tally.rows_in for name, tally in tallies.items()} == {
        "pages": 0,
        "images": 0,
        "redacted": 0,
        "pairs": 0,
    }
    assert sorted(file_hashes(folder)) == ["00000.parquet", "00001.parquet", QUERY_COUNTS_FILE]


def test_bytes_do_not_depend_on_groups_or_on_how_rows_are_batched(tmp_path, monkeypatch):
    site = {**SITE, **{f"http://c.example/{n}": SITE["http://b.example/"] for n in range(4)}}
    _, _, once = build(tmp_path, [SITE, site], "once", pairs_per_query=7)
    monkeypatch.setattr("workers.extract.candidates.TABLE_ROWS", 7)
    monkeypatch.setattr("workers.pairs.candidates.RUN_ROWS", 12)
    monkeypatch.setattr("workers.pairs.query_limits._DRAWS_TOGETHER", 1)
    warcs = inputs_of([tmp_path / "1.warc", tmp_path / "0.warc"])[::-1]
    queries = [tmp_path / "q1.parquet", tmp_path / "q0.parquet"]
    build_pairs(warcs, queries, tmp_path / "again", PairSettings(pairs_per_query=7), 0, groups=2)
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
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    SITES,
    st.sampled_from(["cap", "metaclip"]),
    st.integers(1, 3),
    st.sampled_from([(None, None), (1, None), (None, 2), (2, 1)]),
    st.tuples(st.integers(1, 5), st.integers(1, 2)),
    st.permutations(range(3)),
)
def test_order_shards_and_groups_never_change_the_pairs(
    tmp_path_factory, sites, balance, t, limits, shards_and_groups, order
):
    folder = tmp_path_factory.mktemp("any")
    settings = {"balance": balance, "pairs_per_query": t}
    settings |= zip(("max_captions_per_url", "max_urls_per_caption"), limits, strict=True)
    shards, groups = shards_and_groups
    one, tallies, _ = build(folder, sites, "one", shards=1, **settings)
    # The same pages in files of other names: only the provenance may differ.
    moved = [sites[n] for n in order if n < len(sites)]
    two, again, _ = build(folder, moved, "two", shards=shards, groups=groups, **settings)
    assert without_source(one) == without_source(two)
    assert [t.counts() for t in tallies.values()] == [t.counts() for t in again.values()]
    after = Counter(query_id for row in one for query_id in row["query_ids"])
    assert balance == "metaclip" or all(count <= t for count in after.values())


def without_source(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "source"} for row in rows]


def test_every_match_is_the_naive_one(built):
    rows, _, _ = built
    queries = list(enumerate(WORDS))
    assert all(row["query_ids"] == naive_match(row["caption"].lower(), queries) for row in rows)


@pytest.mark.parametrize(
    ("query", "captions"),
    [
        ("st. louis", ["St. Louis", "the arch of St. Louis, Missouri", "in St.\u00a0Louis."]),
        ("washington, d.c.", ["Washington, D.C.", "Washington, D.C., USA", "Washington, D.C.?"]),
        ("what?", ["What?", "what? a cat", "What?!"]),
        (".net", ["a .NET logo", ".net"]),
        ("a.k.a. ac/dc", ["a.k.a. AC/DC"]),
        ("yahoo!", ["Yahoo! in 1999", "Yahoo!"]),
        ("o\u02bcneill", ["Eugene O'Neill", "O’Neill", "O\u02bcNeill"]),
        ("\u201cheroes\u201d", ['David Bowie, "Heroes"', "“Heroes”"]),
        ("\ufb01sh", ["a fish", "a \ufb01sh"]),
        ("cafe\u0301", ["a café", "a cafe\u0301"]),
        ("rock &amp; roll", ["Rock & Roll", "rock &amp; roll"]),
        ("auto\u00adbahn", ["the Autobahn", "the auto\u200bbahn"]),
        ("new\u3000 york", ["New York", "new\tyork"]),
        ("İstanbul", ["İSTANBUL"]),
    ],
)
def test_queries_are_written_as_captions_are(query, captions):
    matcher = Matcher(
        as_captions([(7, query), (3, query), (5, "\u200b")], lower_case=True), lowercase=True
    )
    cleaned = CaptionCleaner(CaptionSettings()).clean(pa.array(captions)).captions
    assert matcher.match(cleaned).to_lists() == [[3, 7]] * len(captions)
    (_, (_, written)) = as_captions([(7, query), (3, query)], lower_case=True)
    seen = [caption.lower() for caption in cleaned.to_pylist()]
    assert all(naive_match(caption, [(7, written)]) for caption in seen)


def test_case_is_kept_where_the_setting_says_so(tmp_path):
    rows, _, _ = build(tmp_path, [SITE], lower_case=False)
    found = {row["caption"]: row["query_ids"] for row in rows}
    assert found["A Cat, and a dog"] == [1]


def test_a_missing_input_is_an_error(tmp_path):
    queries = write_queries(tmp_path / "q.parquet", WORDS)
    gone = Input(str(tmp_path / "none.warc"), InputKind.WARC)
    with pytest.raises(FileNotFoundError, match=r"none\.warc"):
        build_pairs([gone], [queries], tmp_path / "out", PairSettings(), 0)


def pair_table(rows: Sequence[tuple[str, str]]) -> pa.Table:
    """Pairs of (URL, caption) that match nothing."""
    pairs = [
        {
            "pair_id": make_pair_id(url, caption),
            "url": url,
            "caption": caption,
            "source": f"list@{number}",
            "query_ids": [],
        }
        for number, (url, caption) in enumerate(rows)
    ]
    return pa.Table.from_pylist(pairs, schema=PAIRS)


def test_ranges_are_even_and_every_id_is_in_one():
    table = pair_table([(f"http://a.example/{n}", "a cat") for n in range(4_000)])
    ranges = id_ranges(7)
    assert (ranges[0].first, ranges[-1].last) == ("0" * 32, "f" * 32)
    assert all(int(one.last, 16) + 1 == int(other.first, 16) for one, other in pairwise(ranges))
    ids = table["pair_id"].to_pylist()
    sizes = [sum(between.first <= one <= between.last for one in ids) for between in ranges]
    assert sum(sizes) == 4_000
    assert max(sizes) < 1.3 * min(sizes)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["0" * 32, "0" * 31 + "1", "00" + "f" * 30, "f" * 32]),
            st.sampled_from([None, "http://p/1", "http://p/2"]),
            st.sampled_from(["http://a/1", "http://a/1?utm_source=b"]),
            st.sampled_from(["b@2", "b@10", "a@3"]),
        )
    )
)
def test_pairs_are_sorted_as_arrow_sorts_texts(rows):
    names = ["pair_id", "page_url", "url", "source"]
    table = pa.table(
        {n: pa.array([row[k] for row in rows], pa.string()) for k, n in enumerate(names)}
    )
    assert sort_pairs(table).equals(table.sort_by([(name, "ascending") for name in names]))
    for part in (table.slice(1), pa.concat_tables([table, table]).slice(len(table) // 2)):
        ids = sort_pairs(part.select(["pair_id"]))["pair_id"].to_pylist()
        assert ids == sorted(part["pair_id"].to_pylist())


@pytest.mark.parametrize(("rows", "sizes"), [(0, [0]), (5, [5]), (6, [3, 3]), (11, [3, 4, 4])])
def test_files_of_even_size(rows, sizes):
    table = pair_table([("http://a.example/", str(n)) for n in range(rows)])
    parts = dict(even_parts("00007", table, 5))
    assert [len(part) for part in parts.values()] == sizes
    assert pa.concat_tables(parts.values()).equals(table)
    assert list(parts) == (
        ["00007"] if len(sizes) == 1 else [f"00007-00{n}" for n in range(len(sizes))]
    )


def test_a_large_shard_is_several_files(tmp_path):
    rows, _, folder = build(tmp_path, [SITE], shards=2, max_rows_per_file=15)
    sizes = {path.stem: pq.read_metadata(path).num_rows for path in folder.glob("0*")}
    assert sum(sizes.values()) == len(rows) == 43
    assert all(7 < size <= 15 for size in sizes.values())
    assert {name[:5] for name in sizes} == {"00000", "00001"}
    assert any("-001" in name for name in sizes)


def test_captions_of_a_url_can_be_limited(tmp_path):
    every, _, _ = build(tmp_path, [SITE, SITE], "every")
    one, tallies, _ = build(tmp_path, [SITE, SITE], "one", max_captions_per_url=1)
    best: dict[str, str] = {}
    for row in every:
        best[row["url"]] = min(row["pair_id"], best.get(row["url"], "g"))
    assert {row["url"]: row["pair_id"] for row in one} == best
    assert len(one) == len(best) < len(every)
    rejected = tallies["pairs"].rejected
    assert rejected["duplicate_url"] == len(every) - len(one)
    assert rejected["duplicate_pair"] == 3 + 46
    two, _, _ = build(tmp_path, [SITE, SITE], "two", max_captions_per_url=2)
    assert two == every, "no URL has more than two captions"


def test_a_url_with_other_tracking_parameters_is_the_same_url():
    urls = ["http://a/1.png?utm_source=b", "http://a/1.png", "http://a/2.png", "http://a/1.png?n=1"]
    table = sort_pairs(pair_table([(url, f"c{n}") for n, url in enumerate(urls)]))
    kept, dropped = limit_captions(table, 1)
    assert len({without_tracking(url) for url in kept["url"].to_pylist()}) == len(kept) == 3
    (gone,) = dropped.to_pylist()
    (other,) = [row for row in kept.to_pylist() if "1.png" in row["url"] and "n=" not in row["url"]]
    assert gone["pair_id"] > other["pair_id"]


def test_images_of_a_caption_can_be_limited(tmp_path):
    placeholders = [
        (f"/{n}.png", "image of a CAT" if n % 3 else "Image of a cat") for n in range(9)
    ]
    sites = [SITE, {"http://c.example/": placeholders, "http://d.example/": placeholders}, SITE]
    every, _, _ = build(tmp_path, sites, "every")
    few, tallies, _ = build(tmp_path, sites, "few", max_urls_per_caption=4)
    by_caption: dict[str, list[str]] = {}
    for row in every:
        by_caption.setdefault(row["caption"].lower(), []).append(row["pair_id"])
    assert len(by_caption["image of a cat"]) == 18
    expected = {pair_id for some in by_caption.values() for pair_id in sorted(some)[:4]}
    assert {row["pair_id"] for row in few} == expected
    assert tallies["pairs"].rejected["duplicate_caption"] == 14
    both, tallies, _ = build(
        tmp_path, sites, "both", max_urls_per_caption=4, max_captions_per_url=1, shards=3
    )
    counts = Counter(row["caption"].lower() for row in both)
    assert max(counts.values()) == 4
    assert max(Counter(row["url"] for row in both).values()) == 1
    assert tallies["pairs"].rejected["duplicate_caption"] == 14


def test_inputs_of_several_kinds_are_one_set(tmp_path):
    list_of_pairs = tmp_path / "list.csv"
    list_of_pairs.write_text(
        "url,caption\n"
        "http://a.example:80/1.png#x,a red cat\n"
        "http://c.example/1.png,a cat of jane@example.org\n"
        ",no picture of a cat\n"
    )
    warc = write_warc(tmp_path / "0.warc", SITE)
    queries = write_queries(tmp_path / "q.parquet", WORDS)
    inputs = inputs_of([warc, list_of_pairs])
    tallies = build_pairs(inputs, [queries], tmp_path / "out", PairSettings(), 0)
    rows = ds.dataset(str(tmp_path / "out"), format="parquet").to_table().to_pylist()
    found = {(row["url"], row["caption"]): row["source"] for row in rows}
    assert len(found) == 43 + 1
    assert found["http://c.example/1.png", "a cat of [email]"] == "list.csv@1"
    assert found["http://a.example/1.png", "a red cat"] == "0.warc@0"
    assert tallies["images"].rejected["no_url"] == 1
    assert tallies["pairs"].rejected["duplicate_pair"] == 3 + 1
    assert tallies["redacted"].kept == 1


def test_a_runner_is_named_only_where_none_is_given():
    assert pipeline_options([]).get_all_options()["runner"] == "FnApiRunner"
    assert pipeline_options(["--runner=Other"]).get_all_options()["runner"] == "Other"
    assert pipeline_options(["--runner", "Other"]).get_all_options()["runner"] == "Other"


def test_tracking_parameters_make_no_other_pair(tmp_path):
    images = [(f"/1.png?id=1&utm_source={n}", "a red cat") for n in (2, 1)]
    for limit in (None, 5):
        (row,), tallies, _ = build(
            tmp_path, [{"http://a.example/": images}], max_captions_per_url=limit
        )
        assert row["url"] == "http://a.example/1.png?id=1&utm_source=1", "the whole address"
        assert row["pair_id"] == make_pair_id("http://a.example/1.png?id=1", "a red cat")
        assert tallies["pairs"].rejected == {"duplicate_pair": 1}


def test_pages_that_ask_us_by_name_are_left_out(tmp_path):
    pages = {
        url: response_record(url, 200, {"Content-Type": "text/html", "X-Robots-Tag": says}, b, NOW)
        for url, says, b in (
            ("http://a.example/", "birds-research: noai", b"<img src=/1.png alt='a red cat'>"),
            ("http://b.example/", "googlebot: noai", b"<img src=/1.png alt='a red cat'>"),
        )
    }
    (tmp_path / "a.warc").write_bytes(b"".join(pages.values()))
    queries = [write_queries(tmp_path / "q.parquet", WORDS)]
    inputs, out = inputs_of([tmp_path / "a.warc"]), tmp_path / "out"
    tallies = build_pairs(inputs, queries, out, PairSettings(), 0, agents=("birds-research",))
    assert tallies["pages"].rejected == {"opted_out": 1}
    rows = ds.dataset(str(out), format="parquet").to_table().to_pylist()
    assert [row["page_url"] for row in rows] == ["http://b.example/"]


def test_what_was_taken_down_comes_in_no_more_and_stands_in_no_sample(tmp_path):
    page = response_record(
        "http://a.example/",
        200,
        {"Content-Type": "text/html"},
        b"<img src=/1.png?gclid=7 alt='a red cat'><img src=//b.example/2.png alt='a cat'>"
        b"<img src=/3.png alt='a red cat'><img src=/4.png alt='a cat'><img src=/1.png alt=x>"
        b"<img src=/1.png><img src=//B.example:80/spacer.gif><img src=/5.png>",
        NOW,
    )
    (tmp_path / "a.warc").write_bytes(page)
    entries = [
        (Kind.URL, "a.example/1.png"),
        (Kind.DOMAIN, "b.example"),
        (Kind.PAIR_ID, make_pair_id("http://a.example/3.png", "a red cat")),
    ]
    lines = [f"{kind} {entry_key(kind, value).hex()} 2026-11-26\n" for kind, value in entries]
    (tmp_path / "taken_down.txt").write_text("".join(lines))
    queries = [write_queries(tmp_path / "q.parquet", WORDS)]
    inputs, out = inputs_of([tmp_path / "a.warc"]), tmp_path / "out"
    taken_down = tmp_path / "taken_down.txt"
    tallies = build_pairs(inputs, queries, out, PairSettings(), 0, taken_down=taken_down)
    assert tallies["pairs"].rejected == {"taken_down": 4}
    assert tallies["pairs"].samples.get("taken_down", {}) == {}
    assert tallies["images"].rejected == {"no_alt": 3}
    assert [row["url"] for row in tallies["images"].samples["no_alt"].values()] == ["/5.png"]
    rows = ds.dataset(str(out), format="parquet").to_table().to_pylist()
    assert [row["url"] for row in rows] == ["http://a.example/4.png"]


def test_a_damaged_page_of_candidates_is_noticed(tmp_path):
    (tmp_path / "a.csv").write_text(
        "url,caption\n" + "".join(f"http://a.example/{n}.png,a cat {n}\n" for n in range(300))
    )
    queries = write_queries(tmp_path / "q.parquet", WORDS)
    reader = PairReader([queries], CaptionSettings())
    find_candidates(inputs_of([tmp_path / "a.csv"]), reader, tmp_path, "found")
    path = tmp_path / "found-000.parquet"
    (everything,) = id_ranges(1)
    whole = Candidates((path,)).distinct(everything, PAIRS.names)
    content = path.read_bytes()
    noticed = 0
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for number, at in enumerate(range(10, len(content) - footer, 997)):
        damaged = tmp_path / f"damaged-{number}.parquet"
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            found = Candidates((damaged,)).distinct(everything, PAIRS.names)
        except OSError:
            noticed += 1
        else:
            assert found.equals(whole), "else the damage was noticed"
    assert noticed > 5
