"""The stage that trains an n-gram baseline on the pairs of a run, once for the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from clip_model.probe import hash_order
from pipelines.evaluation.n_grams import IDENTITY, Captions, Dictionary, fit_n_grams
from pipelines.evaluation.stages import LAYER, N_GRAMS, Evaluation
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.receipts import Outcome, Shard, Source
from pipelines.run.runner import finished_run
from workers.base.arrays import Float32s
from workers.base.failures import NeedsMendingError
from workers.base.tally import Tally
from workers.embedding.matrix import embedding_matrix

#: Stages of the run whose files it reads: pairs that were opted out are not selected.
READ = ("pairs", "embeddings", "selection")
#: Pairs at most, drawn by hash: they are in memory.
MOST = 100_000


class NGrams(Evaluation):
    """One shard: the layer. The run is read, and stays as it is."""

    name = N_GRAMS

    def check(self) -> None:
        _ = self._pairs_run

    def plan(self) -> list[Shard]:
        files = {stage: self._pairs_run.outputs(stage) for stage in READ}
        return [self.shard(Path(LAYER).stem, {**IDENTITY, "most": MOST}, files)]

    @cached_property
    def _pairs_run(self) -> Run:
        """Raises ConfigError where it is not complete, or has no pairs."""
        place = self.run.suite.protocols.n_grams
        assert place is not None
        run = finished_run("protocols.n_grams", place, READ)
        if not run.outputs("embeddings"):
            raise ConfigError(f"protocols.n_grams: {run.directory} has no embedded pairs")
        return run

    @cached_property
    def _known(self) -> dict[Path, Source]:
        receipts = map(self._pairs_run.receipts, READ)
        return {source.path: source for some in receipts for source in some.sources()}

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_process(FitNGrams(), shards, self.folder)


@dataclass(frozen=True)
class FitNGrams:
    """The work on the layer."""

    most: int = MOST

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        ids, captions, features, model = read_pairs(shard, self.most)
        try:
            dictionary = Dictionary.of(captions)
        except ValueError as error:
            raise NeedsMendingError(
                f"protocols.n_grams: {error}: name a run of more pairs, or leave the key out"
            ) from error
        known = Captions.of(dictionary, captions).known.any(dim=-1).tolist()
        rows, tally = [row for row, is_known in enumerate(known) if is_known], Tally()
        tally.keep(len(rows))
        for name, caption, is_known in zip(ids, captions, known, strict=True):
            if not is_known:
                tally.reject("no_frequent_n_gram", name, {"pair_id": name, "caption": caption})
        texts, keys = ([some[row] for row in rows] for some in (captions, ids))
        features_of = torch.from_numpy(features[rows])
        fit_n_grams(features_of, texts, keys, dictionary, model).write(out / LAYER)
        return {"pairs": tally}


def read_pairs(shard: Shard, most: int) -> tuple[list[str], list[str], Float32s, str]:
    """The selected pairs, as many of them at most, in the order of their ids.

    Returns:
        Ids, captions, features [N, D], and whose features they are.
    """
    kept = [
        name
        for path in shard.files["selection"]
        for name, reason in zip(*_columns(path, "pair_id", "reason"), strict=True)
        if reason is None
    ]
    chosen = {kept[row] for row in hash_order(kept, seed=0)[:most]}
    caption = {
        name: text
        for path in shard.files["pairs"]
        for name, text in zip(*_columns(path, "pair_id", "caption"), strict=True)
        if name in chosen
    }
    ids: list[str] = []
    parts: list[Float32s] = []
    for path in shard.files["embeddings"]:
        table = pq.read_table(path, columns=["pair_id", "image_embedding"])
        names = table["pair_id"].to_pylist()
        rows = [row for row, name in enumerate(names) if name in chosen]
        ids += [names[row] for row in rows]
        if rows:
            parts.append(embedding_matrix(table["image_embedding"].take(rows)))
    if not ids:
        raise NeedsMendingError("protocols.n_grams: no pair of the run was selected")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    model = pq.read_schema(shard.files["embeddings"][0]).metadata[b"model"].decode()
    ids = [ids[row] for row in order]
    return ids, [caption[name] for name in ids], np.concatenate(parts)[order], model


def _columns(path: Path, *names: str) -> tuple[list[str], ...]:
    table = pq.read_table(path, columns=list(names))
    return tuple(table[name].to_pylist() for name in names)
