"""The speed of `clip_model` beside that of openai-clip and open_clip, in one run on one machine.

``python -m benchmarks.clip_model`` prints a table and, as its last line, the same as JSON. Both
sides of a row take turns and the medians count. On a machine with a GPU it measures the image
towers there instead: images a second in bfloat16, decoding excluded, the share of the GPU's peak
(MFU) and of the fastest square matrix product measured in the same run. Rows whose other side is
not installed are left out. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.baselines import open_clip_model, openai_model, openai_module
from clip_model import ARCHITECTURES, CLIP, ClipConfig, tokenize
from clip_model.config import MEAN, STD
from clip_model.flops import image_flops, peak_flops
from clip_model.preprocess import image_bytes_transform, image_transform
from clip_model.tokenizer import END_OF_WORD, default_tokenizer
from workers.base.hardware import computes_bfloat16

CPU_MODEL = "ViT-B/32"
GPU_MODELS = {"ViT-B/32": 2048, "ViT-B/16": 1024, "ViT-L/14": 512, "ViT-L/14@336px": 256}  # batch
MATMUL_SIZE = 8192

LONG_WORDS = {"Thai": "สวัสดีครับ", "CJK": "日本語中文", "dashes": "-"}
LONG_WORD_LENGTHS = (1_000, 10_000, 100_000)  # characters

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One comparison, in units a second."""

    name: str
    unit: str
    against: str
    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio}


def rates(works: Sequence[Work], units: int, rounds: int) -> list[float]:
    """Median units a second of each work; they take turns, after a round that does not count."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for times, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - start)
    return [units / median(times) for times in seconds]


def plain_captions(count: int) -> list[str]:
    """Captions of the vocabulary's own words, the frequent ones often (Zipf's law)."""
    symbols = default_tokenizer().symbols
    words = [s.removesuffix(END_OF_WORD) for s in symbols if s.endswith(END_OF_WORD)]
    words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 1]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    rng = random.Random(0)
    return [
        " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(4, 14))).capitalize() + "."
        for _ in range(count)
    ]


def jpegs(count: int) -> list[bytes]:
    """Photograph-like images of 500 x 375: smooth noise, so that they compress as photos do."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for _ in range(count):
        coarse = torch.rand(1, 3, 47, 63, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 1)
        levels = (fine[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "jpeg", quality=90)
        files.append(file.getvalue())
    return files


def tokenizer_rows(rounds: int) -> list[Row]:
    captions = plain_captions(5_000)
    theirs = openai_module("simple_tokenizer").SimpleTokenizer()
    ours = default_tokenizer()
    works = [
        lambda: [theirs.encode(caption) for caption in captions],
        lambda: [ours.encode(caption) for caption in captions],
    ]
    return [Row("tokenizer", "captions", "openai-clip", *rates(works, len(captions), rounds))]


def tokens_rows(rounds: int) -> list[Row]:
    from clip_model import _torchvision  # noqa: F401, I001
    import open_clip

    captions = plain_captions(5_000)
    works: list[Work] = [lambda: open_clip.tokenize(captions), lambda: tokenize(captions)]
    return [Row("text to tensor", "captions", "open_clip", *rates(works, len(captions), rounds))]


def long_word_rows(rounds: int) -> list[Row]:
    """Characters a second of one endless word: the same at every length where a side is linear.

    The rates are of open_clip's own tokenizer, which does what OpenAI's does.
    """
    from clip_model import _torchvision  # noqa: F401, I001
    from open_clip.tokenizer import SimpleTokenizer

    theirs, ours, rng = SimpleTokenizer(), default_tokenizer(), random.Random(0)
    rows = []
    for script, letters in LONG_WORDS.items():
        for length in LONG_WORD_LENGTHS:
            text = "".join(rng.choices(letters, k=length))

            def encode_theirs(text: str = text) -> object:
                theirs.cache.clear()
                return theirs.encode(text)

            def encode_ours(text: str = text) -> object:
                return ours.encode(text)

            name = f"{script}, {length:,} long"
            measured = rates([encode_theirs, encode_ours], length, rounds)
            rows.append(Row(name, "characters", "open_clip", *measured))
    return rows


def preprocess_rows(rounds: int) -> list[Row]:
    """Pillow and torchvision are what openai-clip and open_clip use: the reference transform."""
    files = jpegs(64)
    reference, levels = image_transform(224), image_bytes_transform(224)
    mean, deviation = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def normalised() -> list[Tensor]:
        return [levels(file).float().sub_(mean).div_(deviation) for file in files]

    works: list[Work] = [
        lambda: [reference(Image.open(io.BytesIO(file))) for file in files],
        normalised,
        lambda: [levels(file) for file in files],
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Pillow has one
    theirs, normal, folded = rates(works, len(files), rounds)
    torch.set_num_threads(threads)
    return [
        Row("JPEG to input", "images", "Pillow recipe", theirs, normal),
        Row("JPEG to input, folded", "images", "Pillow recipe", theirs, folded),
    ]


def image_tower_rows(rounds: int) -> list[Row]:
    config = ARCHITECTURES[CPU_MODEL]
    images = torch.randn(8, 3, config.image_resolution, config.image_resolution)
    models = our_models(config)
    works = [encoder(model, "encode_image", images) for model in models.values()]
    return tower_rows("image tower", "images", config, "encode_image", images, works, rounds)


def text_tower_rows(rounds: int) -> list[Row]:
    config = ARCHITECTURES[CPU_MODEL]
    tokens = tokenize(plain_captions(16)).long()
    works = [encoder(model, "encode_text", tokens) for model in our_models(config).values()]
    return tower_rows("text tower", "captions", config, "encode_text", tokens, works, rounds)


def our_models(config: ClipConfig) -> dict[str, CLIP]:
    """In float32, and in bfloat16 where the CPU computes in it."""
    models = {"fp32": CLIP(config).eval()}
    if computes_bfloat16(torch.device("cpu")):
        models["bf16"] = CLIP(config).eval().to(torch.bfloat16)
    return models


def tower_rows(
    name: str,
    unit: str,
    config: ClipConfig,
    method: str,
    batch: Tensor,
    ours: list[Work],
    rounds: int,
) -> list[Row]:
    others = {"openai-clip": openai_model, "open_clip": open_clip_model}
    packages = {"openai-clip": "clip", "open_clip": "open_clip"}
    installed = [other for other in others if find_spec(packages[other])]
    theirs = [encoder(others[other](config), method, batch) for other in installed]
    measured = rates([*theirs, *ours], len(batch), rounds)
    types = ["fp32", "bf16"][: len(ours)]
    return [
        Row(f"{name}, {kind}", unit, other, their_rate, our_rate)
        for kind, our_rate in zip(types, measured[len(theirs) :], strict=True)
        for other, their_rate in zip(installed, measured, strict=False)
    ]


def encoder(model: Any, method: str, batch: Tensor) -> Work:
    @torch.inference_mode()
    def encode() -> object:
        return getattr(model, method)(batch)

    return encode


def on_gpu(work: Work, rounds: int) -> float:
    """Median seconds of a work on the GPU, after two rounds that do not count."""
    seconds = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])


