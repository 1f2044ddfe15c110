import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.base.storage import write_json
from workers.base.tally import SAMPLES_PER_REASON, LostRowsError, Tally


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


ROWS = st.tuples(st.text("abc", max_size=2), st.fixed_dictionaries({"n": st.integers(0, 3)}))


@given(st.data(), st.lists(ROWS, max_size=80), st.integers(1, 5))
def test_samples_are_a_function_of_the_set_of_rows(data, rows, parts):
    """Whatever the order of arrival, the parts, and how often a row is met."""
    whole = Tally()
    for key, row in rows:
        whole.reject("reason", key, row)
    split = [Tally() for _ in range(parts)]
    for index, (key, row) in enumerate(data.draw(st.permutations(rows))):
        split[index % parts].reject("reason", key, row)
    total = Tally.total(split)
    assert total.counts() == whole.counts()
    assert total.samples == whole.samples
    chosen = sorted({key for key, _ in rows})[:SAMPLES_PER_REASON]
    assert whole.samples.get("reason", {}) == {
        key: min((row for name, row in rows if name == key), key=str) for key in chosen
    }
    at_once = Tally()
    at_once.reject_many("reason", len(rows), rows)
    assert at_once.samples.get("reason", {}) == whole.samples.get("reason", {})


def test_a_sample_is_short_and_can_be_written_whatever_the_row(tmp_path):
    tally = Tally()
    for number in range(100):
        text = f"{number:03d}" + "x" * 1_000_000
        tally.fail("broken", text, {"url": text, "caption": "lone \udce9", "width": number})
    write_json(tally.samples, tmp_path / "sample.json")
    assert (tmp_path / "sample.json").stat().st_size < 50_000
    row = Tally.total([tally, tally]).samples["broken"]["000" + "x" * 997 + "..."]
    assert row == {"url": "000" + "x" * 997 + "...", "caption": "lone \\udce9", "width": 0}
