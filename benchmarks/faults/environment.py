"""Machines that lack something: disk space, a folder to write to, a module, an open output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

from benchmarks.commands import fill
from benchmarks.faults.fault import ROOT, Fault, Place
from benchmarks.faults.inputs import CSV, text_run
from workers.base.hardware import CPU_INFORMATION

_STEP = ("--set", "selection.steps=[{filter: similarity, min: 0.2}]")
_FULL = "No space left on device"


def _on_full_disk(*more: str) -> Callable[[Place], list[str]]:
    """A finished run on a disk without a byte left."""

    def prepare(place: Place) -> list[str]:
        size = sum(path.stat().st_size for path in place.finished.rglob("*") if path.is_file())
        disk = place.disk(f"{2 * size + (32 << 20)}")
        place.run_dir = disk / "run"
        place.copy()
        fill(disk)
        return place.build(*more)

    return prepare


def _new_on_full_disk(place: Place) -> list[str]:
    disk = place.disk("1m")
    fill(disk)
    place.run_dir = disk / "run"
    return text_run(place)


def _no_room_for_temporary_files(place: Place) -> list[str]:
    disk = place.disk("1m")
    fill(disk)
    place.environment["TMPDIR"] = str(disk)
    return text_run(place)


def _no_temporary_folder(place: Place) -> list[str]:
    place.environment["TMPDIR"] = str(place.folder / "absent")
    return text_run(place)


def _small_disk(place: Place) -> list[str]:
    """A disk that fills while the run is at work."""
    place.run_dir = place.disk("48k") / "run"
    return text_run(place)


def _read_only(*more: str, without: str = "") -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        place.copy(*without.split())
        place.read_only(place.run_dir)
        return place.build(*more)

    return prepare


def _new_where_nothing_can_be_written(place: Place) -> list[str]:
    folder = place.folder / "fixed"
    folder.mkdir()
    place.read_only(folder)
    place.run_dir = folder / "run"
    return place.build()


def _no_folder_for_machine_code(place: Place) -> list[str]:
    """Code beside which nobody, root included, can keep a byte."""
    for name in ("clip_model", "pipelines", "query_builder", "workers"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, place.folder / name, ignore=ignored)
    place.read_only(place.folder / "workers")
    place.read_only(place.folder / "query_builder")
    place.environment |= {
        "PYTHONPATH": str(place.folder),
        "HOME": "/dev/null",
        "NUMBA_CACHE_DIR": "/dev/null",
    }
    code = "import sys; sys.path.remove(''); from pipelines.build_dataset import *; start(main)"
    return [sys.executable, "-c", code, *text_run(place)[3:]]


def _without_extras(place: Place) -> list[str]:
    """img2dataset without what it is not needed for."""
    place.copy("images")
    place.without_module("wandb", "albumentations", "webdataset", "imghdr")
    return place.build()


def _shell(line: str) -> Callable[[Place], list[str]]:
    """A line of shell; `$@` is the status of a finished run."""

    def prepare(place: Place) -> list[str]:
        place.copy()
        return ["bash", "-c", line, "bash", *place.build("--status")]

    return prepare


def _other_precision(place: Place) -> list[str]:
    """Embeddings in bfloat16 on a machine that is held to instructions without it."""
    if not CPU_INFORMATION.is_file():
        return place.build("--plan")
    place.copy("embeddings")
    place.environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
    return place.build("--set", "embeddings.precision=bf16")


def _away(*more: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        place.without_module("s3fs")
        return text_run(place, "s3://bucket/dump.bz2", CSV.encode(), *more)

    return prepare


FAULTS = [
    Fault("a full disk, nothing to do", _on_full_disk(), "nothing to do", (0,)),
    Fault("a full disk, --status", _on_full_disk("--status"), "| dataset | pairs |", (0,)),
    Fault("a full disk, work to do", _on_full_disk(*_STEP), _FULL, (3,), again=(3, _FULL)),
    Fault("a full disk, a new run", _new_on_full_disk, _FULL, (3,)),
    Fault("a disk that fills", _small_disk, _FULL, (3,)),
    Fault("no byte for temporary files", _no_room_for_temporary_files, "pairs: 50 pairs in", (0,)),
    Fault("no folder for temporary files", _no_temporary_folder, "pairs: 50 pairs in", (0,)),
    Fault("a run that is read-only, --status", _read_only("--status"), "| dataset | pairs |", (0,)),
    Fault("a run that is read-only", _read_only(), "Read-only file system", (2,)),
    Fault("a run that is read-only, work to do", _read_only(without="selection"),
          "Read-only file system", (2,)),
    Fault("a new run in a read-only folder", _new_where_nothing_can_be_written,
          "Read-only file system", (2,)),
    Fault("no folder for machine code", _no_folder_for_machine_code, "pairs: 50 pairs in", (0,)),
    Fault("no s3fs", _away(), "Install s3fs"),
    Fault("no s3fs, --plan", _away("--plan"), "Install s3fs"),
    Fault("no wandb, albumentations, webdataset, imghdr", _without_extras, "images: ", (0,)),
    Fault("nobody reads the output", _shell('"$@" | true; exit ${PIPESTATUS[0]}'), "", (0,)),
    Fault("the output is closed", _shell('"$@" >&-'), "", (0,)),
    Fault("output and messages are closed", _shell('"$@" >&- 2>&-'), "", (0,)),
    Fault("the output is on a full disk", _shell('"$@" > /dev/full'), _FULL, (3,)),
    Fault("the input is closed", _shell('"$@" <&-'), "| dataset | pairs |", (0,)),
    Fault("bf16 on a machine that only emulates it", _other_precision, "would only emulate"),
]  # fmt: skip
