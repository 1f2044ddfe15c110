"""How a model that is being trained does on held-out pairs: retrieval among a fixed sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from clip_model.config import ClipConfig
from clip_model.preprocess import image_bytes_transform, normalised
from clip_model.retrieval import retrieval_recall
from clip_model.tokenizer import tokenize
from pipelines.training.held_out import Example, read_examples
from pipelines.training.order import DataSettings
from pipelines.training.parallel import Parallel, Workers
from workers.base.failures import NeedsMendingError
from workers.base.tally import Tally

#: Pairs that are asked of each other, at most.
SAMPLE = 1000
#: Pairs in a forward pass.
BATCH = 64


class HeldOutRetrieval:
    """The first held-out pairs, of which no two share an image or a caption."""

    def __init__(self, shards: Sequence[Path], settings: DataSettings, config: ClipConfig) -> None:
        """Raises NeedsMendingError where none is held out."""
        found = list(islice(_different(shards, settings), SAMPLE))
        if not found:
            raise NeedsMendingError(
                "no pair is held out to judge by: raise model.held_out, or leave "
                "model.evaluate_every at null"
            )
        decode = image_bytes_transform(config.image_resolution)
        self._images = torch.stack([decode(example.jpg) for example in found])  # uint8 [P, 3, R, R]
        captions = [example.caption for example in found]
        self._tokens = tokenize(captions, config.text.context_length, truncate=True)  # [P, L]

    @torch.inference_mode()
    def recall(self, compute: Parallel, workers: Workers) -> dict[str, float]:
        """Recall at 1 in both directions. Each worker encodes its share; all get the answer.

        All make the same number of passes, as divided weights need it.
        """
        pairs = len(self._images)
        share = -(-pairs // workers.size)
        rows = torch.arange(workers.rank * share, (workers.rank + 1) * share) % pairs
        compute.objective.eval()
        features = []
        for some in rows.split(BATCH):
            images = normalised(self._images[some].to(workers.device))  # [n, 3, R, R]
            features.append(compute(images, self._tokens[some].to(workers.device)))  # nE, nE
        compute.objective.train()
        parts = workers.parts((share,) * workers.size)
        images, texts = (
            parts.gather(torch.cat(some).float())[:pairs].cpu()
            for some in zip(*features, strict=True)
        )
        return retrieval_recall(images, texts, ks=(1,))


def _different(shards: Sequence[Path], settings: DataSettings) -> Iterator[Example]:
    seen: set[bytes | str] = set()
    held_out = read_examples(shards, settings.seed, settings.held_out, held_out=True, tally=Tally())
    for example in held_out:
        if seen.isdisjoint((example.jpg, example.caption)):
            seen |= {example.jpg, example.caption}
            yield example
