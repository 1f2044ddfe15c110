"""Readers of labelled data sets, on files that the tools of each format have written."""

import gzip
import io
import json
import os
import struct

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_model.image_files import decode_image
from pipelines.evaluation.sources import FORMATS, SourceError, find_splits, open_source
from pipelines.evaluation.sources.datacomp import DATACOMP, datacomp_name
from tests.image_samples import encoded
from tests.shards import jpeg, write_tar

NAMES = ("red", "green", "blue")
PICTURES = [jpeg(name, size=(8, 8)) for name in NAMES]


def read(format, options, split="test", **arguments):
    return list(open_source(format, options, split, **arguments).items())


def error_of(format, options, split="test", **arguments):
    """The one line that is said at opening, or at reading if nothing is wrong till then."""
    with pytest.raises(SourceError) as caught:
        read(format, options, split, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opening_error(format, options, split="test", **arguments):
    with pytest.raises(SourceError) as caught:
        open_source(format, options, split, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def levels_of(item):
    return np.asarray(decode_image(item.image))


# Folders


@pytest.fixture
def make_folder(tmp_path):
    def make(names, content=PICTURES[0]):
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return {"path": str(tmp_path / "data")}

    return make


def test_a_folder_s_classes_are_its_folders_by_name_whatever_the_depth(make_folder):
    options = make_folder(["dog/b.jpg", "cat/x/y/a.PNG", "cat/b.webp", "ape/.b.jpg", "dog/t.txt"])
    source = open_source("folder", options, "test")
    assert source.classes == ("cat", "dog")
    assert [(item.id, item.labels) for item in source.items()] == [
        ("cat/b.webp", (0,)),
        ("cat/x/y/a.PNG", (0,)),
        ("dog/b.jpg", (1,)),
    ]
    assert {item.image for item in source.items()} == {PICTURES[0]}
    assert [path.name for path in source.files] == ["b.webp", "a.PNG", "b.jpg"]
    assert find_splits("folder", options) == ()


def test_classes_have_the_same_numbers_in_all_splits_though_one_lacks_a_class(make_folder):
    options = make_folder(["train/ape/a.jpg", "train/cat/a.jpg", "val/cat/b.jpg", "val/dog/b.jpg"])
    assert find_splits("folder", options) == ("val", "train")
    train, val = (open_source("folder", options, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("ape", "cat", "dog")
    assert [item.labels for item in val.items()] == [(1,), (2,)]
    assert "has no split 'test': it has val, train" in opening_error("folder", options)


def test_a_class_of_vehicles_called_train_is_no_split(make_folder):
    options = make_folder(["train/a.jpg", "test/a.jpg", "car/a.jpg"])
    assert find_splits("folder", options) == ()
    assert open_source("folder", options, "test").classes == ("car", "test", "train")
    options = make_folder(["train/old/a.jpg"])
    assert open_source("folder", options, "test").classes == ("car", "test", "train")


def test_a_split_that_is_alone(make_folder):
    options = make_folder(["val/cat/a.jpg", ".git/x/y.jpg"])
    assert find_splits("folder", options) == ("val",)
    assert open_source("folder", options, "val").classes == ("cat",)


def test_a_picture_beside_the_class_folders_has_no_label_and_an_empty_file_no_picture(make_folder):
    make_folder(["cat/a.jpg", "b.jpg"])
    items = read("folder", make_folder(["cat/empty.jpg"], b""))
    assert [(item.id, item.reason) for item in items] == [
        ("b.jpg", "no_label"),
        ("cat/a.jpg", None),
        ("cat/empty.jpg", "no_image"),
    ]


def test_given_names_go_by_what_folders_are_called_or_by_their_order(make_folder):
    options = make_folder(["cat/a.jpg", "dog/a.jpg"])
    by_name = read("folder", options, classes=["dog", ("kitten", "cat"), "ape"])
    assert [item.labels for item in by_name] == [(1,), (0,)]
    by_order = open_source("folder", options, "test", classes=["a kitten", "a puppy"])
    assert by_order.classes == ("a kitten", "a puppy")
    assert [item.labels for item in by_order.items()] == [(0,), (1,)]
    said = opening_error("folder", options, classes=["a", "b", "c"])
    assert "folders of 2 classes, and 3 class names" in said


def test_a_link_to_a_folder_above_does_not_turn_in_circles(make_folder, tmp_path):
    options = make_folder(["cat/a.jpg"])
    (tmp_path / "data/cat/again").symlink_to(tmp_path / "data")
    assert [item.id for item in read("folder", options)] == ["cat/a.jpg"]


def test_a_file_name_that_is_no_utf8_can_be_written(make_folder, tmp_path):
    options = make_folder(["cat/a.jpg"])
    (tmp_path / "data/cat/a.jpg").rename(tmp_path / "data/cat" / os.fsdecode(b"\xff.jpg"))
    (item,) = read("folder", options)
    assert item.id == r"cat/\xff.jpg"
    assert item.image == PICTURES[0]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "there is no folder"),
        (["a.jpg"], "no folders of classes with pictures in them (it has files such as a.jpg)"),
        (["cat/a.gif.zip"], "make a folder for each class; pictures end with .avif, "),
    ],
)
def test_a_folder_without_classes_is_refused(make_folder, names, says):
    assert says in opening_error("folder", make_folder(names))


# Tars


def write_webdataset(path, rows, **options):
    with webdataset.TarWriter(str(path), **options) as tar:
        for number, row in enumerate(rows):
            tar.write({"__key__": f"s{number:07d}", **row})
    return {"path": str(path)}


def test_rows_of_webdataset_s_writer(tmp_path):
    for file in range(2):
        rows = [{"jpg": PICTURES[number], "cls": number} for number in range(3)]
        write_webdataset(tmp_path / f"{file}.tar", rows)
    source = open_source("tar", {"path": str(tmp_path / "*.tar")}, "test")
    items = list(source.items())
    assert source.task == "classification"
    assert source.classes is None
    assert [item.labels for item in items] == [(0,), (1,), (2,)] * 2
    assert [item.image for item in items] == PICTURES * 2
    assert items[4].id == "1.tar/s0000001"
    assert len({item.id for item in items}) == 6


def test_labels_of_a_tar_that_are_names(tmp_path):
    rows = [{"jpg": PICTURES[0], "cls": name} for name in ("red", "7th", "blue")]
    options = write_webdataset(tmp_path / "a.tar", rows)
    source = open_source("tar", options, "test")
    assert source.classes == ("7th", "blue", "red")
    assert [item.labels for item in source.items()] == [(2,), (0,), (1,)]
    assert [item.labels for item in read("tar", options, classes=["red", "blue", "7th"])] == [
        (0,),
        (2,),
        (1,),
    ]
    assert "the label 'blue' is none of the 2 class names" in error_of(
        "tar", options, classes=["red", "7th"]
    )


def test_labels_and_captions_of_a_tar_may_stand_in_its_json(tmp_path):
    rows = [
        {"png": PICTURES[0], "json": {"label": 1, "alt": ["one", "two"]}},
        {"webp": PICTURES[1], "json": {"label": [0, 2], "alt": "three"}},
    ]
    options = write_webdataset(tmp_path / "a.tar", rows)
    assert [item.labels for item in read("tar", options)] == [(1,), (0, 2)]
    assert open_source("tar", options, "test").task == "multilabel"
    retrieval = options | {"caption": "alt"}
    assert open_source("tar", retrieval, "test").task == "retrieval"
    items = read("tar", retrieval)
    assert [item.captions for item in items] == [("one", "two"), ("three",)]
    both = read("tar", retrieval | {"label": "label"})
    assert [(item.labels, item.captions) for item in both[:1]] == [((1,), ("one", "two"))]


def test_a_row_that_lacks_a_part_costs_itself_and_is_not_lost(tmp_path):
    content = [
        ("a.jpg", PICTURES[0]),
        ("a.cls", b"1\n"),
        ("b.jpg", PICTURES[0]),
        ("c.cls", b"0"),
        ("d.jpg", PICTURES[0]),
        ("d.cls", b""),
        ("e.jpg", b""),
        ("e.cls", b"0"),
        ("f.jpg", PICTURES[0]),
        ("f.cls", b"-1"),
        ("g.jpg", PICTURES[0]),
        ("g.cls", b"1.5"),
        ("h.jpg", PICTURES[0]),
        ("h.cls", b"0"),
    ]
    path = write_tar(content, tmp_path / "a.tar")
    items = read("tar", {"path": str(path)}, classes=["x", "y"])
    reasons = {item.id: item.reason for item in items}
    assert reasons == {
        "a.tar/a": None,
        "a.tar/b": "no_label",
        "a.tar/c": "no_image",
        "a.tar/d": "no_label",
        "a.tar/e": "no_image",
        "a.tar/f": "no_label",
        "a.tar/g": "bad_label",
        "a.tar/h": None,
    }
    assert all(bool(item.problem) == bool(item.reason) for item in items)


def test_labels_that_are_numbers_and_names_are_refused_unless_the_classes_tell(tmp_path):
    rows = [{"jpg": PICTURES[0], "cls": label} for label in ("7", "A")]
    options = write_webdataset(tmp_path / "a.tar", rows)
    assert "some labels are numbers ('7') and some are not ('A')" in opening_error("tar", options)
    items = read("tar", options, classes=["A", "7"])
    assert [item.labels for item in items] == [(1,), (0,)]


def test_numbers_beyond_the_class_names_are_refused(tmp_path):
    options = write_webdataset(tmp_path / "a.tar", [{"jpg": PICTURES[0], "cls": 2}])
    assert error_of("tar", options, classes=["a", "b"]) == (
        "a.tar/s0000000: the label 2 is none of the 2 classes, which are numbered from 0: give a "
        "name for every class, or mend the labels"
    )


def test_compressed_tars_and_lists_of_files(tmp_path):
    (tmp_path / "y").mkdir()
    rows = [{"jpg": PICTURES[0], "cls": 0}]
    write_webdataset(tmp_path / "a.tar.gz", rows, compress=True)
    write_webdataset(tmp_path / "y/a.tar", rows)
    options = {"path": ["a.tar.gz", "y"]}
    items = read("tar", options, folder=tmp_path)
    assert [item.id for item in items] == ["a.tar.gz/s0000000", "y/a.tar/s0000000"]


def test_splits_are_found_where_the_path_has_their_place(tmp_path):
    for split in ("train", "validation"):
        write_webdataset(tmp_path / f"{split}-0.tar", [{"jpg": PICTURES[0], "cls": 0}])
    options = {"path": f"{tmp_path}/{{split}}-*.tar"}
    assert find_splits("tar", options) == ("validation", "train")
    assert [item.id for item in read("tar", options, "train")] == ["train-0.tar/s0000000"]
    assert find_splits("tar", {"path": str(tmp_path)}) == ()
    options = {"path": f"{tmp_path}/x/{{split}}.tar"}
    assert "no file for any of the splits test, t10k, val" in said_by(find_splits, "tar", options)


def said_by(call, *arguments):
    with pytest.raises(SourceError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("members", "keys", "says"),
    [
        (
            [("a.jpg", b"1")],
            {},
            "there is no caption or txt or text or alt_text or TEXT",
        ),
        ([("a.jpg", b"1")], {"label": "cls"}, "there is no cls; there are jpg"),
        ([("a.cls", b"1")], {}, "there is no jpg or jpeg or png or webp or image"),
        (
            [("a.tif", b"1"), ("a.cls", b"1")],
            {"image": "gif"},
            "there is no gif",
        ),
        ([], {}, "has no rows"),
    ],
)
def test_a_tar_without_what_is_needed_is_refused_at_once(tmp_path, members, keys, says):
    path = write_tar(members, tmp_path / "a.tar")
    assert says in opening_error("tar", {"path": str(path), **keys})


def test_a_broken_tar_and_a_pointer_of_git_lfs_are_named(tmp_path):
    path = tmp_path / "a.tar"
    write_webdataset(path, [{"jpg": PICTURES[0], "cls": 0}])
    path.write_bytes(path.read_bytes()[:1000])
    assert "not a whole tar file" in opening_error("tar", {"path": str(path)})
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    assert "run `git lfs pull`" in opening_error("tar", {"path": str(path)})


# CLIP_benchmark


@pytest.fixture
def make_benchmark(tmp_path):
    """As CLIP_benchmark's `convert_dataset` and `convert_retrieval_dataset` write."""

    def make(rows, kind=None, split="test", classes=NAMES, templates=("a {c}.", "{c}")):
        (tmp_path / split).mkdir(exist_ok=True)
        with webdataset.ShardWriter(f"{tmp_path}/{split}/%d.tar", maxcount=2) as sink:
            for number, row in enumerate(rows):
                sink.write({"__key__": f"s{number:07d}", **row})
        (tmp_path / split / "nshards.txt").write_text(
            f"{len(list((tmp_path / split).glob('*.tar')))}\n"
        )
        texts = {"classnames": classes, "zeroshot_classification_templates": templates}
        for name, lines in (texts | {"dataset_type": [kind] if kind else None}).items():
            if lines:
                (tmp_path / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        return {"path": str(tmp_path)}

    return make


def test_clip_benchmark_s_classification(make_benchmark):
    rows = [{"webp": PICTURES[number], "cls": number} for number in range(3)]
    options = make_benchmark(rows)
    make_benchmark(rows[:1], split="train")
    source = open_source("clip_benchmark", options, "test")
    assert source.classes == NAMES
    assert source.templates == ("a {}.", "{}")
    assert source.task == "classification"
    assert [path.name for path in source.files] == ["0.tar", "1.tar"]
    assert [(item.id, item.image, item.labels) for item in source.items()] == [
        ("0.tar/s0000000", PICTURES[0], (0,)),
        ("0.tar/s0000001", PICTURES[1], (1,)),
        ("1.tar/s0000002", PICTURES[2], (2,)),
    ]
    assert find_splits("clip_benchmark", options) == ("test", "train")
    own = open_source("clip_benchmark", options, "test", classes=["a", "b", "c"])
    assert own.classes == ("a", "b", "c")


def test_more_than_ten_shards_are_read_in_the_order_of_their_numbers(make_benchmark):
    options = make_benchmark([{"png": PICTURES[0], "cls": 0}] * 22)
    items = read("clip_benchmark", options)
    assert [item.id.split("/s")[1] for item in items] == [f"{n:07d}" for n in range(22)]


def test_clip_benchmark_s_multilabel(make_benchmark):
    rows = [{"jpg": PICTURES[0], "npy": np.array(flags)} for flags in ([1, 0, 1], [0, 0, 0])]
    source = open_source("clip_benchmark", make_benchmark(rows, "multilabel"), "test")
    assert source.task == "multilabel"
    items = list(source.items())
    assert [item.labels for item in items] == [(0, 2), ()]
    assert [item.reason for item in items] == [None, None]


def test_clip_benchmark_s_retrieval(make_benchmark):
    rows = [{"jpg": PICTURES[0], "txt": "one\ntwo"}, {"jpg": PICTURES[1], "txt": ""}]
    options = make_benchmark(rows, "retrieval", classes=None, templates=None)
    source = open_source("clip_benchmark", options, "test")
    assert (source.task, source.classes, source.templates) == ("retrieval", None, None)
    items = list(source.items())
    assert [item.captions for item in items] == [("one", "two"), ()]
    assert [item.reason for item in items] == [None, "no_caption"]


def test_metadata_beside_the_labels_are_not_taken_for_them(make_benchmark):
    """As in DataComp's WILDS sets."""
    rows = [{"jpg": PICTURES[0], "cls": 1, "npy": np.array([5, 2016])}]
    (item,) = read("clip_benchmark", make_benchmark(rows))
    assert item.labels == (1,)


def test_what_is_wrong_with_clip_benchmark_s_folder_is_said_at_once(make_benchmark, tmp_path):
    options = make_benchmark([{"png": PICTURES[0], "cls": 0}] * 3)

    def says(words):
        assert words in opening_error("clip_benchmark", options)

    (tmp_path / "classnames.txt").write_text("red\n\nblue\n")
    says("classnames.txt: line 2 is empty")
    (tmp_path / "classnames.txt").write_text("red\ngreen\n\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}\na photo\n")
    says("line 2 has no {c} for the class's name: 'a photo'")
    (tmp_path / "dataset_type.txt").write_text("audio\n")
    says("dataset_type.txt says 'audio': there are classification, multilabel, retrieval")
    (tmp_path / "test/1.tar").unlink()
    (tmp_path / "dataset_type.txt").unlink()
    says("lacks 1 of the 2 tars that nshards.txt counts, the first is 1.tar")
    (tmp_path / "test/nshards.txt").write_text("two")
    says("must hold the number of tars, and holds 'two'")
    (tmp_path / "test/nshards.txt").unlink()
    says("has no split 'test' with an nshards.txt in its folder: it is not CLIP_benchmark's")


# Parquet


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder of what `datasets` writes."""
    folder = tmp_path_factory.mktemp("hugging_face")
    pictures = [
        {"bytes": picture, "path": f"{name}.jpg"}
        for name, picture in zip(NAMES, PICTURES, strict=True)
    ]
    kinds = {
        "single": (datasets.ClassLabel(names=NAMES), [2, 0, 1]),
        "several": (datasets.Sequence(datasets.ClassLabel(names=NAMES)), [[2, 0], [], [1]]),
        "hidden": (datasets.ClassLabel(names=NAMES), [2, -1, None]),
    }
    for name, (feature, labels) in kinds.items():
        features = datasets.Features({"image": datasets.Image(), "label": feature})
        rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
        rows.to_parquet(str(folder / f"{name}.parquet"))
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))}
    )
    captions = [["one", "two"], ["three"], []]
    rows = datasets.Dataset.from_dict({"image": pictures, "caption": captions}, features=features)
    rows.to_parquet(str(folder / "captions.parquet"))
    return folder


def test_hugging_face_s_class_names_are_in_the_schema(hugging_face):
    source = open_source("parquet", {"path": str(hugging_face / "single.parquet")}, "test")
    assert (source.classes, source.task) == (NAMES, "classification")
    assert [(item.id, item.labels, item.image) for item in source.items()] == [
        ("single.parquet/000000000", (2,), PICTURES[0]),
        ("single.parquet/000000001", (0,), PICTURES[1]),
        ("single.parquet/000000002", (1,), PICTURES[2]),
    ]


def test_hugging_face_s_lists_of_labels(hugging_face):
    source = open_source("parquet", {"path": str(hugging_face / "several.parquet")}, "test")
    assert (source.classes, source.task) == (NAMES, "multilabel")
    items = list(source.items())
    assert [item.labels for item in items] == [(0, 2), (), (1,)]
    assert not any(item.reason for item in items)


@pytest.mark.parametrize(
    "feature",
    [
        {"names": NAMES, "_type": "ClassLabel"},
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"},
        [{"names": NAMES, "_type": "ClassLabel"}],
    ],
)
def test_class_names_as_releases_of_datasets_have_written_them(tmp_path, feature):
    info = {"info": {"features": {"label": feature, "image": {"_type": "Image"}}}}
    table = pa.table({"image": PICTURES, "label": [0, 1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source("parquet", {"path": str(tmp_path / "a.parquet")}, "test")
    assert source.classes == NAMES


def test_labels_that_are_not_told_cost_their_rows(hugging_face):
    items = read("parquet", {"path": str(hugging_face / "hidden.parquet")})
    assert [item.labels for item in items] == [(2,), (), ()]
    assert [item.reason for item in items] == [None, "no_label", "no_label"]


def test_hugging_face_s_captions(hugging_face):
    source = open_source("parquet", {"path": str(hugging_face / "captions.parquet")}, "test")
    assert (source.classes, source.task) == (None, "retrieval")
    items = list(source.items())
    assert [item.captions for item in items] == [("one", "two"), ("three",), ()]
    assert items[2].reason is not None


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return {"path": str(path)}


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (pa.array(["cat", "dog", "cat"]), ("cat", "dog"), [0, 1, 0]),
        (pa.array(["cat", "dog", "cat"]).dictionary_encode(), ("cat", "dog"), [0, 1, 0]),
        (pa.array([["dog", "cat"], ["ape"], []]), ("ape", "cat", "dog"), [(1, 2), (0,), ()]),
        (pa.array([3, 0, 1], pa.uint8()), None, [3, 0, 1]),
        (pa.array(["3", "0", "1"]), None, [3, 0, 1]),
        (pa.array([True, False, True]), None, [1, 0, 1]),
        (pa.array([1.0, float("nan"), 2.0]), None, [1, (), 2]),
    ],
)
def test_labels_of_every_type(tmp_path, labels, classes, numbers):
    options = write_parquet(tmp_path / "a.parquet", image=PICTURES, label=labels)
    source = open_source("parquet", options, "test")
    assert source.classes == classes
    expected = [number if isinstance(number, tuple) else (number,) for number in numbers]
    assert [item.labels for item in source.items()] == expected


def test_columns_by_name_and_the_classes_of_the_split_that_was_opened_first(tmp_path):
    write_parquet(tmp_path / "test.parquet", pixels=PICTURES, kind=["b", "c", "b"])
    write_parquet(tmp_path / "train.parquet", pixels=PICTURES[:1], kind=["c"])
    options = {"path": f"{tmp_path}/{{split}}.parquet", "image": "pixels", "label": "kind"}
    assert find_splits("parquet", options) == ("test", "train")
    test = open_source("parquet", options, "test")
    train = open_source("parquet", options, "train", classes=test.classes)
    assert [item.labels for item in train.items()] == [(1,)]


@pytest.mark.parametrize(
    ("columns", "keys", "says"),
    [
        ({"image": [b"1"], "label": [3]}, {}, "the label 3 is none of the 3 classes"),
        ({"image": [b"1"], "label": ["ape"]}, {}, "the column label holds no label"),
        ({"image": [b"1"], "label": [None]}, {}, "the column label holds no label"),
        ({"image": [b"1"], "label": [{"a": 1}]}, {}, "the column label is of struct<a: int64>"),
        ({"image": [b"1"], "x": [1]}, {}, "there is no caption or txt"),
        ({"image": [b"1"], "x": [1]}, {"label": "y"}, "there is no y; there are image, x"),
        ({"label": [1]}, {}, "there is no jpg or jpeg or png"),
    ],
)
def test_parquet_that_does_not_fit_is_refused_at_once(tmp_path, columns, keys, says):
    options = write_parquet(tmp_path / "a.parquet", **columns) | keys
    assert says in opening_error("parquet", options, classes=NAMES)


def test_rows_of_parquet_that_lack_a_part_are_not_lost(tmp_path):
    struct = pa.array([{"bytes": None, "path": "a.jpg"}, {"bytes": b"1", "path": None}, None])
    options = write_parquet(tmp_path / "a.parquet", image=struct, label=[1, 0.5, 1])
    assert [item.reason for item in read("parquet", options)] == [
        "no_image",
        "bad_label",
        "no_image",
    ]
    options = write_parquet(tmp_path / "a.parquet", image=["a text"], label=[1])
    assert [item.reason for item in read("parquet", options)] == ["bad_image"]


def test_parquet_files_of_one_set_have_the_same_columns(tmp_path):
    write_parquet(tmp_path / "a.parquet", image=PICTURES, label=[0, 1, 2])
    write_parquet(tmp_path / "b.parquet", image=PICTURES, cls=[0, 1, 2])
    options = {"path": str(tmp_path)}
    assert "b.parquet has other columns than" in opening_error("parquet", options)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 PAR1")
    assert "cannot be read as Parquet" in opening_error("parquet", options)


# Arrays


def idx(array, kind=0x08):
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.tobytes()


RAMP = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
TARGETS = np.array([2, 0, 1], dtype=np.uint8)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_as_torchvision_reads_them(tmp_path, packed):
    """The same files, read by torchvision's class."""
    write = gzip.compress if packed else bytes
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", RAMP), ("labels-idx1", TARGETS)):
            content = idx(array if part == "t10k" else array[:2])
            raw = tmp_path / "FashionMNIST/raw"
            raw.mkdir(parents=True, exist_ok=True)
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            (tmp_path / f"{part}-{name}").write_bytes(write(content))
    options = {f"{kind}s": f"{{split}}-{kind}s-idx{n}" for kind, n in (("image", 3), ("label", 1))}
    assert find_splits("idx", options, folder=tmp_path) == ("t10k", "train")
    items = read("idx", options, "t10k", folder=tmp_path)
    theirs = open_source("torchvision", {"dataset": "FashionMNIST", "root": str(tmp_path)}, "test")
    assert {path.parent.name for path in theirs.files} == {"raw"}
    assert theirs.classes is not None
    assert theirs.classes[:2] == ("T-shirt/top", "Trouser")
    assert list(theirs.items()) == items
    assert [item.labels for item in items] == [(2,), (0,), (1,)]
    assert (np.stack([levels_of(item) for item in items]) == RAMP).all()
    assert {Image.open(io.BytesIO(item.image)).mode for item in items} == {"L"}


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.data()
)
@settings(max_examples=30, deadline=None)
def test_every_array_of_levels_comes_back_as_it_was(tmp_path_factory, n, h, w, colour, grey, data):
    shape = (n, h, w, 3) if colour else (n, h, w, 1) if grey else (n, h, w)
    size = int(np.prod(shape))
    levels = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    folder = tmp_path_factory.mktemp("arrays")
    labels = np.arange(n)
    levels = levels.reshape(shape)
    np.savez_compressed(folder / "a.npz", x=np.asfortranarray(levels), z=levels, y=labels)
    (folder / "x").write_bytes(idx(levels))
    (folder / "y").write_bytes(idx(labels.astype(">i4"), 0x0C))
    all_options = [
        ("npz", {"path": "a.npz", "images": "x", "labels": "y"}),
        ("npz", {"path": "a.npz", "images": "z", "labels": "y"}),
        ("idx", {"images": "x", "labels": "y"}),
    ]
    for format, options in all_options:
        items = read(format, options, folder=folder)
        assert [item.labels for item in items] == [(number,) for number in range(n)]
        for item, picture in zip(items, levels, strict=True):
            assert (levels_of(item).reshape(picture.shape) == picture).all()


def test_the_layouts_of_keras_and_medmnist(tmp_path):
    keras, med = tmp_path / "mnist.npz", tmp_path / "med.npz"
    np.savez(keras, x_train=RAMP, y_train=TARGETS, x_test=RAMP[:2], y_test=TARGETS[:2])
    flags = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    parts = {
        f"{split}_{kind}": array
        for split in ("train", "val", "test")
        for kind, array in (("images", np.stack([RAMP] * 3, -1)), ("labels", TARGETS[:, None]))
    }
    np.savez_compressed(med, **parts | {"val_labels": flags})
    assert find_splits("npz", {"path": str(keras)}) == ("test", "train")
    assert [item.labels for item in read("npz", {"path": str(keras)})] == [(2,), (0,)]
    assert find_splits("npz", {"path": str(med)}) == ("test", "val", "train")
    assert [item.labels for item in read("npz", {"path": str(med)}, "train")] == [(2,), (0,), (1,)]
    val = open_source("npz", {"path": str(med)}, "val")
    assert val.task == "multilabel"
    assert [item.labels for item in val.items()] == [(0, 2), (), (1,)]
    assert levels_of(read("npz", {"path": str(med)})[0]).shape == (4, 5, 3)
    named = {"path": str(keras), "images": "x_test", "labels": "y_test"}
    assert find_splits("npz", named) == ()
    assert "has no array x_val; it has x_train" in opening_error("npz", {"path": str(keras)}, "val")


def test_npz_files_of_a_split_each(tmp_path):
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", pixels=RAMP, kind=TARGETS)
    options = {"path": f"{tmp_path}/{{split}}.npz", "images": "pixels", "labels": "kind"}
    assert find_splits("npz", options) == ("val", "train")
    assert len(read("npz", options, "val")) == 3
    np.savez(tmp_path / "all.npz", pixels_test=RAMP, kind_test=TARGETS)
    options = {"path": "all.npz", "images": "pixels_{split}", "labels": "kind_{split}"}
    assert find_splits("npz", options, folder=tmp_path) == ("test",)
    assert len(read("npz", options, folder=tmp_path)) == 3


def test_labels_of_an_array_that_are_names(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=RAMP, y_test=np.array(["cat", "ape", ""]))
    source = open_source("npz", {"path": str(tmp_path / "a.npz")}, "test")
    assert source.classes == ("ape", "cat")
    items = list(source.items())
    assert [(item.labels, item.reason) for item in items] == [
        ((1,), None),
        ((0,), None),
        ((), "no_label"),
    ]


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (RAMP, TARGETS[:2], "holds 3 pictures and"),
        (RAMP / 255, TARGETS, "is float64 [3, 4, 5]: pictures are uint8"),
        (np.stack([RAMP] * 3, 1), TARGETS, "is uint8 [3, 3, 4, 5]: pictures are"),
        (RAMP[:0], TARGETS[:0], "holds no picture"),
        (RAMP, TARGETS + 1, "the label 3 is none of the 3 classes, which are numbered from 0"),
        (RAMP, TARGETS / 2, "is float64 [3]: labels are"),
        (RAMP, np.stack([TARGETS] * 2, 1), "is uint8 [3, 2]: labels are"),
        (RAMP, np.full(3, -1), "holds no label"),
        (RAMP, np.array([0, None, 1]), "holds Python objects, which are never loaded"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_at_once(tmp_path, images, labels, says):
    np.savez(tmp_path / "a.npz", x_test=images, y_test=labels)
    assert says in opening_error("npz", {"path": str(tmp_path / "a.npz")}, classes=NAMES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (b"\x89PNG" + bytes(20), "is no idx file: it begins with 8950"),
        (idx(RAMP)[:-1], "has 75 bytes, and 76 by its header"),
        (idx(RAMP) + b"0", "has 77 bytes, and 76 by its header"),
        (idx(RAMP)[:9], "is damaged"),
        (gzip.compress(idx(RAMP))[:-9], "is damaged"),
        (gzip.compress(idx(RAMP)[:-1]), "is cut short: 2 of 3 are there"),
    ],
    ids=["empty", "png", "short", "long", "no header", "cut gzip", "gzip of less"],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, says):
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "y").write_bytes(idx(TARGETS))
    options = {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}
    said = error_of("idx", options)
    assert says in said
    assert str(tmp_path / "x") in said


