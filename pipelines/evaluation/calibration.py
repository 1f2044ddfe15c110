"""How well similarity tells right pairs from wrong ones, where the truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.arrays import Bools, Float32s
from workers.base.pair_ids import make_pair_id
from workers.embedding.matrix import embedding_matrix
from workers.pairs.clean_text import clean_caption

#: Images compared with all captions at a time; bounds the matrix to some 40 MB.
CHUNK = 1024


@dataclass(frozen=True)
class Calibration:
    """What the truth says of the embedded pairs and of the selection."""

    right: int  # embedded pairs whose caption describes the image
    wrong: int
    roc_auc: float  # that a right pair has the higher similarity of a right and a wrong one
    right_selected: int
    wrong_selected: int
    names: int  # classes of the zero-shot test: distinct captions of right pairs
    top1: float  # share of right pairs' images whose nearest caption is a right one
    top5: float
    chance: float  # top1 of a guess

    @property
    def precision(self) -> float:
        return self.right_selected / max(1, self.right_selected + self.wrong_selected)

    @property
    def recall(self) -> float:
        return self.right_selected / max(1, self.right)


@dataclass(frozen=True)
class _Embedded:
    """The embedded pairs that the truth knows, as columns."""

    pair_ids: list[str]
    similarity: Float32s  # [N]
    image: Float32s  # [N, D]
    text: Float32s  # [N, D]
    caption: list[str]
    name: list[str]
    correct: Bools  # [N]


def calibrate(
    truth: Path, embeddings: Sequence[Path], selected: Sequence[Path]
) -> Calibration | None:
    """Compare the truth with what was embedded and selected.

    Args:
        truth: Parquet file with url, caption, name and correct.
        embeddings, selected: the shards of the stages ``embeddings`` and ``dataset``.

    Returns:
        None where the truth does not hold both right and wrong pairs that were embedded.
    """
    known = _join(truth, embeddings)
    right, wrong = int(known.correct.sum()), int((~known.correct).sum())
    if not right or not wrong:
        return None
    from clip_model.metrics import roc_auc

    chosen = {
        pair_id
        for shard in selected
        for pair_id in pq.read_table(shard, columns=["pair_id"])["pair_id"].to_pylist()
    }
    is_chosen = np.array([pair_id in chosen for pair_id in known.pair_ids])
    top1, top5, chance, names = _zero_shot(known)
    return Calibration(
        right=right,
        wrong=wrong,
        roc_auc=float(roc_auc(known.similarity[known.correct], known.similarity[~known.correct])),
        right_selected=int((is_chosen & known.correct).sum()),
        wrong_selected=int((is_chosen & ~known.correct).sum()),
        names=names,
        top1=top1,
        top5=top5,
        chance=chance,
    )


def _join(truth: Path, embeddings: Sequence[Path]) -> _Embedded:
    # The truth has captions as they stand on the pages, the pairs have them cleaned.
    facts = {
        make_pair_id(row["url"], clean_caption(row["caption"])): row
        for row in pq.read_table(truth).to_pylist()
        if row["caption"]
    }
    table = pa.concat_tables([pq.read_table(shard) for shard in embeddings])
    rows = [i for i, pair_id in enumerate(table["pair_id"].to_pylist()) if pair_id in facts]
    table = table.take(pa.array(rows, pa.int64()))
    pair_ids = table["pair_id"].to_pylist()
    return _Embedded(
        pair_ids=pair_ids,
        similarity=table["similarity"].to_numpy(),
        image=embedding_matrix(table["image_embedding"]),
        text=embedding_matrix(table["text_embedding"]),
        caption=[facts[pair_id]["caption"] for pair_id in pair_ids],
        name=[facts[pair_id]["name"] for pair_id in pair_ids],
        correct=np.array([facts[pair_id]["correct"] for pair_id in pair_ids], dtype=bool),
    )


def _zero_shot(known: _Embedded) -> tuple[float, float, float, int]:
    """Top-1, top-5, chance and the number of classes, over the right pairs.

    The classes are the distinct captions of right pairs; a caption is right for an image if
    it was given, rightly, to any image of the same name.
    """
    rows = np.flatnonzero(known.correct)
    captions = sorted({known.caption[row] for row in rows})
    class_of = {caption: index for index, caption in enumerate(captions)}
    features = np.empty((len(captions), known.text.shape[1]), np.float32)  # [C, D]
    names_of_class: list[set[str]] = [set() for _ in captions]
    for row in rows:
        features[class_of[known.caption[row]]] = known.text[row]
        names_of_class[class_of[known.caption[row]]].add(known.name[row])
    captions_of_name = Counter(name for names in names_of_class for name in names)
    hits: Counter[int] = Counter()
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        ranked = np.argsort(-(known.image[chunk] @ features.T), axis=1, kind="stable")[:, :5]
        for row, best in zip(chunk, ranked, strict=True):
            found = [known.name[row] in names_of_class[index] for index in best]
            hits[1] += found[0]
            hits[5] += any(found)
    chance = float(np.mean([captions_of_name[known.name[row]] for row in rows])) / len(captions)
    return hits[1] / len(rows), hits[5] / len(rows), chance, len(captions)
