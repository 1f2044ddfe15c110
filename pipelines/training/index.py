"""What is known of shards without their images: which rows are trained on, and where they are.

It is made once, in a pass over each shard, and stored in a file for each, which is mapped and not
read: whoever goes on with a training has it at once, and its size is in no process's memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from pipelines.training.held_out import is_held_out_sum
from pipelines.training.opted_out import read_listed
from pipelines.training.order import DataSettings, Hashes
from pipelines.training.teacher import NOWHERE, Teacher, open_gathered
from workers.base.arrays import Bools, Float16s, Int32s, Int64s, UInt64s
from workers.base.copies import as_urls, bring, drop, publish, version_of
from workers.base.cores import usable_cores
from workers.base.opt_outs import OptOuts
from workers.base.settings import printable
from workers.base.storage import replacing
from workers.base.tally import Tally
from workers.embedding.overlap import overlap
from workers.embedding.samples import Sample, failure_reason
from workers.embedding.settings import InputSettings
from workers.embedding.shard_reader import list_chunks
from workers.embedding.tar_reader import Chunk

#: Raise it when a file's content changes for the same shard and settings.
VERSION = 1

#: Shards whose index is open at a time; one costs a few kilobytes.
OPEN_SHARDS = 64

_ABOUT = b"index"
_TALLY = TypeAdapter(Tally)
_CHUNKS = TypeAdapter(list[Chunk])


def hashes_of(image: bytes, captions: Iterable[str]) -> tuple[int, list[int]]:
    """The 64 bits by which an image is known, and each of its captions."""
    return _image_hash(hashlib.sha256(image).digest()), list(map(_caption_hash, captions))


def _image_hash(sha256: bytes) -> int:
    return int.from_bytes(sha256[:8], "little")


def _caption_hash(caption: str) -> int:
    """Without regard to spaces and capitals, of which the tokenizer takes no notice."""
    text = " ".join(caption.split()).lower()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class ShardIndex:
    """The rows of a shard that are trained on, in its order. Its arrays lie in a mapped file."""

    chunks: list[Chunk]
    starts: Int64s  # [chunks + 1], the number of each chunk's first row among them
    rows: Int32s  # [n], the number of each in its chunk
    images: UInt64s  # [n], hashes
    captions: UInt64s  # [m], hashes
    first_captions: Int32s  # [n + 1], where each row's captions begin
    teacher: Float16s | None = None  # [n, 2, D], of image and caption, where there is one

    def hashes(self, begin: int, end: int) -> Hashes:
        """Of the rows from ``begin`` to ``end``."""
        first = self.first_captions[begin : end + 1]
        return Hashes(
            np.asarray(self.images[begin:end]),
            self.captions[first[0] : first[-1]],
            (first - first[0]).astype(np.int64),
        )

    def only(self, kept: Bools) -> ShardIndex:
        """Of its rows those that are kept."""
        counts = np.diff(self.first_captions)
        return ShardIndex(
            self.chunks,
            np.concatenate([[0], kept.cumsum()])[self.starts],
            self.rows[kept],
            self.images[kept],
            self.captions[np.repeat(kept, counts)],
            np.concatenate([[0], counts[kept].cumsum()]).astype(np.int32),
        )


@dataclass(frozen=True)
class Failure:
    """A row whose image turned out to be none."""

    id: str
    reason: str
    error: str


@dataclass(frozen=True)
class Index:
    """Of all shards of a training."""

    shards: tuple[Path, ...]
    files: tuple[Path, ...]
    rows: Int64s  # [shards], that are trained on
    tally: Tally
    source: InputSettings = field(default_factory=InputSettings)
    teacher: Teacher | None = None

    @classmethod
    def of(
        cls,
        shards: Sequence[Path],
        folder: Path,
        settings: DataSettings,
        *,
        source: InputSettings | None = None,
        opt_outs: Sequence[OptOuts] = (),
        contents: Sequence[str] | None = None,
        teacher: Teacher | None = None,
        threads: int | None = None,
    ) -> Index:
        """Open the index of shards, and make first what of it is not there.

        Args:
            shards: Parquet or webdataset tars; their order is part of the training's.
            folder: of the index's files. One is never taken for another content, seed, share of
                held-out rows or list of opt-outs; those of none may be removed.
            source: which columns are read.
            opt_outs: rows that stand on one of them are left out: by their columns url, page_url,
                pair_id, sha256 and image_hash, and by the sha256 of their image as it is here.
            contents: the sha256 of each shard, where somebody knows them; else a shard is known by
                its name, size and time. Give them for shards in a bucket, which says no time.
            teacher: whose embeddings are learnt from; rows that it lacks are left out.

        Raises:
            ShardError: a shard, or a file of the teacher's, cannot be read.
        """
        source = source or InputSettings()
        lists = tuple(filter(None, opt_outs))
        maker = _Maker(settings.seed, settings.held_out, source, lists, teacher)
        known = contents or [_identity(path) for path in shards]
        files = [
            folder / f"{path.name.partition('.')[0]}-{maker.key(content)}.arrow"
            for path, content in zip(shards, known, strict=True)
        ]
        threads = threads or usable_cores()
        with ThreadPoolExecutor(threads, "index") as pool:
            made = (
                (None, pool.submit(maker.tally_of, shard, file))
                for shard, file in zip(shards, files, strict=True)
            )
            tallies = [tally for _, tally in overlap(made, 2 * threads)]
        rows = np.array([tally.kept for tally in tallies], np.int64)
        return cls(tuple(shards), tuple(files), rows, Tally.total(tallies), source, teacher)

    def shard(self, number: int) -> ShardIndex:
        return open_shard_index(self.files[number])

    def teacher_of(self, place: tuple[int, int]) -> Float16s:
        """The teacher's embeddings of a row's image and caption, [2, D], if there is a teacher."""
        shard, row = place
        vectors = self.shard(shard).teacher
        assert vectors is not None
        return vectors[row]

    def account(self, failures: Mapping[tuple[int, int], Failure]) -> Tally:
        """The tally once all workers' ``Stream.failures`` are known: those rows were not kept."""
        lost = Tally()
        for failure in failures.values():
            lost.fail(failure.reason, failure.id, {"error": failure.error})
        total = Tally.total([self.tally, lost])
        total.rows_in -= len(failures)
        total.kept -= len(failures)
        return total