def test_a_damaged_npz_file_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=RAMP, y_test=TARGETS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content.replace(RAMP.tobytes(), RAMP.tobytes()[::-1]))
    options = {"path": str(tmp_path / "a.npz")}
    assert "a.npz, x_test is damaged: Bad CRC-32" in error_of("npz", options)
    (tmp_path / "a.npz").write_bytes(content[:-30])
    assert "a.npz is damaged" in opening_error("npz", options)


# torchvision


def test_torchvision_gives_files_as_they_stand_and_its_class_names(make_folder):
    options = {"dataset": "ImageFolder", "root": make_folder(["b/x.jpg", "a/x.jpg"])["path"]}
    source = open_source("torchvision", options, "test")
    assert source.classes == ("a", "b")
    assert [(item.image, item.labels) for item in source.items()] == [
        (PICTURES[0], (0,)),
        (PICTURES[0], (1,)),
    ]
    assert len(source.files) == 2
    assert find_splits("torchvision", options) == ()


def test_a_picture_that_torchvision_cannot_read_costs_itself(make_folder):
    picture = encoded(Image.fromarray(RAMP[0]), "PPM")
    make_folder([f"gtsrb/GTSRB/Training/0000{number}/x.ppm" for number in (0, 1)], picture)
    options = make_folder(["gtsrb/GTSRB/Training/00000/a.ppm"], b"no picture")
    options = {"dataset": "GTSRB", "root": options["path"]}
    items = read("torchvision", options, "train")
    assert [(item.labels, item.reason) for item in items] == [
        ((), "not_an_image"),
        ((0,), None),
        ((1,), None),
    ]
    assert (levels_of(items[1])[..., 0] == RAMP[0]).all()
    assert find_splits("torchvision", options) == ("train",)
    assert "cannot be read from" in opening_error("torchvision", options, "test")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"dataset": "FashionMnist"}, "torchvision has no data set 'FashionMnist': there are"),
        ({}, "nothing is downloaded here"),
        ({"options": {"download": True}}, "takes no option download here: there are train"),
        ({"options": {"fold": 1}}, "takes no option fold here"),
        ({"dataset": "SVHN"}, "nothing is downloaded here"),
        ({"root": "none"}, "there is no folder"),
    ],
)
def test_a_torchvision_set_that_cannot_be_had_is_refused_at_once(tmp_path, keys, says):
    options = {"dataset": "FashionMNIST", "root": ".", **keys}
    assert says in opening_error("torchvision", options, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


# All


def test_the_same_pictures_and_labels_whatever_the_format(tmp_path, make_benchmark):
    levels, labels = RAMP[[0, 1, 2, 1]], [1, 0, 2, 0]
    pictures = [encoded(Image.fromarray(each), "PNG") for each in levels]
    rows = [{"png": png, "cls": label} for png, label in zip(pictures, labels, strict=True)]
    for number, (png, label) in enumerate(zip(pictures, labels, strict=True)):
        (tmp_path / f"folder/{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"folder/{label}/{number}.png").write_bytes(png)
    write_parquet(tmp_path / "a.parquet", image=pictures, label=labels)
    np.savez(tmp_path / "a.npz", x_test=levels, y_test=labels)
    (tmp_path / "x").write_bytes(idx(levels))
    (tmp_path / "y").write_bytes(idx(np.array(labels, np.uint8)))
    write_webdataset(tmp_path / "a.tar", rows)
    make_benchmark(rows)
    everything = {
        "folder": {"path": "folder"},
        "tar": {"path": "a.tar"},
        "parquet": {"path": "a.parquet"},
        "idx": {"images": "x", "labels": "y"},
        "npz": {"path": "a.npz"},
        "torchvision": {"dataset": "ImageFolder", "root": "folder"},
        "clip_benchmark": {"path": "."},
    }
    assert set(everything) == set(FORMATS)
    expected = sorted((label, each.tolist()) for label, each in zip(labels, levels, strict=True))
    for format, options in everything.items():
        items = read(format, options, folder=tmp_path)
        found = sorted((*item.labels, levels_of(item).tolist()) for item in items)
        assert found == expected, format
        assert len({item.id for item in items}) == len(labels)


def test_two_classes_of_one_name_are_told_apart_by_numbers_alone(tmp_path):
    options = write_parquet(tmp_path / "a.parquet", image=PICTURES, label=["crane", "ape", "ape"])
    classes = ["crane", ("ape", "monkey"), "crane"]
    assert "two classes are called 'crane'" in opening_error("parquet", options, classes=classes)
    options = write_parquet(tmp_path / "a.parquet", image=PICTURES, label=[0, 1, 2])
    items = read("parquet", options, classes=classes)
    assert [item.labels for item in items] == [(0,), (1,), (2,)]


@pytest.mark.parametrize("format", FORMATS)
def test_unknown_and_missing_keys_and_what_is_not_there(format, tmp_path):
    said = opening_error(format, {"colour": 1})
    assert f"the format {format} cannot be used:" in said
    assert "colour: there is no such key" in said
    assert "is missing" in said
    names = set(FORMATS[format].settings_type.model_fields)
    own = {"dataset": "MNIST"} if format == "torchvision" else {}
    paths = names & {"path", "images", "labels", "root"}
    options = own | dict.fromkeys(paths, "not there")
    assert "there is no f" in opening_error(format, options, folder=tmp_path)
    remote = own | dict.fromkeys(paths, "s3://bucket/x")
    assert "only what lies on this machine is read" in opening_error(format, remote)


def test_an_unknown_format():
    assert "there is no format 'zip': there are folder, tar" in said_by(open_source, "zip", {}, "x")


def test_datacomp_s_table():
    assert len(DATACOMP) == 38
    assert len({each.title for each in DATACOMP.values()}) == 38
    assert datacomp_name("wds_vtab-caltech101_test") == "vtab/caltech101"
    assert datacomp_name("wds_imagenet-a_test") == "imagenet-a"
    assert datacomp_name("wds_geode_test") == "fairness/geode"
    assert datacomp_name("wds_fairness-utkface_test") is None
    assert DATACOMP["vtab/pets"].our_metric == "mean_per_class"
    assert DATACOMP["wilds/fmow"].our_metric is None
    for name in DATACOMP:
        assert datacomp_name(f"wds_{name.replace('/', '-')}_test") == name
