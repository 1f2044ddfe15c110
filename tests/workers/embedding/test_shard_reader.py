import gzip
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import write_tar
from workers.embedding import tar_reader
from workers.embedding.samples import Sample, ShardError, failure_reason
from workers.embedding.settings import InputSettings
from workers.embedding.shard_reader import list_chunks, read_chunk, read_shard


def read(path, **settings):
    return list(read_shard(path, InputSettings(**settings)))


def write_columns(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "identity"),
    [
        ({"key": ["7"], "jpg": [b"x"], "caption": ["a"]}, "7"),
        ({"__key__": ["7"], "png": [b"x"], "txt": ["a"]}, "7"),
        ({"uid": [7], "image": [{"bytes": b"x", "path": None}], "text": ["a"]}, "7"),
        ({"webp": [b"x"], "caption": ["a"], "width": [1]}, "00000/000000000"),
    ],
)
def test_the_columns_of_other_peoples_parquet_are_recognised(tmp_path, columns, identity):
    path = write_columns(tmp_path / "00000.parquet", **columns)
    assert read(path) == [Sample(identity, b"x", "a")]


def test_columns_can_be_named_and_what_is_missing_is_said(tmp_path):
    path = write_columns(tmp_path / "a.parquet", name=["n"], photo=[b"x"], french=["chien"])
    with pytest.raises(ShardError, match=r"no column jpg or .*it has name, photo, french"):
        read(path)
    names = {"id_column": "name", "image_column": "photo", "text_column": "french"}
    assert read(path, **names) == [Sample("n", b"x", "chien")]
    assert read(path, parts="images", image_column="photo") == [Sample("a/000000000", b"x", None)]
    with pytest.raises(ShardError, match="no column nom;"):
        read(path, **names | {"id_column": "nom"})
    (row,) = read(path, image_column="french", text_column="french")
    assert row.image_problem == "the image is a str, not bytes: 'chien'"


def test_a_tar_of_img2dataset_gives_its_rows(tmp_path):
    rows = [("000000001", b"one", "first"), ("000000002", b"two", "zwölf")]
    members = []
    for key, image, caption in rows:
        members += [
            (f"{key}.jpg", image),
            (f"{key}.json", json.dumps({"caption": "from JSON"}).encode()),
            (f"{key}.txt", caption.encode()),
        ]
    path = write_tar(members, tmp_path / "00000.tar")
    assert read(path) == [Sample(*row) for row in rows]
    assert read(path, parts="texts") == [Sample(key, None, text) for key, _, text in rows]
    compressed = write_tar(members, tmp_path / "00000.tar.gz", "w:gz")
    assert read(compressed) == read(path)


def test_a_tars_captions_may_stand_in_json_and_its_rows_have_gaps(tmp_path):
    members = [
        ("a/1.png", b"x"),
        ("a/1.json", b'{"caption": "one", "alt": "other"}'),
        ("b/1.seg.png", b"y"),
        ("b/1.webp", b"z"),
        ("c/2.json", b"not json"),
        ("c/3.jpg", b"x"),
        ("c/3.json", b'{"caption": null}'),
    ]
    path = write_tar(members, tmp_path / "00000.tar")
    assert read(path) == [
        Sample("a/1", b"x", "one"),
        Sample("b/1", b"z", None),
        Sample("c/2", None, None),
        Sample("c/3", b"x", None),
    ]
    named = read(path, text_column="alt", image_column="seg.png")
    assert named[:2] == [Sample("a/1", None, "other"), Sample("b/1", b"y", None)]


