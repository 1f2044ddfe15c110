"""`python -m tests.clip_model.load_within_limits FOLDER`: load each file, each in its own process.

A line of JSON for each: its name, and what came of it. A process that takes more than SECONDS of a
processor, or more memory than the file's size and MEGABYTES, comes to nothing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import torch

import clip_model
from clip_model import _torchvision  # noqa: F401
from clip_model.timm_tower import import_timm

SECONDS = 20  # where 2 are asked for: of the processor's time, on a slow and busy machine
MEGABYTES = 300


def outcome(path: Path) -> str:
    size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + size + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        clip_model.load(path, device="cpu", quick_gelu=None if path.is_dir() else True)
    except (RuntimeError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


def in_a_process(path: Path) -> str:
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(write, outcome(path).encode(errors="replace")[:60_000])
        finally:  # an error that is not the documented one says nothing, and is a failure
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said or f"nothing, status {status}"


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads don't survive a fork, and would be waited for
    clip_model.load("starter", device="cpu")  # what loading imports, once for all
    import_timm()
    for file in sorted(Path(sys.argv[1]).iterdir()):
        sys.stdout.write(json.dumps([file.name, in_a_process(file)]) + "\n")
        sys.stdout.flush()
