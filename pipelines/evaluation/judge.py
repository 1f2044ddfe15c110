"""The work on one model and one data set: its features, judged by every protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import clip_model
from clip_model.templates import ClassName
from clip_model.zero_shot import TextTower
from pipelines.evaluation.n_grams import NGramLayer
from pipelines.evaluation.pictures import NO_TEXTS
from pipelines.evaluation.protocols import (
    Pictures,
    Predicted,
    judge_classification,
    judge_retrieval,
    robustness,
)
from pipelines.evaluation.settings import ProtocolSettings
from pipelines.run.receipts import Shard
from workers.base.copies import bring
from workers.base.failures import NeedsMendingError
from workers.base.storage import write_json, write_table
from workers.base.tally import Tally
from workers.embedding.encoders import load_model
from workers.embedding.matrix import embedding_matrix


@dataclass(frozen=True)
class Texts:
    """A model's text tower, in float32."""

    model: TextTower

    def classifier(self, classes: Sequence[ClassName], templates: Sequence[str]) -> Tensor:
        """Names that are too long for the context are cut: [C, E], unit length."""
        return clip_model.zero_shot_classifier(
            self.model, classes, tuple(templates), truncate=True
        ).cpu()

    def texts(self, captions: Sequence[str]) -> Tensor:
        """[M, E], unit length; captions are cut likewise."""
        return clip_model.encode_texts(self.model, captions, truncate=True).cpu()


@dataclass(frozen=True)
class Judge:
    """Judges a shard of ``Results``."""

    models: Mapping[str, str]  # names or files of checkpoints by label; those that know texts
    protocols: ProtocolSettings

    @cached_property
    def _towers(self) -> dict[str, Texts]:
        """The text tower of the model that was judged last: shards come by model."""
        return {}

    def _tower(self, label: str) -> Texts | None:
        if label not in self.models:
            return None
        if label not in self._towers:
            self._towers.clear()
            self._towers[label] = Texts(load_model(self.models[label]))
        return self._towers[label]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        of = shard.values
        tower = self._tower(of["model"])
        test, missing = read_pictures(shard.files["test"], shard.files["test features"])
        tally = Tally()
        tally.keep(len(test.ids))
        for name in missing:
            tally.fail("not_embedded", name, {"id": name})
        if not test.ids:
            raise NeedsMendingError(f"{of['set']}: none of its {len(missing)} pictures decodes")
        if of["task"] == "retrieval":
            judged = judge_retrieval(tower, test, self.protocols)
        else:
            train = None
            if "train" in shard.files:
                train, _ = read_pictures(shard.files["train"], shard.files["train features"])
            settings = self.protocols.model_copy(update={"metric": of["metric"]})
            layer, why_not = n_grams_of(shard)
            judged = judge_classification(
                tower, of["classes"], of["templates"], test, train, settings, layer
            )
            judged.result["warnings"] += why_not
        result = {"model": of["model"], "set": of["set"], **judged.result}
        if missing:
            warnings = result.setdefault("warnings", [])
            warnings.append(f"{len(missing)} pictures could not be read, and are not judged")
        write_json(result, out / f"{shard.name}.json")
        columns = {name: values.numpy() for name, values in judged.predictions.items()}
        table = pa.table({"id": test.ids, "labels": test.labels, **columns})
        write_table(table, out / f"{shard.name}.parquet")
        write_table(pa.table({"value": judged.draws}), out / f"{shard.name}.draws.parquet")
        return {"pictures": tally}


def read_pictures(pictures: Sequence[Path], features: Sequence[Path]) -> tuple[Pictures, list[str]]:
    """A split's pictures with their features, and the ids of those that have none."""
    ids: list[str] = []
    labels: list[tuple[int, ...]] = []
    captions: list[tuple[str, ...]] = []
    rows: list[Tensor] = []
    hidden: list[Tensor] = []
    missing: list[str] = []
    for some, of_them in zip(pictures, features, strict=True):
        columns = ["pair_id", "image_embedding", "image_hidden"]
        embedded = pq.read_table(of_them, columns=columns)
        place = {name: row for row, name in enumerate(embedded["pair_id"].to_pylist())}
        facts = pq.read_table(some, columns=["id", "labels", "captions"]).to_pylist()
        known = [row for row in facts if row["id"] in place]
        missing += [row["id"] for row in facts if row["id"] not in place]
        for column, into in (("image_embedding", rows), ("image_hidden", hidden)):
            matrix = torch.from_numpy(embedding_matrix(embedded[column]))
            into.append(matrix[[place[row["id"]] for row in known]])
        ids += [row["id"] for row in known]
        labels += [tuple(row["labels"]) for row in known]
        captions += [tuple(row["captions"]) for row in known]
    return Pictures(ids, torch.cat(rows), labels, captions, torch.cat(hidden)), missing


def n_grams_of(shard: Shard) -> tuple[NGramLayer | None, list[str]]:
    """The n-gram baseline where one is asked for, or why the model cannot have it."""
    if "n_grams" not in shard.files:
        return None, []
    layer = NGramLayer.read(shard.file("n_grams"))
    model = pq.read_schema(shard.files["test features"][0]).metadata[b"model"].decode()
    if model == layer.model:
        return layer, []
    return None, [f"no n-grams: the run that they are of was embedded by {layer.model}"]


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What was found, of the files of ``Results``."""
    bring(paths)
    return [json.loads(path.read_bytes()) for path in paths if path.suffix == ".json"]


def robustness_of(
    folder: Path,
    results: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, str],
    protocols: ProtocolSettings,
) -> list[dict[str, Any]]:
    """Of each model the difference between two sets of the same classes.

    Args:
        folder: of ``Results``.
        pairs: by a data set's name, the other one's.
    """
    by_name = {(result["model"], result["set"]): result for result in results}
    found = []
    for model in dict.fromkeys(model for model, _ in by_name):
        for one, other in pairs.items():
            names = {"task": "robustness", "model": model, "set": one, "other": other}
            if not by_name[model, one]["zero_shot"]:
                found.append(names | _no_robustness(one, other))
                continue
            here, there = (_predicted(folder, by_name[model, name]) for name in (one, other))
            found.append(names | robustness(here, there, protocols))
    return found


def _no_robustness(one: str, other: str) -> dict[str, Any]:
    nothing = {"value": None, "interval": [None, None]}
    sides = {"one": {"set": one, **nothing}, "other": {"set": other, **nothing}}
    return {**sides, "difference": nothing, "reason": NO_TEXTS}


def _predicted(folder: Path, result: Mapping[str, Any]) -> Predicted:
    path, kind = folder / f"{result['model']}.{result['set']}.parquet", result["best_prompts"]
    table = pq.read_table(path, columns=["labels", kind])
    classes = [one["name"] for one in result["zero_shot"][kind]["per_class"]]
    labels = [tuple(some) for some in table["labels"].to_pylist()]
    return Predicted(result["set"], classes, labels, torch.from_numpy(table[kind].to_numpy()))
