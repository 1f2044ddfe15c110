"""`python -m pipelines.embed` on shards, models and folders that cannot be used."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import clip_model
from benchmarks.faults.fault import Fault, Place
from benchmarks.faults.inputs import flipped
from benchmarks.faults.services import silent
from benchmarks.small_sample import free_port
from clip_model.config import ClipConfig, TextConfig, VisionTransformerConfig
from tests.object_store import environment

#: As small as a CLIP can be.
TINY = ClipConfig(
    embed_dim=32,
    image_resolution=32,
    vision=VisionTransformerConfig(layers=1, width=64, patch_size=16),
    text=TextConfig(width=64, layers=1, heads=1),
)


def images(number: int = 8) -> Iterator[tuple[str, bytes]]:
    """Captions and JPEGs."""
    for n in range(number):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (n * 37 % 256, n * 91 % 256, 7)).save(buffer, "JPEG")
        yield f"colour {n}", buffer.getvalue()


def table(columns: tuple[str, str] = ("jpg", "caption"), *, broken: bool = False) -> bytes:
    """A shard in Parquet."""
    rows = [
        {columns[0]: b"no image" if broken else jpg, columns[1]: caption}
        for caption, jpg in images()
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="none")
    return buffer.getvalue()


def tar() -> bytes:
    """A shard of webdataset's layout."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for n, (caption, jpg) in enumerate(images()):
            for ending, content in (("jpg", jpg), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{n:05d}.{ending}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def embed(place: Place, *more: str, model: Path | None = None) -> list[str]:
    """The command with shards and options ``more`` and a tiny model, into `out`."""
    model = model or place.folder / "tiny.safetensors"
    if model.name == "tiny.safetensors" and not model.exists():
        torch.manual_seed(0)
        clip_model.save(clip_model.CLIP(TINY), model)
    options = ["--model", str(model), "--out", str(place.folder / "out")]
    return [sys.executable, "-m", "pipelines.embed", *more, *options]


def _shards(
    *more: str, before: Callable[[Place], object] = lambda _: None, **files: bytes
) -> Callable[[Place], list[str]]:
    """Embed files of these names (`_` is a dot) and bytes, in the folder `shards`."""

    def prepare(place: Place) -> list[str]:
        folder = place.folder / "shards"
        folder.mkdir()
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_bytes(content)
        before(place)
        options = [option.replace("{folder}", str(place.folder)) for option in more]
        shards = [option for option in options if option.startswith("/")] or [str(folder)]
        return embed(place, *shards, *(option for option in options if option not in shards))

    return prepare


def _model(content: bytes, name: str = "model.safetensors") -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        (place.folder / "0.parquet").write_bytes(table())
        (place.folder / name).write_bytes(content)
        shard = str(place.folder / "0.parquet")
        return embed(place, shard, model=place.folder / name)

    return prepare


def _done(place: Place, *more: str) -> list[str]:
    """A folder of embeddings, and the command that has made it."""
    (place.folder / "0.parquet").write_bytes(table())
    command = embed(place, str(place.folder / "0.parquet"))
    subprocess.run(command, check=True, capture_output=True)
    return [*command, *more]


def _other_model(place: Place) -> list[str]:
    command = _done(place)
    torch.manual_seed(1)
    clip_model.save(clip_model.CLIP(TINY), place.folder / "other.safetensors")
    return [str(place.folder / "other.safetensors") if "tiny" in word else word for word in command]


def _locked(place: Place) -> list[str]:
    command = _done(place)
    descriptor = os.open(place.folder / "out" / "_run", os.O_RDONLY)
    place.stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return command


def _after(damage: Callable[[Path], object]) -> Callable[[Place], list[str]]:
    """The command again, after its output was damaged."""

    def prepare(place: Place) -> list[str]:
        command = _done(place)
        damage(place.folder / "out")
        return command

    return prepare


def _flip(out: Path) -> None:
    (path,) = (out / "embeddings").glob("*.parquet")
    path.write_bytes(flipped(path.read_bytes()))


def _verified(place: Place) -> list[str]:
    _done(place)
    _flip(place.folder / "out")
    return [sys.executable, "-m", "pipelines.verify", str(place.folder / "out")]


def _two_of_one_name(place: Place) -> list[str]:
    """One after the other into the same folder."""
    for name in "ab":
        (place.folder / name).mkdir()
        (place.folder / name / "00000.parquet").write_bytes(table())
    subprocess.run(embed(place, str(place.folder / "a")), check=True, capture_output=True)
    return embed(place, str(place.folder / "b"))


def _has_both(place: Place, _: str) -> str:
    found = list((place.folder / "out" / "embeddings").glob("*.parquet"))
    return "" if len(found) == 2 else f"{len(found)} outputs of 2 inputs"


def _like_a_pattern(place: Place) -> list[str]:
    folder = place.folder / "shards[1]"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(table())
    return embed(place, str(folder))


def _other_files(place: Place) -> None:
    (place.folder / "out").mkdir()
    (place.folder / "out" / "notes.md").touch()


def _classes(content: bytes) -> Callable[[Place], object]:
    return lambda place: (place.folder / "classes").write_bytes(content)


def _settings(content: bytes) -> Callable[[Place], object]:
    return lambda place: (place.folder / "settings").write_bytes(content)


def _cluster(address: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        (place.folder / "0.parquet").write_bytes(table())
        where = address.format(silent=silent(place), closed=f"127.0.0.1:{free_port()}")
        return embed(place, str(place.folder / "0.parquet"), "--ray-address", where)

    return prepare


def _option(
    option: str, file: str, before: Callable[[Place], object]
) -> Callable[[Place], list[str]]:
    """An option whose value is a file."""

    def prepare(place: Place) -> list[str]:
        (place.folder / "0.parquet").write_bytes(table())
        before(place)
        return embed(place, str(place.folder / "0.parquet"), option, str(place.folder / file))

    return prepare


def _in_store(place: Place) -> list[str]:
    place.environment.update(environment(f"http://127.0.0.1:{free_port()}"))
    return embed(place, "s3://bucket/*.tar")


def _to_ftp(place: Place) -> list[str]:
    (place.folder / "0.parquet").write_bytes(table())
    command = embed(place, str(place.folder / "0.parquet"))
    return ["ftp://host/out" if word == str(place.folder / "out") else word for word in command]


FAULTS = [
    Fault("an empty folder", _shards(), "SHARDS: no .parquet"),
    Fault("a file that is absent", _shards("{folder}/absent.tar"), "SHARDS: there is no file"),
    Fault("an ending that nothing is known of", _shards("{folder}/shards/x.zip", x_zip=b"x"),
          "x.zip is none of"),
    Fault("a tar that breaks off", _shards(a_tar=tar()[:9000], b_parquet=table()), "a.tar", (3,),
          again=(3, "")),
    Fault("a tar that is none", _shards(a_tar=b"no tar" * 200, b_parquet=table()), "", (3,)),
    Fault("a tar without a byte", _shards(a_tar=b"", b_parquet=table()), "", (0, 3)),
    Fault("Parquet without its end", _shards(a_parquet=table()[:-9], b_parquet=table()),
          "a.parquet is not a whole Parquet file", (3,)),
    Fault("a byte of Parquet flipped", _shards(a_parquet=flipped(table(), 0.3)), "", (0, 3)),
    Fault("no known column", _shards(a_parquet=table(("x", "y"))), "", (2, 3)),
    Fault("a column that is not there", _shards("--image-column", "photo", a_parquet=table()),
          "photo", (2, 3)),
    Fault("a column in another case", _shards("--image-column", "JPG", a_parquet=table()),
          "8 images in, 8 kept", (0,)),
    Fault("images that are all broken", _shards(a_parquet=table(broken=True)),
          "embed: the gate is not met: 0 of 8", (4,), again=(4, "the gate is not met")),
    Fault("a folder named like a pattern",
          _like_a_pattern, "8 images in, 8 kept", (0,)),
    Fault("two inputs of one name, one after the other", _two_of_one_name, "8 images in, 8 kept",
          (0,), check=_has_both),
    Fault("shards in a store that is away", _in_store, "SHARDS: "),
    Fault("--out on a server of files", _to_ftp, "only a local or mounted path"),
    Fault("--out holds other files", _shards(a_parquet=table(), before=_other_files),
          "it holds other files"),
    Fault("--out was made by another model", _other_model, "made by another model"),
    Fault("--out was made with other settings", lambda place: _done(place, "--parts", "images"),
          "with other settings"),
    Fault("--out is locked", _locked, "is being worked on by another process", (75,)),
    Fault("Parquet of somebody else in --out",
          _after(lambda out: (out / "embeddings" / "mine.parquet").touch()),
          "mine.parquet is not the run's"),
    Fault("the record in --out is half",
          _after(lambda out: (out / "_run" / "settings.json").write_text("{")),
          "it is made again", (0,)),
    Fault("a receipt in --out is null",
          _after(lambda out: [p.write_text("null") for p in out.rglob("_receipts/*/*.json")]),
          "1 of 1 shards to do", (0,)),
    Fault("an output in --out is gone", _after(lambda out: shutil.rmtree(out / "embeddings")),
          "1 of 1 shards to do", (0,)),
    Fault("a byte of an output flipped, verify", _verified, "its sha256 is not", (3,)),
    Fault("a model that is a text", _model(b"no model"), "model.safetensors"),
    Fault("a model without a byte", _model(b""), "model.safetensors"),
    Fault("a pickle that runs code", _model(b"cos\nsystem\n(S'echo RAN'\ntR.", "model.pt"),
          "model.pt", check=lambda _, output: "it has run" if "RAN\n" in output else ""),
    Fault("a model that is absent", lambda place: embed(place, "x", model=Path("absent")), ""),
    Fault("classes that nobody knows", _shards("--labels", "Imagnet", a_parquet=table()),
          "no classes are called 'Imagnet'"),
    Fault("classes in UTF-16", _option("--labels", "classes", _classes("a\n".encode("utf-16"))),
          "8 images in, 8 kept", (0,)),
    Fault("classes that are no text",
          _option("--labels", "classes", _classes(b"\xff\xfe\x00\xd8\n")),
          "this is no text in UTF-16"),
    Fault("a file of classes without any", _option("--labels", "classes", _classes(b"\n")),
          "classes"),
    Fault("--top-k 0", _shards("--labels", "CIFAR10", "--top-k", "0", a_parquet=table()), "top_k"),
    Fault("--actors 0", _shards("--actors", "0", a_parquet=table()), "actors"),
    Fault("--config in UTF-16", _option("--config", "settings", _settings("a: 1".encode("utf-16"))),
          "settings"),
    Fault("--config is a list", _option("--config", "settings", _settings(b"- a")),
          "must hold a mapping"),
    Fault("a key that is none", _shards("--set", "modell=x", a_parquet=table()), "no such key"),
    Fault("a cluster where nobody listens", _cluster("{closed}"), "ray.address: "),
    Fault("a cluster that never answers", _cluster("{silent}"), "ray.address: "),
]  # fmt: skip
