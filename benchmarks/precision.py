"""What another precision, or another kind of processor, changes: two runs of the same images.

    python -m pipelines.build_dataset --run-dir A --set embeddings.precision=fp32
    cp -r A B
    python -m pipelines.build_dataset --run-dir B --set embeddings.precision=bf16
    python -m benchmarks.precision A B

Prints how far similarities and embeddings are apart, how many pairs' selection differs, and how
long the stage of the embeddings took. Each run's report has its area under the ROC curve.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from workers.embedding.matrix import embedding_matrix


def table(run: Path, stage: str) -> pa.Table:
    """A stage's rows, in the order of the pairs' identities."""
    return pyarrow.dataset.dataset(run / stage, format="parquet").to_table().sort_by("pair_id")


def show_run(run: Path) -> None:
    """Print what its embeddings say of themselves, and how long they took."""
    metadata = pq.read_schema(min((run / "embeddings").glob("*.parquet"))).metadata
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    seconds = record["stages"]["embeddings"]["wall_seconds"]
    model, precision = (metadata[key].decode() for key in (b"model", b"precision"))
    sys.stdout.write(f"{run}: {model} in {precision}, {seconds:.1f} s\n")


def show_difference(one: Path, other: Path) -> None:
    """Print how far the embeddings and the verdicts on the same pairs are apart."""
    embeddings = [table(run, "embeddings") for run in (one, other)]
    if not embeddings[0]["pair_id"].equals(embeddings[1]["pair_id"]):
        sys.exit("the runs have not embedded the same pairs")
    similarity = [rows["similarity"].to_numpy() for rows in embeddings]
    apart = np.abs(similarity[0] - similarity[1])
    write = sys.stdout.write
    write(f"similarities of {len(apart):,} pairs: {apart.max():.2g} apart at most, ")
    write(f"{np.quantile(apart, 0.99):.2g} for 99%, {np.median(apart):.2g} in the middle\n")
    for part in ("image", "text"):
        vectors = [embedding_matrix(rows[f"{part}_embedding"]) for rows in embeddings]
        norms = [np.linalg.norm(vector, axis=1) for vector in vectors]
        cosine = (vectors[0] * vectors[1]).sum(axis=1) / (norms[0] * norms[1])
        write(f"{part} embeddings: cosine of {cosine.min():.6f} and more\n")
    kept = [table(run, "selection")["reason"].is_null().to_numpy() for run in (one, other)]
    write(f"selected: {kept[0].sum():,} and {kept[1].sum():,}, ")
    write(f"{(kept[0] != kept[1]).sum():,} pairs in one of the two alone\n")


def main() -> None:
    """Compare the two runs that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="directory of a run")
    runs = parser.parse_args().runs
    for run in runs:
        show_run(run)
    show_difference(*runs)


if __name__ == "__main__":
    main()
