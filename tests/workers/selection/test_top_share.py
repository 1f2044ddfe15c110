"""Where the largest end, against sorting."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.selection.top_share import (
    DRAW_BITS,
    FLOAT_BITS,
    border_of_largest,
    draw_keys,
    float_keys,
)

FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 0.25, 0.2500000298023224, np.inf, -np.inf, np.nan]),
    st.floats(width=32),
)
VALUES = arrays(np.float32, st.integers(0, 40), elements=FLOATS)
DRAWS = arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1, exclude_max=True))


@settings(max_examples=300, deadline=None)
@given(values=VALUES, wanted=st.integers(0, 40), cut=st.integers(0, 40))
def test_the_border_is_that_of_sorting_in_any_order(values, wanted, cut):
    wanted = min(wanted, len(values))
    for parts in ([values], [values[cut:], values[:cut]], [values[::-1]]):
        batches = [float_keys(part) for part in parts]
        border = border_of_largest(partial(list, batches), FLOAT_BITS, lambda _: wanted)
        if not wanted:
            assert border is None
            continue
        assert border is not None
        keys = np.sort(np.concatenate(batches))[::-1]
        assert border.key == keys[wanted - 1]
        assert border.equal == (keys == border.key).sum()
        assert border.inside == wanted - (keys > border.key).sum()


def test_keys_have_the_order_of_the_floats():
    values = np.array([np.nan, -np.inf, -1, -1e-45, 0, 1e-45, 0.25, 1, np.inf], np.float32)
    assert np.all(np.diff(float_keys(values).astype(np.int64)) > 0)
    assert len(set(float_keys(np.array([0.0, -0.0], np.float32)).tolist())) == 1


@settings(max_examples=200, deadline=None)
@given(draws=DRAWS)
def test_the_smallest_draw_has_the_largest_key(draws):
    in_order = draw_keys(np.sort(draws)).astype(np.int64)
    assert np.all(np.diff(in_order) <= 0)
    border = border_of_largest(lambda: [draw_keys(draws)], DRAW_BITS, lambda _: 1)
    assert border is not None
    assert border.key == in_order[0]


def test_the_border_of_many_is_that_of_partition():
    values = np.random.default_rng(0).normal(0, 0.1, 100_001).astype(np.float32)
    for wanted in (100, 30_000, 50_000, 100_001):
        border = border_of_largest(
            lambda: map(float_keys, np.array_split(values, 7)),
            FLOAT_BITS,
            {len(values): wanted}.__getitem__,
        )
        first = len(values) - wanted
        assert border is not None
        assert border.key == float_keys(np.partition(values, first)[first : first + 1])[0]


@pytest.mark.parametrize("wanted", [0, 1])
def test_of_nothing_nothing_is_large(wanted):
    assert border_of_largest(list, FLOAT_BITS, lambda keys: min(wanted, keys)) is None
