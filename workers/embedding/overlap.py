"""Work under way ahead of the one that is waited for, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

Context = TypeVar("Context")
Item = TypeVar("Item")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Handle(Protocol[Result_co]):
    """Work that has been started: a ``concurrent.futures.Future``, or what a GPU was given."""

    def result(self) -> Result_co:
        """Wait for it. Raises what the work raised."""

    def cancel(self) -> object:
        """Don't start it if it has not been started."""


def overlap(
    started: Iterable[tuple[Context, Handle[Result]]], depth: int
) -> Iterator[tuple[Context, Result]]:
    """Results in the order of ``started``, which is asked for ``depth`` more ahead of each.

    Work must not wait for other work of its own pool; then nothing can block for ever, however
    few threads there are.

    Args:
        started: what goes with the result, and the handle of the work.
    """
    under_way: deque[tuple[Context, Handle[Result]]] = deque()
    try:
        for pair in started:
            under_way.append(pair)
            if len(under_way) > depth:
                context, handle = under_way.popleft()
                yield context, handle.result()
        while under_way:
            context, handle = under_way.popleft()
            yield context, handle.result()
    finally:
        for _, handle in under_way:
            handle.cancel()


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last of what is left."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
