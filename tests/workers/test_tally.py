import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tally import SAMPLES_PER_REASON, LostRowsError, Tally


def test_counts_by_reason_balance():
    tally = Tally()
    tally.keep(3)
    tally.reject("too_short", "a", {"caption": "x"})
    tally.fail("http_404", "b", {"url": "u"})
    tally.check()
    assert tally.counts() == {
        "in": 5,
        "kept": 3,
        "rejected": {"too_short": 1},
        "failed": {"http_404": 1},
    }
    assert tally.samples["too_short"] == {"a": {"caption": "x"}}


def test_a_lost_row_is_refused():
    tally = Tally(rows_in=2, kept=1)
    with pytest.raises(LostRowsError, match="2 rows in, but 1 kept"):
        tally.check()


@given(st.lists(st.text(max_size=3), unique=True, max_size=80), st.integers(1, 5))
def test_samples_do_not_depend_on_the_order_or_the_parts(keys, parts):
    whole = Tally()
    for key in keys:
        whole.reject("reason", key, {"key": key})
    split = [Tally() for _ in range(parts)]
    for index, key in enumerate(reversed(keys)):
        split[index % parts].reject("reason", key, {"key": key})
    total = Tally.total(split)
    assert total.counts() == whole.counts()
    assert total.samples == whole.samples
    assert sorted(whole.samples.get("reason", {})) == sorted(keys)[:SAMPLES_PER_REASON]
