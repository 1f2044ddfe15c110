"""How far the fast path of embedding is from the reference, pair by pair.

``python -m benchmarks.embed_fidelity`` embeds photographs with captions twice with the starter
model, in float32: by `workers.embedding.embedder`, and by what everybody writes (Pillow,
torchvision's bicubic resize, normalised float pixels, captions padded to 77 tokens). It prints how
much the similarities and embeddings of the pairs differ and, as its last line, the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import clip_model
from benchmarks.clip_model import plain_captions
from benchmarks.embed import write_shard
from benchmarks.photographs import photographs
from workers.base.arrays import Float32s
from workers.base.cores import usable_cores
from workers.embedding.embedder import Embedder
from workers.embedding.matrix import embedding_matrix
from workers.embedding.overlap import in_chunks
from workers.embedding.settings import EmbedSettings

MODEL = "starter"
BATCH = 64


def fast(jpgs: Sequence[bytes], folder: Path) -> tuple[Float32s, Float32s]:
    """Similarities [N] and image embeddings [N, D] as the project computes them."""
    shard, out = write_shard(folder, "shard", jpgs), folder / "out.parquet"
    Embedder(EmbedSettings(model=MODEL, precision="fp32")).embed_shard(shard, out)
    table = pq.read_table(out)
    return table["similarity"].to_numpy(), embedding_matrix(table["image_embedding"])


def reference(jpgs: Sequence[bytes]) -> tuple[Float32s, Float32s]:
    """The same, without any of its shortcuts."""
    captions = plain_captions(len(jpgs))
    parts = list(tqdm(_encoded(jpgs, captions), total=-(-len(jpgs) // BATCH), desc="reference"))
    image, text = (torch.cat(part) for part in zip(*parts, strict=True))
    return (image * text).sum(dim=-1).numpy(), image.numpy()


@torch.inference_mode()
def _encoded(jpgs: Sequence[bytes], captions: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    model, preprocess = clip_model.load(MODEL, "cpu")
    with ThreadPoolExecutor(usable_cores()) as pool:
        for rows in in_chunks(zip(jpgs, captions, strict=True), BATCH):
            images = pool.map(lambda row: preprocess(Image.open(BytesIO(row[0]))), rows)
            tokens = clip_model.tokenize([caption for _, caption in rows], truncate=True)
            yield (
                F.normalize(model.encode_image(torch.stack(list(images))), dim=-1),
                F.normalize(model.encode_text(tokens), dim=-1),
            )


def show(similarity: Float32s, angle: Float32s) -> None:
    """Tables of the absolute differences."""
    write = sys.stdout.write
    write(f"{len(similarity):,} pairs, the {MODEL} model, float32, fast path - reference\n")
    write(f"{'':34}{'median':>10}{'99.9%':>10}{'largest':>10}\n")
    result: dict[str, float] = {"pairs": len(similarity)}
    for name, values in {
        "similarity": similarity,
        "1 - cosine of image with itself": angle,
    }.items():
        figures = np.quantile(values, [0.5, 0.999, 1.0])
        write(f"{name:34}{''.join(f'{figure:10.1e}' for figure in figures)}\n")
        result[name] = float(figures[-1])
    write(json.dumps(result) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed_fidelity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pairs", type=int, default=10_000)
    options = parser.parse_args()
    jpgs = list(photographs(options.pairs))
    with tempfile.TemporaryDirectory() as folder:
        ours = fast(jpgs, Path(folder))
    theirs = reference(jpgs)
    cosine = (ours[1] * theirs[1]).sum(axis=1) / np.linalg.norm(ours[1], axis=1)
    show(np.abs(ours[0] - theirs[0]), np.maximum(0, 1 - cosine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
