import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.calibrate import best_threshold

PAIRS = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=2, max_size=30
).filter(lambda pairs: len({wrong for _, wrong in pairs}) == 2)


def worth(pairs, threshold):
    kept = [wrong for similarity, wrong in pairs if np.float32(similarity) >= np.float32(threshold)]
    right = kept.count(False)
    all_right = sum(not wrong for _, wrong in pairs)
    return right / max(1, len(kept)), 2 * right / (len(kept) + all_right)


@given(PAIRS)
def test_no_threshold_of_its_digits_has_a_larger_f1(pairs):
    similarity, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    best = best_threshold(similarity.astype(np.float32), wrong, None)
    others = np.floor(similarity.astype(np.float64) * 1e4) / 1e4
    assert worth(pairs, best)[1] == pytest.approx(max(worth(pairs, one)[1] for one in others))


@given(PAIRS, st.sampled_from([0.5, 0.8, 1.0]))
def test_the_lowest_threshold_with_a_precision(pairs, precision):
    similarity, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    best = best_threshold(similarity.astype(np.float32), wrong, precision)
    others = np.floor(similarity.astype(np.float64) * 1e4) / 1e4
    reached = [one for one in others if worth(pairs, one)[0] >= precision]
    assert best == (min(reached) if reached else None)


def test_by_hand():
    similarity = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    wrong = np.array([False, False, True, False, True])
    assert best_threshold(similarity, wrong, None) == 0.6
    assert best_threshold(similarity, wrong, 1.0) == pytest.approx(0.8, abs=1e-4)
