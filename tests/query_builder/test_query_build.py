"""The whole pipeline on Beam: exact against brute force, the same bytes however it is run."""

import bz2
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex

from query_builder import build
from query_builder.build import build_queries
from query_builder.markup import plain_text
from query_builder.settings import BigramSettings, QuerySettings
from workers.contracts import QUERIES
from workers.settings import find_files
from workers.tally import Tally

EVERYTHING = QuerySettings(
    min_count=1, bigrams=BigramSettings(min_count=1, min_pmi=-99), titles="none"
)
SMALL = QuerySettings(min_count=2, bigrams=BigramSettings(min_count=2, min_pmi=0))


def run(
    dumps: Sequence[Path], out: Path, settings: QuerySettings
) -> tuple[pa.Table, dict[str, Tally]]:
    tallies = build_queries(dumps, out, settings, [])
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
        text = plain_text(page.findtext("{*}revision/{*}text", ""))
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
    settings = QuerySettings(min_count=20, bigrams=BigramSettings(min_count=10))
    table, tallies = run([enwiki], tmp_path / "out", settings)
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


def test_same_bytes_whatever_the_shards_partitions_and_order(bgwiki, tables, tmp_path, monkeypatch):
    seen = set()
    dumps = [bgwiki, tables]
    for shard, partitions, pending in [(1 << 20, 16, 1 << 20), (10_000, 1, 1_000), (1, 3, 10_000)]:
        monkeypatch.setattr(build, "SHARD_CHARACTERS", shard)
        monkeypatch.setattr(build, "PARTITIONS", partitions)
        monkeypatch.setattr(build, "PENDING_ENTRIES", pending)
        out = tmp_path / str(shard)
        _, tallies = run(dumps, out, SMALL)
        account = [(tally.counts(), tally.samples) for tally in tallies.values()]
        seen.add(((out / "00000.parquet").read_bytes(), json.dumps(account, sort_keys=True)))
        dumps.reverse()
    assert len(seen) == 1


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


def test_globs_and_packages_are_found(write_dump, tmp_path):
    first, second = write_dump([], name="1.xml"), write_dump([], name="2.xml")
    assert find_files([str(tmp_path / "*.xml"), str(second)]) == [first, second]
    assert find_files(["package:gensim/test/test_data/bgwiki*"])[0].suffix == ".bz2"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        find_files([str(tmp_path / "*.bz2")])
