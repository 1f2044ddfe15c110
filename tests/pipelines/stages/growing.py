"""A run that grows: nights with more pairs, over a web of loopback, in this process."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.run import clock
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.runner import Result, run_stages
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import Embed
from tests.workers.web import Answer, Web
from workers.base.contracts import PAIRS
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table
from workers.base.tally import Tally

START, HOUR = 1.8e9, 3600.0  # seconds
NOTHING: Mapping[str, Sequence[str]] = {}
FETCHED = ("pairs", "requests", "images")


def image(number: int) -> Answer:
    """An image of its own for every number."""
    buffer = io.BytesIO()
    Image.new("RGB", (40 + number % 7, 30), (number * 37 % 256, number * 91 % 256, 80)).save(
        buffer, "PNG"
    )
    return Answer(buffer.getvalue(), headers={"Content-Type": "image/png"})


def caption_of(url: str) -> str:
    return f"what is at {url.rpartition('/')[2]}"


def pair_of(url: str) -> str:
    return make_pair_id(url, caption_of(url))


def pairs_of(url: str, captions: Iterable[str]) -> Iterator[dict[str, Any]]:
    for caption in (caption_of(url), *captions):
        yield {"pair_id": make_pair_id(url, caption), "url": url, "caption": caption}


class GivenPairs(Stage):
    """The pairs that a test names, in two ranges of pair_id."""

    name = "pairs"
    urls: ClassVar[Sequence[str]] = ()
    more_captions: ClassVar[Mapping[str, Sequence[str]]] = {}  # by URL

    def plan(self):
        more = {url: list(captions) for url, captions in self.more_captions.items()}
        return [self.shard("all", {"urls": sorted(self.urls), "more": more})]

    def execute(self, shards):
        return in_process(self.work, shards, self.folder)

    def work(self, shard, out):
        rows = [
            pair | {"source": "test@0", "query_ids": [0]}
            for url in self.urls
            for pair in pairs_of(url, self.more_captions.get(url, ()))
        ]
        rows.sort(key=lambda row: row["pair_id"])
        for name, digits in (("00000", "01234567"), ("00001", "89abcdef")):
            part = [row for row in rows if row["pair_id"][0] in digits]
            write_table(pa.Table.from_pylist(part, schema=PAIRS), out / f"{name}.parquet")
        tally = Tally()
        tally.keep(len(rows))
        return {"pairs": tally}


_LOADED: dict[str, Embed] = {}


def loaded(work: Embed) -> Embed:
    """The same work with its model, if these settings had one before."""
    return _LOADED.setdefault(work.settings.model_dump_json(), work)


@dataclass
class Nights:
    """Gives the commands of a run, hours apart; tells what each of them asked of the web."""

    directory: Path
    web: Web
    monkeypatch: pytest.MonkeyPatch
    stages: Sequence[str] = FETCHED
    settings: dict[str, Any] = field(default_factory=dict)
    hours: float = 0.0  # since the first
    code: int = -1

    def __post_init__(self) -> None:
        self.monkeypatch.setitem(STAGES, "pairs", GivenPairs)
        self.monkeypatch.setattr(
            "pipelines.stages.images.in_ray_tasks",
            lambda work, shards, folder, _: in_process(work, shards, folder),
        )
        self.monkeypatch.setattr("pipelines.stages.images.RayLeaseBook.open", lambda *_: None)
        self.monkeypatch.setattr(
            "pipelines.stages.dataset.in_ray_tasks",
            lambda work, shards, folder, _: in_process(work, shards, folder),
        )
        self.monkeypatch.setattr(
            "pipelines.stages.embeddings.embed_in_actors",
            lambda work, shards, folder, *_: in_process(loaded(work), shards, folder),
        )

    @property
    def now(self) -> float:
        return START + self.hours * HOUR

    def run(self, *, retry: Iterable[str] = (), refetch: bool = False, **more: Any) -> Run:
        images = {"retries": 0, "allow_private_hosts": [self.web.host], "robots": False}
        images |= {"retry_hours": [6, 24], "resize_mode": "no", "retry_pause": 0}
        tree = {"name": "x", "queries": "none", "images": images, **self.settings}
        for section, settings in more.items():
            tree[section] = {**tree.get(section, {}), **settings}
        config = Config.model_validate(tree)
        return Run(config, self.directory, frozenset(retry), refetch=refetch, started=self.now)

    def __call__(
        self,
        paths: Iterable[str],
        after: float = 1.0,
        captions: Mapping[str, Sequence[str]] = NOTHING,
        **more: Any,
    ) -> list[str]:
        """One command ``after`` so many hours, with these paths in ``pairs``: what it asked for.

        Args:
            captions: further ones of paths.
        """
        self.hours += after
        self.monkeypatch.setattr(clock, "now", lambda: self.now + 1)
        self.monkeypatch.setattr(GivenPairs, "urls", [self.web.url(path) for path in paths])
        more_captions = {self.web.url(path): some for path, some in captions.items()}
        self.monkeypatch.setattr(GivenPairs, "more_captions", more_captions)
        self.web.asked.clear()
        run = self.run(**more)
        result: Result = run_stages(run, self.stages)
        self.code = int(result.code)
        return sorted(self.web.asked)

    def counts(self) -> dict[str, Any]:
        """The tally of the images."""
        totals = StageTotals.of(self.run().receipts("images").all())
        return totals.rows["images"]

    def images(self) -> Counter[str]:
        """The paths whose images are there, and how often."""
        files = self.run().outputs("images")
        urls = [url for path in files for url in pq.read_table(path)["url"].to_pylist()]
        return Counter(url.removeprefix(self.web.url("")) for url in urls)