def _identity(path: Path) -> str:
    return json.dumps([as_urls(printable(path)), *version_of(path)])


def write_shard_index(index: ShardIndex, tally: Tally, file: Path) -> None:
    """Write what ``open_shard_index`` maps."""
    batch = pa.record_batch(
        {
            "row": pa.array(index.rows),
            "image": pa.array(index.images),
            "captions": pa.ListArray.from_arrays(index.first_captions, index.captions),
        }
    )
    about = {
        "chunks": [asdict(chunk) for chunk in index.chunks],
        "starts": index.starts.tolist(),
        "tally": _TALLY.dump_python(tally),
    }
    batch = batch.replace_schema_metadata({_ABOUT: json.dumps(about)})
    with replacing(file) as temporary, pa.ipc.new_file(temporary, batch.schema) as writer:
        writer.write_batch(batch)


@lru_cache(OPEN_SHARDS)
def open_shard_index(file: Path) -> ShardIndex:
    """Map a file of an index."""
    batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
    about = json.loads(batch.schema.metadata[_ABOUT])
    rows, images, captions = batch.columns
    gathered = _gathered(file)
    return ShardIndex(
        _CHUNKS.validate_python(about["chunks"]),
        np.array(about["starts"], np.int64),
        rows.to_numpy(),
        images.to_numpy(),
        captions.values.to_numpy(),
        captions.offsets.to_numpy(),
        open_gathered(gathered) if gathered.exists() else None,
    )


def _gathered(file: Path) -> Path:
    """Where the teacher's embeddings of the rows of an index are."""
    return file.with_suffix(".npy")


