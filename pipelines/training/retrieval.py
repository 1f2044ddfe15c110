"""How a model that is being trained does on held-out pairs: retrieval among a fixed sample."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from clip_model.config import ClipConfig
from clip_model.image_files import ImageError
from clip_model.preprocess import Preprocessing, image_bytes_transform, normalised
from clip_model.retrieval import retrieval_recall
from clip_model.tokenizer import tokenize
from pipelines.training.held_out import is_held_out
from pipelines.training.opted_out import read_listed
from pipelines.training.order import DataSettings
from pipelines.training.parallel import Parallel, Workers
from workers.base.copies import bring, drop
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import OptOuts
from workers.embedding.samples import Sample, failure_reason
from workers.embedding.settings import InputSettings
from workers.embedding.shard_reader import list_chunks

BOTH_PARTS = InputSettings()
#: Pairs that are asked of each other, at most.
SAMPLE = 1000
#: Pairs in a forward pass.
BATCH = 64


class HeldOutRetrieval:
    """The first held-out pairs, of which no two share an image or a caption."""

    def __init__(
        self,
        shards: Sequence[Path],
        settings: DataSettings,
        config: ClipConfig,
        opt_outs: Sequence[OptOuts] = (),
    ) -> None:
        """Raises NeedsMendingError where none is held out."""
        self._how = Preprocessing.of(config)
        decode = image_bytes_transform(self._how)
        with closing(_decoded(_different(shards, settings, opt_outs), decode)) as pairs:
            found = list(islice(pairs, SAMPLE))
        if not found:
            raise NeedsMendingError(
                "no pair is held out to judge by: raise model.held_out, or leave "
                "model.evaluate_every at null"
            )
        self._images = torch.stack([levels for levels, _ in found])  # uint8 [P, 3, R, R]
        captions = [caption for _, caption in found]
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
            levels = self._images[some].to(workers.device)  # [n, 3, R, R]
            images = normalised(levels, self._how.mean, self._how.std)
            features.append(compute(images, self._tokens[some].to(workers.device)))  # nE, nE
        compute.objective.train()
        parts = workers.parts((share,) * workers.size)
        images, texts = (
            parts.gather(torch.cat(some).float())[:pairs].cpu()
            for some in zip(*features, strict=True)
        )
        return retrieval_recall(images, texts, ks=(1,))


def _decoded(
    pairs: Generator[tuple[bytes, str]], decode: Callable[[bytes], Tensor]
) -> Generator[tuple[Tensor, str]]:
    with closing(pairs):
        for image, caption in pairs:
            with suppress(ImageError):  # no question, as it would be no answer
                yield decode(image), caption


def _different(
    shards: Sequence[Path], settings: DataSettings, opt_outs: Sequence[OptOuts]
) -> Generator[tuple[bytes, str]]:
    """Images and captions; of a list of captions, the first."""
    seen = set[bytes | str]()
    with closing(_held_out(shards, settings, opt_outs)) as samples:
        for sample in samples:
            image, caption = sample.image or b"", sample.captions[0]
            if seen.isdisjoint((image, caption)):
                seen |= {image, caption}
                yield image, caption


def _held_out(
    shards: Sequence[Path], settings: DataSettings, opt_outs: Sequence[OptOuts]
) -> Generator[Sample]:
    for shard in shards:
        bring([shard])
        try:
            for chunk in list_chunks(shard):
                for sample, listed in read_listed(shard, chunk, BOTH_PARTS, opt_outs):
                    if listed or failure_reason(sample, BOTH_PARTS, several=True):
                        continue  # the index has counted it
                    if is_held_out(sample.image or b"", settings.seed, settings.held_out):
                        yield sample
        finally:
            drop(shard)
