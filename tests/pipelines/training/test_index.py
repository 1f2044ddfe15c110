"""What is known of shards before a training: which rows count, and where they are."""

import hashlib
import json
import os
import shutil
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.training.held_out import is_held_out
from pipelines.training.index import (
    Failure,
    Index,
    ShardIndex,
    open_shard_index,
    write_shard_index,
)
from pipelines.training.order import DataSettings, Order
from tests.shards import images, write_dataset, write_tar
from workers.base.opt_outs import Kind, OptOuts
from workers.base.tally import Tally
from workers.embedding.samples import ShardError
from workers.embedding.settings import InputSettings
from workers.embedding.shard_reader import read_chunk
from workers.embedding.tar_reader import Chunk


def index_of(shards, folder, **changed):
    chosen = {name: changed.pop(name) for name in ("seed", "held_out") if name in changed}
    return Index.of(shards, folder, DataSettings(batch_size=1, **chosen), **changed)


def rows_of(index):
    """The rows that are trained on, read again by their places."""
    for number, path in enumerate(index.shards):
        shard = index.shard(number)
        for at, chunk in enumerate(shard.chunks):
            samples = list(read_chunk(path, chunk, index.source))
            for row in shard.rows[shard.starts[at] : shard.starts[at + 1]]:
                yield samples[row]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The first two hold 30 rows in five chunks, the third is a tar."""
    folder = tmp_path_factory.mktemp("shards")
    pairs = list(images(45))
    for number in range(2):
        path = folder / f"0000{number}.parquet"
        write_dataset(pairs[15 * number : 15 * number + 15], path)
        pq.write_table(pq.read_table(path), path, row_group_size=6)
    members = [
        member
        for number, (caption, jpg) in enumerate(pairs[30:])
        for member in ((f"{number}.jpg", jpg), (f"{number}.txt", caption.encode()))
    ]
    return [*sorted(folder.glob("*.parquet")), write_tar(members, folder / "00002.tar")]


def test_every_row_is_kept_in_its_place_or_held_out(shards, tmp_path):
    index = index_of(shards, tmp_path, held_out=0.3, seed=5)
    pairs = dict(images(45))
    expected = [c for c, jpg in pairs.items() if not is_held_out(jpg, 5, 0.3)]
    assert [row.text for row in rows_of(index)] == expected
    assert index.rows.sum() == index.tally.kept == len(expected)
    assert index.tally.rejected == {"held_out": 45 - len(expected)}
    index.tally.check()
    assert 20 < len(expected) < 40
    others = index_of(shards, tmp_path, held_out=0.3, seed=6)
    assert [row.text for row in rows_of(others)] != expected
    whole = index_of(shards, tmp_path)
    assert [row.text for row in rows_of(whole)] == list(pairs)


def test_a_pair_of_two_shards_comes_twice_an_epoch_and_never_twice_in_a_batch(shards, tmp_path):
    """As where the best pairs are given to a training once more; both are held out, or neither."""
    best = tmp_path / "best" / shards[0].name
    best.parent.mkdir()
    shutil.copyfile(shards[0], best)
    index = index_of([*shards, best], tmp_path, held_out=0.3, seed=5)
    seen = Counter(row.text for row in rows_of(index))
    twice = {row.text for row in rows_of(index_of([best], tmp_path, held_out=0.3, seed=5))}
    assert 5 < len(twice) < 15
    assert {text for text, times in seen.items() if times == 2} == twice
    assert seen.total() == len(seen) + len(twice)

    def together(unique):
        """Rows of 20 epochs' batches whose image is in the batch already."""
        order = Order(index, DataSettings(batch_size=6, lanes=2, shuffle_rows=60, unique=unique))
        windows = [order.window(epoch, 0, range(2)) for epoch in range(20)]
        batches = [
            np.concatenate([lane.image_hashes[lane.rows[step]] for lane in window.lanes.values()])
            for window in windows
            for step in range(window.steps)
        ]
        return sum(len(batch) - len(set(batch)) for batch in batches)

    assert (together(unique=True), together(unique=False) > 10) == (0, True)


