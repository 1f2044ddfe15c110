"""What can be wrong with the files of a run: each is read as its readers would, and compared.

Memory is bounded by the columns of a shard: pair_ids are in order within a shard and, but for what
came on different nights, across shards, which also says that each is there once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.run.receipts import Counts, Output, Receipt, Receipts, first_problem
from workers.base.arrays import Int32s
from workers.base.contracts import DATASET, IMAGES, PAIRS, QUERIES, REQUESTS, SELECTION
from workers.base.pair_ids import make_pair_ids
from workers.base.storage import DAMAGED_PARQUET, file_hash
from workers.embedding.matrix import embedding_matrix
from workers.selection.select import EmbeddedShard

#: The stage whose shards a stage has shards for, one of the same name for each.
FOLLOWS = {
    "images": "requests",
    "embeddings": "images",
    "labels": "embeddings",
    "selection": "pairs",
    "dataset": "selection",
}
SCHEMAS = {
    "queries": QUERIES,
    "candidates": PAIRS,
    "pairs": PAIRS,
    "requests": REQUESTS,
    "images": IMAGES,
    "selection": SELECTION,
    "dataset": DATASET,
}

#: The folder of a run in which its models are judged on a suite.
EVALUATION = "evaluation"

#: Images that are decoded, and rows of embeddings that are looked at, at a time.
BATCH_IMAGES = 256
BATCH_ROWS = 4096
#: How far the length of an embedding, and a product of two, may be off in float16.
TOLERANCE = 5e-3


@dataclass
class Checker:
    """Checks a folder's stages, in their order; remembers what later stages are compared with."""

    directory: Path
    #: Parquet files found to be as their receipts say: these can be compared with.
    whole: set[Path] = field(default_factory=set)
    query_ids: Int32s | None = None
    #: Stages of which a file is not as its receipt says.
    unsound: set[str] = field(default_factory=set)
    _last_ids: dict[str, str] = field(default_factory=dict)

    def shard(self, stage: str, receipt: Receipt) -> Iterator[str]:
        """What is wrong with the files of a shard of a stage."""
        folder, kind = self.directory / stage, _kind_of(stage)
        sound, rows = True, 0
        for output in receipt.outputs:
            if problem := file_problem(folder, output):
                sound = False
                yield problem
            else:
                rows += output.rows or 0 if (folder / output.file).parent == folder else 0
        if not sound:
            self.unsound.add(stage)
            return
        if (counted := _counted(kind, receipt.rows)) is not None and counted != rows:
            yield f"its receipt counts {counted:,} rows, its files hold {rows:,}"
        for output in sorted(receipt.outputs, key=lambda output: output.file):
            path = folder / output.file
            if path.parent == folder:
                yield from (f"{path.name}: {text}" for text in self._content(kind, path, receipt))
                self.whole.add(path)

    def _content(self, stage: str, path: Path, receipt: Receipt) -> Iterator[str]:
        expected = SCHEMAS.get(stage)
        if expected and not pq.read_schema(path).equals(expected):
            yield "its columns are not those of the contract"
        elif check := CONTENT.get(stage):
            yield from check(self, path, receipt)

    def beside(self, stage: str, path: Path) -> Path | None:
        """The shard of another stage of the same pairs, if it is whole."""
        other = self.directory / stage / path.name
        return other if other in self.whole else None

    def of_all_nights(self, stage: str) -> list[Path]:
        """All shards of a stage; none where one of them is damaged."""
        folder = self.directory / stage
        if stage in self.unsound:
            return []
        return sorted(path for path in self.whole if path.parent == folder)

    def in_order(self, stage: str, ids: pa.ChunkedArray, *, across: bool = True) -> Iterator[str]:
        """Each id is larger than the one before; ``across``: the stage's shards, too."""
        last, column = self._last_ids.get(stage, "") if across else "", ids.combine_chunks()
        if not len(column):
            return
        pairs = pc.greater(column[1:], column[:-1])
        if column[0].as_py() <= last or not pc.all(pairs, min_count=0).as_py():
            yield "its pair_ids are not in order, or not each there once"
        self._last_ids[stage] = max(last, pc.max(column).as_py())

    def known_queries(self, lists: pa.ChunkedArray) -> Iterator[str]:
        if self.query_ids is None:
            return
        ids = pc.unique(pc.list_flatten(lists)).to_numpy()
        if strange := int((~np.isin(ids, self.query_ids)).sum()):
            yield f"{strange:,} of its query_ids are not in queries/"


def _kind_of(stage: str) -> str:
    """What it has in common with others: `evaluation/features/MODEL` is one of `features`."""
    return stage.removeprefix(f"{EVALUATION}/").partition("/")[0]


def file_problem(folder: Path, output: Output) -> str | None:
    """What is wrong with a file: gone, changed, or no Parquet of as many rows."""
    path = folder / output.file
    try:
        if path.stat().st_size != output.bytes:
            return f"{output.file}: {path.stat().st_size:,} bytes, not {output.bytes:,}"
        if file_hash(path) != output.sha256:
            return f"{output.file}: its sha256 is not that of its receipt"
        if output.rows is not None and (rows := pq.read_metadata(path).num_rows) != output.rows:
            return f"{output.file}: {rows:,} rows, not {output.rows:,}"
    except OSError as error:
        return f"{output.file}: {error.strerror or error}"
    except DAMAGED_PARQUET as error:
        return f"{output.file}: no Parquet file: {error}"
    return None