@pytest.mark.parametrize(
    "keys",
    [
        ["22.05", "22.06", "22.07"],  # numbers with a point
        ["v1.2024-06-01", "v1.2024-06-02"],
        ["a/0", "b/0", "a.b/0.5"],
    ],
)
def test_every_row_of_a_tar_is_read_whatever_its_name(tmp_path, keys):
    members = []
    for number, key in enumerate(keys):
        members += [(f"{key}.jpg", b"%d" % number), (f"{key}.txt", f"text {number}".encode())]
    rows = [Sample(key, b"%d" % n, f"text {n}") for n, key in enumerate(keys)]
    assert read(write_tar(members, tmp_path / "00000.tar")) == rows


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_row_of_a_link_is_a_row_that_lacks_a_part(tmp_path, kind):
    path = write_tar([("0.jpg", b"x"), ("0.txt", b"a")], tmp_path / "00000.tar")
    with tarfile.open(path, "a") as tar:
        for name in ("1.jpg", "2.jpg"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "0.jpg"
            tar.addfile(link)
    rows = [Sample("0", b"x", "a"), Sample("1", None, None), Sample("2", None, None)]
    assert read(path) == rows


def test_members_that_are_not_side_by_side_are_rows_that_lack_a_part(tmp_path):
    members = [("0.jpg", b"x"), ("1.jpg", b"y"), ("0.txt", b"a"), ("1.txt", b"b")]
    images = [Sample("0", b"x", None), Sample("1", b"y", None)]
    texts = [Sample("0#2", None, "a"), Sample("1#2", None, "b")]
    assert read(write_tar(members, tmp_path / "00000.tar")) == images + texts


def test_rows_of_one_name_have_each_an_identity(tmp_path):
    keys = ["0", "0", "0#2", "1", "0", "0#2"]  # one name again and again, and one that is made so
    members = []
    for number, key in enumerate(keys):
        members += [(f"{key}.jpg", b"%d" % number), (f"{key}.txt", f"text {number}".encode())]
    identities = ["0", "0#2", "0#2#2", "1", "0#3", "0#2#3"]
    rows = [Sample(name, b"%d" % n, f"text {n}") for n, name in enumerate(identities)]
    assert read(write_tar(members, tmp_path / "00000.tar")) == rows


NO_UTF8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
LATE = pa.array([2**60], pa.timestamp("ms"))  # no date of Python's


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ([1.5, None], "the image is a float"),
        ([{"path": "a.jpg"}, None], "the image is a dict"),
        ([{"bytes": [1, 2]}, None], "the image is a list"),
        ([[b"x"], None], "the image is a list"),
        (pa.concat_arrays([LATE, pa.nulls(1, LATE.type)]), r"the image is a \w+"),
    ],
)
def test_what_is_no_image_is_its_rows_problem(tmp_path, column, problem):
    path = write_columns(tmp_path / "a.parquet", key=["0", "1"], jpg=column, caption=["a", "b"])
    bad, empty = read(path)
    assert re.match(problem, bad.image_problem)
    assert (bad.id, bad.image, bad.text) == ("0", None, "a")
    assert empty == Sample("1", None, "b")


@pytest.mark.parametrize("kind", ["text", "list", "struct", "date"])
def test_a_value_that_python_cannot_have_costs_its_row_alone(tmp_path, kind):
    """Text that is not UTF-8, alone or in a list, and a date after the last of Python's."""
    bad = {
        "text": NO_UTF8,
        "list": pa.ListArray.from_arrays([0, 1], NO_UTF8),
        "struct": pa.StructArray.from_arrays([NO_UTF8], ["a"]),
        "date": LATE,
    }[kind]
    captions = pa.concat_arrays([bad, pa.nulls(1, bad.type)])
    path = write_columns(tmp_path / "a.parquet", key=["0", "1"], jpg=[b"x"] * 2, caption=captions)
    first, second = read(path)
    assert first.problem.startswith("the caption is a ")
    assert (first.text, first.image) == (None, b"x")
    assert second == Sample("1", b"x", None)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5, 0.7])
def test_a_tar_that_is_cut_off_is_an_error_and_no_shorter_shard(tmp_path, mode, share):
    members = [(f"{n}.jpg", np.random.default_rng(n).bytes(600)) for n in range(20)]
    ending = "tar" if mode == "w" else "tar.gz"
    path = write_tar(members, tmp_path / f"00000.{ending}", mode)
    assert len(read(path, parts="images")) == 20
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ShardError, match="not a whole tar file"):
        read(path, parts="images")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", ["two archives", "a damaged header"])
def test_what_stands_behind_an_end_or_a_damaged_header_is_not_lost_in_silence(tmp_path, mode, kind):
    members = [(f"{n}.jpg", bytes(30_000)) for n in range(3)]
    plain = write_tar(members, tmp_path / "plain.tar").read_bytes()
    if kind == "two archives":
        content = plain * 2
    else:  # of the second member
        at = plain.index(b"1.jpg")
        content = plain[:at] + b"X" + plain[at + 1 :]
    path = tmp_path / ("00000.tar" if mode == "w" else "00000.tar.gz")
    path.write_bytes(content if mode == "w" else gzip.compress(content))
    with pytest.raises(ShardError, match="of several archives in one, make a file each"):
        read(path, parts="images")


def test_a_gzip_by_the_name_of_a_tar_is_refused_by_name(tmp_path):
    path = write_tar([("0.jpg", b"x")], tmp_path / "00000.tar", "w:gz")
    with pytest.raises(ShardError, match="00000.tar is not a whole tar file"):
        read(path, parts="images")


