"""Three nights of `python -m benchmarks.nights`; ten, and kills, are a command."""

import gzip
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.nights.__main__ import go, of_sample, table
from benchmarks.nights.remains import Remains
from benchmarks.nights.site import GrowingSite
from benchmarks.nights.standing import Standing, asked_again

IMAGES = 120


def test_pages_and_images_come_change_and_go_on_the_same_nights_always():
    nights = range(1, 6)
    one, other = (
        [site.on(night).answers for night in nights]
        for site in (GrowingSite(8931, len(nights), IMAGES) for _ in range(2))
    )
    assert one == other
    for before, after in pairwise(one):
        both = before.keys() & after.keys()
        assert {before[key] == after[key] for key in both} == {True, False}
    assert all(after.keys() - before.keys() for before, after in pairwise(one))
    assert any(before.keys() - after.keys() for before, after in pairwise(one))


def test_a_run_that_grows_fetches_and_embeds_nothing_twice(tmp_path):
    nights = of_sample(tmp_path, 3, IMAGES)
    go(nights)
    assert not nights.faults, "\n".join(nights.faults)
    assert sum(night.new for night in nights.nights) > 20
    assert len(list(table(nights))) == 2 + len(nights.nights)


def test_who_asks_again_is_found():
    before = Standing(pairs={}, there={"a": "u/a"}, final={"f": "u/f"}, rows=0)
    after = Standing(pairs={"a": "u/a", "n": "u/n"}, there={}, final={}, rows=0)
    assert asked_again({"u/n", "u/other"}, before, after) == []
    assert asked_again({"u/a", "u/f", "u/n"}, before, after) == ["u/a", "u/f"]
    corrected = Standing(pairs={"a": "u/a", "b": "u/a"}, there={}, final={}, rows=0)
    assert asked_again({"u/a"}, before, corrected) == []


def test_what_remains_is_found_whatever_it_is_packed_in(tmp_path):
    (tmp_path / "images").mkdir()
    urls = [f"http://{host}.example:1/p" for host in ("two", "one", "two")]
    images = [b"own" * 200, b"shared" * 100, b"shared" * 100]
    pq.write_table(pa.table({"url": urls, "jpg": images}), tmp_path / "images/0.parquet")
    remains = Remains.of(tmp_path, "two.example")
    assert remains.images == {b"own" * 200}
    pq.write_table(pa.table({"pixels": [b"own" * 200]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"pixels": [b"shared" * 100], "id": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "c.gz").write_bytes(gzip.compress(urls[0].encode()))
    (tmp_path / "d.warc").write_bytes(b"-" + b"own" * 200)
    (tmp_path / "e.txt").write_text(urls[1])
    assert remains.find(tmp_path) == ["a.parquet", "c.gz", "d.warc", "images/0.parquet"]
