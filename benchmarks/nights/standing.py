"""What a run has, as its receipts say it, and how far two runs' data sets are from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.receipts import Receipts
from pipelines.stages import DATASET_STAGES
from workers.base.failures import is_passing

#: How far similarity and probabilities of two runs may be apart, and numbers of embeddings, which
#: are rounded to float16.
TOLERANCE, EMBEDDING_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class Standing:
    """Which pairs a run has, and which of them have been answered."""

    pairs: dict[str, str]  # pair_id to URL
    there: dict[str, str]  # those with an image
    final: dict[str, str]  # those that failed, or were rejected, for good
    rows: int  # of the data set

    @classmethod
    def of(cls, run_dir: Path) -> Standing:
        """What the receipts of a run prove."""
        there = _urls(run_dir, "images")
        final: dict[str, str] = {}
        for table in _tables(run_dir, "images", "_tables/images", ("pair_id", "url", "reason")):
            for pair, url, reason in zip(*table.to_pydict().values(), strict=True):
                if reason is not None and not is_passing(reason):
                    final[pair] = url
        rows = sum(len(t) for t in _tables(run_dir, "dataset", "dataset", ("pair_id",)))
        return cls(_urls(run_dir, "pairs"), there, final, rows)

    @property
    def answered(self) -> dict[str, str]:
        """The pairs that nobody needs to ask for again."""
        return self.there | self.final


def asked_again(urls: set[str], before: Standing, after: Standing) -> list[str]:
    """Of the URLs that were asked for, those of answered pairs; one of a new pair may be asked."""
    new = {url for pair, url in after.pairs.items() if pair not in before.answered}
    return sorted(urls & set(before.answered.values()) - new)


def _urls(run_dir: Path, stage: str) -> dict[str, str]:
    tables = _tables(run_dir, stage, stage, ("pair_id", "url"))
    columns = [table.to_pydict() for table in tables]
    return {
        pair: url
        for both in columns
        for pair, url in zip(both["pair_id"], both["url"], strict=True)
    }


def _tables(run_dir: Path, stage: str, folder: str, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """The files of a stage in one of its folders, those that its receipts name."""
    for path in sorted(Receipts(run_dir / stage).outputs()):
        if path.parent == run_dir / folder:
            yield pq.read_table(path, columns=list(columns))


def files_of(run_dir: Path, stages: Sequence[str]) -> set[str]:
    """The files that the receipts of stages name."""
    paths = (path for stage in stages for path in Receipts(run_dir / stage).outputs())
    return {str(path.relative_to(run_dir)) for path in paths if path.is_file()}


def receipts(run_dir: Path) -> dict[str, bytes]:
    """All receipts of the data set's stages: one that is the same was not worked on."""
    return {
        f"{stage}/{path.stem}": path.read_bytes()
        for stage in DATASET_STAGES
        for path in sorted((run_dir / "_receipts" / stage).rglob("*.json"))
    }


def redone(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The stages of which a receipt is new, another or gone."""
    names = before.keys() | after.keys()
    changed = {name.split("/")[0] for name in names if before.get(name) != after.get(name)}
    return [stage for stage in DATASET_STAGES if stage in changed]


@dataclass(frozen=True)
class Comparison:
    """Two data sets, side by side."""

    differences: list[str]
    similarity: float  # the largest difference
    embedding: float


def compare(grown: Path, fresh: Path) -> Comparison:
    """Rows, columns and order must be the same; what is computed in floats nearly so."""
    files = [sorted(p.name for p in (run / "dataset").iterdir()) for run in (grown, fresh)]
    if files[0] != files[1]:
        return Comparison([f"other files: {files[0]} and {files[1]}"], np.nan, np.nan)
    ours, theirs = (
        pa.concat_tables(pq.read_table(run / "dataset" / name) for name in files[0])
        for run in (grown, fresh)
    )
    if ours["pair_id"] != theirs["pair_id"]:
        both = [set(table["pair_id"].to_pylist()) for table in (ours, theirs)]
        text = f"other rows or order: {len(both[0] - both[1])} more, {len(both[1] - both[0])} less"
        return Comparison([text], np.nan, np.nan)
    exact = [name for name in ours.column_names if name not in ("similarity", "labels")]
    found = [f"other {name}" for name in exact if ours[name] != theirs[name]]
    if ours.schema != theirs.schema:
        found.append("other columns")
    similarity = _distance(ours["similarity"], theirs["similarity"])
    if similarity > TOLERANCE:
        found.append(f"similarity up to {similarity} apart")
    found += _label_differences(ours["labels"].to_pylist(), theirs["labels"].to_pylist())
    embedding = _embedding_distance(grown, fresh, ours["pair_id"].to_pylist())
    if not embedding <= EMBEDDING_TOLERANCE:
        found.append(f"embeddings up to {embedding} apart")
    return Comparison(found, similarity, embedding)


def _distance(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> float:
    return float(np.abs(ours.to_numpy() - theirs.to_numpy()).max())


def _label_differences(
    ours: list[list[dict[str, object]]], theirs: list[list[dict[str, object]]]
) -> Iterator[str]:
    """Labels of the same probability may have changed places."""
    others = 0
    for own, other in zip(ours, theirs, strict=True):
        names = [[(label["set"], label["label"]) for label in labels] for labels in (own, other)]
        odds = [np.array([label["probability"] for label in labels]) for labels in (own, other)]
        near = len(own) == len(other) and bool((np.abs(odds[0] - odds[1]) <= TOLERANCE).all())
        others += not near or sorted(map(str, names[0])) != sorted(map(str, names[1]))
    if others:
        yield f"other labels of {others} pairs"


def _embedding_distance(grown: Path, fresh: Path, pairs: list[str]) -> float:
    """The largest difference of a number of an embedding of these pairs."""
    columns = ("pair_id", "image_embedding", "text_embedding")
    ours, theirs = (_embeddings(run, columns, pairs) for run in (grown, fresh))
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf


def _embeddings(run_dir: Path, columns: tuple[str, ...], pairs: list[str]) -> np.ndarray:
    table = pa.concat_tables(_tables(run_dir, "embeddings", "embeddings", columns))
    table = table.take(pa.compute.index_in(pa.array(pairs), table["pair_id"].combine_chunks()))
    features = [
        np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False)).astype(np.float32)
        for name in columns[1:]
    ]
    return np.concatenate(features, axis=1)
