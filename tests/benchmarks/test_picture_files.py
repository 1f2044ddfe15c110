"""Picture files through download and embed: small ones that the tests make, nothing is fetched."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from benchmarks.picture_files import (
    DOWNLOAD,
    EMBED,
    KEPT,
    NOT_READ,
    PILLOW,
    RESOLUTION,
    Reader,
    Reading,
    as_input,
    compared,
    files_of,
    main,
    on_white,
    passed,
)
from tests.image_samples import EPS, encoded, ramp
from tests.shards import save_tiny_model

GREY = Image.fromarray(ramp())
PNG = encoded(GREY, "PNG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of several kinds, and what is none."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    clear = Image.merge("LA", [GREY, GREY])
    files = {
        "deep.png": encoded(Image.fromarray(ramp().astype(np.uint16) * 257), "PNG"),
        "floats.tiff": encoded(Image.fromarray((ramp() / 255).astype(np.float32)), "TIFF"),
        "turned.jpg": encoded(GREY, "JPEG", exif=exif, quality=95),
        "a folder/sö #1?.webp": encoded(GREY.convert("RGB"), "WEBP"),
        "clear.png": encoded(clear, "PNG"),
        "a.heic": HEIC,
        "a.png": EPS,
        "cut.png": PNG[:-40],
        "page.html": b"<html>",
    }
    for name, content in files.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


def test_every_file_is_kept_or_has_a_reason(
    folder: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(folder), "--model", model]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["problems"] == []
    files = {row["name"].removeprefix("pictures/"): row for row in result["files"]}
    assert {name: row["download"] for name, row in files.items()} == {
        "deep.png": KEPT,
        "floats.tiff": KEPT,
        "turned.jpg": KEPT,
        "a folder/sö #1?.webp": KEPT,
        "clear.png": KEPT,
        "a.heic": "failed: not_an_image",
        "a.png": "failed: not_an_image",
        "cut.png": "failed: not_an_image",
        "page.html": "failed: not_an_image",
    }
    embedded = {name: row["results"][EMBED] for name, row in files.items()}
    assert {name for name, reason in embedded.items() if reason == KEPT} == {
        name for name, row in files.items() if row["download"] == KEPT
    }
    assert embedded["cut.png"] == "truncated"
    assert all(set(row["levels"]) == {DOWNLOAD, EMBED} for row in files.values() if row["levels"])
    assert any(line.startswith("| PNG | 2 | 2 | ") for line in lines)
    assert any(line.startswith(f"| {NOT_READ} | 4 | 0 | - | failed: not_an_") for line in lines)
    assert any(line.startswith("| all | 9 | 5 | ") for line in lines)


def test_what_a_reader_sees_otherwise_than_pillow_is_found() -> None:
    stored = np.asarray(GREY.convert("RGB"))
    darker = stored.copy()
    darker[5, 7] -= 3
    kind, levels = compared(PNG, darker, as_input(GREY))
    assert (kind, levels) == ("PNG", {DOWNLOAD: 3, EMBED: 0})
    lighter = as_input(GREY.point([min(255, level + 4) for level in range(256)]))
    assert compared(PNG, None, lighter) == ("PNG", {EMBED: 4})
    assert compared(PNG, stored[:-1], None) == ("PNG", {DOWNLOAD: 256})
    assert compared(b"<html>", stored, None) == (NOT_READ, {DOWNLOAD: 256})
    assert list(Reading("a", levels={DOWNLOAD: 3, EMBED: 2}).problems) == [
        "download: 3 levels apart"
    ]


def test_pillows_own_reading_is_scaled_upright_and_on_white() -> None:
    deep = Image.fromarray(np.array([[0, 0x8080, 0xFFFF, 700]], np.uint16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8  # to be turned by 90 degrees, to the left
    white = np.array([[[255] * 3], [[255] * 3], [[128] * 3], [[0] * 3]], np.uint8)
    data = encoded(deep, "PNG", exif=exif, transparency=700)
    _, levels = compared(data, white, np.zeros((3, RESOLUTION, RESOLUTION), np.uint8))
    assert levels[DOWNLOAD] == 0
    half = Image.new("RGBA", (1, 1), (200, 0, 100, 128))
    assert on_white(half).tolist() == [[[227, 127, 177]]]


def _read(connection: Connection) -> None:
    """Reads as a decoder would that some files end, or hold up."""
    connection.send("ready")
    while path := connection.recv():
        connection.send(KEPT)
        if path == "ends":
            os.kill(os.getpid(), signal.SIGSEGV)
        if path == "holds up":
            time.sleep(600)
        connection.send(KEPT)
        connection.send(("PNG", {DOWNLOAD: 0, EMBED: 1}))


def test_a_file_that_ends_or_holds_up_the_process_costs_itself_alone() -> None:
    reader = Reader(5.0, _read)
    names = ("good", "ends", "good", "holds up", "good")
    readings = [reader.read(Path(name), name) for name in names]
    reader.close()
    assert [reading.fault for reading in readings] == [
        "",
        f"{EMBED}: ended the process",
        "",
        f"{EMBED}: not done after 5 s",
        "",
    ]
    assert [reading.format for reading in readings] == ["PNG", NOT_READ, "PNG", NOT_READ, "PNG"]
    assert readings[1].results == {DOWNLOAD: KEPT}
    assert [list(reading.problems) for reading in readings[:2]] == [[], [readings[1].fault]]
    assert PILLOW not in readings[0].results


def test_the_real_download_and_embedding_must_do_as_the_readers_alone(
    folder: Path, model: str, tmp_path: Path
) -> None:
    files = {
        name: path
        for name, path in files_of([folder]).items()
        if path.name in ("deep.png", "page.html")
    }
    results = {"pictures/deep.png": "no", "pictures/page.html": KEPT}
    readings = {
        name: Reading(name, results={DOWNLOAD: result, EMBED: result})
        for name, result in results.items()
    }
    whole = passed(files, readings, tmp_path, model)
    assert whole.problems == [
        "pictures/deep.png: kept by download, alone: no",
        "pictures/page.html: failed: not_an_image by download, alone: kept",
        "embed: {'kept': 1, 'not_an_image': 1}, alone: {'no': 1, 'kept': 1}",
    ]


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path)])
    assert "there are no files" in capsys.readouterr().err
