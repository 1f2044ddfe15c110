"""`python -m pipelines.embed` on shards of other people's layouts."""

import io
import json
import logging
import os

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.embed import main
from pipelines.run.lock import lock_folder
from pipelines.run.receipts import Receipts
from pipelines.stages.embeddings import Embeddings
from pipelines.verify import main as verify
from tests.object_store import objects_below, refuse, send_folder
from tests.pipelines.conftest import flip_a_byte
from tests.processors import needs_bfloat16
from tests.shards import images, save_tiny_model, write_tar
from tests.tools import rows_by_tool
from workers.base.bucket import Bucket
from workers.base.lease import holding


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
    rows = [(f"{n:09d}", jpg, caption) for n, (caption, jpg) in enumerate(images(50))]
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
        *("image_hash", "score_photo"),
    ]
    image, text = (np.stack(frame[f"{part}_embedding"]) for part in ("image", "text"))
    assert image.shape == text.shape == (49, 32)
    assert image.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(image.astype("f4"), axis=1), 1, atol=2e-3)
    cosine = (image.astype("f4") * text.astype("f4")).sum(axis=1)
    np.testing.assert_allclose(frame["similarity"], cosine, atol=2e-3)
    assert frame["score_photo"].between(0, 1).all()
    assert frame["image_hash"].dtype == np.uint64

    column = pa.dataset.dataset(folder, format="parquet").to_table()["image_embedding"]
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 32), image)

    np.testing.assert_array_equal(polars.read_parquet(folder)["image_embedding"].to_numpy(), image)
    query = f"select image_embedding from '{folder}/*.parquet' order by filename, file_row_number"
    rows = duckdb.connect().execute(query).fetchall()
    np.testing.assert_array_equal([row for (row,) in rows], image)
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(rows["image_embedding"], image)


def made_of(out):
    """The receipts by the names of the files that they are of."""
    receipts = Receipts(out / "embeddings").all()
    return {str(receipt.made_of): receipt for receipt in receipts}


