"""A polite crawl of one host into one WARC file.

Scrapy's reactor starts once in a process, so every crawl runs in a process of its own
(``python -m workers.spider``, see there for the rules of the crawl).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from workers.settings import CrawlSettings
from workers.tally import Tally

#: Lines of the crawler's log that an error message repeats.
_LOG_LINES = 15

TALLIES = TypeAdapter(dict[str, Tally])


class CrawlError(RuntimeError):
    """The crawler itself failed; pages that fail are counted and raise nothing."""


class CrawlJob(BaseModel):
    """What the crawling process is told, as JSON on its standard input."""

    host: str
    seeds: tuple[str, ...]
    warc: Path
    settings: CrawlSettings


def warc_name(host: str) -> str:
    """The name of a host's WARC file."""
    return host.replace(":", "_") + ".warc"


def crawl_host(
    host: str, seeds: Sequence[str], out_dir: Path, settings: CrawlSettings
) -> dict[str, Tally]:
    """Crawl the pages of ``host`` (HOST or HOST:PORT) from ``seeds`` into ``out_dir``.

    Writes one uncompressed WARC file, the pages sorted by URL. The tally "pages" has a row for
    every distinct URL that was met. Raises CrawlError when the crawler breaks; its log then
    stays in ``out_dir`` as ``_crawl.log``.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    job = CrawlJob(
        host=host, seeds=tuple(seeds), warc=out_dir.absolute() / warc_name(host), settings=settings
    )
    log = out_dir / "_crawl.log"
    with log.open("wb") as log_file:
        done = subprocess.run(
            [sys.executable, "-m", "workers.spider"],
            input=job.model_dump_json().encode(),
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=_environment(),
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise CrawlError(f"crawl of {host} ended with {done.returncode}; {log}:\n{tail}")
    log.unlink()
    tallies = TALLIES.validate_json(done.stdout)
    tallies["pages"].check()
    return tallies


def _environment() -> dict[str, str]:
    """Ours, with this package importable wherever the process was started from."""
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root}
