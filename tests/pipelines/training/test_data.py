"""The stream of batches: the same for any number of workers and threads, from any step."""

import io
import logging
import threading
import tracemalloc
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_model import tokenize
from clip_model.preprocess import random_crop_bytes_transform
from pipelines.training import lanes
from pipelines.training.data import Stream
from pipelines.training.index import Index
from pipelines.training.order import DataSettings, Order
from tests.shards import images, write_tar
from workers.base.bucket import Bucket
from workers.base.copies import open_copy
from workers.base.failures import NeedsMendingError
from workers.base.pair_ids import make_pair_id
from workers.embedding import shard_reader
from workers.embedding.samples import ShardError

CHOSEN = DataSettings(batch_size=12, shuffle_rows=36, seed=3)
SIZE, LENGTH = 8, 16
WORKERS = (1, 2, 3, 4, 8)


def jpeg(number, size=(24, 10)):
    """Noise, so that each place of a crop shows."""
    levels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_shards(folder, pairs, rows=30, group=7):
    """Parquet shards of (caption, JPEG) pairs."""
    folder.mkdir(exist_ok=True)
    paths = []
    for begin in range(0, len(pairs), rows):
        captions, jpgs = zip(*pairs[begin : begin + rows], strict=True)
        ids = [make_pair_id(f"http://a/{caption}", caption) for caption in captions]
        table = pa.table({"pair_id": ids, "jpg": jpgs, "caption": captions})
        paths.append(folder / f"{begin:05}.parquet")
        pq.write_table(table, paths[-1], row_group_size=group)
    return paths


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """100 rows in three Parquet shards and a tar."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [(f"the picture of number {number}", jpeg(number)) for number in range(100)]
    members = []
    for number, (caption, jpg) in enumerate(pairs[80:]):
        members += [(f"{number}.jpg", jpg), (f"{number}.txt", caption.encode())]
    shards = [*write_shards(folder, pairs[:80]), write_tar(members, folder / "00003.tar")]
    return Index.of(shards, folder / "index", CHOSEN)


def stream_of(index, chosen=CHOSEN, **options):
    return Stream(index, chosen, preprocessing=SIZE, context_length=LENGTH, **options)


def take(stream, count, start=0):
    with closing(stream.batches(start)) as batches:
        return [next(batches) for _ in range(count)]


def joined(parts):
    """A global batch of its workers' parts."""
    firsts = np.cumsum([0, *parts[0].sizes])
    assert [part.first for part in parts] == firsts[:-1].tolist()
    assert [len(part.ids) for part in parts] == list(parts[0].sizes)
    ids = [row for part in parts for row in part.ids]
    return ids, torch.cat([p.images for p in parts]), torch.cat([p.tokens for p in parts])


@pytest.fixture(scope="module")
def one_worker(index):
    """Three epochs of eight steps."""
    return [joined([batch]) for batch in take(stream_of(index, threads=1), 24)]


def assert_same(found, expected):
    for (ids, pixels, tokens), (other_ids, other_pixels, other_tokens) in zip(
        found, expected, strict=True
    ):
        assert ids == other_ids
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(tokens, other_tokens)


@given(workers=st.sampled_from(WORKERS), threads=st.integers(1, 3), start=st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_batches_are_the_same_for_all_workers_and_threads_from_any_step(
    index, one_worker, workers, threads, start
):
    streams = [
        stream_of(index, rank=rank, world_size=workers, threads=threads) for rank in range(workers)
    ]
    parts = [take(stream, 4, start) for stream in streams]
    found = [joined(step) for step in zip(*parts, strict=True)]
    assert_same(found, one_worker[start : start + 4])


def test_every_row_is_in_an_epoch_once_but_for_its_tail(index, one_worker):
    stream = stream_of(index)
    assert stream.steps_per_epoch == 8
    epochs = [[row for ids, _, _ in one_worker[e : e + 8] for row in ids] for e in (0, 8, 16)]
    assert [len(set(epoch)) for epoch in epochs] == [96, 96, 96]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(epochs[0]) | set(epochs[1])) > 96  # another tail is left out


def test_another_seed_gives_other_batches_and_other_squares(index, one_worker):
    other = stream_of(index, replace(CHOSEN, seed=4))
    found = [joined([batch]) for batch in take(other, 8)]
    assert [ids for ids, _, _ in found] != [ids for ids, _, _ in one_worker[:8]]
    ours, others = (
        {i: p for ids, px, _ in s for i, p in zip(ids, px, strict=True)}
        for s in (one_worker[:8], found)
    )
    both = ours.keys() & others.keys()
    assert sum(torch.equal(ours[row], others[row]) for row in both) < len(both) / 2