def test_what_is_done_is_not_done_again_and_new_shards_are_added(shards, model, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("--model", model, "--out", out)
    tar, parquet = (str(shards / name) for name in ("00000.tar", "00001.parquet"))
    assert run(tar, *command) == 0
    first = made_of(out)
    assert list(first) == [tar]
    assert run(shards / "*.parquet", *command) == 0
    assert set(made_of(out)) == {tar, parquet}
    capsys.readouterr()
    assert run(shards, *command) == 0
    assert "2 of 2 shards are in" in capsys.readouterr().out
    assert made_of(out)[tar] == first[tar]

    assert run(shards, *command, "--history") == 0
    history = capsys.readouterr().out.splitlines()
    assert sum(" embed: exit code 0" in line for line in history) == 3
    assert [line.split(";")[0] for line in history if line.startswith("  embeddings: ")] == [
        f"  embeddings: {rows} images in, {rows - failed} kept, rejected 0, failed {reasons}"
        for rows, failed, reasons in ((30, 1, "1: not_an_image 1"), (20, 0, "0"))
    ]

    (shards / "00000.tar").touch()  # another time may be another content
    assert run(shards, *command) == 0
    second = made_of(out)
    assert set(second) == {tar, parquet}
    assert second[tar].key != first[tar].key
    assert second[tar].shard == first[tar].shard


@pytest.fixture
def two_folders(tmp_path):
    """Files of the same names, of 3 and of 2 rows that have no identity of their own."""
    some = list(images(5))
    for folder, part in (("a", some[:3]), ("b", some[3:])):
        (tmp_path / folder / "part").mkdir(parents=True)
        table = pa.table({"jpg": [jpg for _, jpg in part], "caption": [text for text, _ in part]})
        pq.write_table(table, tmp_path / folder / "part" / "00000.parquet")
    return tmp_path / "a" / "part", tmp_path / "b" / "part"


def test_files_of_one_name_stay_apart_however_they_are_given(
    two_folders, model, tmp_path, capsys, monkeypatch
):
    first, second = two_folders
    command = ("--model", model, "--out", tmp_path / "out")
    assert run(first, *command) == 0
    assert run(second / "00000.parquet", *command) == 0
    folder = tmp_path / "out" / "embeddings"
    ids = pa.dataset.dataset(folder, format="parquet").to_table()["pair_id"].to_pylist()
    assert len(set(ids)) == 5, "rows without an identity get that of their shard"
    outputs = {path.name for path in folder.iterdir()}
    monkeypatch.chdir(second)
    for names in (["00000.parquet", first], ["*", "../../a/part/*.parquet"], [second, "../part"]):
        capsys.readouterr()
        assert run(*names, *command) == 0
        assert "nothing to do" in capsys.readouterr().err
        assert {path.name for path in folder.iterdir()} == outputs
    assert run(first, second, "--model", model, "--out", tmp_path / "together") == 0
    assert {path.name for path in (tmp_path / "together/embeddings").iterdir()} == outputs
    said = capsys.readouterr().out
    for name in outputs:
        assert f"  {name} of {tmp_path}" in said


def test_a_file_that_has_moved_keeps_its_output(two_folders, model, tmp_path, capsys):
    command = ("--model", model, "--out", tmp_path / "out")
    assert run(*two_folders, *command) == 0
    outputs = {path.name for path in (tmp_path / "out/embeddings").iterdir()}
    two_folders[0].rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run(tmp_path / "elsewhere", two_folders[1], *command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out/embeddings").iterdir()} == outputs


@needs_bfloat16
@pytest.mark.parametrize("starts_without", [True, False])
def test_a_folder_keeps_its_precision_whatever_machine_goes_on(
    shards, model, tmp_path, errors, move, starts_without
):
    out = tmp_path / "out"
    command = ("--model", model, "--out", out)
    move(elsewhere=starts_without)
    assert run(shards / "00000.tar", *command) == 0
    move(elsewhere=not starts_without)
    assert run(shards / "00000.tar", *command) == 0
    if not starts_without:
        assert run(shards, *command) == 2
        assert "would only emulate" in errors()
        move(elsewhere=False)
    assert run(shards, *command) == 0
    precision = "fp32" if starts_without else "bf16"
    identity = json.loads((out / "_run" / "settings.json").read_text())
    assert identity["settings"]["precision"] == precision
    for file in (out / "embeddings").glob("*.parquet"):
        assert pq.read_schema(file).metadata[b"precision"] == precision.encode()


def test_a_precision_that_this_machine_has_not_leaves_no_folder(
    shards, model, tmp_path, errors, move
):
    move(elsewhere=True)
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out, "--set", "precision=bf16") == 2
    assert "would only emulate" in errors()
    assert not out.exists()


def test_the_labels_of_a_file_and_of_a_data_set(shards, model, tmp_path):
    names = tmp_path / "colours.txt"
    names.write_text("red\ngreen\n\nblue\n")
    labels = ("--labels", names, "--labels", "CIFAR10", "--top-k", "2")
    out = tmp_path / "out"
    command = ("--model", model, "--out", out, "--parts", "images")
    assert run(shards / "00001.parquet", *command, *labels) == 0
    for row in pq.read_table(out / "embeddings")["labels"].to_pylist():
        assert [label["set"] for label in row] == ["CIFAR10", "CIFAR10", "colours", "colours"]
        assert {label["label"] for label in row[2:]} < {"red", "green", "blue"}


@pytest.mark.parametrize("reason", ["not_an_image", "truncated"])
def test_nothing_embedded_is_no_success(reason, model, tmp_path, errors):
    shard = tmp_path / "00000.tar"
    image = io.BytesIO()
    Image.new("RGB", (40, 40)).save(image, "BMP")
    damaged = b"damage" if reason == "not_an_image" else image.getvalue()[:-100]
    write_tar([("0.jpg", damaged), ("0.txt", b"a cat")], shard)
    command = (shard, "--model", model, "--out", tmp_path / "out")
    assert run(*command) == 4
    assert (
        "embed: the gate is not met: 0 of 1 images kept (at least 1), 100.0% failed (at most "
        f"100.0%); dropped images: {reason} 1; samples of them are in "
        f"{tmp_path / 'out/_rejected/embeddings'}"
    ) in errors()
    assert run(*command) == 4
    assert "nothing to do" in errors()


def test_names_of_shards_and_members_may_be_any_bytes(shards, model, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    (caption, jpg), *_ = images(1)
    write_tar([(f"{name}.JPG", jpg), (f"{name}.Txt", caption.encode())], shards / f"{name}.tar")
    out = tmp_path / "out"
    command = ("--model", model, "--out", out, "--image-column", "JPG", "--text-column", "TXT")
    assert run(shards / f"{name}.tar", *command) == 0
    (file,) = (out / "embeddings").iterdir()
    assert file.name.startswith("caf\\xe9-")
    assert pq.read_table(file)["pair_id"].to_pylist() == ["caf\\xe9"]
    capsys.readouterr()
    assert run(shards / f"{name}.tar", *command) == 0
    assert "1 of 1 shards are in" in capsys.readouterr().out


def test_a_broken_shard_is_partial_and_the_others_are_kept(shards, model, tmp_path, capsys):
    (shards / "00002.tar").write_bytes((shards / "00000.tar").read_bytes()[:5000])
    (shards / "00003.parquet").write_bytes(b"PAR1 no footer PAR1")
    out = tmp_path / "out"
    assert run(shards, "--model", model, "--out", out) == 3
    assert "2 of 4 shards are in" in capsys.readouterr().out
    tar, parquet = (path.read_text() for path in sorted((out / "_errors/embeddings").iterdir()))
    assert "is not a whole tar file" in tar
    assert f"{shards}/00003.parquet is not a whole Parquet file" in parquet
    names = sorted(path.name[:5] for path in (out / "embeddings").iterdir())
    assert names == ["00000", "00001"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tar"], "there is no file absent.tar"),
        (["SHARDS", "--model", "absent"], "/absent not found"),
        (["SHARDS", "--labels", "Imagnet"], "no classes are called 'Imagnet'"),
        (["SHARDS", "--set", "batchsize=1"], "batchsize: there is no such key"),
        (["SHARDS", "--set", "attributes={cat: {}}"], ":\n  attributes.cat needs prompts"),
        (["SHARDS", "--set", "heads={a: {path: absent}}"], "/absent"),
        (["MODEL"], "is none of .parquet"),
        (["SHARDS", "--out", "ftp://b/out"], "--out ftp://b/out: only a local or mounted path"),
    ],
)
def test_what_cannot_work_is_refused(shards, model, tmp_path, errors, arguments, message):
    for name, path in {"SHARDS": shards, "MODEL": model}.items():
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
    flip_a_byte(next((out / "embeddings").glob("00001-*.parquet")))
    assert verify([str(out), "--mend"]) == 3
    assert "again by: python -m pipelines.embed, given as before" in capsys.readouterr().out
    with lock_folder(out / "_run", ""):
        assert verify([str(out)]) == 3
        assert verify([str(out), "--mend"]) == 75
    assert run(shards, "--model", model, "--out", out) == 0
    assert verify([str(out)]) == 0


def test_a_shard_of_which_nothing_is_kept_is_no_success(shards, model, tmp_path, caplog, capsys):
    """It is named, and the other one's rows are there."""
    rows = {"key": ["a", "b"], "jpg": [b"damage", b"GIF89a"], "caption": ["one", "two"]}
    pq.write_table(pa.table(rows), shards / "00002.parquet")
    command = (shards, "--model", model, "--out", tmp_path / "out")
    for _ in range(2):  # a rerun does not forget it
        assert run(*command) == 4
        said = capsys.readouterr()
        assert "52 images in, 49 kept, 3 failed" in said.out
        assert "of 1 of 3 shards not a row was kept" in caplog.text + said.err


def test_a_broken_head_ends_the_command_with_nothing_kept(shards, model, tmp_path, errors):
    torch.save({"weight": torch.full((1, 32), float("nan"))}, tmp_path / "head.pt")
    heads = f"heads={{broken: {{path: {tmp_path / 'head.pt'}}}}}"
    assert run(shards, "--model", model, "--out", tmp_path / "out", "--set", heads) == 4
    assert "not_finite 49" in errors()


def test_into_a_bucket_goes_what_goes_into_a_folder_and_it_resumes(
    shards, model, bucket_of, store, tmp_path, capsys, errors
):
    url = f"{store.new_bucket()}/embeddings/all"
    command = [shards, "--model", model, "--out"]
    assert run(*command, tmp_path / "out") == 0
    with holding(Bucket(url)):
        assert run(*command, url) == 75
        assert f"{url} is held by process" in errors()
    name = next((tmp_path / "out/_receipts/embeddings").glob("00001-*")).name

    def lose_a_receipt(environ, start, _application):
        is_it = environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(name)
        return refuse("403 Forbidden", start) if is_it else None

    store.fault = lose_a_receipt
    assert run(*command, url) == 3
    store.fault = None
    (done,) = [name for name in objects_below(url) if name.startswith("_receipts")]
    capsys.readouterr()
    asked = len(store.requests)
    assert run(*command, url) == 0
    assert f"2 of 2 shards are in {url}/embeddings" in capsys.readouterr().out
    assert not [p for m, p in store.requests[asked:] if m == "PUT" and p.endswith(done)]
    there = objects_below(url)
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert there[str(path.relative_to(tmp_path / "out"))] == path.read_bytes()
    assert "_run/settings.json" in there
    assert b"complete, nothing to do" not in there["_run/logs/run.jsonl"]
    assert run(*command, url) == 0
    assert b"complete, nothing to do" in objects_below(url)["_run/logs/run.jsonl"]
    assert verify(["--run-dir", url]) == 0
    assert "everything is as its receipts say" in capsys.readouterr().out
    other = save_tiny_model(tmp_path / "other.safetensors", seed=1)
    assert run(shards, "--model", other, "--out", url) == 2
    assert f"--out {url}: its embeddings were made by another model" in errors()


def test_a_bucket_that_holds_something_else_is_left_alone(shards, model, bucket_of, store, errors):
    url = f"{store.new_bucket()}/embeddings"
    Bucket(url).write("notes/a.txt", b"mine", None)
    assert run(shards, "--model", model, "--out", url) == 2
    assert f"--out {url}: it holds other files" in errors()
    assert objects_below(url) == {"notes/a.txt": b"mine"}


def test_shards_in_a_bucket_are_as_those_of_a_folder(
    shards, model, bucket_of, store, tmp_path, capsys, errors
):
    url = f"{store.new_bucket()}/laion"
    send_folder(shards, url)
    Bucket(url).write("notes.md", b"no shard", None)
    out = tmp_path / "out"
    assert run(url, "--model", model, "--out", out) == 0
    assert f" of {url}/00000.tar" in capsys.readouterr().out
    assert run(shards, "--model", model, "--out", tmp_path / "here") == 0
    made, wanted = (
        [path.read_bytes() for path in sorted((folder / "embeddings").iterdir())]
        for folder in (out, tmp_path / "here")
    )
    assert made == wanted
    assert not list((tmp_path / "copies").rglob("*.tar")), "an input stays until it is read"
    capsys.readouterr()
    for same in (url, f"{url}/*", f"{url}/00000.tar"):
        before = (out / "_run/logs/run.jsonl").read_bytes()
        assert run(same, "--model", model, "--out", out) == (2 if same.endswith("*") else 0)
        said = (out / "_run/logs/run.jsonl").read_bytes()[len(before) :]
        assert b"nothing to do" in said or same.endswith("*")
    assert f"{url}/notes.md is none of" in errors()
    bucket = Bucket(url)
    content, stat = bucket.read("00001.parquet")
    bucket.write("00001.parquet", content[:-4] + b"PAR2", stat)  # of the same size
    assert run(url, "--model", model, "--out", out) == 3
    assert run(f"{url}/absent.tar", "--model", model, "--out", out) == 2
    assert f"there is no object {url}/absent.tar" in errors()