def matmul_ceiling(rounds: int) -> float:
    """FLOP/s of the largest product that users' own code could hope for."""
    left, right = (
        torch.randn(MATMUL_SIZE, MATMUL_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    return 2 * MATMUL_SIZE**3 / on_gpu(lambda: left @ right, rounds)


def gpu_rates(rounds: int, compiled: bool) -> list[dict[str, Any]]:
    device = torch.cuda.get_device_name()
    peak = peak_flops(device)
    ceiling = matmul_ceiling(rounds)
    rows = []
    for name, batch in GPU_MODELS.items():
        config = ARCHITECTURES[name]
        images_a_second = batch / image_tower_on_gpu(config, batch, rounds, compiled)
        flops = images_a_second * image_flops(config)
        mfu = flops / peak if peak else None
        rows.append(
            {"model": name, "images": images_a_second, "mfu": mfu, "of_matmul": flops / ceiling}
        )
    return rows


def image_tower_on_gpu(config: ClipConfig, batch: int, rounds: int, compiled: bool) -> float:
    """Seconds a batch."""
    with torch.device("cuda"):
        tower = CLIP(config).eval().to(torch.bfloat16).visual
        size = config.image_resolution
        images = torch.randn(batch, 3, size, size, dtype=torch.bfloat16)
    run = torch.compile(tower, fullgraph=True) if compiled else tower
    with torch.inference_mode():
        return on_gpu(lambda: run(images), rounds)


def show_gpu(rows: list[dict[str, Any]], compiled: bool) -> None:
    write = sys.stdout.write
    device = torch.cuda.get_device_name()
    write(f"{device}, bfloat16, {'compiled' if compiled else 'eager'}\n")
    write(f"{'image tower':18}{'images/s':>10}{'MFU':>8}{'of matmul':>11}\n")
    for row in rows:
        mfu = f"{row['mfu']:8.1%}" if row["mfu"] else f"{'-':>8}"
        write(f"{row['model']:18}{row['images']:10.0f}{mfu}{row['of_matmul']:11.1%}\n")
    write(json.dumps({"device": device, "compiled": compiled, "image_towers": rows}) + "\n")


def show_cpu(rows: list[Row]) -> None:
    write = sys.stdout.write
    write(f"{'':24}{'unit/s':>10}{'against':>15}{'theirs':>11}{'ours':>11}{'ratio':>7}\n")
    for row in rows:
        write(f"{row.name:24}{row.unit:>10}{row.against:>15}")
        write(f"{row.theirs:11.1f}{row.ours:11.1f}{row.ratio:7.2f}\n")
    write(json.dumps({"device": "cpu", "rows": [row.as_dict() for row in rows]}) + "\n")


def cpu_rows(rounds: int) -> list[Row]:
    rows = []
    needs = [
        (tokenizer_rows, "clip"),
        (tokens_rows, "open_clip"),
        (long_word_rows, "open_clip"),
        (preprocess_rows, "simplejpeg"),
        (image_tower_rows, "torch"),
        (text_tower_rows, "torch"),
    ]
    for measure, package in needs:
        if find_spec(package):
            rows += measure(rounds)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clip_model", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each side; the median counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is")
    parser.add_argument("--eager", action="store_true", help="no torch.compile on the GPU")
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        show_cpu(cpu_rows(options.rounds))
    else:
        has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))  # for Triton
        compiled = has_compiler and not options.eager
        show_gpu(gpu_rates(options.rounds, compiled), compiled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