def test_images_are_the_squares_that_were_drawn_and_tokens_the_captions(index, one_worker):
    """Against the parts alone: the order, the reader and the crop."""
    order, files = Order(index, CHOSEN), lanes.Files(index)
    crop, ids, pixels, tokens = random_crop_bytes_transform(SIZE), [], [], []
    window = order.window(0, 0, range(8))
    for lane in range(8):
        rows = [row for s in order.segments(0, *order.places(lane, 0)) for row in files.rows(s)]
        drawn = window.lanes[lane]
        for number in drawn.rows[1]:
            ids.append(rows[number].id)
            pixels.append(crop(rows[number].image, drawn.squares[number]))
            tokens.append(tokenize(rows[number].captions[0], LENGTH, truncate=True)[0])
    assert_same([(ids, torch.stack(pixels), torch.stack(tokens))], one_worker[1:2])
    squares = np.concatenate([plan.squares for plan in window.lanes.values()])
    assert squares.min() < 0.2 < 0.8 < squares.max()


def test_a_training_a_million_steps_old_reads_one_window(index, monkeypatch):
    read = list[int]()

    def watched(*arguments):
        read.append(1)
        return shard_reader.read_chunk(*arguments)

    monkeypatch.setattr(lanes, "read_chunk", watched)
    counts = []
    for start in (0, 1_000_000 // 8 * 8):  # the first steps of an epoch
        take(stream_of(index), 1, start)
        counts.append(len(read))
        read.clear()
    windows = 2  # the one that is given, and the next
    assert max(counts) <= windows * 8 * 3  # 36 rows of a window are 4 or 5 of each of 8 lanes


@pytest.mark.parametrize("kind", ["list", "json"])
def test_one_of_several_captions_is_taken_and_another_in_other_epochs(tmp_path, kind):
    texts = [[f"first {number}", f"second {number}"] for number in range(24)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [jpeg(n) for n in range(24)], "caption": texts}), path)
    index = Index.of([path], tmp_path / "index", CHOSEN)
    stream = stream_of(index)
    epochs = [take(stream, 2, start) for start in (0, 2)]
    starts = tokenize(["first", "second"])[:, 1].tolist()
    found = [
        {row: int(words[1]) for b in batches for row, words in zip(b.ids, b.tokens, strict=True)}
        for batches in epochs
    ]
    assert set(found[0].values()) == set(found[1].values()) == set(starts)
    assert found[0] != found[1]


def test_no_caption_is_twice_in_a_batch_of_a_stream(tmp_path):
    pairs = [(f"caption {number // 3}", jpeg(number)) for number in range(96)]
    paths = write_shards(tmp_path, pairs)
    chosen = replace(CHOSEN, unique=True, shuffle_rows=96, lanes=4)
    index = Index.of(paths, tmp_path / "index", chosen)
    stream, half = stream_of(index, chosen), stream_of(index, chosen, rank=1, world_size=2)
    batches = take(stream, 8)
    assert [len({tuple(row) for row in batch.tokens.tolist()}) for batch in batches] == [12] * 8
    assert (stream.replaced, stream.clashing) == (0, 0)
    assert [batch.ids for batch in take(half, 8)] == [batch.ids[6:] for batch in batches]
    plain = take(stream_of(index, replace(chosen, unique=False)), 8)
    assert min(len({tuple(row) for row in b.tokens.tolist()}) for b in plain) < 12


BROKEN = {7: b"no image", 30: jpeg(30)[:200], 31: b""}


@pytest.fixture(scope="module")
def broken_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    pairs = [(f"caption {number}", BROKEN.get(number, jpeg(number))) for number in range(48)]
    return Index.of(write_shards(folder, pairs), folder / "index", CHOSEN)


@pytest.mark.parametrize("unique", [False, True])
def test_a_row_that_does_not_decode_is_named_once_and_another_takes_its_place(
    broken_index, unique, caplog
):
    chosen = replace(CHOSEN, unique=unique, shuffle_rows=48)
    stream = stream_of(broken_index, chosen)
    with caplog.at_level(logging.WARNING):
        batches = take(stream, 12)
    pairs = pq.read_table(broken_index.shards[0])["pair_id"].to_pylist()
    second = pq.read_table(broken_index.shards[1])["pair_id"].to_pylist()
    names = {pairs[7], second[0], second[1]}
    assert {failure.id for failure in stream.failures.values()} == names
    assert len(caplog.records) == 3
    assert {len(batch.ids) for batch in batches} == {12}
    assert not names & {row for batch in batches for row in batch.ids}
    assert {len(set(batch.ids)) for batch in batches} == {12}  # of another batch of the window
    total = broken_index.account(stream.failures)
    total.check()
    assert (total.rows_in, total.kept) == (48, 45)
    assert total.failed.total() == 3

    for workers, start in ((2, 0), (3, 5), (8, 9)):
        streams = [
            stream_of(broken_index, chosen, rank=r, world_size=workers) for r in range(workers)
        ]
        parts = [take(stream, 3, start) for stream in streams]
        found = [joined(step)[0] for step in zip(*parts, strict=True)]
        assert found == [batch.ids for batch in batches[start : start + 3]]


