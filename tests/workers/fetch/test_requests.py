"""How the pairs that are to be asked for are cut into lists."""

from collections import defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.base.contracts import ANSWERS, PAIRS
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table
from workers.fetch.requests import AnsweredShard, write_requests


def requested(folder, captions_of, size, files=3):
    """The lists for so many captions of each URL, as rows."""
    rows = [
        {"pair_id": make_pair_id(url, caption), "url": url, "caption": caption, "source": "a@0"}
        for url, count in captions_of.items()
        for caption in (f"caption {n}" for n in range(count))
    ]
    rows.sort(key=lambda row: row["pair_id"])
    part = -(-len(rows) // files)
    pairs = []
    for number in range(files):
        pairs.append(folder / f"pairs-{number}.parquet")
        some = [row | {"query_ids": [0]} for row in rows[number * part : (number + 1) * part]]
        write_table(pa.Table.from_pylist(some, PAIRS), pairs[-1])
    out = folder / "lists"
    out.mkdir()
    tally = write_requests(pairs, [], [], out, size)["pairs"]
    assert tally.kept == len(rows)
    lists = [pq.read_table(path).to_pylist() for path in sorted(out.iterdir())]
    found = sorted((row["pair_id"], row["url"], row["caption"]) for some in lists for row in some)
    assert found == [(row["pair_id"], row["url"], row["caption"]) for row in rows]
    return lists


@pytest.mark.parametrize("size", [1, 4, 10, 25, 1000])
def test_all_captions_of_a_url_are_on_one_list(tmp_path, size):
    counts = {f"http://a.example/{n}.png": 1 + n % 7 for n in range(40)}
    lists = requested(tmp_path, counts, size)
    lists_of = defaultdict(set)
    for number, some in enumerate(lists):
        for row in some:
            lists_of[row["url"]].add(number)
    assert {len(numbers) for numbers in lists_of.values()} == {1}
    assert all(len(some) <= size + max(counts.values()) for some in lists)
    assert len(lists) >= sum(counts.values()) / (size + max(counts.values()))


@pytest.mark.parametrize("files", [1, 3, 30])
def test_a_url_of_more_captions_than_a_list_has_rows_has_a_list_of_its_own_size(tmp_path, files):
    counts = {f"http://a.example/{n}.png": 1 for n in range(60)} | {"http://a.example/logo.png": 90}
    lists = requested(tmp_path, counts, 10, files)
    logos = [sum(row["url"].endswith("logo.png") for row in some) for some in lists]
    assert sorted(logos) == [*[0] * (len(lists) - 1), 90]
    assert all(len(some) <= 20 for some in lists if len(some) < 90)


@pytest.mark.parametrize("has_image", [0, 7, 16, 20, 23, 47])
def test_a_list_says_which_shard_has_the_image_of_a_caption_that_it_does_not_have(
    tmp_path, has_image
):
    """Also where the captions of a URL, here the third, are in two files of pairs."""
    pair_ids = sorted(
        make_pair_id(f"http://a.example/{n}.png", f"caption {caption}")
        for n in range(6)
        for caption in range(8)
    )
    rows = [
        {"pair_id": pair_id, "url": pair_id[:16], "caption": pair_id}
        | {"source": "a@0", "query_ids": [0]}
        for pair_id in pair_ids
    ]
    pairs = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, some in zip(pairs, (rows[:20], rows[20:]), strict=True):
        write_table(pa.Table.from_pylist(some, PAIRS), path)
    images, answers, lists = (tmp_path / name for name in ("images", "answers", "lists"))
    write_table(pa.table({"pair_id": [pair_ids[has_image]]}), images)
    write_table(ANSWERS.empty_table(), answers)
    lists.mkdir()
    write_requests(pairs, [AnsweredShard("has it", images, answers, 2)], [], lists, 1000)
    (path,) = lists.iterdir()
    asked = pq.read_table(path).to_pylist()
    url = pair_ids[has_image][:16]
    assert [(row["pair_id"], row["image_in"]) for row in asked] == [
        (pair_id, "has it" if pair_id[:16] == url else None)
        for pair_id in pair_ids
        if pair_id != pair_ids[has_image]
    ]
