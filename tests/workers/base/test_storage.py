import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.base.contracts import DATASET, PAIRS, embeddings_schema
from workers.base.pair_ids import make_pair_id
from workers.base.sampling import draw
from workers.base.storage import remove_leftovers, replacing, write_table, write_text


def _leaf_codecs(path):
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return {column.path_in_schema: column.compression for column in columns}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "shard"
    path.write_text("old")

    def write_and_fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path):
    path = tmp_path / "run.json"
    with replacing(path) as one:
        with replacing(path) as other:
            other.write_text("the other's")
            one.write_text("one's, and longer")
        assert path.read_text() == "the other's"
    assert path.read_text() == "one's, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_hidden_from_readers_and_removed(tmp_path):
    write = replacing(tmp_path / "00000.parquet")
    left = write.__enter__()  # and never ended
    left.write_bytes(b"half")
    assert left.name.startswith(".")
    assert left.suffix == ".parquet"
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_makes_way_and_loses_nothing(tmp_path, caplog):
    path = tmp_path / "run.json"
    for content in ([], ["notes"]):
        path.unlink(missing_ok=True)
        path.mkdir()
        for name in content:
            (path / name).touch()
        write_text("{}", path)
        assert path.read_text() == "{}"
    (aside,) = tmp_path.glob("run.json.aside-*")
    assert (aside / "notes").exists()
    assert aside.name in caplog.text


def test_pixels_and_embeddings_are_not_compressed_and_text_is(tmp_path):
    row = {"set": "s", "label": "cat", "probability": 0.5}
    embeddings = pa.table(
        {
            "pair_id": ["a"],
            "image_embedding": [[1.0, 0.0]],
            "text_embedding": [[0.0, 1.0]],
            "similarity": [0.0],
            "image_hash": [0],
            "labels": [[row]],
        },
        schema=embeddings_schema(2, labels=True),
    )
    write_table(embeddings, tmp_path / "e.parquet")
    codecs = _leaf_codecs(tmp_path / "e.parquet")
    assert codecs["image_embedding.list.element"] == "UNCOMPRESSED"
    assert codecs["labels.list.element.label"] == "ZSTD"
    assert pq.read_table(tmp_path / "e.parquet").equals(embeddings)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    rows = [
        {"pair_id": str(i), "url": "u", "caption": "c", "source": "s", "query_ids": [i]}
        for i in range(600)
    ]
    table = pa.Table.from_pylist(rows, schema=PAIRS)
    write_table(table, tmp_path / "a.parquet")
    write_table(table, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 3


def test_the_data_set_has_what_the_contract_says():
    assert DATASET.names == [
        "pair_id",
        "jpg",
        "caption",
        "url",
        "page_url",
        "query_ids",
        "similarity",
        "labels",
        "width",
        "height",
    ]


def test_pair_ids_are_of_content_and_stable():
    assert make_pair_id("http://a/b.png", "a cat") == "822ecdcddc9b4cb58618f97309ed1ae4"
    assert make_pair_id("http://a/b.png", "a cat") != make_pair_id("http://a/b.png", "a dog")
    assert make_pair_id("ab", "c") != make_pair_id("a", "bc")


def test_all_captions_of_a_url_follow_each_other_in_the_order_of_pair_ids():
    urls = [f"http://a/{n}.png" for n in range(100)]
    ids = sorted((make_pair_id(url, f"a cat {n}"), url) for url in urls for n in range(5))
    assert [url for _, url in ids[::5]] == [url for _, url in ids[4::5]]
    assert len({pair_id for pair_id, _ in ids}) == 500
    with_tracking = make_pair_id("http://a/1.png?utm_source=b", "a cat")
    assert with_tracking == make_pair_id("http://a/1.png", "a cat")


def test_draws_are_uniform_and_functions_of_seed_and_key():
    draws = [draw(0, "pair", number) for number in range(10_000)]
    assert draws == [draw(0, "pair", number) for number in range(10_000)]
    assert all(0 <= value < 1 for value in draws)
    for decile in range(10):
        share = sum(decile <= 10 * value < decile + 1 for value in draws) / len(draws)
        assert 0.085 < share < 0.115
    assert draw(0, 1) != draw(1, 1)
    assert draw(0, "a", "b") != draw(0, "ab")
