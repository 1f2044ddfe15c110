"""The evaluation of models as a run of three kinds of stages, resumable and never done twice.

    data sets ─▶ sets/ ─▶ features/MODEL/ for each model ─▶ results/ for each model and data set

What was done for other models and data sets stays: one more model costs one model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from clip_model.templates import ClassName
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.sources import Item, SourceError, Task
from pipelines.evaluation.suite import SPLITS, DataSet, Split, Suite
from pipelines.run.config import Config, ConfigError, RaySettings, digest
from pipelines.run.directory import Run
from pipelines.run.engines import in_process, in_ray_tasks
from pipelines.run.precision import check_precision
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Receipt, Shard
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import Embed, embed_in_actors
from workers.base.copies import bring
from workers.base.failures import NeedsMendingError
from workers.base.storage import ROW_GROUP_ROWS, table_writer
from workers.base.tally import Tally
from workers.embedding.overlap import in_chunks
from workers.embedding.settings import InputSettings

#: The stage of the n-gram baseline, and its file.
N_GRAMS, LAYER = "n_grams", "layer.parquet"

#: Pictures in a file of a data set: a shard for the model.
PICTURES = 8_192

#: ``sets/``: the pictures of a split; its metadata have the classes and templates of the data.
PICTURE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
    ]
)
SAID = b"said"  # its key

IMAGES = InputSettings(parts="images", id_column="id", image_column="image")


@dataclass(frozen=True)
class EvaluationRun(Run):
    """A folder of judgements."""

    suite: Suite = field(kw_only=True)
    #: Where the work is done; None for this process, without Ray.
    ray: RaySettings | None = field(kw_only=True, default=None)
    option: ClassVar[str] = "--out"

    @classmethod
    def of(cls, suite: Suite, place: Path | str, ray: RaySettings | None) -> EvaluationRun:
        config = Config(name="evaluate", queries="none")
        directory = Run.open(config, place).directory
        return cls(config, directory, suite=suite, ray=ray)


class Evaluation(Stage):
    """What the three have in common: what was done of other models and data sets stays."""

    run: EvaluationRun

    def discard_others(self, shards: Sequence[Shard]) -> None:  # noqa: ARG002 - they stay
        self.receipts.clear_scratch()

    def done(self) -> list[Receipt]:
        return [receipt for shard in self.plan() if (receipt := self.receipts.valid(shard))]

    def again(self, *_: object, **__: object) -> list[Shard]:
        """Nothing: what a picture lacks comes at no other time."""
        return []


class Sets(Evaluation):
    """A shard a split of a data set."""

    name = "sets"

    def check(self) -> None:
        """What can be seen to be wrong with a data set costs no model any time."""
        self.plan()

    def plan(self) -> list[Shard]:
        return self._shards

    @cached_property
    def _shards(self) -> list[Shard]:
        """Each data set is opened once. Raises ConfigError where one cannot be used."""
        return [
            self._shard(name, data_set, split)
            for name, data_set in self.run.suite.sets.items()
            for split in SPLITS
            if data_set.pictures(split) is not None
        ]

    def _shard(self, name: str, data_set: DataSet, split: Split) -> Shard:
        """As `make` has it, names, sizes and times of the files stand for their content."""
        try:
            source = data_set.open(split)
        except SourceError as error:
            raise ConfigError(f"sets.{name}.{split}: {error}") from error
        stamps = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in source.files]
        options = source.settings.model_dump(mode="json")
        identity = [data_set.format, source.split, options, stamps, source.classes]
        key = digest([self.version, *identity])
        return Shard(f"{name}.{split}", key, values={"set": name, "split": split})

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_process(WriteSet(self.run.suite), shards, self.folder)

    def files(self, name: str, split: Split) -> list[Path]:
        """The files of a split that was written; none where there is none."""
        receipt = self.receipts.get(f"{name}.{split}")
        return [self.folder / output.file for output in receipt.outputs] if receipt else []


@dataclass(frozen=True)
class WriteSet:
    """The work on a split: its pictures as Parquet."""

    suite: Suite

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        data_set: DataSet = self.suite.sets[shard.values["set"]]
        source = data_set.open(shard.values["split"])
        said = json.dumps(
            {"classes": source.classes, "templates": source.templates, "task": source.task}
        )
        schema, tally = PICTURE.with_metadata({SAID: said}), Tally()
        sound = _sound(source.items(), tally)
        for number, items in enumerate(in_chunks(sound, PICTURES)):
            with table_writer(schema, out / f"{shard.name}-{number:05d}.parquet") as file:
                for some in in_chunks(items, ROW_GROUP_ROWS):
                    file.write_table(_table(some, schema))
        if not tally.kept:
            raise NeedsMendingError(f"{shard.name}: none of its {tally.rows_in} pictures is of use")
        return {"pictures": tally}


def _sound(items: Iterator[Item], tally: Tally) -> Iterator[Item]:
    for item in items:
        if item.reason:
            tally.fail(item.reason, item.id, {"id": item.id, "error": item.problem})
        else:
            tally.keep()
            yield item


def _table(items: Sequence[Item], schema: pa.Schema) -> pa.Table:
    columns = {
        "id": [item.id for item in items],
        "image": [item.image for item in items],
        "labels": [list(item.labels) for item in items],
        "captions": [list(item.captions) for item in items],
    }
    return pa.table(columns, schema=schema)


def items_of(files: Sequence[Path]) -> Iterator[Item]:
    """The pictures of a split that was written."""
    bring(files)
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                for row in batch.to_pylist():
                    labels, captions = tuple(row["labels"]), tuple(row["captions"])
                    yield Item(row["id"], row["image"], labels, captions)


@dataclass(frozen=True)
class Said:
    """What the data says of itself."""

    classes: tuple[ClassName, ...] | None
    templates: tuple[str, ...] | None
    task: Task

    @classmethod
    def of(cls, path: Path) -> Said:
        """Of a file of ``sets/``."""
        bring([path])
        said = json.loads(pq.read_schema(path).metadata[SAID])
        classes = said["classes"]
        if classes is not None:
            classes = tuple(one if isinstance(one, str) else tuple(one) for one in classes)
        return cls(classes, said["templates"] and tuple(said["templates"]), said["task"])


class Features(Evaluation):
    """A model's features of all pictures: a shard a file of a data set."""

    name = "features"
    version = 2
    reads: ClassVar[tuple[str, ...]] = ("sets",)

    def __init__(self, run: EvaluationRun, candidate: Candidate) -> None:
        self.candidate = candidate
        self.name = f"features/{candidate.label}"  # type: ignore[misc] # of each model its own
        super().__init__(run)

    def check(self) -> None:
        _ = self.candidate.content

    def prepare(self) -> None:
        if not all(map(self.receipts.is_done, self.plan())):
            check_precision(self.candidate.settings, self.run.ray)

    def plan(self) -> list[Shard]:
        content, sets = self.candidate.content, Sets(self.run)
        return [
            self.shard(path.stem, content.identity, {"images": [path], **content.files})
            for name in self.run.suite.sets
            for split in SPLITS
            for path in sets.files(name, split)
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        settings = self.candidate.settings
        self.candidate.check_weights()
        work = Embed(settings, IMAGES, rounded=False, hidden=True)
        if self.run.ray is not None:
            yield from embed_in_actors(work, shards, self.folder, self.run.ray)
            return
        with Reporter(work.activity, self.folder, "here"):
            yield from in_process(work, shards, self.folder)


def data_stages(run: EvaluationRun) -> list[Evaluation]:
    """The stages that no model takes part in: data sets, and the n-grams where they are asked."""
    if run.suite.protocols.n_grams is None:
        return [Sets(run)]
    from pipelines.evaluation.n_gram_stage import NGrams  # takes long

    return [Sets(run), NGrams(run)]


class Results(Evaluation):
    """A shard a model and data set."""

    name = "results"
    version = 3

    def __init__(self, run: EvaluationRun, candidates: Sequence[Candidate]) -> None:
        super().__init__(run)
        self.candidates = candidates
        self.reads = ("sets", N_GRAMS, *(f"features/{one.label}" for one in candidates))  # type: ignore[misc]

    def plan(self) -> list[Shard]:
        sets = self.run.suite.sets
        return [self._shard(one, name) for one in self.candidates for name in sets]

    def _shard(self, candidate: Candidate, name: str) -> Shard:
        data_set, sets = self.run.suite.sets[name], Sets(self.run)
        features = self.run.directory / "features" / candidate.label
        pictures = {split: sets.files(name, split) for split in SPLITS}
        files: dict[str, list[Path]] = {"model": list(candidate.content.files["model"])}
        for split, paths in pictures.items():
            if paths:
                files[split] = paths
                files[f"{split} features"] = [features / path.name for path in paths]
        said = Said.of(pictures["test"][0])
        task = data_set.task or said.task
        values = {
            "model": candidate.label,
            "set": name,
            "task": task,
            "metric": data_set.metric_of(task),
            "classes": said.classes,
            "templates": data_set.own_templates(said.templates),
            "published": candidate.content.identity["published"],
        }
        settings = self.run.suite.protocols.identity()
        if settings.pop("n_grams") and not candidate.backbone and task != "retrieval":
            files[N_GRAMS] = [self.run.directory / N_GRAMS / LAYER]
        return self.shard(f"{candidate.label}.{name}", settings, files, values)

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        from pipelines.evaluation.judge import Judge  # takes long

        models = {one.label: one.settings.model for one in self.candidates if not one.backbone}
        work = Judge(models, self.run.suite.protocols)
        if self.run.ray is not None:
            return in_ray_tasks(work, shards, self.folder, self.run.ray)
        return in_process(work, shards, self.folder)