def _counted(stage: str, rows: Mapping[str, Counts]) -> int | None:
    """The rows that a receipt counts for the shard's Parquet files; None where it has none."""
    if stage not in (*SCHEMAS, "embeddings", "labels", "sets", "features") or not rows:
        return None
    *_, counts = rows.values()  # the last kind of row is what goes on
    return int(counts["in" if stage == "selection" else "kept"])


def missing_shards(directory: Path, stage: str) -> list[str]:
    """Shards that a stage which has begun should have and has not, by their names or files."""
    receipts, before = Receipts(directory / stage), Receipts(directory / FOLLOWS.get(stage, ""))
    done = receipts.all()
    missing = set(receipts.begun()) - {receipt.shard for receipt in done}
    if stage in FOLLOWS and done:
        there = {Path(output.file).stem for receipt in done for output in receipt.outputs}
        wanted = {path.stem for path in before.outputs() if path.parent == before.folder}
        missing |= wanted - there
    return sorted(missing)


def _ids(path: Path) -> pa.ChunkedArray:
    return pq.read_table(path, columns=["pair_id"])["pair_id"]


def _among(ids: pa.ChunkedArray, path: Path | None, what: str) -> Iterator[str]:
    """Every id is one of another shard's."""
    if path is not None:
        there = pc.is_in(ids, value_set=_ids(path).combine_chunks())
        if missing := len(ids) - int(pc.sum(there, min_count=0).as_py()):
            yield f"{missing:,} of its pairs are not in {what}"


