"""`python -m pipelines.embed` on shards of other people's layouts."""

import logging

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipelines.embed import main
from pipelines.receipts import Ledger
from pipelines.run import lock_folder
from pipelines.stages.embeddings import Embeddings
from pipelines.verify import main as verify
from tests.pipelines.conftest import flip_a_byte
from tests.shards import pictures, save_tiny_model, write_tar
from tests.tools import rows_by_tool


@pytest.fixture(autouse=True)
def _own_logs():
    """The command sends this process's logs to its own folder: undo it."""
    root = logging.getLogger()
    handlers, level, filters = root.handlers, root.level, root.filters
    root.handlers, root.filters = [], []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level, root.filters = handlers, level, filters


@pytest.fixture
def errors(caplog, capsys):
    """What the command has said on stderr: to pytest, until its own logs are set up."""
    return lambda: caplog.text + capsys.readouterr().err


@pytest.fixture
def model(tmp_path):
    return save_tiny_model(tmp_path / "tiny.safetensors")


@pytest.fixture
def shards(tmp_path):
    """A tar and a Parquet file in img2dataset's layouts, 30 and 20 rows, one of them damaged."""
    folder = tmp_path / "shards"
    folder.mkdir()
    rows = [(f"{n:09d}", jpg, caption) for n, (caption, jpg) in enumerate(pictures(50))]
    rows[3] = (rows[3][0], b"damage", rows[3][2])
    members = []
    for key, jpg, caption in rows[:30]:
        members += [(f"{key}.jpg", jpg), (f"{key}.txt", caption.encode())]
    write_tar(members, folder / "00000.tar")
    keys, jpgs, captions = zip(*rows[30:], strict=True)
    table = pa.table({"key": keys, "jpg": jpgs, "caption": captions, "status": ["success"] * 20})
    pq.write_table(table, folder / "00001.parquet")
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_output_opens_in_other_tools(shards, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out, "--attributes", "photo") == 0
    assert "50 images in, 49 kept, 1 failed: not_an_image 1" in capsys.readouterr().out

    folder = out / "embeddings"
    assert set(rows_by_tool(folder, tmp_path / "cache").values()) == {49}
    frame = pd.read_parquet(folder)
    assert list(frame) == [
        *("pair_id", "image_embedding", "text_embedding", "similarity"),
        *("picture_hash", "labels", "score_photo"),
    ]
    image, text = (np.stack(frame[f"{part}_embedding"]) for part in ("image", "text"))
    assert image.shape == text.shape == (49, 32)
    assert image.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(image.astype("f4"), axis=1), 1, atol=2e-3)
    cosine = (image.astype("f4") * text.astype("f4")).sum(axis=1)
    np.testing.assert_allclose(frame["similarity"], cosine, atol=2e-3)
    assert frame["score_photo"].between(0, 1).all()
    assert frame["picture_hash"].dtype == np.uint64

    column = pa.dataset.dataset(folder, format="parquet").to_table()["image_embedding"]
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 32), image)

    np.testing.assert_array_equal(polars.read_parquet(folder)["image_embedding"].to_numpy(), image)
    query = f"select image_embedding from '{folder}/*.parquet' order by filename, file_row_number"
    rows = duckdb.connect().execute(query).fetchall()
    np.testing.assert_array_equal([row for (row,) in rows], image)
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(rows["image_embedding"], image)


