"""How far the reading of the dumps is: a bar on a terminal, a line every 30 s elsewhere.

Reading happens inside Beam. With an in-process runner it reports here; with another one
nothing does, and the runner's own interface shows the progress.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, TextIO

from tqdm import tqdm

LINE_SECONDS = 30.0


class _Display(Protocol):
    def update(self, n: int, /) -> object: ...


_display: _Display | None = None


@contextmanager
def shown(total_bytes: int, stream: TextIO) -> Iterator[None]:
    """Show on ``stream`` the progress of all that is read in this process meanwhile."""
    global _display
    with ExitStack() as stack:
        if stream.isatty():
            bar = tqdm(total=total_bytes, desc="reading", unit="B", unit_scale=True, file=stream)
            _display = stack.enter_context(bar)
        else:
            _display = _Lines(total_bytes, stream)
        try:
            yield
        finally:
            _display = None


def advance(read_bytes: int) -> None:
    """Note that so many bytes of a dump, as it is stored, were read."""
    if _display is not None:
        _display.update(read_bytes)


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