def test_a_window_without_any_image_is_an_error(tmp_path):
    paths = write_shards(tmp_path, [(f"caption {n}", b"no image") for n in range(24)])
    index = Index.of(paths, tmp_path / "index", CHOSEN)
    with pytest.raises(NeedsMendingError, match="[0-9a-f]{32}: no image decodes"):
        take(stream_of(index), 1)
    assert not loaders()


def loaders():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("data")]


def test_threads_end_when_the_stream_is_closed(index):
    batches = stream_of(index, threads=3).batches(5)
    next(batches)
    assert loaders()
    batches.close()
    assert not loaders()


@pytest.mark.parametrize("what", ["images", "captions", "fewer rows", "damaged"])
def test_a_shard_that_is_not_what_was_indexed_is_an_error_that_names_it(tmp_path, what):
    (path,) = write_shards(tmp_path, list(images(30)))
    index = Index.of([path], tmp_path / "index", CHOSEN)
    changed = {
        "images": [(caption, jpeg(1)) for caption, _ in images(30)],
        "captions": [(f"{caption}!", jpg) for caption, jpg in images(30)],
        "fewer rows": list(images(20)),
        "damaged": list(images(30)),
    }[what]
    write_shards(tmp_path, changed)
    if what == "damaged":
        path.write_bytes(path.read_bytes()[:-1000])
    message = "cannot be read as Parquet" if what == "damaged" else "has changed since"
    with pytest.raises(ShardError, match=rf"00000\.parquet.*{message}"):
        take(stream_of(index), 2)
    assert not loaders()


def test_more_workers_than_lanes_are_refused(index):
    with pytest.raises(NeedsMendingError, match="9 workers share 8 lanes"):
        stream_of(index, rank=0, world_size=9)
    with pytest.raises(NeedsMendingError, match="4 workers share 8 lanes of batches of 3 rows"):
        stream_of(index, replace(CHOSEN, batch_size=3), world_size=4)


def test_what_the_taker_waited_is_told(index):
    stream = stream_of(index)
    take(stream, 3)
    waited = stream.waited
    assert waited > 0
    take(stream, 3)
    assert stream.waited > waited


def test_shards_of_a_bucket_are_here_only_while_they_are_read(store, tmp_path):
    url = f"{store.new_bucket()}/runs/one"
    paths = write_shards(tmp_path, [(f"caption {number}", jpeg(number)) for number in range(90)])
    bucket = Bucket(url)
    for path in paths:
        bucket.write(f"dataset/{path.name}", path.read_bytes(), None)
    copy = open_copy(url)
    copy.look(lambda name: False)
    shards = [copy.root / "dataset" / path.name for path in paths]
    index = Index.of(shards, tmp_path / "index", CHOSEN)

    def here():
        return [path.name for path in shards if path.exists()]

    assert not here()
    local = Index.of(paths, tmp_path / "index", CHOSEN)
    chosen = replace(CHOSEN, lanes=2)
    with closing(stream_of(index, chosen).batches()) as batches:
        found = [next(batches).ids for _ in range(6)]
        assert len(here()) <= 2 + 1
    assert not here()
    assert found == [batch.ids for batch in take(stream_of(local, chosen), 6)]


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path):
    """What Python holds at most: images of noise of 3 kB, a window of 64."""
    pairs = [(f"caption {number}", jpeg(number, (40, 40))) for number in range(32)]
    chosen = DataSettings(batch_size=16, lanes=2, shuffle_rows=64)
    peaks = []
    for times in (9, 18):  # the index of 64 shards is kept open
        folder = tmp_path / str(times)
        index = Index.of(write_shards(folder, pairs * times, 4), folder / "index", chosen)
        stream = stream_of(index, chosen, threads=1)
        take(stream, stream.steps_per_epoch)  # what is loaded once, and paths' own caches
        tracemalloc.start()
        take(stream, stream.steps_per_epoch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(index.shards) == 18 * 8
    assert peaks[0] > 64 * 1000
    assert peaks[1] < 1.3 * peaks[0]