def test_what_is_done_is_not_done_again_and_new_shards_are_added(shards, model, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("--model", model, "--out", out)
    assert run(shards / "00000.tar", *command) == 0
    (first,) = Ledger(out / "embeddings").receipts()
    assert run(shards / "*.parquet", *command) == 0
    assert [receipt.shard for receipt in Ledger(out / "embeddings").receipts()] == [
        "00000",
        "00001",
    ]
    capsys.readouterr()
    assert run(shards, *command) == 0
    assert "2 of 2 shards are in" in capsys.readouterr().out
    assert Ledger(out / "embeddings").receipt("00000") == first

    (shards / "00000.tar").touch()  # another time may be another content
    assert run(shards, *command) == 0
    second = Ledger(out / "embeddings").receipt("00000")
    assert second is not None
    assert second.key != first.key


def test_the_labels_of_a_file_and_of_a_data_set(shards, model, tmp_path):
    names = tmp_path / "colours.txt"
    names.write_text("red\ngreen\n\nblue\n")
    labels = ("--labels", names, "--labels", "CIFAR10", "--top-k", "2")
    out = tmp_path / "out"
    command = ("--model", model, "--out", out, "--parts", "images")
    assert run(shards / "00001.parquet", *command, *labels) == 0
    for row in pq.read_table(out / "embeddings/00001.parquet")["labels"].to_pylist():
        assert [label["set"] for label in row] == ["CIFAR10", "CIFAR10", "colours", "colours"]
        assert {label["label"] for label in row[2:]} < {"red", "green", "blue"}


def test_a_broken_shard_is_partial_and_the_others_are_kept(shards, model, tmp_path, capsys):
    (shards / "00002.tar").write_bytes((shards / "00000.tar").read_bytes()[:5000])
    (shards / "00003.parquet").write_bytes(b"PAR1 no footer PAR1")
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out) == 3
    assert "2 of 4 shards are in" in capsys.readouterr().out
    assert "is not a whole tar file" in (out / "_errors/embeddings/00002.txt").read_text()
    assert f"{shards}/00003.parquet is not a whole Parquet file" in (
        (out / "_errors/embeddings/00003.txt").read_text()
    )
    assert not (out / "embeddings/00002.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tar"], "there is no file absent.tar"),
        (["SHARDS", "--model", "absent"], "Model absent not found"),
        (["SHARDS", "--labels", "Imagnet"], "no classes are called 'Imagnet'"),
        (["SHARDS", "--set", "batchsize=1"], "batchsize: there is no such key"),
        (["SHARDS", "--set", "attributes={cat: {}}"], "attribute cat needs prompts"),
        (["SHARDS", "--set", "heads={a: {path: absent}}"], "there is no file absent"),
        (["MODEL"], "is none of .parquet"),
        (["SHARDS", "TWIN"], "two files would be called"),
        (["SHARDS", "--out", "s3://b/out"], "--out s3://b/out: only a local or mounted path"),
    ],
)
def test_what_cannot_work_is_refused(shards, model, tmp_path, errors, arguments, message):
    twin = tmp_path / "twin" / "shards"
    twin.mkdir(parents=True)
    (twin / "00000.tar").write_bytes(b"")
    for name, path in {"SHARDS": shards, "TWIN": twin, "MODEL": model}.items():
        arguments = [text.replace(name, str(path)) for text in arguments]
    out = tmp_path / "out"
    assert run("--model", model, "--out", out, *arguments) == 2
    assert message in errors()
    assert not out.exists()


def test_a_folder_of_something_else_or_of_another_model_is_left_alone(shards, tmp_path, errors):
    models = [save_tiny_model(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]
    assert run(shards, "--model", models[0], "--out", shards) == 2
    assert "it holds other files" in errors()
    out = tmp_path / "out"
    assert run(shards, "--model", models[0], "--out", out) == 0
    assert run(shards, "--model", models[1], "--out", out) == 2
    assert "made by another model" in errors()


def test_a_folder_of_an_older_release_is_left_alone(shards, model, tmp_path, errors, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(Embeddings, "version", Embeddings.version - 1)
        assert run(shards, "--model", model, "--out", tmp_path / "out") == 0
    assert run(shards, "--model", model, "--out", tmp_path / "out") == 2
    assert "made by another model or release" in errors()


def test_settings_that_cannot_be_read_are_told_by_the_receipts(shards, tmp_path, errors):
    models = [save_tiny_model(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]
    out = tmp_path / "out"
    assert run(shards / "00000.tar", "--model", models[0], "--out", out) == 0
    settings = out / "_run" / "settings.json"
    before = settings.read_text()
    for damage in (b"", b"null", b"{}x", b"\xff"):
        settings.write_bytes(damage)
        assert run(shards, "--model", models[1], "--out", out) == 2
        assert "settings.json cannot be read" in errors()
        assert run(shards, "--model", models[0], "--out", out) == 0
        assert "it is made again" in errors()
        assert settings.read_text() == before


def test_a_first_start_that_was_killed_is_not_taken_for_other_content(shards, model, tmp_path):
    (tmp_path / "out" / "_run").mkdir(parents=True)
    (tmp_path / "out" / "_run" / "run.lock").touch()
    assert run(shards, "--model", model, "--out", tmp_path / "out") == 0


def test_another_file_among_the_embeddings_is_refused(shards, model, tmp_path, errors):
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out) == 0
    (out / "embeddings" / "mine.parquet").touch()
    assert run(shards, "--model", model, "--out", out) == 2
    assert "mine.parquet is not the run's" in errors()
    assert (out / "embeddings" / "mine.parquet").exists()


def test_embeddings_are_verified_and_mended(shards, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out) == 0
    assert verify([str(out)]) == 0
    flip_a_byte(out / "embeddings" / "00001.parquet")
    assert verify([str(out), "--mend"]) == 3
    assert "again by: python -m pipelines.embed, given as before" in capsys.readouterr().out
    with lock_folder(out / "_run", ""):
        assert verify([str(out)]) == 3
        assert verify([str(out), "--mend"]) == 75
    assert run(shards, "--model", model, "--out", out) == 0
    assert verify([str(out)]) == 0
