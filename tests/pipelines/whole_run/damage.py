"""Damage of many kinds to a finished run, and what its verification says of it."""

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipelines.conftest import flip_a_byte
from workers.base.storage import file_hash, write_table


def resign(run_dir, stage, name):
    """Let the receipt say of a changed file that it is as it was written."""
    path = run_dir / stage / name
    for file in (run_dir / "_receipts" / stage).glob("*.json"):
        receipt = json.loads(file.read_text())
        for output in receipt["outputs"]:
            if output["file"] == name:
                output |= {"bytes": path.stat().st_size, "sha256": file_hash(path)}
                with contextlib.suppress(pa.ArrowInvalid):
                    output["rows"] = output["rows"] and pq.read_metadata(path).num_rows
        file.write_text(json.dumps(receipt))


def second(run_dir, stage):
    """The second shard of a stage."""
    return sorted((run_dir / stage).glob("*.parquet"))[1]


def edit(stage, change, name=None):
    """Damage: a shard whose table was changed, with a receipt that says that it is right."""

    def damage(run_dir):
        path = run_dir / stage / name if name else second(run_dir, stage)
        table = pq.read_table(path)
        write_table(change(table).cast(table.schema), path)
        resign(run_dir, stage, path.name)

    return damage


def with_value(column, value):
    """The table with another value in a column of its second row."""

    def change(table):
        rows = table.to_pylist()
        rows[1][column] = value(rows[1][column]) if callable(value) else value
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


def content(stage, name, change, *, signed=True):
    """Damage: a file of other bytes."""

    def damage(run_dir):
        path = next((run_dir / stage).glob(name))
        path.write_bytes(change(path.read_bytes()))
        if signed:
            resign(run_dir, stage, path.name)

    return damage


def not_a_number(weights):
    """The last weight as float32's NaN, of which the last half is float16's, too."""
    return weights[:-4] + b"\x00\x00\xc0\x7f"


def without_a_column(run_dir):
    path = second(run_dir, "images")
    write_table(pq.read_table(path).drop_columns(["sha256"]), path)
    resign(run_dir, "images", path.name)


def forgotten(run_dir):
    path = second(run_dir, "images")
    (run_dir / "_receipts" / "images" / f"{path.stem}.json").unlink()
    path.unlink()


def unreadable(run_dir):
    path = second(run_dir, "images")
    (run_dir / "_receipts" / "images" / f"{path.stem}.json").write_text("")


def other_input(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    for known in record["inputs"]["queries"].values():
        known["sha256"] = "0" * 64
    (run_dir / "run.json").write_text(json.dumps(record))


def write(name, text=""):
    def damage(run_dir):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(text)

    return damage


TWICE = lambda table: pa.concat_tables([table[:1], table])  # noqa: E731
WARC = "127.0.0.1*.warc"

#: Damage, and which stage's finding says what of it.
FINDINGS = [
    (lambda run: flip_a_byte(second(run, "images")), "images", "its sha256 is not"),
    (lambda run: (run / "dataset/00001.parquet").unlink(), "dataset", "No such file"),
    (lambda run: (run / "_tables/pairs/query_counts.parquet").unlink(), "pairs", "No such file"),
    (content("pages", WARC, lambda data: data[:-9], signed=False), "pages", "bytes, not"),
    (content("pages", WARC, lambda data: data[:-9]), "pages", "at byte"),
    (content("images", "*-1.parquet", lambda data: bytes(len(data))), "images", "no Parquet"),
    (without_a_column, "images", "its columns are not those of the contract"),
    (edit("queries", TWICE, "00000.parquet"), "queries", "its query_ids are not in order"),
    (edit("pairs", lambda table: table[1:]), "pairs", "its receipt counts"),
    (edit("pairs", TWICE), "pairs", "its pair_ids are not in order, or not each there once"),
    (edit("images", lambda table: table[::-1]), "images", "its pair_ids are not in order"),
    (edit("pairs", with_value("caption", "another")), "pairs", "not that of its URL and caption"),
    (edit("pairs", with_value("query_ids", [10**9])), "pairs", "1 of its query_ids are not in"),
    (edit("requests", lambda table: table[1:]), "images", "rows in, requests/ has"),
    (edit("requests", lambda table: table[::-1]), "requests", "its pair_ids are not in order"),
    (edit("images", TWICE), "images", "its pair_ids are not in order"),
    (edit("images", with_value("pair_id", lambda i: f"{i}0")), "images", "1 of its pairs are not"),
    (edit("images", with_value("jpg", b"JPEG")), "images", "1 images are not as they should be"),
    (edit("dataset", with_value("width", 7)), "dataset", "1 images are not as they should be"),
    (edit("images", lambda table: table[1:]), "embeddings", "1 of its pairs are not in images/"),
    (
        edit("embeddings", with_value("image_embedding", lambda v: [float("nan"), *v[1:]])),
        *("embeddings", "1 rows: image_embedding is not of unit length"),
    ),
    (
        edit("embeddings", with_value("text_embedding", lambda v: [x / 2 for x in v])),
        *("embeddings", "1 rows: text_embedding is not of unit length"),
    ),
    (edit("embeddings", lambda table: table[1:]), "labels", "1 of its pairs are not in embeddings"),
    (
        edit("labels", with_value("labels", lambda v: [{**v[0], "probability": float("nan")}])),
        *("labels", "1 rows: labels without a probability"),
    ),
    (edit("embeddings", with_value("similarity", 0.9)), "embeddings", "1 rows: similarity is not"),
    (
        edit("embeddings", with_value("similarity", float("inf"))),
        *("embeddings", "1 rows: similarity is not finite"),
    ),
    (edit("selection", lambda table: table[1:]), "selection", "its pairs are not those of pairs/"),
    (edit("dataset", lambda table: table[1:]), "dataset", "its pairs are not those that select"),
    (content("model", "model.safetensors", lambda data: data[:99]), "model", "it does not load"),
    (content("model", "model.safetensors", not_a_number), "model", "are not finite"),
    (content("scores", "scores.json", lambda data: data[:99]), "scores", "it cannot be read"),
    (
        content("scores", "scores.json", lambda data: data.replace(b": 0.", b': NaN, "a": 0.', 1)),
        *("scores", "a score is not finite"),
    ),
    (unreadable, "images", "-1 cannot be read"),
    (write("_errors/images/00009.txt", "why"), "images", "shard 00009 is not done"),
    (forgotten, "images", "-1 is not done"),
    (write("dataset/notes/mine.parquet"), "dataset", "notes is not the run's"),
    (write("run.json", "{"), "inputs", "run.json cannot be read"),
    (other_input, "inputs", "its sha256 is not that on record"),
]
