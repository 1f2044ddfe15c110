"""The order of rows: the same for all workers, from wherever it is begun."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.order import (
    DataSettings,
    Hashes,
    LaneWindow,
    Order,
    Window,
    permutation,
)
from workers.base.failures import NeedsMendingError
from workers.embedding.tar_reader import Chunk


@dataclass(frozen=True)
class Shard:
    """Rows in chunks, whose images and captions are known by ``images`` and ``texts``."""

    sizes: tuple[int, ...]
    images: np.ndarray
    texts: np.ndarray

    @property
    def chunks(self):
        return [Chunk(number, number + 1) for number in range(len(self.sizes))]

    @property
    def starts(self):
        return np.cumsum([0, *self.sizes])

    def hashes(self, begin, end):
        return Hashes(self.images[begin:end], self.texts[begin:end], np.arange(end - begin + 1))


@dataclass(frozen=True)
class Shards:
    shards: tuple[Shard, ...]

    @cached_property
    def rows(self):
        return np.array([sum(shard.sizes) for shard in self.shards], np.int64)

    @cached_property
    def firsts(self):
        return np.cumsum([0, *self.rows])

    def shard(self, number):
        return self.shards[number]

    def numbers(self, order, lane, epoch, window):
        """The rows of a lane in a window, numbered over all shards."""
        segments = order.segments(epoch, *order.places(lane, window))
        parts = [np.arange(s.begin, s.end) + self.firsts[s.shard] for s in segments]
        return np.concatenate(parts)


def shards_of(sizes, images=None, texts=None):
    """Shards of chunks of these sizes; images and captions are all different if not given."""
    count = sum(map(sum, sizes))
    images = np.arange(count, dtype=np.uint64) if images is None else np.array(images, np.uint64)
    texts = np.arange(count, dtype=np.uint64) + 10**9 if texts is None else np.array(texts)
    ends = np.cumsum([sum(chunks) for chunks in sizes])
    starts = ends - [sum(chunks) for chunks in sizes]
    return Shards(
        tuple(
            Shard(tuple(chunks), images[a:b], texts[a:b].astype(np.uint64))
            for chunks, a, b in zip(sizes, starts, ends, strict=True)
        )
    )


def batches(index, order, epoch, lanes=None):
    """The batches of an epoch, of some of the lanes: lists of row numbers."""
    lanes = range(order.settings.lanes) if lanes is None else lanes
    for number in range(order.windows_per_epoch):
        window = order.window(epoch, number, lanes)
        rows = {
            lane: index.numbers(order, lane, epoch, number)[window.lanes[lane].rows]
            for lane in lanes
            if lane in window.lanes
        }
        for step in range(window.steps):
            yield np.concatenate([rows[lane][step] for lane in rows]).tolist()


def flat(lists):
    return list(chain.from_iterable(lists))


SIZES = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6).filter(
    lambda sizes: sum(map(sum, sizes))
)


@st.composite
def orders(draw, unique=False):
    sizes = draw(SIZES)
    count = sum(map(sum, sizes))
    chosen = DataSettings(
        batch_size=draw(st.integers(1, count)),
        lanes=draw(st.integers(1, 9)),
        shuffle_rows=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 3)),
        unique=unique,
    )
    few = st.lists(st.integers(0, draw(st.integers(1, 40))), min_size=count, max_size=count)
    index = shards_of(sizes, draw(few), 1000 + np.array(draw(few))) if unique else shards_of(sizes)
    return index, Order(index, chosen)


@given(orders(), st.integers(0, 5))
@settings(deadline=None)
def test_an_epoch_has_every_row_once_but_for_its_tail(case, epoch):
    index, order = case
    found = list(batches(index, order, epoch))
    size, count = order.settings.batch_size, int(index.rows.sum())
    assert len(found) == order.steps_per_epoch == count // size
    assert {len(batch) for batch in found} == {size}
    seen = sorted(row for batch in found for row in batch)
    assert len(set(seen)) == len(seen) == order.steps_per_epoch * size
    assert set(seen) <= set(range(count))


@given(orders())
@settings(deadline=None)
def test_a_step_is_in_one_window_and_none_is_much_shorter_than_the_others(case):
    _, order = case
    firsts = [order.first_step(number) for number in range(order.windows_per_epoch + 1)]
    assert firsts[0] == 0
    assert firsts[-1] == order.steps_per_epoch
    lengths = np.diff(firsts)
    assert lengths.max() - lengths.min() <= 1
    assert lengths.max() * order.settings.batch_size <= max(
        order.settings.shuffle_rows, order.settings.batch_size
    )
    for step in range(order.steps_per_epoch):
        assert firsts[order.window_of(step)] <= step < firsts[order.window_of(step) + 1]


@given(st.booleans().flatmap(orders), st.integers(0, 3))
@settings(deadline=None)
def test_workers_have_the_same_batches_whatever_their_number(case, epoch):
    index, order = case
    whole = list(batches(index, order, epoch))
    for workers in (1, 2, 3, 4, 8):
        lanes = [order.lanes_of(rank, workers) for rank in range(workers)]
        parts = [
            list(batches(index, order, epoch, part))
            for part in lanes
            if any(map(order.lane_size, part))
        ]
        assert [flat(step) for step in zip(*parts, strict=True)] == whole


def first_batches(index, **changed):
    chosen = DataSettings(batch_size=16, lanes=4, shuffle_rows=64)
    order = Order(index, replace(chosen, **changed))
    return [list(batches(index, order, epoch)) for epoch in (0, 1)]


def test_epochs_and_seeds_differ_and_leave_out_other_rows():
    index = shards_of([[20, 20, 5]] * 3)
    (first, second), (other, _) = first_batches(index), first_batches(index, seed=1)
    assert first_batches(index) == [first, second]
    assert first != second
    assert first != other
    left_out = [set(range(135)) - set(flat(epoch)) for epoch in (first, second, other)]
    assert [len(rows) for rows in left_out] == [7, 7, 7]
    assert left_out[0] != left_out[1]
    assert left_out[0] != left_out[2]


def test_shards_their_chunks_and_rows_are_each_permuted_by_seed_and_epoch():
    many_shards, many_chunks = shards_of([[1]] * 40), shards_of([[1] * 40])
    one_chunk = shards_of([[40]])

    def order(index, seed):
        return Order(index, DataSettings(batch_size=40, lanes=1, seed=seed))

    drawn = [
        (
            tuple(s.shard for s in order(many_shards, seed).segments(epoch, 0, 40)),
            tuple(s.chunk for s in order(many_chunks, seed).segments(epoch, 0, 40)),
            tuple(order(one_chunk, seed).window(epoch, 0, [0]).lanes[0].rows[0].tolist()),
        )
        for seed, epoch in ((0, 0), (1, 0), (0, 1))
    ]
    for permutations in zip(*drawn, strict=True):
        assert len(set(permutations)) == 3
        assert all(sorted(some) == list(range(40)) for some in permutations)


def test_draws_of_a_row_differ_by_epoch_seed_and_content_and_not_by_its_place():
    index, turned = (
        shards_of([[8]]),
        shards_of([[3, 5]], np.arange(8)[::-1], np.arange(8)[::-1] + 10**9),
    )

    def squares(index, seed, epoch):
        order = Order(index, DataSettings(batch_size=8, lanes=1, seed=seed))
        plan = order.window(epoch, 0, [0]).lanes[0]
        return dict(zip(plan.image_hashes.tolist(), plan.squares.tolist(), strict=True))

    drawn = squares(index, 0, 0)
    assert len(set(drawn.values())) == 8
    assert all(0 <= square < 1 for square in drawn.values())
    assert squares(turned, 0, 0) == drawn
    assert not set(squares(index, 0, 1).values()) & set(drawn.values())
    assert not set(squares(index, 1, 0).values()) & set(drawn.values())


def test_draws_are_even():
    index = shards_of([[10_000]])
    plan = Order(index, DataSettings(batch_size=10_000, lanes=1)).window(0, 0, [0]).lanes[0]
    counts, _ = np.histogram(plan.squares, bins=10, range=(0, 1))
    assert counts.min() > 850
    assert counts.max() < 1150
    order = permutation(10_000, "any")
    assert sorted(order.tolist()) == list(range(10_000))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_one_of_several_captions_is_drawn_as_often_as_another():
    class Several(Shard):
        def hashes(self, begin, end):
            captions = np.arange(3 * begin, 3 * end, dtype=np.uint64)
            return Hashes(self.images[begin:end], captions, 3 * np.arange(end - begin + 1))

    (shard,) = shards_of([[3000]]).shards
    index = Shards((Several(shard.sizes, shard.images, shard.texts),))
    plan = Order(index, DataSettings(batch_size=3000, lanes=1)).window(0, 0, [0]).lanes[0]
    assert plan.caption_hashes.tolist() == (np.arange(3000) * 3 + plan.captions).tolist()
    assert np.bincount(plan.captions, minlength=3).min() > 850


def test_an_order_is_the_same_for_ever():
    """Trainings go on from checkpoints: this may change only by a decision to break them."""
    index = shards_of([[5, 4], [7]])
    order = Order(index, DataSettings(batch_size=4, lanes=3, shuffle_rows=8, seed=7))
    assert flat(batches(index, order, 2)) == [5, 0, 9, 4, 6, 1, 10, 11, 8, 2, 12, 14, 7, 3, 15, 13]
    assert np.round(order.window(2, 0, [0]).lanes[0].squares, 6).tolist() == [0.686909, 0.090226]


@pytest.mark.parametrize("step", [0, 1_000_000])
def test_where_a_training_goes_on_makes_no_difference_to_what_it_reads(step):
    opened = list[int]()

    class Watched(Shards):
        def shard(self, number):
            opened.append(number)
            return super().shard(number)

    index = Watched(shards_of([[64, 64]] * 200).shards)
    order = Order(index, DataSettings(batch_size=64, lanes=4, shuffle_rows=512))
    epoch, rest = divmod(step, order.steps_per_epoch)
    order.window(epoch, order.window_of(rest), range(4))
    assert len(opened) <= 4 * 2 * 3  # each lane has 128 rows of a window: two or three shards


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"batch_size": 19}, "18 rows .* less than one batch of 19"), ({"lanes": 0}, "begin with 1")],
)
def test_what_makes_no_batch_is_refused(changed, message):
    with pytest.raises(NeedsMendingError, match=message):
        Order(shards_of([[18]]), replace(DataSettings(batch_size=4), **changed))


@pytest.mark.parametrize(("unique", "expected"), [(False, [2, 4, 3, 5, 1]), (True, [2, 4])])
def test_who_stands_for_a_row_is_of_another_batch_if_possible_and_clashes_with_none(
    unique, expected
):
    """Of three steps: row 3 has the image of row 1, and row 5 the caption of row 0."""
    images, captions = [0, 1, 2, 1, 4, 5], [10, 11, 12, 13, 14, 10]
    of_lane = LaneWindow(
        np.arange(6).reshape(3, 2),
        np.zeros(6),
        np.zeros(6, np.int64),
        np.array(images, np.uint64),
        np.array(captions, np.uint64),
    )
    window = Window(3, {0: of_lane}, unique=unique)
    assert list(window.substitutes(0, step=0, slot=0)) == expected


def clashes(index, found):
    """Rows of a batch with their like in it."""
    images = np.concatenate([shard.images for shard in index.shards])
    texts = np.concatenate([shard.texts for shard in index.shards])
    kinds = (images, texts)
    return sum(len(found) - len(np.unique(of[found])) for of in kinds)


@given(orders(unique=True), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_no_image_and_no_caption_is_twice_in_a_batch_unless_it_is_counted(case, epoch):
    index, order = case
    lanes = range(order.settings.lanes)
    windows = [order.window(epoch, number, lanes) for number in range(order.windows_per_epoch)]
    found = list(batches(index, order, epoch))
    assert {len(batch) for batch in found} == {order.settings.batch_size}
    left = sum(window.clashing for window in windows)
    together = sum(clashes(index, batch) for batch in found)
    assert (together == 0) == (left == 0)
    assert left <= together <= 2 * left
    again = len(flat(found)) - len(set(flat(found)))
    assert again <= sum(window.replaced for window in windows)


def test_rows_change_places_before_any_is_replaced():
    """Every caption is there eight times in a row, as captions are in a crawl."""
    index = shards_of([[512]], texts=np.arange(512) // 8)
    chosen = DataSettings(batch_size=16, lanes=4, shuffle_rows=512, unique=True)
    order = Order(index, chosen)
    window = order.window(0, 0, range(4))
    assert (window.replaced, window.clashing) == (0, 0)
    found = list(batches(index, order, 0))
    assert sum(clashes(index, batch) for batch in found) == 0
    assert sorted(flat(found)) == list(range(512))
    plain = Order(index, replace(chosen, unique=False))
    assert sum(clashes(index, batch) for batch in batches(index, plain, 0)) > 20


def test_where_a_caption_fills_the_window_others_stand_for_its_rows():
    index = shards_of([[64]], texts=[n * (n % 8 < 3) for n in range(64)])
    order = Order(index, DataSettings(batch_size=8, lanes=2, shuffle_rows=64, unique=True))
    window = order.window(0, 0, range(2))
    assert window.clashing == 0
    assert window.replaced > 20
    assert sum(clashes(index, batch) for batch in batches(index, order, 0)) == 0


def test_one_caption_alone_is_counted_as_clashing():
    index = shards_of([[16]], texts=[0] * 16)
    order = Order(index, DataSettings(batch_size=4, lanes=1, shuffle_rows=16, unique=True))
    window = order.window(0, 0, [0])
    assert (window.replaced, window.clashing) == (0, 12)
