"""What a teacher's stored embeddings are worth: the pictures that a student sees with and without.

    python -m examples.starter_model --only prepare
    python -m examples.starter_model.pairs runs/emoji --concepts 400
    python -m benchmarks.distillation runs/emoji --out runs/distillation

embeds the pairs with a teacher, as `pipelines.embed` does, and trains the same small student on
the same pairs in the same batches twice: by the pairs alone, and with `model.distillation` from
what was embedded. Both are judged zero-shot on Twemoji on their way. A seed is of weights and
order, the same for both. It prints a table and, as its last line, the same as JSON.

A teacher has embedded one caption of each picture, so each has its first name here. What it takes
to embed them is not counted: that is done once, for as many students as there are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

import clip_model
from benchmarks.model_scale import FILES
from benchmarks.objectives import PARTS, as_json, table
from benchmarks.zero_shot_curves import (
    Data,
    add_options,
    config_of,
    curves_of,
    data_of,
    settings_of,
    steps_of,
)
from clip_model.flops import image_flops
from examples.starter_model.pairs import PAIRS, TEST
from pipelines.embed import main as embed
from pipelines.evaluation.report.markdown import counted
from pipelines.training.settings import DistillationSettings
from pipelines.training.teacher import COLUMNS
from workers.base.storage import file_hash, write_table
from workers.embedding.matrix import embedding_matrix


@dataclass(frozen=True)
class TaughtData(Data):
    """What is trained on and judged by, with what a teacher has made of it."""

    embeddings: Path

    @cached_property
    def digest(self) -> str:
        return super().digest + file_hash(self.embeddings)


def taught(data: Data, teacher: str, out: Path) -> TaughtData:
    """The same data with one caption a picture, and embedded.

    Raises:
        SystemExit: the teacher cannot embed them.
    """
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(data.folder / PAIRS)
    first = pc.list_element(rows["caption"], 0)
    rows = rows.set_column(rows.schema.get_field_index("caption"), "caption", first)
    # What is the same keeps its time, by which it is known as embedded already.
    if not (folder / PAIRS).exists() or pq.read_table(folder / PAIRS) != rows:
        write_table(rows, folder / PAIRS)
    shutil.copyfile(data.folder / TEST, folder / TEST)
    code = embed([str(folder / PAIRS), "--out", str(out / "teacher"), "--model", teacher])
    if code:
        raise SystemExit(f"{teacher} has not embedded {folder / PAIRS}: exit code {code}")
    (embeddings,) = (out / "teacher" / "embeddings").glob("*.parquet")
    return TaughtData(folder, data.classes, embeddings)


def temperature_of(teacher: str) -> float:
    """That it was trained to."""
    model, _ = clip_model.load(teacher, device="cpu", half=False)
    return float((-model.logit_scale.detach()).exp())


def certainty(data: TaughtData, temperature: float, batch_size: int) -> float:
    """What the teacher's softmax gives to an image's own caption, on average, in a batch.

    It is of the first rows whose caption none before them has.
    """
    pairs = pq.read_table(data.folder / PAIRS, columns=["pair_id", "caption"])
    first = dict[str, str]()
    for row in pairs.to_pylist():
        first.setdefault(row["caption"], row["pair_id"])
    chosen = pa.array(list(first.values())[:batch_size])
    taught = pq.read_table(data.embeddings, columns=["pair_id", *COLUMNS])
    rows = taught.filter(pc.is_in(taught["pair_id"], chosen))
    images, texts = (
        torch.from_numpy(embedding_matrix(rows[name]).astype("f4")) for name in COLUMNS
    )
    return float((images @ texts.t() / temperature).softmax(dim=1).diagonal().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed, train what is not trained yet, judge and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distillation", description=__doc__.splitlines()[0]
    )
    add_options(parser, pairs=20_000, classes=400)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and order")
    add("--teacher", default="starter", help="a known model or a checkpoint (default: starter)")
    add("--weight", type=float, default=1.0, help="of the distillation (default: %(default)s)")
    add("--temperature", type=float, help="of the teacher's similarities (default: its own)")
    text = "of the student: a file as of examples/scale, or a name (default: rn-1)"
    add("--architecture", default=str(FILES / "rn-1.json"), help=text)
    options = parser.parse_args(arguments)
    data = taught(data_of(options), options.teacher, options.out)
    alone = settings_of(options.architecture, "contrastive", options)
    distillation = DistillationSettings(
        embeddings=(str(data.embeddings),),
        weight=options.weight,
        temperature=options.temperature or temperature_of(options.teacher),
    )
    both = {"distilled": alone.model_copy(update={"distillation": distillation}), "alone": alone}
    curves = curves_of(both, options.seeds, data, PARTS, options.out)
    gflops = image_flops(config_of(alone)) / 1e9
    seen = steps_of(options) * options.batch_size
    about = (
        f"{data.classes} pictures of Twemoji, each a class; "
        f"{counted(len(options.seeds), 'seed')}, {seen:,} pairs each, the same student "
        f"({gflops:.3f} GFLOP an image); teacher {options.teacher}, weight {options.weight:g}, "
        f"temperature 1/{1 / distillation.temperature:.0f}."
    )
    sure = certainty(data, distillation.temperature, options.batch_size)
    about += f" In a batch the teacher gives {sure:.0%} to an image's own caption."
    lines = [about, "", *table(curves, data.classes)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.write(json.dumps(as_json(curves, data.classes)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
