"""A teacher's embeddings, joined to the rows that are trained on by pair_id."""

import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from clip_model import CLIP, image_bytes_transform, tokenize
from clip_model.distillation import Distilled
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.stages import STAGES
from pipelines.training import loop
from pipelines.training import teacher as module
from pipelines.training.__main__ import main
from pipelines.training.index import Index
from pipelines.training.parallel import Workers
from pipelines.training.settings import DistillationSettings
from pipelines.training.state import TrainingState
from pipelines.training.teacher import Teacher
from tests.pipelines.training.test_data import CHOSEN, jpeg, stream_of, take, write_shards
from tests.pipelines.training.test_training import KilledAt, KilledError, pairwise, run, settings
from tests.shards import TINY, images, save_tiny_model, write_dataset, write_tar
from workers.base.contracts import embeddings_schema
from workers.embedding.samples import ShardError

WIDTH = 6


def vectors_of(name):
    """What the teacher says of a pair: unit vectors of its image and its caption."""
    seed = int.from_bytes(name.encode(), "big") % 2**32
    vectors = np.random.default_rng(seed).normal(size=(2, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_embeddings(names, path, group=7, vectors=vectors_of):
    """As the stage embeddings does, in the order of the names."""
    path.parent.mkdir(exist_ok=True)
    schema = embeddings_schema(WIDTH)
    rows = [
        dict(zip(module.COLUMNS, map(list, vectors(name)), strict=True))
        | {"pair_id": name, "similarity": 0.5, "image_hash": 0}
        for name in names
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def teacher_of(*files):
    return Teacher.of(DistillationSettings(embeddings=tuple(map(str, files))))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """100 rows in three Parquet shards, whose ids have no order, and a tar."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [(f"the picture of number {number}", jpeg(number)) for number in range(100)]
    members = []
    for number, (caption, jpg) in enumerate(pairs[80:]):
        members += [(f"{number:02}.jpg", jpg), (f"{number:02}.txt", caption.encode())]
    return [*write_shards(folder, pairs[:80]), write_tar(members, folder / "00003.tar")]


@pytest.fixture(scope="module")
def names(shards):
    """Of all rows."""
    ids = [name for path in shards[:3] for name in pq.read_table(path)["pair_id"].to_pylist()]
    return [*ids, *(f"{number:02}" for number in range(20))]


def sorted_shards(names, folder):
    """The teacher's files as the pipeline has them: sorted, cut elsewhere than the data."""
    ids = sorted([*names, *(f"{number:032x}" for number in range(0, 2**128, 2**122))])
    return [write_embeddings(ids[b : b + 41], folder / f"{b}.parquet") for b in range(0, 164, 41)]


def shuffled(names, folder):
    """Anybody's: two files, in no order, of which one is empty."""
    ids = np.random.default_rng(0).permutation(names).tolist()
    return [
        write_embeddings(ids[:55], folder / "a.parquet", group=5),
        write_embeddings([], folder / "b.parquet"),
        write_embeddings(ids[55:], folder / "c.parquet", group=100),
    ]


@pytest.mark.parametrize("write", [sorted_shards, shuffled])
def test_each_row_of_a_batch_has_its_own_embeddings(shards, names, tmp_path, write):
    teacher = teacher_of(*write(names, tmp_path / "teacher"))
    index = Index.of(shards, tmp_path / "index", CHOSEN, teacher=teacher)
    assert index.tally.kept == 100
    whole = take(stream_of(index, threads=2), 10, start=3)
    plain = take(stream_of(Index.of(shards, tmp_path / "plain", CHOSEN)), 10, start=3)
    assert [batch.ids for batch in whole] == [batch.ids for batch in plain]
    assert plain[0].teacher is None
    for batch in whole:
        expected = torch.from_numpy(np.stack([vectors_of(name) for name in batch.ids], axis=1))
        torch.testing.assert_close(torch.stack(batch.teacher), expected, atol=1e-3, rtol=0)
    parts = [take(stream_of(index, rank=r, world_size=2, threads=1), 10, start=3) for r in (0, 1)]
    for batch, *halves in zip(whole, *parts, strict=True):
        for kind in (0, 1):
            assert torch.equal(torch.cat([h.teacher[kind] for h in halves]), batch.teacher[kind])


def test_rows_that_the_teacher_lacks_are_left_out_and_counted(shards, names, tmp_path):
    lacking = set(names[::5])
    file = write_embeddings([n for n in names if n not in lacking], tmp_path / "teacher.parquet")
    index = Index.of(shards, tmp_path / "index", CHOSEN, teacher=teacher_of(file))
    index.tally.check()
    assert index.tally.rejected == {"not_in_teacher": len(lacking)}
    assert index.tally.kept == index.rows.sum() == 100 - len(lacking)
    assert set(index.tally.samples["not_in_teacher"]) <= lacking
    stream = stream_of(index, replace(CHOSEN, batch_size=10, shuffle_rows=1))
    batches = take(stream, 8)
    found = [name for batch in batches for name in batch.ids]
    assert set(found) == set(names) - lacking
    images = torch.cat([batch.teacher[0] for batch in batches]).float()
    expected = torch.from_numpy(np.stack([vectors_of(name)[0] for name in found])).float()
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_one_who_has_seen_nothing_leaves_nothing(shards, tmp_path):
    file = write_embeddings(["another"], tmp_path / "teacher.parquet")
    index = Index.of(shards, tmp_path / "index", CHOSEN, teacher=teacher_of(file))
    assert (index.tally.kept, index.rows.tolist()) == (0, [0] * 4)


def test_a_row_that_does_not_decode_takes_its_embeddings_with_it(tmp_path):
    pairs = [(f"caption {number}", b"" if number == 7 else jpeg(number)) for number in range(24)]
    paths = write_shards(tmp_path / "data", pairs)
    ids = [name for path in paths for name in pq.read_table(path)["pair_id"].to_pylist()]
    teacher = teacher_of(write_embeddings(ids, tmp_path / "teacher.parquet"))
    index = Index.of(paths, tmp_path / "index", CHOSEN, teacher=teacher)
    stream = stream_of(index)
    for batch in take(stream, 2):
        expected = torch.from_numpy(np.stack([vectors_of(name)[1] for name in batch.ids]))
        torch.testing.assert_close(batch.teacher[1], expected, atol=1e-3, rtol=0)
    assert len(stream.failures) == 1


def test_the_join_is_made_once_and_again_for_another_teacher_or_a_damaged_file(
    shards, names, tmp_path
):
    def made(file):
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").glob("*")}
        Index.of(shards[:1], tmp_path / "index", CHOSEN, teacher=teacher_of(file))
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").glob("*")}
        return sorted(path.suffix for path in after if after[path] != before.get(path))

    file = write_embeddings(names, tmp_path / "teacher.parquet")
    assert made(file) == [".arrow", ".npy"]
    assert made(file) == []
    (gathered,) = (tmp_path / "index").glob("*.npy")
    for damaged in (b"", gathered.read_bytes()[:-1]):
        gathered.write_bytes(damaged)
        assert made(file) == [".arrow", ".npy"]
    gathered.unlink()
    assert made(file) == [".arrow", ".npy"]
    write_embeddings(names, file, vectors=lambda name: -vectors_of(name))
    assert made(file) == [".arrow", ".npy"]
    assert len(list((tmp_path / "index").iterdir())) == 4


def test_of_sorted_files_a_row_group_is_read_once(names, tmp_path, monkeypatch):
    """By shards that are sorted, too, as the pipeline's are: nothing is read in vain."""
    teacher, read = teacher_of(*sorted_shards(names, tmp_path / "teacher")), []

    def watched(file, group, columns):
        read.append((file.path.name, group, len(columns)))
        return original(file, group, columns)

    original = module._read
    monkeypatch.setattr(module, "_read", watched)
    ids = sorted(names)
    for begin in (0, 50):
        places = teacher.find(ids[begin : begin + 50], "none")
        teacher.gather(places, tmp_path / f"{begin}.npy")
    groups = sum(pq.read_metadata(file).num_row_groups for file in teacher.files)
    assert groups <= len(read) <= 2 * (groups + 1)


def test_of_files_in_no_order_that_of_the_shards_own_name_is_read_alone(tmp_path, monkeypatch):
    ids = {name: [f"{n:04}-{name}" for n in range(20)] for name in ("00000", "00001", "00002")}
    files = [write_embeddings(ids[name], tmp_path / f"{name}.parquet") for name in ids]
    teacher, read, original = teacher_of(*files), set(), module._read

    def watched(file, group, columns):
        read.add(file.path.stem)
        return original(file, group, columns)

    monkeypatch.setattr(module, "_read", watched)
    assert (teacher.find(ids["00001"], "00001")[:, 0] == 1).all()
    assert read == {"00001"}


def without(column):
    return lambda table: table.drop_columns([column])


def with_column(name, values):
    def change(table):
        at = table.schema.get_field_index(name)
        return table.set_column(at, name, values(table[name]))

    return change


WRONG = {
    "has no column text_embedding": without("text_embedding"),
    "must be lists of one fixed size": with_column(
        "image_embedding", lambda column: column.cast(pa.list_(pa.float16()))
    ),
    "pair_id is no text": with_column("pair_id", lambda column: pa.array(range(len(column)))),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_no_file_of_embeddings_is_refused(tmp_path, said):
    file = write_embeddings(["a", "b"], tmp_path / "teacher.parquet")
    pq.write_table(WRONG[said](pq.read_table(file)), file)
    with pytest.raises(ValueError, match=rf"teacher\.parquet.*{said}"):
        teacher_of(file)


def test_files_of_two_models_or_without_statistics_are_refused(tmp_path):
    file = write_embeddings(["a"], tmp_path / "a.parquet")
    schema = embeddings_schema(2 * WIDTH)
    pq.write_table(schema.empty_table(), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has embeddings of 12 numbers, a\.parquet of"):
        teacher_of(tmp_path / "*.parquet")
    pq.write_table(pq.read_table(file), file, write_statistics=False)
    with pytest.raises(ValueError, match="does not say between which pair_ids"):
        teacher_of(file)
    with pytest.raises(ValueError, match="there is no file .*none"):
        teacher_of(tmp_path / "none")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_an_error_that_names_the_file(tmp_path, value):
    wrong = np.full((2, WIDTH), value, np.float16)
    file = write_embeddings(["a"], tmp_path / "a.parquet", vectors=lambda _: wrong)
    teacher = teacher_of(file)
    with pytest.raises(ShardError, match=r"a\.parquet has embeddings that are no numbers"):
        teacher.gather(teacher.find(["a"], "a"), tmp_path / "a.npy")
    assert not (tmp_path / "a.npy").exists()


@pytest.fixture(scope="module")
def embedded_by_another(tmp_path_factory):
    """A data set of 60 pairs, and what a model of another width makes of them."""
    folder = tmp_path_factory.mktemp("taught")
    rows = write_dataset(list(images(60)), folder / "data.parquet")
    torch.manual_seed(7)
    model = CLIP(replace(TINY, embed_dim=WIDTH)).eval()
    features = features_of(model, rows)
    by_name = {
        row["pair_id"]: torch.stack(pair).half().numpy()
        for row, *pair in zip(rows, *features, strict=True)
    }
    write_embeddings(sorted(by_name), folder / "teacher.parquet", vectors=by_name.__getitem__)
    return folder, rows, features


def features_of(model, rows):
    pixels = torch.stack([image_bytes_transform(32)(row["jpg"]) for row in rows])
    with torch.no_grad():
        every = (
            model.encode_image(pixels),
            model.encode_text(tokenize([r["caption"] for r in rows])),
        )
    return tuple(functional.normalize(features, dim=-1) for features in every)


def trained(folder, tmp_path, **more):
    config = settings(tmp_path, epochs=12, held_out=0, **more)
    return run([folder / "data.parquet"], config, tmp_path / f"training-{len(more)}")


def test_a_student_comes_closer_to_its_teacher_than_one_without(embedded_by_another, tmp_path):
    folder, rows, features = embedded_by_another
    teacher = {"embeddings": [str(folder / "teacher.parquet")], "weight": 5, "temperature": 0.2}
    taught, alone = (
        trained(folder, tmp_path, **more).model for more in ({"distillation": teacher}, {})
    )
    theirs, *ours = (
        (one @ other.t()).flatten()
        for one, other in (features, features_of(taught, rows), features_of(alone, rows))
    )
    likeness = [torch.corrcoef(torch.stack([theirs, one]))[0, 1].item() for one in ours]
    assert likeness[0] > likeness[1] + 0.2


def test_a_taught_training_is_judged_and_goes_on_like_any_other(
    embedded_by_another, tmp_path, monkeypatch
):
    folder, _, _ = embedded_by_another
    teacher = {"embeddings": [str(folder / "*er.parquet")]}
    config = settings(
        tmp_path,
        **{"epochs": 1, "batch_size": 8, "chunk": 4, "held_out": 0.3, "distillation": teacher},
        **{"evaluate_every": 3, "checkpoints": {"every_steps": 1}},
    )
    whole = run([folder / "data.parquet"], config, tmp_path / "whole")
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)  # it asks at each step
    with pytest.raises(KilledError):
        run([folder / "data.parquet"], config, tmp_path / "t", notice=KilledAt(3))
    again = run([folder / "data.parquet"], config, tmp_path / "t")
    assert again.metrics == whole.metrics
    assert all(torch.equal(a, b) for a, b in pairwise(again.model, whole.model))


@pytest.mark.parametrize(
    ("file", "said", "code"),
    [
        ("none.parquet", "distillation.embeddings: there is no file .*none.parquet", 2),
        ("data.parquet", "data.parquet has no column image_embedding, text_embedding", 2),
        ("others.parquet", "of 60 pairs to train on the teacher has embedded none", 3),
    ],
)
def test_what_teaches_nothing_is_refused_with_what_to_do(
    embedded_by_another, tmp_path, capsys, file, said, code
):
    folder, _, _ = embedded_by_another
    write_embeddings(["a"], folder / "others.parquet")
    start = save_tiny_model(tmp_path / "start.safetensors")
    options = [f"start_from={start}", "held_out=0", f"distillation.embeddings=[{folder / file}]"]
    flags = [word for option in options for word in ("--set", option)]
    assert main([str(folder / "data.parquet"), "--out", str(tmp_path / "out"), *flags]) == code
    assert re.search(said, capsys.readouterr().err)


def test_the_command_goes_on_with_the_same_teacher_alone(embedded_by_another, tmp_path, capsys):
    folder, _, _ = embedded_by_another
    file = tmp_path / "teacher.parquet"
    file.write_bytes((folder / "teacher.parquet").read_bytes())
    start = save_tiny_model(tmp_path / "start.safetensors")
    options = [f"start_from={start}", "steps=1", f"distillation.embeddings=[{file}]"]
    flags = [word for option in options for word in ("--set", option)]
    command = [str(folder / "data.parquet"), "--out", str(tmp_path / "out"), *flags]
    assert [main(command), main(command)] == [0, 0]
    write_embeddings(["a"], file)
    assert main(command) == 2
    assert "distillation" in capsys.readouterr().err


def test_weight_and_temperature_are_those_of_the_settings(tmp_path):
    teacher = {"embeddings": ["a"], "weight": 5, "temperature": 0.2}
    config = settings(tmp_path, distillation=teacher)
    objective = TrainingState(config, 0, "fp32", Workers(torch.device("cpu"))).objective
    assert isinstance(objective, Distilled)
    assert objective.weight == 5
    assert objective.teacher_logit_scale == pytest.approx(math.log(5))


def test_other_objectives_have_no_teacher(tmp_path):
    with pytest.raises(ValueError, match="distillation: .* objective: contrastive"):
        settings(tmp_path, objective="sigmoid", distillation={"embeddings": ["a"]})


def test_a_teachers_content_is_what_a_model_depends_on(tmp_path, monkeypatch):
    """And not where it lies; what is no teacher is refused before the first stage."""
    monkeypatch.setattr(Run, "outputs", lambda *_: [])

    def planned(file, **more):
        model = {"distillation": {"embeddings": [str(file)], **more}}
        config = {"name": "test", "queries": "none", "model": model}
        stage = STAGES["model"](Run.open(Config.model_validate(config), tmp_path / "run"))
        stage.check()
        (shard,) = stage.plan()
        return shard

    first = write_embeddings(["a", "b"], tmp_path / "a.parquet")
    shard = planned(first)
    assert shard.files["teacher"] == (first,)
    moved = first.rename(tmp_path / "moved.parquet")
    assert planned(moved).key == shard.key != planned(moved, weight=2).key
    assert planned(write_embeddings(["a"], moved)).key != shard.key
    pq.write_table(pa.table({"pair_id": ["a"]}), moved)
    with pytest.raises(
        ConfigError, match=r"^model.distillation.embeddings: .*moved.parquet has no"
    ):
        planned(moved)
