"""The whole pipeline on Beam: exact against brute force, the same bytes however it is run."""

import bz2
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from query_builder import build, part_counts
from query_builder.build import build_queries
from query_builder.markup import plain_text
from query_builder.settings import BigramSettings, QuerySettings
from query_builder.words import visible
from workers.base.contracts import QUERIES
from workers.base.tally import Tally

EVERYTHING = QuerySettings(
    min_count=1, bigrams=BigramSettings(min_count=1, min_pmi=-99), titles="none"
)
SMALL = QuerySettings(min_count=2, bigrams=BigramSettings(min_count=2, min_pmi=0))


def run(
    dumps: Sequence[Path], out: Path, settings: QuerySettings, beam: Sequence[str] = ()
) -> tuple[pa.Table, dict[str, Tally]]:
    tallies = build_queries(dumps, out, settings, beam)
    assert [file.name for file in out.iterdir()] == ["00000.parquet"]
    for tally in tallies.values():
        tally.check()
    table = pq.read_table(out / "00000.parquet")
    assert table.schema == QUERIES
    assert len(table) == tallies["terms"].kept
    return table, tallies


def brute_force(path: Path) -> tuple[Counter[str], Counter[str]]:
    """Count words and bigrams one by one, with nothing of ours but the markup."""
    words: Counter[str] = Counter()
    bigrams: Counter[str] = Counter()
    space = regex.compile(r"[\t\p{Zs}]+")
    word = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’‐‑\-\u200c\u200d][\p{L}\p{M}\p{N}]+)*")
    for page in ElementTree.fromstring(bz2.decompress(path.read_bytes())):
        if not page.tag.endswith("}page") or page.find("{*}redirect") is not None:
            continue
        if page.findtext("{*}ns") != "0":
            continue
        text = visible(plain_text(page.findtext("{*}revision/{*}text", "")))
        found = list(word.finditer(text))
        spelt = [match.group().replace("’", "'").lower() for match in found]
        words.update(spelt)
        for (left, first), (right, second) in pairwise(zip(found, spelt, strict=True)):
            if space.fullmatch(text, left.end(), right.start()):
                bigrams[f"{first} {second}"] += 1
    return words, bigrams


@pytest.mark.parametrize("dump", ["enwiki", "bgwiki", "tables"])
def test_counts_are_exact(dump, request, tmp_path):
    path = request.getfixturevalue(dump)
    table, tallies = run([path], tmp_path / "out", EVERYTHING)
    words, bigrams = brute_force(path)
    rows = table.select(["kind", "query", "count"]).to_pylist()
    assert {row["query"]: row["count"] for row in rows if row["kind"] == "word"} == words
    assert {row["query"]: row["count"] for row in rows if row["kind"] == "bigram"} == bigrams
    assert tallies["terms"].rows_in == len(words) + len(bigrams)


def test_real_dump_gives_sensible_queries(enwiki, tmp_path):
    chosen = QuerySettings(min_count=20, bigrams=BigramSettings(min_count=10))
    table, tallies = run([enwiki], tmp_path / "out", chosen)
    rows = {row["query"]: row for row in table.to_pylist()}
    assert rows["the"]["kind"] == "word"
    assert rows["new york"]["kind"] == "bigram"
    assert rows["new york"]["pmi"] > 5
    assert rows["academy award for best production design"]["kind"] == "title"
    assert "of the" not in rows
    assert tallies["pages"].counts() == {
        "in": 206,
        "kept": 106,
        "rejected": {"not_an_article": 1, "redirect": 99},
        "failed": {},
    }


@settings(
    deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    reverse=st.booleans(),
    shard=st.sampled_from([1, 10_000, 1 << 20]),
    entries=st.sampled_from([1, 5_000, 1 << 20]),
    partitions=st.integers(1, 20),
    in_file=st.sampled_from([1, 8, 64]),
    workers=st.integers(1, 3),
)
@example(False, 1 << 20, 1 << 20, 4, 256, 1)
@example(True, 10_000, 5_000, 3, 1, 2)
def test_same_bytes_whatever_the_order_shards_partitions_and_workers(
    bgwiki, tables, seen, monkeypatch, reverse, shard, entries, partitions, in_file, workers
):
    monkeypatch.setattr(part_counts, "SHARD_CHARACTERS", shard)
    monkeypatch.setattr(part_counts, "MAX_ENTRIES", entries)
    monkeypatch.setattr(build, "FILE_PARTITIONS", in_file)
    monkeypatch.setattr(build, "MIN_PARTITIONS", partitions)
    monkeypatch.setattr(build, "MAX_PARTITIONS", partitions)
    dumps = [tables, bgwiki] if reverse else [bgwiki, tables]
    beam = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    with tempfile.TemporaryDirectory() as folder:
        _, tallies = run(dumps, Path(folder), SMALL, beam if workers > 1 else [])
        tally = [(tally.counts(), tally.samples) for tally in tallies.values()]
        stored = (Path(folder) / "00000.parquet").read_bytes()
    seen.add((stored, json.dumps(tally, sort_keys=True)))
    assert len(seen) == 1


@pytest.fixture(scope="module")
def seen() -> set[tuple[bytes, str]]:
    """The results of every way to run it."""
    return set()


def test_same_bytes_whatever_file_a_page_is_in(write_dump, tmp_path):
    pages = [("One", "new york. new day"), ("Two", "New York, new day"), ("Three", "york new")]
    seen = set()
    for i, order in enumerate(list(permutations(pages))[::2]):
        dumps = [
            write_dump(order[:i], name=f"a{i}.xml"),
            write_dump(order[i:], name=f"b{i}.xml"),
        ]
        run(dumps, tmp_path / f"out{i}", SMALL)
        seen.add((tmp_path / f"out{i}" / "00000.parquet").read_bytes())
    assert len(seen) == 1


def test_words_of_two_pages_are_no_bigram(write_dump, tmp_path):
    table, _ = run([write_dump([("A", "alpha"), ("B", "beta")])], tmp_path / "out", EVERYTHING)
    assert table["query"].to_pylist() == ["alpha", "beta"]


def test_truncated_dump_is_counted_up_to_the_damage(enwiki, tmp_path):
    cut = tmp_path / "cut.bz2"
    cut.write_bytes(enwiki.read_bytes()[:800_000])
    table, tallies = run([cut], tmp_path / "out", SMALL)
    assert len(table) > 1_000
    assert tallies["pages"].failed == {"damaged_dump": 1}
    assert 30 < tallies["pages"].kept < 106


def test_no_article_gives_an_empty_list(write_dump, tmp_path):
    table, tallies = run([write_dump([])], tmp_path / "out", SMALL)
    assert len(table) == tallies["pages"].rows_in == tallies["terms"].rows_in == 0
