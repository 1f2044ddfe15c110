"""The cut of the largest share, against sorting."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.selection.top_share import least_of_top

FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 0.25, 0.2500000298023224, np.inf, -np.inf, np.nan]),
    st.floats(width=32),
)
VALUES = arrays(np.float32, st.integers(0, 40), elements=FLOATS)


@settings(max_examples=300, deadline=None)
@given(values=VALUES, share=st.floats(0, 1), cut=st.integers(0, 40))
def test_the_cut_is_that_of_sorting_in_any_order(values, share, cut):
    wanted = round(share * len(values))
    ordered = sorted(values, key=lambda v: -np.inf if np.isnan(v) else v, reverse=True)
    numbers = [value for value in ordered if not np.isnan(value)]
    expected = numbers[:wanted][-1] if wanted and numbers else np.inf
    for parts in ([values], [values[cut:], values[:cut]], [values[::-1]]):
        least = least_of_top(partial(list, parts), share)
        stays = np.concatenate(parts) >= least
        np.testing.assert_array_equal(stays, np.concatenate(parts) >= expected)


def test_the_cut_of_many_is_that_of_partition():
    values = np.random.default_rng(0).normal(0, 0.1, 100_001).astype(np.float32)
    for share in (0.001, 0.3, 0.5, 1.0):
        first = len(values) - round(share * len(values))
        least = least_of_top(lambda: np.array_split(values, 7), share)
        assert least == np.partition(values, first)[first]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nothing_and_nan_never_stay(share):
    assert least_of_top(lambda: [], share) == np.inf
    values = np.full(4, np.nan, np.float32)
    assert not (values >= least_of_top(lambda: [values], share)).any()
