"""Tables of pairs: what is said of those that are dropped."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from workers.base.contracts import PAIRS
from workers.base.tally import SAMPLES_PER_REASON, Tally
from workers.pairs.tables import reject_rows

ROWS = st.fixed_dictionaries(
    {
        "pair_id": st.text("abcde", min_size=1, max_size=2),
        "url": st.sampled_from(["http://a/?utm_source=x", "http://a/"]),
        "caption": st.just("a cat"),
        "page_url": st.sampled_from([None, "http://p/"]),
        "source": st.sampled_from(["a.warc@0", "a.warc@10", "b.warc@7"]),
        "query_ids": st.just([1]),
    }
)


@given(st.data(), st.lists(ROWS, max_size=150), st.integers(1, 4))
def test_the_sample_does_not_depend_on_how_rows_are_cut_into_tables(data, rows, parts):
    whole, cut = Tally(), [Tally() for _ in range(parts)]
    reject_rows(whole, "no_query", pa.Table.from_pylist(rows, PAIRS))
    shuffled = data.draw(st.permutations(rows))
    for number, tally in enumerate(cut):
        reject_rows(tally, "no_query", pa.Table.from_pylist(shuffled[number::parts], PAIRS))
    total = Tally.total(cut)
    assert total.counts() == whole.counts()
    assert total.samples == whole.samples
    keys = sorted({f"{row['pair_id']} {row['source']}" for row in rows})
    assert sorted(whole.samples.get("no_query", {})) == keys[:SAMPLES_PER_REASON]
