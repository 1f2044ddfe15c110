"""The loop of clip-retrieval's inference worker, for `benchmarks.embed` to outrun.

Its reader, mapper and writer do this: a webdataset of tars, each image through Pillow and
torchvision and each caption through the tokenizer in the DataLoader's processes, then open_clip's
towers in float32 one batch after the other, rows normalised and kept as float16, one `.npy` file
at the end. The package itself is not installed here: it pins other versions of what this project
uses.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.baselines import open_clip_model
from clip_model.config import ClipConfig
from workers.base.cores import usable_cores

BATCH = 64  # clip-retrieval's 256 would leave the loader nothing to do ahead of it in a short run
LOADER_PROCESSES = min(4, usable_cores())  # its default is 4, and more than cores would be slower


@dataclass(frozen=True)
class ClipRetrieval:
    """The same shards as the other side, as tars."""

    config: ClipConfig
    many: Path
    few: Path
    folder: Path

    def works(self) -> dict[str, Callable[[], object]]:
        """By the names of the other side's."""
        many, few = (_as_tars(path, self.folder) for path in (self.many, self.few))
        model = open_clip_model(self.config)
        batches = list(self._batches(few))
        out = self.folder / "theirs"
        return {
            "decode": lambda: [None for _ in self._batches(many)],
            "forward images": lambda: [_encode(model, batch, texts=False) for batch in batches],
            "forward": lambda: [_encode(model, batch, texts=True) for batch in batches],
            "images": lambda: self._run(model, few, out, texts=False),
            "all": lambda: self._run(model, few, out, texts=True),
        }

    def _run(self, model: Any, tars: list[str], out: Path, *, texts: bool) -> None:
        parts = [_encode(model, batch, texts=texts) for batch in self._batches(tars)]
        for number, features in enumerate(zip(*parts, strict=True)):
            np.save(out.with_suffix(f".{number}.npy"), np.concatenate(features))

    def _batches(self, tars: list[str]) -> Iterator[dict[str, Any]]:
        import webdataset
        from torch.utils.data import DataLoader

        dataset = webdataset.WebDataset(tars, shardshuffle=False).map(
            _Preprocess(self.config.image_resolution)
        )
        yield from DataLoader(dataset, batch_size=BATCH, num_workers=LOADER_PROCESSES)


class _Preprocess:
    def __init__(self, resolution: int) -> None:
        from clip_model import _torchvision  # noqa: F401, I001
        from open_clip import image_transform, tokenize

        self.transform = image_transform(resolution, is_train=False)
        self.tokenize = tokenize

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {
            "image_tensor": self.transform(Image.open(io.BytesIO(item["jpg"]))),
            "text_tokens": self.tokenize([item["txt"].decode()])[0],
        }


@torch.no_grad()
def _encode(model: Any, batch: dict[str, Any], *, texts: bool) -> list[np.ndarray]:
    features = [model.encode_image(batch["image_tensor"])]
    if texts:
        features.append(model.encode_text(batch["text_tokens"]))
    return [(rows / rows.norm(dim=-1, keepdim=True)).half().numpy() for rows in features]


def _as_tars(shard: Path, folder: Path) -> list[str]:
    """A tar for each process of the loader, which share out whole shards."""
    rows = pq.read_table(shard).to_pylist()
    paths = [str(folder / f"{shard.stem}-{n}.tar") for n in range(LOADER_PROCESSES)]
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for row in rows[number::LOADER_PROCESSES]:
                _add(tar, f"{row['key']}.jpg", row["jpg"])
                _add(tar, f"{row['key']}.txt", row["caption"].encode())
    return paths


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
