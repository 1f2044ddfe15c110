"""What can be wrong with a finished run: its receipts, its record, its files, files of others."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.fault import Fault, Place

Damage = Callable[[Path], None]


def write(name: str, content: bytes = b"") -> Damage:
    """Another content, or a file where there is none."""

    def damage(run_dir: Path) -> None:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_bytes(content)

    return damage


def folder(name: str) -> Damage:
    """A folder in the place of a file."""

    def damage(run_dir: Path) -> None:
        (run_dir / name).unlink(missing_ok=True)
        (run_dir / name / "inside").mkdir(parents=True)

    return damage


def flip(*names: str) -> Damage:
    """A byte in the midst of each file: damage of the same size and time."""

    def damage(run_dir: Path) -> None:
        for name in names:
            path = next(run_dir.glob(name))
            status, content = path.stat(), bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return damage


def no_footer(name: str) -> Damage:
    """A Parquet file of the same size whose footer does not parse."""

    def damage(run_dir: Path) -> None:
        path = next(run_dir.glob(name))
        path.write_bytes(path.read_bytes()[:-64] + bytes(64))

    return damage


def cut(name: str) -> Damage:
    """The first half of a file."""

    def damage(run_dir: Path) -> None:
        content = (run_dir / name).read_bytes()
        (run_dir / name).write_bytes(content[: len(content) // 2])

    return damage


def receipt(stage: str, **changes: object) -> Damage:
    """A receipt of a stage's only shard that says something else."""

    def damage(run_dir: Path) -> None:
        path = run_dir / "_receipts" / stage / "all.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def a_file_for_a_folder(name: str) -> Damage:
    """A folder moved away, and a file in its place."""

    def damage(run_dir: Path) -> None:
        (run_dir / name).rename(run_dir.parent / "moved")
        (run_dir / name).write_text("a file")

    return damage


def damaged(
    *damages: Damage, command: str = "build_dataset", more: tuple[str, ...] = (), without: str = ""
) -> Callable[[Place], list[str]]:
    """A command on a finished run that was damaged, and that lacks the stages ``without``."""

    def prepare(place: Place) -> list[str]:
        run_dir = place.copy(*without.split())
        for damage in damages:
            damage(run_dir)
        return place.command(command, *more)

    return prepare


def held(command: str, *more: str) -> Callable[[Place], list[str]]:
    """A command on a run that this process works on, some of whose files were deleted."""

    def prepare(place: Place) -> list[str]:
        run_dir = place.copy()
        (run_dir / "run.json").unlink()
        descriptor = os.open(run_dir, os.O_RDONLY)
        place.stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return place.command(command, *more)

    return prepare


def still_there(name: str) -> Callable[[Place, str], str]:
    """Checks that a file has not been removed."""
    return lambda place, _: "" if (place.run_dir / name).exists() else f"{name} is gone"


RECEIPT = "_receipts/selection/all.json"
_STEP = ("--set", "selection.steps=[{filter: similarity, min: 0.2}]")
_STATUS = ("--status",)
_MADE_AGAIN = "selection: 1 of 1 shards to do"
_RECORDS = {
    "empty": b"",
    "half": b'{"name": "sam',
    "null": b"null",
    "a list": b"[]",
    "of other types": b'{"stages": 7, "inputs": [], "decisions": null}',
    "UTF-16": '{"name": "sample"}'.encode("utf-16"),
}
_EVERY_STAGE = (
    *("queries/00000.parquet", "pages/*.warc", "pairs/00001.parquet", "requests/*.parquet"),
    *("images/*.parquet", "embeddings/*.parquet", "selection/00001.parquet"),
    "dataset/00001.parquet",
    *("model/model.safetensors", "scores/scores.json"),
)
#: A stage whose output has a byte flipped, and the one that reads it next.
_READ_BY = {
    "pairs/00001.parquet": "requests",
    "requests/*-1.parquet": "images",
    "images/*-1.parquet": "embeddings",
    "embeddings/*-1.parquet": "selection",
    "selection/00001.parquet": "dataset",
}
_NOTES = "dataset/NOTES.md"

