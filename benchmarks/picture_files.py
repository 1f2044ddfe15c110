"""The files that Pillow and pillow-heif are tested with, through download and embed.

``python -m benchmarks.picture_files`` fetches the source packages of both and takes every file of
their tests: good pictures of all formats and modes, damaged ones, those that have once crashed or
held up a decoder, and what is no picture. ``--folder`` takes the files of other folders instead.

First each file is read alone, in a process that is replaced where a file ends it, or is not read
within ``--seconds``: by the download's resizer, without a resize and the loss of a JPEG, as the
model's input, and by Pillow as this module uses it. Levels are the most, of 255, that two readings
of one picture differ by; 256 stands for another size, and for what Pillow itself does not read.
Pillow's reading is upright by its own EXIF, on white by the formula of compositing, and has of grey
of 16 bits the upper 8, as Pillow's own of colours. Then all files come from a server on loopback
through the real download and, as they are and as they were downloaded, through the real embedding;
no row may be lost, and each must end as when its file was read alone.

Prints a row for each format, as Pillow calls it; the files that are more than 2 levels apart, what
has ended or held up a process, and as its last line the same as JSON; exits 1 where anything was
found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from clip_model.config import MEAN, STD
from clip_model.image_files import ImageError
from clip_model.preprocess import image_bytes_transform, image_transform
from examples.evaluation_sets.packages import Package, PackageError
from examples.sample.server import Answer, listen, running
from examples.starter_model.packages import fetched
from workers.base.arrays import UInt8s
from workers.base.contracts import REQUESTS
from workers.base.output import say
from workers.base.settings import DownloadSettings, ImageFormat
from workers.embedding.embedder import Embedder
from workers.embedding.settings import EmbedSettings
from workers.fetch.download import download_shard
from workers.fetch.images_before import ShardFiles
from workers.fetch.img2dataset_parts import img2dataset_parts

#: The packages, and the folder of each whose files are read.
SOURCES = {
    Package(
        "pip source",
        "pillow",
        "12.3.0",
        "3b8182a766685eaa002637e28b4ec8d6b18819a0c71f579bf0dbaa5830297cce",
    ): "pillow-12.3.0/Tests/images",
    Package(
        "pip source",
        "pillow-heif",
        "1.8.1",
        "521ebffb8a181d56c3904e5a61f20903edee0d9d3275967b8fb345f866215c06",
    ): "pillow_heif-1.8.1/tests",
}
RESOLUTION = 224
#: Levels that a picture may be apart from Pillow's reading.
NEAR = 2
#: What stands for levels that cannot be compared.
OTHER = 256
KEPT = "kept"
#: Seconds in which a process has imported what it needs.
PATIENCE = 300.0
#: The readers, in the order in which a process lets them read a file.
DOWNLOAD, EMBED, PILLOW = "download", "embed", "Pillow"
NOT_READ = "not read by Pillow"

#: The host of the pictures.
_HOST = "127.0.0.1"
#: Those of Pillow's formats that it reads by means of another program or of the system.
_BY_OTHERS = ("EPS", "WMF")
#: Files of the real download and embedding, in a folder of their own.
_REQUESTS, _IMAGES, _ANSWERS, _RAW = "requests", "images", "answers", "raw"
_TALLIES = "tallies.json"


@dataclass
class Reading:
    """What each reader made of a file, alone."""

    name: str
    format: str = NOT_READ
    results: dict[str, str] = field(default_factory=dict)  # KEPT, or why not, by reader
    levels: dict[str, int] = field(default_factory=dict)  # apart from Pillow, by reader
    fault: str = ""  # what the file did to the process
    seconds: float = 0.0

    @property
    def problems(self) -> Iterator[str]:
        """What is not as it must be."""
        if self.fault:
            yield self.fault
        for reader, apart in self.levels.items():
            if apart > NEAR:
                yield f"{reader}: {apart} levels apart"


def read_files(connection: Connection) -> None:
    """Read the files whose paths come, and say after each reader what it has made of it."""
    warnings.simplefilter("ignore")
    transform = image_bytes_transform(RESOLUTION)
    resizer = img2dataset_parts().Resizer(1, "no", True, encode_format="png", encode_quality=1)
    connection.send("ready")
    while path := connection.recv():
        data = Path(path).read_bytes()
        png, *_, error = resizer(io.BytesIO(data))
        connection.send(error or KEPT)
        try:
            levels, reason = transform(data).numpy(), KEPT
        except ImageError as refusal:
            levels, reason = None, refusal.reason.replace(" ", "_")
        connection.send(reason)
        stored = None if error else np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        connection.send(compared(data, stored, levels))


def compared(
    data: bytes, stored: UInt8s | None, levels: UInt8s | None
) -> tuple[str, dict[str, int]]:
    """Pillow's name of a file's format, and how far the readings are from its own.

    Args:
        stored: [H, W, 3], the download's; None where it keeps nothing.
        levels: [3, R, R], the model's input.
    """
    ours = {DOWNLOAD: stored, EMBED: levels}
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            if kind in _BY_OTHERS:
                raise OSError("another program would be asked")
            image.load()
            reading = ImageOps.exif_transpose(of_8_bits(image))
    except Exception:  # noqa: BLE001 - whatever Pillow raises for what it does not read
        return NOT_READ, {name: OTHER for name, one in ours.items() if one is not None}
    apart = {}
    if stored is not None:
        apart[DOWNLOAD] = _apart(stored, on_white(reading))
    if levels is not None:
        apart[EMBED] = _apart(levels, as_input(reading))
    return kind, apart


def of_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits and of floats scaled to levels; all others as they are."""
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "F":
        white = min(scale for scale in (1.0, 255.0, 65_535.0) if scale >= levels.max())
        grey = Image.fromarray(np.rint(levels * (255 / white)).astype(np.uint8))
    else:  # the upper 8, as Pillow itself takes them of colours of 16 bits
        grey = Image.fromarray((levels // 256).astype(np.uint8))
    grey.info, grey_exif = dict(image.info), image.getexif()
    grey.getexif().update(grey_exif)
    if isinstance(key := grey.info.pop("transparency", None), int):
        grey.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return grey


def on_white(image: Image.Image) -> UInt8s:
    """[H, W, 3]."""
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    levels = np.asarray(image.convert("RGBA")).astype(float)
    share = levels[..., 3:] / 255
    return np.rint(levels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def as_input(image: Image.Image) -> UInt8s:
    """[3, R, R], what the reference makes of it, before it is normalised."""
    normal = image_transform(RESOLUTION)(image).double().numpy()
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (MEAN, STD))
    return np.rint((normal * std + mean) * 255).astype(np.uint8)


def _apart(one: UInt8s, other: UInt8s) -> int:
    if one.shape != other.shape:
        return OTHER
    return int(np.abs(one.astype(int) - other).max(initial=0))


class Reader:
    """Reads files one by one in a process, which is replaced where it has not survived one.

    Args:
        seconds: in which a file must be read.
        work: what the process does, as `read_files`.
    """

    def __init__(self, seconds: float, work: Callable[[Connection], None] = read_files) -> None:
        self._seconds, self._work = seconds, work
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def read(self, path: Path, name: str) -> Reading:
        """What the readers make of a file."""
        connection = self._ready()
        reading, began = Reading(name), time.monotonic()
        connection.send(str(path))
        for reader in (DOWNLOAD, EMBED, PILLOW):
            try:
                if not connection.poll(max(0.0, began + self._seconds - time.monotonic())):
                    reading.fault = f"{reader}: not done after {self._seconds:g} s"
                    break
                said = connection.recv()
            except (EOFError, ConnectionError):
                reading.fault = f"{reader}: ended the process"
                break
            if reader == PILLOW:
                reading.format, reading.levels = said
            else:
                reading.results[reader] = said
        reading.seconds = time.monotonic() - began
        if reading.fault:
            self.close()
        return reading

    def _ready(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=self._work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()  # so that the end of the process is the end of what it says
            if not self._connection.poll(PATIENCE):
                raise TimeoutError(f"the process that reads has not begun in {PATIENCE:g} s")
            self._connection.recv()
        return self._connection

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None


def pass_through(folder: Path, settings: DownloadSettings, model: str) -> None:
    """Download what is asked for, and embed the files as they are and as they were downloaded."""
    warnings.simplefilter("ignore")
    images, answers, raw = (folder / f"{name}.parquet" for name in (_IMAGES, _ANSWERS, _RAW))
    requests = folder / f"{_REQUESTS}.parquet"
    tallies = {DOWNLOAD: download_shard(requests, ShardFiles(images, answers), settings)["images"]}
    embedder = Embedder(EmbedSettings(model=model))
    for shard in (raw, images):
        out = folder / f"{shard.stem}-embedded.parquet"
        tallies[shard.stem] = embedder.embed_shard(shard, out)["images"]
    for tally in tallies.values():
        tally.check()
    counts = {name: tally.counts() for name, tally in tallies.items()}
    (folder / _TALLIES).write_text(json.dumps(counts))


@dataclass(frozen=True)
class Passed:
    """What the real download and embedding made of all files."""

    reasons: dict[str, str]  # KEPT, or why not, by the file's name
    problems: list[str]


def passed(
    files: Mapping[str, Path], readings: Mapping[str, Reading], folder: Path, model: str
) -> Passed:
    """Serve the files, download and embed them, and compare with what each reader said alone."""
    names = {f"{number:06}": name for number, name in enumerate(files)}
    targets = {f"/{pair_id}/{quote(name)}": files[name] for pair_id, name in names.items()}

    def answer(_: str, target: str) -> Answer:
        if target not in targets:
            return Answer(status=404)
        # What a server says of a file is not to be believed.
        return Answer(targets[target].read_bytes(), "image/jpeg")

    sockets = listen([_HOST], 0)
    host = f"{_HOST}:{sockets[0].getsockname()[1]}"
    rows = [
        {"pair_id": pair_id, "url": f"http://{host}{target}", "caption": names[pair_id], "tries": 0}
        for pair_id, target in zip(names, targets, strict=True)
    ]
    raw = [
        {"pair_id": key, "image": files[name].read_bytes(), "caption": name}
        for key, name in names.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REQUESTS), folder / f"{_REQUESTS}.parquet")
    pq.write_table(pa.Table.from_pylist(raw), folder / f"{_RAW}.parquet")
    settings = DownloadSettings(
        allow_private_hosts=(host,),
        requests_per_host=8,
        max_aspect_ratio=1e9,
        formats=get_args(ImageFormat),
    )
    process = multiprocessing.get_context("spawn").Process(
        target=pass_through, args=(folder, settings, model)
    )
    limit = PATIENCE + 4 * sum(reading.seconds for reading in readings.values())
    with running(sockets, answer):
        process.start()
        process.join(limit)
        process.kill()
        process.join()
    if process.exitcode:
        return Passed({}, [f"download and embed ended with {process.exitcode}, within {limit:g} s"])
    reasons = {names[key]: KEPT for key in _column(folder / f"{_IMAGES}.parquet", "pair_id")}
    for row in pq.read_table(folder / f"{_ANSWERS}.parquet").to_pylist():
        if row["reason"] is not None:
            kind = "rejected" if row["rejected"] else "failed"
            reasons[names[row["pair_id"]]] = f"{kind}: {row['reason']}"
    tallies = json.loads((folder / _TALLIES).read_text())
    return Passed(reasons, list(_differences(readings, reasons, tallies)))


def _column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path, columns=[name])[name].to_pylist()


def _differences(
    readings: Mapping[str, Reading], reasons: Mapping[str, str], tallies: Mapping[str, Any]
) -> Iterator[str]:
    """Where the real download and embedding did otherwise than the readers alone."""
    for name, reading in readings.items():
        alone, reason = reading.results.get(DOWNLOAD), reasons.get(name, "no row")
        if (alone == KEPT) != (reason == KEPT):
            yield f"{name}: {reason} by download, alone: {alone}"
    alone_by = Counter(reading.results.get(EMBED, "") for reading in readings.values())
    embedded = Counter({KEPT: tallies[_RAW][KEPT], **tallies[_RAW]["failed"]})
    if alone_by != embedded:
        yield f"embed: {dict(embedded)}, alone: {dict(alone_by)}"
    if failed := tallies[_IMAGES]["failed"]:
        yield f"embed, of what was downloaded: {failed}"


def table(readings: Sequence[Reading], reasons: Mapping[str, str]) -> Iterator[str]:
    """A row for each format."""
    yield "| format | files | kept by download | levels | not kept | by embed | levels | not kept |"
    yield "|---|---|---|---|---|---|---|---|"
    by_format = defaultdict[str, list[Reading]](list)
    for reading in readings:
        by_format[reading.format].append(reading)
    order = sorted(by_format, key=lambda name: (name == NOT_READ, name))
    for name in [*order, ""]:
        of_it = by_format[name] if name else readings
        cells = [name or "all", f"{len(of_it):,}"]
        for reader in (DOWNLOAD, EMBED):
            whole = reasons if reader == DOWNLOAD else {}
            said = Counter(whole.get(one.name, one.results.get(reader, one.fault)) for one in of_it)
            kept = said.pop(KEPT, 0)
            apart = [one.levels[reader] for one in of_it if reader in one.levels]
            why = ", ".join(f"{reason} {count:,}" for reason, count in said.most_common())
            cells += [f"{kept:,}", str(max(apart, default="-")), why or "-"]
        yield f"| {' | '.join(cells)} |"


def files_of(folders: Sequence[Path]) -> dict[str, Path]:
    """All files below, by folder's name and path in it."""
    return {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, read, download, embed and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.picture_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, nargs="+", help="read these instead of the packages")
    parser.add_argument("--cache", type=Path, help="folder that keeps the packages (default: none)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for a file (default: 60)")
    parser.add_argument("--model", default="starter", help="to embed with (default: starter)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="picture-files-")))
        cache = options.cache or scratch
        cache.mkdir(parents=True, exist_ok=True)
        try:
            folders = options.folder or [fetched(p, cache) / kept for p, kept in SOURCES.items()]
        except PackageError as error:
            parser.error(str(error))
        if not (files := files_of(folders)):
            parser.error("there are no files")
        reader = Reader(options.seconds)
        stack.callback(reader.close)
        readings = {name: reader.read(path, name) for name, path in files.items()}
        # What ends a process, or holds it up, would end or hold up the whole.
        sound = {name: path for name, path in files.items() if not readings[name].fault}
        whole = passed(sound, {name: readings[name] for name in sound}, scratch, options.model)
    return _show([*readings.values()], whole, time.monotonic() - started)


def _show(readings: Sequence[Reading], whole: Passed, seconds: float) -> int:
    for line in table(readings, whole.reasons):
        say(line)
    found = [f"{one.name} ({one.format}): {text}" for one in readings for text in one.problems]
    problems = [*found, *whole.problems]
    for line in problems or ["nothing was found"]:
        say(line)
    slowest = max(readings, key=lambda reading: reading.seconds)
    say(f"slowest: {slowest.name}, {slowest.seconds:.1f} s; all: {seconds:.0f} s")
    rows = [{**vars(reading), "download": whole.reasons.get(reading.name)} for reading in readings]
    say(json.dumps({"files": rows, "problems": problems, "seconds": seconds}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
