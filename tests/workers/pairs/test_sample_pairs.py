"""Crawl and pairs on the embedded sample's site, whose truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from examples.sample.site import SiteSettings, serve
from tests.workers.pairs.local_build import build_pairs
from tests.workers.pairs.test_pairs import write_queries
from workers.base.settings import CrawlSettings
from workers.base.urls import without_tracking
from workers.crawl.host import crawl_host
from workers.extract.inputs import find_inputs
from workers.pairs.captions import CaptionCleaner
from workers.pairs.clean_text import clean_caption
from workers.pairs.settings import PairSettings

pytest.importorskip("emoji")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """(the site's truth, the rows that were found)."""
    folder = tmp_path_factory.mktemp("sample")
    with serve(SiteSettings(port=0, images=300, hosts=("127.0.0.1", "127.0.0.2"))) as site:
        for seed in site.seeds:
            host = urlsplit(seed).netloc
            crawl_host(host, [seed], folder, CrawlSettings(allow_private_hosts=(host,)))
        truth = site.truth.to_pylist()
    words = {word for row in truth for word in clean_caption(row["caption"]).lower().split(" ")}
    queries = write_queries(folder / "queries.parquet", sorted(words - {""}))
    out = folder / "pairs"
    inputs = find_inputs([str(folder / "*.warc")])
    build_pairs(inputs, [queries], out, PairSettings(), 0)
    return truth, ds.dataset(str(out), format="parquet").to_table().to_pylist()


def pairs_of(rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(without_tracking(row["url"]), clean_caption(row["caption"])) for row in rows}


def kept_by_the_rules(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    ordered = sorted(pairs)
    cleaner = CaptionCleaner(PairSettings().captions)
    reasons = cleaner.clean(pa.array([caption for _, caption in ordered])).reasons.to_pylist()
    return {pair for pair, reason in zip(ordered, reasons, strict=True) if reason is None}


def test_what_a_perfect_extractor_finds_is_found(sample):
    truth, rows = sample
    expected = kept_by_the_rules(pairs_of(row for row in truth if row["expected"]))
    assert len(expected) > 200
    assert expected - pairs_of(rows) == set()


def test_what_is_found_stands_on_the_pages(sample):
    truth, rows = sample
    assert pairs_of(rows) - pairs_of(truth) == set()


def test_what_robots_txt_disallows_is_not_found(sample):
    truth, rows = sample
    disallowed = [row for row in truth if row["kind"] == "disallowed"]
    assert disallowed
    assert pairs_of(disallowed) & pairs_of(rows) == set()
