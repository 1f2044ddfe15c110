"""Small shards and models for tests."""

import tarfile
from io import BytesIO

import pyarrow as pa
import torch
from PIL import Image

import clip_model
from clip_model.config import ClipConfig, TextConfig, VisionTransformerConfig
from workers.base.contracts import DATASET, IMAGES
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table
from workers.base.tally import Tally

TINY = ClipConfig(
    embed_dim=32,
    image_resolution=32,
    vision=VisionTransformerConfig(layers=1, width=64, patch_size=16),
    text=TextConfig(width=64, layers=1, heads=1),
)


def save_tiny_model(path, seed=0, config=TINY):
    """A CLIP of random weights; returns its path as settings name it."""
    torch.manual_seed(seed)
    clip_model.save(clip_model.CLIP(config), path)
    return str(path)


def jpeg(color, size=(40, 40)):
    buffer = BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


def images(count):
    """(caption, JPEG) pairs whose captions name the image's colour."""
    for number in range(count):
        red, green, blue = number * 37 % 256, number * 91 % 256, number * 53 % 256
        yield f"colour {red} {green} {blue}", jpeg((red, green, blue))


def write_images(pairs, path):
    """A shard of the stage ``images``."""
    rows = [
        {
            "pair_id": make_pair_id(f"http://a/{caption}", caption),
            "url": f"http://a/{caption}",
            "caption": caption,
            "key": "0",
            "status": "success",
            "width": 40,
            "height": 40,
            "jpg": jpg,
        }
        for caption, jpg in pairs
    ]
    rows.sort(key=lambda row: row["pair_id"])
    write_table(pa.Table.from_pylist(rows, schema=IMAGES), path)
    return rows


def five_images(shard, out):
    """The work on a shard of the stage ``images``, in the place of a download."""
    write_images(images(5), out / f"{shard.name}.parquet")
    tally = Tally()
    tally.keep(5)
    return {"images": tally}


def write_tar(members, path, mode="w"):
    """A tar of (name, bytes)."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def write_dataset(pairs, path):
    """A shard of the stage ``dataset``."""
    rows = [
        {
            "pair_id": make_pair_id(f"http://a/{caption}", caption),
            "jpg": jpg,
            "caption": caption,
            "url": f"http://a/{caption}",
            "query_ids": [0],
            "similarity": 0.5,
            "labels": [],
            "width": 40,
            "height": 40,
        }
        for caption, jpg in pairs
    ]
    write_table(pa.Table.from_pylist(rows, schema=DATASET), path)
    return rows
