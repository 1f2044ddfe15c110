"""Many URLs, each fetched once, for whoever works on the images in another thread meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from workers.base.opt_outs import OptOuts
from workers.base.settings import DownloadSettings
from workers.fetch.image_fetch import Backlog, Fetched, ImageFetcher
from workers.web.client import Client
from workers.web.leases import Book, Leases

_Result = tuple[str, Fetched]


def fetch_each(
    urls: Sequence[str],
    settings: DownloadSettings,
    opt_outs: Sequence[OptOuts] = (),
    book: Book | None = None,
) -> Generator[_Result, None, None]:
    """URLs with what came of them, in the order in which it comes.

    No more contents than two for each connection wait to be taken, so memory is bounded by three
    times ``settings.connections * settings.max_bytes``. Whoever takes no more ends the fetching.

    Args:
        urls: each once.
        book: what others that fetch at the same time have in common with us; None: there are none.
    """
    work = _Work(urls, settings, opt_outs, book)
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as thread:
        running = thread.submit(work.run)
        try:
            while (result := work.results.get()) is not None:
                yield result
                if result[1].content is not None:
                    work.taken()
            running.result()  # raises what is wrong with the program
        finally:
            work.stop()


class _Work:
    """The side of the event loop; ``results`` ends with None."""

    def __init__(
        self,
        urls: Sequence[str],
        settings: DownloadSettings,
        opt_outs: Sequence[OptOuts],
        book: Book | None,
    ) -> None:
        self.results: SimpleQueue[_Result | None] = SimpleQueue()
        self._urls, self._settings, self._opt_outs = urls, settings, opt_outs
        self._book = book
        self._loop = asyncio.new_event_loop()
        self._backlog = Backlog(settings.connections)
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    def run(self) -> None:
        """Fetch all."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._fetch_all())
        finally:
            self.results.put(None)

    async def _fetch_all(self) -> None:
        self._task = asyncio.current_task()
        if self._is_stopped:  # before there was a task to end
            return
        settings = self._settings
        client = Client(
            settings.user_agent,
            settings.allow_private_hosts,
            settings.timeout,
            settings.connections,
        )
        leases = Leases(self._book)
        fetcher = ImageFetcher(settings, client, self._backlog, self._opt_outs, leases)
        async with client, asyncio.TaskGroup() as others:
            keeper = others.create_task(leases.keep())
            async with asyncio.TaskGroup() as group:
                for url in self._urls:
                    group.create_task(self._fetch(url, fetcher))
            keeper.cancel()
            await leases.leave()

    async def _fetch(self, url: str, fetcher: ImageFetcher) -> None:
        fetched = await fetcher.fetch(url)
        if fetched.content is not None:
            self._backlog.add(1)
        self.results.put((url, fetched))

    def taken(self) -> None:
        """A content was worked on."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._backlog.add, -1)

    def stop(self) -> None:
        """Fetch nothing more."""
        self._is_stopped = True
        if self._task and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)
