"""The process that downloads: the project's own download and as little else as can be.

``python -m benchmarks.hostile_web.fetching FOLDER`` does what `Task` says in FOLDER/task.json, and
leaves its memory in FOLDER/memory.json. It is started by ``benchmarks.hostile_web.shard``.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.memory import peak_bytes
from workers.base.opt_outs import Kind, OptOuts
from workers.base.settings import DownloadSettings
from workers.fetch.download import download_shard
from workers.fetch.images_before import ShardFiles

TASK, MEMORY = "task.json", "memory.json"
#: What the names end in that no name server answers for.
SILENT = ".silent.test"


class Task(BaseModel):
    """What the process has to do."""

    lists: tuple[str, ...]  # NAME of NAME.parquet; becomes NAME-images.parquet and so on
    settings: DownloadSettings
    listed: tuple[str, ...]  # URLs on a list of opt-outs, in normal form
    names: dict[str, tuple[tuple[str, ...], ...]]  # addresses of a name, by look-up


class Memory(BaseModel):
    """Bytes of the process at its peak: when each of the lists was done."""

    peaks: tuple[int, ...]


def files_of(folder: Path, name: str) -> ShardFiles:
    """What a list becomes."""
    return ShardFiles(folder / f"{name}-images.parquet", folder / f"{name}-without.parquet")


def download_all(folder: Path) -> None:
    """Do what the folder's task says."""
    task = Task.model_validate_json((folder / TASK).read_text())
    socket.getaddrinfo = resolver(task.names)
    opt_outs = [OptOuts.of((Kind.URL, name) for name in task.listed)]
    peaks = []
    for name in task.lists:
        out = files_of(folder, name)
        download_shard(folder / f"{name}.parquet", out, task.settings, opt_outs)
        peaks.append(peak_bytes())
    (folder / MEMORY).write_text(Memory(peaks=tuple(peaks)).model_dump_json())


def resolver(names: Mapping[str, Sequence[Sequence[str]]]) -> Callable[..., Any]:
    """A name server's answers: those of the first look-up, the second and so on, the last for ever.

    It stands in the place of the system's, whose servers are not ours to set up. Other names are
    unknown, so that no look-up leaves the machine; addresses and `localhost` are the system's.
    Those that end in SILENT are looked up for ever.
    """
    real, asked = socket.getaddrinfo, defaultdict[str, int](int)

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is None or name == "localhost" or _is_address(name):
            return real(host, port, *args, **more)
        if name.endswith(SILENT):
            threading.Event().wait()
        answers = names.get(name, [()])
        found = answers[min(asked[name], len(answers) - 1)]
        asked[name] += 1
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [one for address in found for one in real(address, port, *args, **more)]

    return look_up


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    download_all(Path(sys.argv[1]))
