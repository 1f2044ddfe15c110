"""How far the reading of the dumps is: a bar on a terminal, a line every 30 s elsewhere.

Reading happens inside Beam. With an in-process runner it reports here; on a remote runner
nothing does, and the runner's own interface shows the progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from tqdm import tqdm

LINE_SECONDS = 30.0

_bar: tqdm[NoReturn] | None = None


@contextmanager
def shown(total_bytes: int, stream: TextIO) -> Iterator[None]:
    """Show on ``stream`` the progress of all that is read in this process meanwhile."""
    global _bar
    bar = _terminal_bar(total_bytes, stream) if stream.isatty() else _lines(total_bytes, stream)
    with bar:
        _bar = bar
        try:
            yield
        finally:
            _bar = None


def _terminal_bar(total_bytes: int, stream: TextIO) -> tqdm[NoReturn]:
    return tqdm(total=total_bytes, desc="reading", unit="B", unit_scale=True, file=stream)


def _lines(total_bytes: int, stream: TextIO) -> tqdm[NoReturn]:
    return tqdm(
        total=total_bytes,
        unit="B",
        unit_scale=True,
        file=stream,
        mininterval=LINE_SECONDS,
        maxinterval=LINE_SECONDS,
        delay=LINE_SECONDS,
        bar_format="reading: {percentage:.0f}% of {total_fmt}, {elapsed} elapsed\n",
    )


def advance(read_bytes: int) -> None:
    """Note that so many bytes of a dump, as it is stored, were read."""
    if _bar is not None:
        _bar.update(read_bytes)