@dataclass(frozen=True)
class _Maker:
    """Makes the index of a shard."""

    seed: int
    held_out: float
    source: InputSettings
    opt_outs: tuple[OptOuts, ...]
    teacher: Teacher | None

    def key(self, content: str) -> str:
        """What the file of a shard's index is known by."""
        about = [
            VERSION,
            content,
            self.seed if self.held_out else None,
            self.held_out,
            self.source.model_dump(),
            [(opt_outs.reason, opt_outs.digest()) for opt_outs in self.opt_outs],
        ]
        if self.teacher:
            about.append(self.teacher.identity)
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]

    def tally_of(self, shard: Path, file: Path) -> Tally:
        """What became of a shard's rows; its index is made if it is not there, or damaged."""
        bring([file, _gathered(file)] if self.teacher else [file])
        try:
            with pa.memory_map(str(file)) as source:
                about = json.loads(pa.ipc.open_file(source).schema.metadata[_ABOUT])
            tally = _TALLY.validate_python(about["tally"])
            if not self.teacher or len(open_gathered(_gathered(file))) == tally.kept:
                return tally
        except (OSError, ValueError, pa.ArrowException):
            pass
        return self._make(shard, file)

    def _make(self, shard: Path, file: Path) -> Tally:
        bring([shard])
        chunks, kept, tally = list_chunks(shard), _Rows(), Tally()
        starts = [0]
        for chunk in chunks:
            self._read(shard, chunk, kept, tally)
            starts.append(len(kept.rows))
        drop(shard)
        index = kept.as_index(chunks, starts)
        if self.teacher:
            places = self.teacher.find(kept.ids, shard.name.partition(".")[0])
            known = _known(kept.ids, places, tally)
            self.teacher.gather(places[known], _gathered(file))
            publish(_gathered(file))
            index = index.only(known)
        tally.check()
        write_shard_index(index, tally, file)
        publish(file)
        return tally

    def _read(self, shard: Path, chunk: Chunk, kept: _Rows, tally: Tally) -> None:
        with_reasons = read_listed(shard, chunk, self.source, self.opt_outs)
        for row, (sample, reason) in enumerate(with_reasons):
            self._judge(row, sample, reason, kept, tally)

    def _judge(
        self, row: int, sample: Sample, listed: str | None, kept: _Rows, tally: Tally
    ) -> None:
        if failure := failure_reason(sample, self.source, several=True):
            tally.fail(failure[0], sample.id, {"error": failure[1]})
            return
        digest = hashlib.sha256(sample.image or b"").digest()
        if listed:
            tally.reject_many(listed, 1, ())  # whatever it is, no sample shows it
        elif is_held_out_sum(digest.hex(), self.seed, self.held_out):
            tally.reject("held_out", sample.id, {"caption": sample.captions[0]})
        else:
            tally.keep()
            kept.add(row, _image_hash(digest), map(_caption_hash, sample.captions))
            if self.teacher:
                kept.ids.append(sample.id)


def _known(ids: Sequence[str], places: Int32s, tally: Tally) -> Bools:
    """Which rows a teacher has embedded; the others were not kept after all."""
    known: Bools = places[:, 0] != NOWHERE
    for row in np.flatnonzero(~known).tolist():
        tally.rows_in, tally.kept = tally.rows_in - 1, tally.kept - 1
        tally.reject("not_in_teacher", ids[row], {"pair_id": ids[row]})
    return known


@dataclass
class _Rows:
    """The columns of a shard's index while it is made: 20 bytes a row, and 8 a caption."""

    rows: array[int] = field(default_factory=lambda: array("i"))
    images: array[int] = field(default_factory=lambda: array("Q"))
    captions: array[int] = field(default_factory=lambda: array("Q"))
    first_captions: array[int] = field(default_factory=lambda: array("i", [0]))
    ids: list[str] = field(default_factory=list)  # where they are joined with a teacher's

    def add(self, row: int, image: int, captions: Iterable[int]) -> None:
        self.rows.append(row)
        self.images.append(image)
        self.captions.extend(captions)
        self.first_captions.append(len(self.captions))

    def as_index(self, chunks: list[Chunk], starts: Sequence[int]) -> ShardIndex:
        return ShardIndex(
            chunks,
            np.array(starts, np.int64),
            np.array(self.rows, np.int32),
            np.array(self.images, np.uint64),
            np.array(self.captions, np.uint64),
            np.array(self.first_captions, np.int32),
        )
