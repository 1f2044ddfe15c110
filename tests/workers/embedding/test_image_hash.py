"""The hash against the transform it is defined by, and what it says of photographs."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from benchmarks.photographs import photographs, sources
from clip_model.preprocess import image_bytes_transform
from tests.shards import save_tiny_model, write_images
from workers.embedding.embedder import Embedder
from workers.embedding.image_hash import NO_HASH, image_hash
from workers.embedding.settings import EmbedSettings

TILES = 2  # of each photograph, in both directions


def jpeg(image, quality=85):
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def resized(image, factor):
    return image.resize((round(image.width * factor), round(image.height * factor)))


#: What others do to an image, and the share of photographs that stays within 4 bits at least.
VARIANTS = {
    "quality 75": (lambda image: jpeg(image, 75), 1.0),
    "quality 50": (lambda image: jpeg(image, 50), 0.95),
    "half the size": (lambda image: jpeg(resized(image, 0.5)), 1.0),
    "twice the size": (lambda image: jpeg(resized(image, 2)), 1.0),
    "brighter": (lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)), 0.9),
    "less contrast": (lambda image: jpeg(ImageEnhance.Contrast(image).enhance(0.9)), 0.9),
    "more colour": (lambda image: jpeg(ImageEnhance.Color(image).enhance(1.2)), 0.95),
    "half the colour": (lambda image: jpeg(ImageEnhance.Color(image).enhance(0.5)), 0.95),
}


@pytest.fixture(scope="module")
def tiles():
    """Images that have nothing in common: tiles of the photographs, 500 x 400."""
    result = []
    for source in sources()[:-1]:  # the last two are one scene, seen by two eyes
        width, height = source.width / TILES, source.height / TILES
        for number in range(TILES**2):
            left, top = number % TILES * width, number // TILES * height
            box = (left, top, left + width, top + height)
            result.append(source.resize((500, 400), Image.Resampling.BICUBIC, box=box))
    return result


def hash_of(image, resolution=224):
    return image_hash(image_bytes_transform(resolution)(image).numpy())


def distance(one, other):
    return (one ^ other).bit_count()


@pytest.mark.parametrize("resolution", [20, 32, 100, 224, 336])
def test_the_hash_is_that_of_the_cosine_transform(resolution):
    for image in photographs(8):
        levels = image_bytes_transform(resolution)(image)
        grey = (levels.double() * torch.tensor([77, 150, 29]).view(3, 1, 1) / 256).sum(0)
        cells = torch.nn.functional.adaptive_avg_pool2d(grey[None], 32)[0].numpy()
        low = dctn(cells)[1:9, 1:9].ravel()
        bits = "".join("01"[int(above)] for above in low > np.median(low))
        assert distance(image_hash(levels.numpy()), int(bits, 2)) <= 2  # at the median: rounding


def test_an_image_treated_otherwise_is_near_and_another_one_far(tiles):
    originals = [hash_of(jpeg(tile, 95)) for tile in tiles]
    for name, (treated, least) in VARIANTS.items():
        near = [
            distance(hash_of(treated(tile)), original) <= 4
            for tile, original in zip(tiles, originals, strict=True)
        ]
        assert np.mean(near) >= least, name
    pairs = [distance(a, b) for n, a in enumerate(originals) for b in originals[:n]]
    assert min(pairs) >= 12


def test_one_pixel_of_another_level_is_no_structure():
    levels = np.full((3, 64, 64), 128, np.uint8)
    levels[:, 20, 31] = 129
    assert image_hash(levels) == NO_HASH


def test_images_without_structure_have_no_hash(tiles):
    ramp = np.linspace(0, 255, 224).astype(np.uint8)
    shades = np.broadcast_to(ramp, (3, 224, 224))
    stripes = np.broadcast_to((ramp // 64 % 2) * 255, (3, 224, 224)).astype(np.uint8)
    assert image_hash(np.full((3, 224, 224), 200, np.uint8)) == NO_HASH
    for levels in (shades, shades.transpose(0, 2, 1), stripes):
        assert image_hash(np.ascontiguousarray(levels)) == NO_HASH
    for quality in (30, 60, 95):
        assert hash_of(jpeg(Image.new("RGB", (300, 200), (200, 30, 90)), quality)) == NO_HASH
    assert all(hash_of(jpeg(tile)).bit_count() == 32 for tile in tiles)


def test_threads_do_not_matter_and_the_embeddings_hold_it(tmp_path):
    images = list(photographs(24))
    images[5] = b"damaged"
    rows = write_images(
        [(f"picture {n}", image) for n, image in enumerate(images)], tmp_path / "i.parquet"
    )
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    columns = []
    for threads in (1, 4):
        embedder = Embedder(EmbedSettings(model=model, threads=threads))
        embedder.embed_shard(tmp_path / "i.parquet", tmp_path / "e.parquet")
        columns.append(pq.read_table(tmp_path / "e.parquet", columns=["pair_id", "image_hash"]))
    assert columns[0].equals(columns[1])
    resolution = embedder.model.preprocessing.resolution
    with ThreadPoolExecutor(4) as pool:
        known = [row for row in rows if row["jpg"] != b"damaged"]
        hashes = list(pool.map(lambda row: hash_of(row["jpg"], resolution), known))
    assert columns[0]["image_hash"].to_pylist() == hashes
    assert columns[0]["pair_id"].to_pylist() == [row["pair_id"] for row in known]
