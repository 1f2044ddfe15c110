"""How far the reading of the dumps is: a bar on a terminal, a line every 30 s elsewhere.

Reading happens inside Beam. What is read in this process is told as it is read; what others read,
once the file of a part is there. With a runner on other machines nothing is told, and the runner's
own interface shows the progress.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

from tqdm import tqdm

from workers.base.ticker import Ticker

LINE_SECONDS = 30.0

#: Seconds between two looks at the files.
LOOK_SECONDS = 1.0

#: What the file of a part is called: NAME-BYTES.counts, with the part's bytes as they are stored.
SUFFIX = ".counts"


class _Display(Protocol):
    def update(self, n: int, /) -> object: ...


_display: _Display | None = None
_read = 0  # bytes that the display has been told of


@contextmanager
def shown(total_bytes: int, stream: TextIO) -> Iterator[None]:
    """Show on ``stream`` the progress of all that is read meanwhile."""
    global _display, _read
    with ExitStack() as stack:
        if stream.isatty():
            bar = tqdm(total=total_bytes, desc="reading", unit="B", unit_scale=True, file=stream)
            _display = stack.enter_context(bar)
        else:
            _display = _Lines(total_bytes, stream)
        _read = 0
        try:
            yield
        finally:
            _display = None


def advance(read_bytes: int) -> None:
    """Note that so many bytes of a dump, as it is stored, were read."""
    global _read
    if _display is not None:
        _read += read_bytes
        _display.update(read_bytes)


@contextmanager
def of_parts(folder: str) -> Iterator[None]:
    """Note what other processes have read, by the files of parts that come into a folder."""
    if _display is None:
        yield
        return
    start = time.time()
    ticker = Ticker("parts", LOOK_SECONDS, lambda: _reach(_read_since(start, Path(folder))))
    ticker.start()
    try:
        yield
    finally:
        ticker.stop()


def _read_since(start: float, folder: Path) -> int:
    read = 0
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError, ValueError):  # it is gone, or somebody else's
            if path.stat().st_mtime >= start:
                read += int(path.stem.rpartition("-")[2])
    return read


def _reach(read_bytes: int) -> None:
    """Note that so many bytes were read in all, if this is more than is known."""
    if read_bytes > _read:
        advance(read_bytes - _read)


class _Lines:
    """A line every LINE_SECONDS: what a log file should hold instead of a bar."""

    def __init__(self, total_bytes: int, stream: TextIO) -> None:
        self._total = max(1, total_bytes)
        self._stream = stream
        self._read = 0
        self._start = self._last = time.monotonic()

    def update(self, read_bytes: int, /) -> None:
        self._read += read_bytes
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        self._stream.write(
            f"reading: {self._read / self._total:.0%} of {self._total / 1e6:,.0f} MB "
            f"after {now - self._start:.0f} s\n"
        )
        self._stream.flush()