def _queries(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    ids = pq.read_table(path, columns=["query_id"])["query_id"].to_numpy()
    if not np.all(np.diff(ids) > 0):
        yield "its query_ids are not in order, or not each there once"
    before = checker.query_ids
    checker.query_ids = ids if before is None else np.concatenate([before, ids])


def _pages(_checker: Checker, path: Path, receipt: Receipt) -> Iterator[str]:
    from workers.extract.warc_records import Damage, read_records

    pages = 0
    with path.open("rb") as file:
        for record in read_records(file):
            if isinstance(record, Damage):
                yield f"at byte {record.offset}: {record.error}"
            else:
                pages += record.kind == "response"
    if pages != receipt.rows["pages"]["kept"]:
        yield f"{pages:,} pages, not {receipt.rows['pages']['kept']:,}"


def _candidates(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    table = pq.read_table(path, columns=["pair_id", "url", "caption", "query_ids"])
    ids = table["pair_id"].combine_chunks()
    if not pc.all(pc.greater_equal(ids[1:], ids[:-1]), min_count=0).as_py():
        yield "its pair_ids are not in order"
    yield from _matched(checker, table)


def _pairs(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    table = pq.read_table(path, columns=["pair_id", "url", "caption", "query_ids"])
    yield from checker.in_order("pairs", table["pair_id"])
    yield from _matched(checker, table)


def _matched(checker: Checker, table: pa.Table) -> Iterator[str]:
    urls, captions = (table[name].combine_chunks() for name in ("url", "caption"))
    if not make_pair_ids(urls, captions).equals(table["pair_id"].combine_chunks()):
        yield "a pair_id is not that of its URL and caption"
    yield from checker.known_queries(table["query_ids"])


def _requests(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    yield from checker.in_order("requests", _ids(path), across=False)


def _images(checker: Checker, path: Path, receipt: Receipt) -> Iterator[str]:
    ids = _ids(path)
    yield from checker.in_order("images", ids, across=False)
    yield from _took(receipt, checker.beside("requests", path), "requests/")
    yield from _among(ids, checker.beside("requests", path), "requests/")
    yield from images(path)


def _took(receipt: Receipt, path: Path | None, what: str) -> Iterator[str]:
    """The receipt counts as many rows in as there were to take."""
    rows_in = next(iter(receipt.rows.values()))["in"]
    if path is not None and (rows := pq.read_metadata(path).num_rows) != rows_in:
        yield f"its receipt counts {rows_in:,} rows in, {what} has {rows:,}"


def _embeddings(checker: Checker, path: Path, receipt: Receipt) -> Iterator[str]:
    images = checker.beside("images", path)
    if images is not None:
        ids = _ids(path)
        yield from checker.in_order("embeddings", ids, across=False)
        yield from _took(receipt, images, "images/")
        yield from _among(ids, images, "images/")
    yield from vectors(path)


def _labels(checker: Checker, path: Path, receipt: Receipt) -> Iterator[str]:
    yield from checker.in_order("labels", _ids(path), across=False)
    yield from _took(receipt, checker.beside("embeddings", path), "embeddings/")
    yield from _among(_ids(path), checker.beside("embeddings", path), "embeddings/")
    yield from vectors(path)


def _selection(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    ids = _ids(path)
    yield from checker.in_order("selection", ids)
    embeddings, images = map(checker.of_all_nights, ("embeddings", "images"))
    pairs = checker.beside("pairs", path)
    if embeddings and images and pairs:
        shard = EmbeddedShard(pairs, embeddings, images, checker.of_all_nights("labels"))
        if not ids.equals(shard.read([])["pair_id"]):
            yield "its pairs are not those of pairs/ that embeddings/ has"


def _dataset(checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    table = pq.read_table(path, columns=["pair_id", "query_ids"])
    yield from checker.in_order("dataset", table["pair_id"])
    yield from checker.known_queries(table["query_ids"])
    if selection := checker.beside("selection", path):
        verdicts = pq.read_table(selection)
        selected = verdicts.filter(pc.is_null(verdicts["reason"]))["pair_id"]
        if not table["pair_id"].equals(selected):
            yield "its pairs are not those that selection/ has selected"
    yield from images(path)


def images(path: Path) -> Iterator[str]:
    """Every image decodes, to the size that stands beside it."""
    broken: list[str] = []
    columns = ["pair_id", "jpg", "width", "height"]
    with ThreadPoolExecutor() as pool:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_IMAGES, columns=columns):
            broken += filter(None, pool.map(_image_problem, batch.to_pylist()))
    if broken:
        yield f"{len(broken):,} images are not as they should be, the first: {broken[0]}"


def _image_problem(row: dict[str, Any]) -> str | None:
    from clip_model.image_files import ImageError, decode_image

    try:
        size = decode_image(row["jpg"]).size
    except ImageError as error:
        return f"{row['pair_id']}: {error}"
    known = (row["width"], row["height"])
    return None if size == known else f"{row['pair_id']}: {size}, not {known}"


def vectors(path: Path) -> Iterator[str]:
    """Embeddings are finite and of unit length, and every number beside them is finite."""
    problems: dict[str, int] = {}
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
        for problem, rows in _vector_problems(pa.Table.from_batches([batch])):
            problems[problem] = problems.get(problem, 0) + rows
    yield from (f"{rows:,} rows: {problem}" for problem, rows in problems.items() if rows)


def _vector_problems(table: pa.Table) -> Iterator[tuple[str, int]]:
    """Kinds of problems and how many rows have them."""
    matrices = {
        name: embedding_matrix(table[name]) for name in table.column_names if "_embedding" in name
    }
    for name, matrix in matrices.items():
        length = np.linalg.norm(matrix, axis=1)
        # Not "above": what is not a number is not within anything.
        yield f"{name} is not of unit length", int((~(np.abs(length - 1) <= TOLERANCE)).sum())
    for name in table.column_names:
        if name == "similarity" or name.startswith("score_"):
            yield f"{name} is not finite", int((~np.isfinite(table[name].to_numpy())).sum())
    if "similarity" in table.column_names:
        product = (matrices["image_embedding"] * matrices["text_embedding"]).sum(axis=1)
        is_close = np.abs(product - table["similarity"].to_numpy()) <= TOLERANCE
        yield "similarity is not that of the embeddings", int((~is_close).sum())
    if "labels" in table.column_names:
        labels = pc.list_flatten(table["labels"].combine_chunks())
        probabilities = pc.struct_field(labels, "probability").to_numpy()
        yield "labels without a probability", int((~(np.abs(probabilities - 0.5) <= 0.51)).sum())


def _model(_checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    if path.suffix != ".safetensors":
        return
    import torch

    import clip_model

    try:
        model, _ = clip_model.load(str(path))
    except (RuntimeError, ValueError) as error:
        yield f"it does not load: {error}"
        return
    for name, values in model.state_dict().items():
        if not torch.isfinite(values).all():
            yield f"its weights {name} are not finite"
            return


class _Scores(BaseModel):
    model_config = ConfigDict(strict=True)

    images: int
    captions: int
    chance: float
    models: dict[str, dict[str, float]]


class _Estimate(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float | None
    interval: list[float | None]


class _OnSet(BaseModel):
    model_config = ConfigDict(strict=True)

    set: str
    pictures: int
    start: _Estimate | None
    trained: _Estimate
    difference: _Estimate | None


class _OnSuite(BaseModel):
    sets: list[_OnSet]


def _scores(_checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    try:
        if path.name == "suite.json":
            _OnSuite.model_validate_json(path.read_bytes())
            return
        scores = _Scores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        yield f"it cannot be read: {first_problem(error)}"
        return
    values = [scores.chance, *(v for model in scores.models.values() for v in model.values())]
    if not all(math.isfinite(value) for value in values):
        yield "a score is not finite"


def _features(_checker: Checker, path: Path, _receipt: Receipt) -> Iterator[str]:
    yield from vectors(path)


Check = Callable[[Checker, Path, Receipt], Iterator[str]]
CONTENT: dict[str, Check] = {
    "queries": _queries,
    "pages": _pages,
    "candidates": _candidates,
    "pairs": _pairs,
    "requests": _requests,
    "images": _images,
    "embeddings": _embeddings,
    "labels": _labels,
    "selection": _selection,
    "dataset": _dataset,
    "model": _model,
    "scores": _scores,
    "features": _features,
}