FAULTS = [
    *(
        Fault(f"run.json is {name}", damaged(write("run.json", content)), "it is made again", (0,))
        for name, content in _RECORDS.items()
    ),
    Fault("run.json is a folder", damaged(folder("run.json")), "it is made again", (0,)),
    Fault("run.json is half, --status", damaged(write("run.json", b"{"), more=_STATUS),
          "| dataset | pairs |", (0,)),
    *(
        Fault(f"a receipt is {name}", damaged(write(RECEIPT, content)), _MADE_AGAIN, (0,))
        for name, content in _RECORDS.items()
    ),
    Fault("a receipt is a folder", damaged(folder(RECEIPT)), _MADE_AGAIN, (0,),
          again=(0, "nothing to do")),
    Fault("a receipt of another key", damaged(receipt("selection", key="0" * 64)), _MADE_AGAIN,
          (0,)),
    Fault("a receipt that does not balance",
          damaged(receipt("selection", rows={"pairs": {"in": 1, "kept": 0, "rejected": {},
                                                       "failed": {}}})), _MADE_AGAIN, (0,)),
    Fault("a receipt of a file outside of the run",
          damaged(receipt("selection", outputs=[{"file": "../../x", "bytes": 0, "sha256": "0" * 64,
                                                 "rows": None}])), _MADE_AGAIN, (0,)),
    Fault("a receipt is null, --status", damaged(write(RECEIPT, b"null"), more=_STATUS),
          "| embeddings | images |", (0,)),
    Fault("a list of outputs is half", damaged(write("_outputs/selection/all.json", b"[")),
          "nothing to do", (0,)),
    *(
        Fault(f"a byte of {name} flipped", damaged(flip(name), without=reader),
              f"{name.rpartition('*')[2]} is damaged", (3,), again=(0, ""))
        for name, reader in _READ_BY.items()
    ),
    Fault("a byte of dataset/ flipped, train",
          damaged(flip("dataset/00001.parquet"), without="model scores", command="train"),
          "pipelines.build_dataset makes it again", (3,)),
    Fault("a byte of model/ flipped, evaluate",
          damaged(flip("model/model.safetensors"), without="scores", command="evaluate"),
          "pipelines.train makes it again", (3,)),
    Fault("a byte of embeddings/ flipped, calibrate",
          damaged(flip("embeddings/*-1.parquet"), command="calibrate"), "--mend", (3,)),
    Fault("a footer of Parquet that does not parse",
          damaged(no_footer("embeddings/*-1.parquet"), without="selection"),
          "-1.parquet is damaged", (3,), again=(0, "")),
    Fault("the same, with verify_inputs: false",
          damaged(no_footer("embeddings/*-1.parquet"), without="selection",
                  more=("--set", "verify_inputs=false")),
          "-1.parquet is not a whole Parquet file", (3,), again=(0, "")),
    Fault("a shard is cut", damaged(cut("dataset/00001.parquet")), "dataset: 1 of 3 shards", (0,)),
    Fault("a byte of every stage flipped, verify",
          damaged(flip(*_EVERY_STAGE), command="verify"), "--mend removes the receipts", (3,)),
    Fault("a byte of selection/ flipped, verify --mend",
          damaged(flip("selection/00001.parquet"), command="verify", more=("--mend",)),
          "its sha256 is not", (3,), again=(3, "is not done")),
    Fault("notes among the shards", damaged(write(_NOTES, b"mine")), "not the run's, left alone",
          (0,), again=(0, "nothing to do"), check=still_there(_NOTES)),
    Fault("Parquet among the shards", damaged(write("dataset/mine.parquet")),
          "dataset/mine.parquet is not the run's", (2,), check=still_there("dataset/mine.parquet")),
    Fault("Parquet in a folder among the shards", damaged(write("pairs/x/mine.parquet")),
          "pairs/x/mine.parquet is not the run's", (2,)),
    *(
        Fault(f"{name}: a file in its place", damaged(a_file_for_a_folder(name), more=_STEP), says)
        for name, says in {
            "dataset": "a file stands where the run has a folder",
            "_receipts": "a file stands where the run has a folder",
            "_rejected": "a file stands where the run has a folder",
            "logs": "logs",
        }.items()
    ),
    Fault("report.md is a folder", damaged(folder("report.md")), "", (0,)),
    Fault("logs/run.jsonl is a folder", damaged(folder("logs/run.jsonl")), "run.jsonl"),
    Fault("the truth is no Parquet", damaged(write("truth.parquet", b"x")),
          "truth.parquet cannot be read as Parquet"),
    Fault("another configuration, --status", damaged(more=(*_STEP, *_STATUS)),
          "selection: shards that are not counted: 1; they are of an older configuration", (0,)),
    *(
        Fault(f"locked by another process, {command}", held(command, *more),
              "is being worked on by another process", (75,))
        for command, more in {"build_dataset": (), "train": (), "evaluate": (),
                              "verify": ("--mend",)}.items()
    ),
    Fault("locked by another process, --status", held("build_dataset", "--status"),
          "| dataset | pairs |", (0,)),
]  # fmt: skip
