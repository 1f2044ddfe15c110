"""A polite crawl of one host into one WARC file.

Scrapy's reactor starts once in a process, so every crawl runs in a process of its own
(``python -m workers.crawl.spider``; ``workers.crawl.host_crawl`` has the rules of the crawl).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from workers.base.failures import NeedsMendingError
from workers.base.settings import CrawlSettings
from workers.base.tally import Tally

#: The kind of row in the tally for the pages that an earlier crawl has brought. Those that could
#: not be reached this time count as failed there and, since they are still there, as kept pages.
KNOWN = "known pages"

#: Lines of the crawler's log that an error message repeats.
_LOG_LINES = 15


class CrawlError(RuntimeError):
    """The crawler itself failed; pages that fail are counted and raise nothing."""


class MovedError(NeedsMendingError):
    """A host has no page to keep, since it sends whoever asks for one to another host."""


class HostFiles(BaseModel):
    """What a crawl writes, and what the next one of the host goes on from."""

    warc: Path  # the pages
    table: Path  # with the columns of ``contracts.VISITS``

    @classmethod
    def of(cls, host: str, folder: Path, tables: Path) -> HostFiles:
        """The files of a host in folders of them."""
        warc = warc_name(host)
        return cls(warc=folder / warc, table=tables / warc.replace(".warc", ".parquet"))


class CrawlJob(BaseModel):
    """What the crawling process is told, as a line of JSON on its standard input."""

    host: str
    seeds: tuple[str, ...]
    files: HostFiles
    settings: CrawlSettings
    before: HostFiles | None = None
    is_rerun: bool = False
    taken_down: Path | None = None  # tombstones


class CrawlResult(BaseModel):
    """What the crawling process says, on its standard output."""

    pages: Tally = Field(default_factory=Tally)
    known: Tally = Field(default_factory=Tally)  # of KNOWN
    moved_to: tuple[str, ...] = ()  # SCHEME://HOST of other hosts that redirects lead to
    at_fault: str = ""  # which setting is, so that nothing was crawled


def warc_name(host: str) -> str:
    """The name of a host's WARC file."""
    return host.replace(":", "_") + ".warc"


def crawl_host(
    host: str,
    seeds: Sequence[str],
    out_dir: Path,
    settings: CrawlSettings,
    before: HostFiles | None = None,
    *,
    is_rerun: bool = False,
    taken_down: Path | None = None,
) -> dict[str, Tally]:
    """Crawl the pages of ``host`` (HOST or HOST:PORT) from ``seeds`` into ``out_dir``.

    Writes one uncompressed WARC file, the pages sorted by URL, and a table of what came of each URL
    into ``_tables`` in the folder. The tally "pages" has a row for every distinct URL that was met.

    Args:
        before: files of the crawl before: what is known of a page is not fetched once more.
        is_rerun: that crawl was of this time, so that only what it could not reach is asked for.
        taken_down: a file of tombstones, of what is not to be asked for.

    Raises CrawlError when the crawler breaks; its log then stays in ``out_dir`` as ``_crawl.log``.
    Raises NeedsMendingError when a setting is at fault.
    Raises MovedError when redirects lead to other hosts and nothing is left here: an empty file
    would look like a host that was read.
    """
    tables = out_dir.absolute() / "_tables"
    tables.mkdir(parents=True, exist_ok=True)
    job = CrawlJob(
        host=host,
        seeds=tuple(seeds),
        files=HostFiles.of(host, out_dir.absolute(), tables),
        settings=settings,
        before=before,
        is_rerun=is_rerun,
        taken_down=taken_down,
    )
    log = out_dir / "_crawl.log"
    code, output = _run_spider(job, log)
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise CrawlError(f"crawl of {host} ended with {code}; {log}:\n{tail}")
    log.unlink()
    result = CrawlResult.model_validate_json(output)
    if result.at_fault:
        raise NeedsMendingError(result.at_fault)
    result.pages.check()
    if result.moved_to and not result.pages.kept:
        raise MovedError(
            f"{host} keeps no page of its own, it redirects to {', '.join(result.moved_to[:3])}: "
            "put that into pages.seeds in its place"
        )
    known = {KNOWN: result.known} if result.known.rows_in else {}
    return {**known, "pages": result.pages}


def _run_spider(job: CrawlJob, log: Path) -> tuple[int, bytes]:
    """The exit status and the standard output of the crawling process."""
    command = [sys.executable, "-m", "workers.crawl.spider"]
    pipe = subprocess.PIPE
    with (
        log.open("wb") as log_file,
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log_file, env=_environment()
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # The pipe stays open: when it closes, the crawler knows that we are gone.
            process.stdin.write(job.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            output = process.stdout.read()
            return process.wait(), output
        except BaseException:
            process.kill()
            raise


def _environment() -> dict[str, str]:
    """Ours, with this package importable wherever the process was started from."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root}