def test_how_much_of_a_shard_has_been_read_is_told(tmp_path):
    rows = [(f"{number:03}", bytes(2_000), "a caption") for number in range(200)]
    members = [(f"{key}.jpg", jpg) for key, jpg, _ in rows]
    table = {"key": [key for key, _, _ in rows], "jpg": [jpg for _, jpg, _ in rows]}
    shards = [
        write_columns(tmp_path / "a.parquet", **table),
        write_tar(members, tmp_path / "a.tar"),
        write_tar(members, tmp_path / "a.tar.gz", "w:gz"),
    ]
    for shard in shards:
        told: list[float] = []
        for _ in read_shard(shard, InputSettings(parts="images"), told.append):
            pass
        assert told == sorted(told)
        assert 0 < told[0] <= 1
        assert 0.9 < told[-1] <= 1


def read_in_chunks(path, backwards=False, **settings):
    chunks = list_chunks(path)
    source = InputSettings(**settings)
    order = reversed(chunks) if backwards else chunks
    parts = [list(read_chunk(path, chunk, source)) for chunk in order]
    return [row for part in (reversed(parts) if backwards else parts) for row in part]


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["0", "1", "a/0", "0#2", "\udcff", "long/" * 30 + "0"]),
        st.sampled_from(["jpg", "txt", "json", "seg.png", ""]),
        st.binary(max_size=600),
    ),
    max_size=40,
)


@given(members=MEMBERS, rows=st.integers(1, 4), size=st.sampled_from([1, 2000, 1 << 20]))
@settings(deadline=None)
def test_the_chunks_of_a_tar_hold_its_rows_in_whatever_order_they_are_read(
    tmp_path_factory, members, rows, size
):
    path = tmp_path_factory.getbasetemp() / "00000.tar"
    write_tar([(f"{key}.{ending}", content) for key, ending, content in members], path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_reader, "CHUNK_ROWS", rows)
        patch.setattr(tar_reader, "CHUNK_BYTES", size)
        whole = read(path)
        assert read_in_chunks(path) == read_in_chunks(path, backwards=True) == whole
        assert len(list_chunks(path)) >= len(whole) / rows


def test_a_compressed_tar_is_one_chunk(tmp_path):
    members = [(f"{n}.jpg", b"x") for n in range(600)]
    plain = write_tar(members, tmp_path / "a.tar")
    compressed = write_tar(members, tmp_path / "a.tar.gz", "w:gz")
    assert [len(list_chunks(path)) for path in (plain, compressed)] == [3, 1]
    assert read_in_chunks(compressed) == read_in_chunks(plain) == read(plain)


def test_the_chunks_of_parquet_are_its_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"jpg": [b"%d" % n for n in range(10)], "caption": list("abcdefghij")})
    pq.write_table(table, path, row_group_size=4)
    assert len(list_chunks(path)) == 3
    assert read_in_chunks(path) == read_in_chunks(path, backwards=True) == read(path)
    assert read(path)[9].id == "a/000000009"


def test_a_chunk_brings_other_values_along_where_rows_have_them(tmp_path):
    columns = {"key": ["0"], "jpg": [b"x"], "caption": ["a"], "url": ["http://a/"]}
    parquet = write_columns(tmp_path / "a.parquet", **columns)
    about = json.dumps({"url": "http://a/", "caption": "a", "width": 1}).encode()
    tar = write_tar([("0.jpg", b"x"), ("0.json", about)], tmp_path / "a.tar")
    for path in (parquet, tar):
        (chunk,) = list_chunks(path)
        (row,) = read_chunk(path, chunk, InputSettings(), others=("url", "page_url"))
        assert (row.id, row.image, row.text) == ("0", b"x", "a")
        assert row.others == {"url": "http://a/"}


@pytest.mark.parametrize(
    ("captions", "texts", "reason"),
    [
        (["a", "b"], ("a", "b"), None),
        ([], (), "bad_caption"),
        (["a", None], (), "bad_caption"),
        ("a", (), None),
        (None, (), "no_caption"),
    ],
)
def test_a_list_of_captions_will_do_for_who_takes_several(tmp_path, captions, texts, reason):
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": ["0"], "jpg": [b"x"], "caption": [captions]}), parquet)
    about = json.dumps({"caption": captions}).encode()
    tar = write_tar([("0.jpg", b"x"), ("0.json", about)], tmp_path / "a.tar")
    for path, refused in ((parquet, reason), (tar, reason and "no_caption")):
        (row,) = read(path)
        assert row.texts == texts
        failure = failure_reason(row, InputSettings(), several=True)
        assert (failure and failure[0]) == refused
        if isinstance(captions, list):  # whoever takes one does not choose
            assert failure_reason(row, InputSettings())


@pytest.mark.parametrize("kind", ["parquet", "tar", "cut tar"])
def test_the_chunks_of_a_damaged_shard_are_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / f"00000.{kind.split()[-1]}"
    path.write_bytes(b"no shard" * 1000)
    if kind == "cut tar":
        write_tar([(f"{n}.jpg", bytes(3000)) for n in range(9)], path)
        path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ShardError, match="00000"):
        list_chunks(path)