def test_an_index_is_made_once_and_never_taken_for_another(shards, tmp_path):
    def made(**changed):
        before = set(tmp_path.iterdir())
        index_of(shards, tmp_path, **changed)
        return len(set(tmp_path.iterdir()) - before)

    listed = OptOuts.of([(Kind.PAIR_ID, "0" * 32)])
    assert made() == 3
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert made() == made(seed=3) == made(opt_outs=[OptOuts.none()]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert made(held_out=0.5) == made(held_out=0.5, seed=3) == made(held_out=0.6) == 3
    assert made(opt_outs=[listed]) == 3
    assert made(source=InputSettings(text_column="caption")) == 3
    contents = ["a" * 64, "b" * 64, "c" * 64]
    assert made(contents=contents) == 3
    os.utime(shards[0])
    assert made(contents=contents) == 0
    assert made() == 1


def test_a_damaged_index_is_made_again(shards, tmp_path):
    index = index_of(shards[:1], tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert index_of(shards[:1], tmp_path).tally == index.tally
        assert file.read_bytes() == whole


def test_rows_that_lack_a_part_are_failed_and_those_of_lists_of_captions_are_not(tmp_path):
    columns = {
        "key": ["whole", "no image", "no caption", "two captions", "a number in it"],
        "jpg": [b"a", None, b"c", b"d", b"e"],
        "caption": [["one"], ["two"], None, ["three", "four"], ["five", None]],
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    index = index_of([path], tmp_path / "index")
    assert [row.id for row in rows_of(index)] == ["whole", "two captions"]
    assert index.tally.failed == {"no_image": 1, "no_caption": 1, "bad_caption": 1}
    index.tally.check()
    shard = index.shard(0)
    assert shard.first_captions.tolist() == [0, 1, 3]
    assert shard.images[0] == int.from_bytes(hashlib.sha256(b"a").digest()[:8], "little")


def test_captions_that_differ_in_spaces_and_capitals_are_one(tmp_path):
    path = tmp_path / "a.parquet"
    texts = ["A  heron ", "a heron", "a hero n"]
    pq.write_table(pa.table({"jpg": [b"a", b"b", b"c"], "caption": texts}), path)
    first, second, third = index_of([path], tmp_path / "index").shard(0).captions.tolist()
    assert first == second != third


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_rows_of_opt_outs_are_left_out_whatever_names_them(tmp_path, kind):
    names = ["url", "page", "domain", "sum", "hash", "file", "kept"]
    rows = [
        {"url": f"https://Here.example/{name}.jpg?utm_source=x", "page_url": None, "image_hash": 0}
        for name in names
    ]
    rows[1]["page_url"] = "http://pages.example/a"
    rows[2]["url"] = "http://www.away.example/a.jpg"
    rows[4]["image_hash"] = 2**63 + 1
    rows[5]["url"] = "file:///a.jpg"
    if kind == "parquet":
        about = {name: [row[name] for row in rows] for name in rows[0]}
        about["image_hash"] = pa.array(about["image_hash"], pa.uint64())
        path = tmp_path / "a.parquet"
        jpgs = [name.encode() for name in names]
        pq.write_table(pa.table({"key": names, "jpg": jpgs, "caption": names, **about}), path)
    else:
        members = []
        for name, row in zip(names, rows, strict=True):
            content = json.dumps(row | {"caption": name}).encode()
            members += [(f"{name}.jpg", name.encode()), (f"{name}.json", content)]
        path = write_tar(members, tmp_path / "a.tar")
    listed = OptOuts.of(
        [
            (Kind.URL, "here.example/url.jpg"),
            (Kind.URL, "pages.example/a"),
            (Kind.DOMAIN, "away.example"),
            (Kind.SHA256, hashlib.sha256(b"sum").hexdigest()),
            (Kind.URL, "file:///a.jpg"),
        ]
    )
    taken_down = OptOuts.of([(Kind.IMAGE_HASH, str(2**63 + 1))], "taken_down")
    index = index_of([path], tmp_path / "index", opt_outs=[listed, taken_down])
    assert [row.id for row in rows_of(index)] == ["kept"]
    assert index.tally.rejected == {"opted_out": 5, "taken_down": 1}
    assert not any(index.tally.samples.values())  # what nobody may use is not shown


def test_a_pair_that_was_taken_down_is_left_out_of_a_data_set(shards, tmp_path):
    pair_id = pq.read_table(shards[0])["pair_id"][3].as_py()
    listed = OptOuts.of([(Kind.PAIR_ID, pair_id)], "taken_down")
    index = index_of(shards[:1], tmp_path, opt_outs=[listed])
    assert index.tally.rejected == {"taken_down": 1}
    assert pair_id not in [row.id for row in rows_of(index)]


def test_a_damaged_shard_is_an_error_that_names_it(shards, tmp_path):
    whole = shards[0].read_bytes()
    path = tmp_path / "broken.parquet"
    path.write_bytes(whole[:3000] + bytes(4000) + whole[7000:])
    with pytest.raises(ShardError, match=r"broken\.parquet"):
        index_of([*shards, path], tmp_path / "index")
    path.write_bytes(whole[:-9])
    with pytest.raises(ShardError, match=r"broken\.parquet"):
        index_of([*shards, path], tmp_path / "index")


def test_a_million_rows_are_on_the_disk_and_not_in_memory(tmp_path):
    rows, numbers = 100_000, np.arange(100_000)
    chunks = [Chunk(number, number + 1) for number in range(rows // 250)]
    files = []
    for number in range(10):
        images = np.random.default_rng(number).integers(0, 2**63, rows).astype(np.uint64)
        shard = ShardIndex(
            chunks,
            np.arange(0, rows + 1, 250),
            (numbers % 250).astype(np.int32),
            images,
            images,
            np.arange(rows + 1, dtype=np.int32),
        )
        files.append(tmp_path / f"{number}.arrow")
        write_shard_index(shard, Tally(rows, rows), files[-1])
    assert sum(file.stat().st_size for file in files) > 20e6
    open_shard_index.cache_clear()
    tracemalloc.start()
    allocated = pa.total_allocated_bytes()
    index = Index(tuple(files), tuple(files), np.full(10, rows), Tally(10 * rows, 10 * rows))
    order = Order(index, DataSettings(batch_size=256, shuffle_rows=2048))
    for window in (0, 1, 200, 400):
        order.window(3, window, range(8))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - allocated < 1e6
    assert held < 4e6
    assert peak < 6e6


def test_rows_whose_image_was_none_are_not_kept(shards, tmp_path):
    index = index_of(shards, tmp_path)
    total = index.account({(0, 3): Failure("a", "truncated", "truncated: at byte 3")})
    total.check()
    assert (total.rows_in, total.kept, total.failed) == (45, 44, {"truncated": 1})
    assert index.tally.kept == 45


def test_shards_without_rows_are_an_index_without_rows(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"jpg": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}
    pq.write_table(pa.table(columns), path)
    empty = write_tar([], tmp_path / "b.tar")
    index = index_of([path, empty], tmp_path / "index")
    assert index.rows.tolist() == [0, 0]
    assert len(index.shard(0).rows) == len(index.shard(1).rows) == 0
