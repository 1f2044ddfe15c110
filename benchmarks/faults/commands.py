"""`train`, `evaluate`, `calibrate` and `verify` where they cannot do their work."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

from benchmarks.faults.fault import Fault, Place

#: Counts the rows of pairs/ with other people's tools.
_COUNT = """
import sys, duckdb, polars, pyarrow.dataset
folder = sys.argv[1]
query = f"select count(*) from '{folder}/*.parquet'"
rows = {
    duckdb.connect().execute(query).fetchall()[0][0],
    polars.scan_parquet(folder).select(polars.len()).collect().item(),
    pyarrow.dataset.dataset(folder).count_rows(),
}
print(f"{len(rows)} count")
sys.exit(0 if len(rows) == 1 else 3)
"""


def _on(command: str, *more: str, without: str = "") -> Callable[[Place], list[str]]:
    """A command on a finished run that lacks some stages."""

    def prepare(place: Place) -> list[str]:
        place.copy(*without.split())
        return place.command(command, *more)

    return prepare


def _on_nothing(command: str, *more: str) -> Callable[[Place], list[str]]:
    return lambda place: place.command(command, *more)


def _verify(place: Place) -> list[str]:
    return [sys.executable, "-m", "pipelines.verify", str(place.folder)]


def _read_by_others(place: Place) -> list[str]:
    return [sys.executable, "-c", _COUNT, str(place.finished / "pairs")]


def _start_from(content: bytes) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        place.copy("model", "scores")
        path = place.folder / "model.safetensors"
        path.write_bytes(content)
        return place.command("train", "--set", f"model.start_from={path}")

    return prepare


def _without_a_shard(place: Place) -> list[str]:
    place.copy()
    (place.run_dir / "dataset" / "00001.parquet").unlink()
    return place.command("train")


def _no_embeddings(place: Place) -> list[str]:
    place.copy()
    shutil.rmtree(place.run_dir / "embeddings")
    return place.command("calibrate")


def _model_alone(place: Place, _: str) -> str:
    names = sorted(path.name for path in (place.finished / "model").iterdir())
    return (
        ""
        if names == ["metrics.jsonl", "model.safetensors"]
        else f"model/ holds {', '.join(names)}"
    )


_INCOMPLETE = "not complete with this configuration"
_NO_PAIRS = "no pairs embedded in full with this configuration"

FAULTS = [
    Fault("train on nothing", _on_nothing("train"), _INCOMPLETE),
    Fault("train on a run without its data set", _on("train", without="dataset"), _INCOMPLETE),
    Fault("train on a run that lacks a file", _without_a_shard, _INCOMPLETE),
    Fault("train with another configuration",
          _on("train", "--set", "selection.steps=[{filter: similarity, min: 0.2}]"), _INCOMPLETE),
    Fault("train from what is no model", _start_from(b"no model"), "model.safetensors"),
    Fault("train from a model that is absent",
          _on("train", "--set", "model.start_from=absent", without="model scores"),
          "/absent not found"),
    Fault("train from nothing", _start_from(b""), "model.safetensors"),
    Fault("train with everything held out",
          _on("train", "--set", "model.held_out=1.0", without="model scores"), "", (2, 4)),
    Fault("train with a batch that no split fills",
          _on("train", "--set", "model.batch_size=5000", "--set", "model.epochs=1",
              without="model scores"), "model: ", (0, 2, 4)),
    Fault("evaluate before training", _on("evaluate", without="model scores"), _INCOMPLETE),
    Fault("evaluate on nothing", _on_nothing("evaluate"), _INCOMPLETE),
    Fault("evaluate with prompts without {}",
          _on("evaluate", "--set", "scores.templates=[a photo]"), "templates without {}"),
    Fault("calibrate on nothing", _on_nothing("calibrate"), _NO_PAIRS),
    Fault("calibrate on a run without embeddings", _on("calibrate", without="embeddings"),
          _NO_PAIRS),
    Fault("calibrate on a run whose embeddings are gone", _no_embeddings, _NO_PAIRS),
    Fault("calibrate with a share that is none", _on("calibrate", "--noise", "2"),
          "--noise 2.0: a share between 0 and 1"),
    Fault("verify what is no run", _verify, "is no run"),
    Fault("verify a run that is whole", _on("verify"), "everything is as its receipts say", (0,),
          check=_model_alone),
    Fault("other tools read pairs/", _read_by_others, "1 count", (0,)),
]  # fmt: skip
