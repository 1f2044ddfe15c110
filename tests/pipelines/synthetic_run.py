"""A run whose files are made here, by stages' own plans: what its commands change can be compared.

Two hosts have a page each; every page shows images of both hosts and names the other in its text.
"""

import gzip
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.attempts import perform
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.receipts import Side
from pipelines.stages import STAGES
from pipelines.stages.images import failures_before, history_of
from pipelines.stages.pairs import QUERY_COUNTS
from pipelines.stages.requests import Requests
from tests.shards import jpeg, save_tiny_model
from workers.base import contracts
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table, write_text
from workers.base.tally import Tally
from workers.crawl.warc_writer import WarcWriter
from workers.embedding.settings import model_label
from workers.fetch.requests import list_name
from workers.pairs.tables import id_ranges

BIRDS, FISH = "http://birds.example", "http://fish.example"

#: Page, URL of the image, caption, colour. The image of the heron has two URLs.
ROWS = [
    (f"{BIRDS}/", f"{BIRDS}/heron.jpg", "a heron", (10, 20, 30)),
    (f"{BIRDS}/", f"{BIRDS}/heron.jpg?utm_source=mail", "a grey heron", (10, 20, 30)),
    (f"{BIRDS}/", f"{FISH}/pike.jpg", "a pike among herons", (90, 20, 30)),
    (f"{BIRDS}/", "http://cdn.example/wren.jpg", "a wren", (10, 90, 30)),
    (f"{FISH}/", f"{FISH}/copy-of-heron.jpg", "not a fish", (10, 20, 30)),
    (f"{FISH}/", f"{FISH}/carp.jpg", "a carp", (10, 20, 90)),
    (f"{FISH}/", f"{FISH}/tench.jpg", "a tench", (60, 60, 60)),
    (f"{FISH}/b", "http://my-birds.example.org/eel.jpg", "an eel", (7, 7, 7)),
    (f"{FISH}/b", f"{BIRDS}/gone.jpg", "a gone bird", None),
    (f"{FISH}/b", f"{FISH}/lost.jpg", "a lost fish", None),
]

PAGES = {
    f"{BIRDS}/": f'<img src="/heron.jpg" alt="a heron"><img src="{FISH}/pike.jpg">',
    f"{FISH}/": f'<img src="carp.jpg"> <a href="{BIRDS}/">birds</a> {FISH}/b',
    f"{FISH}/b": f'<img src="//WWW.birds.example:80/a.jpg?x=1&amp;y=2"> {BIRDS}/gone.jpg '
    "my-birds.example.org birds.example.org",
}


#: Where a URL's image comes from, if from elsewhere.
REDIRECTS = {"http://my-birds.example.org/eel.jpg": "http://store.example/eel-2.jpg"}


def rows():
    """The rows of ROWS as plain data."""
    for page, url, caption, color in ROWS:
        image = jpeg(color) if color else None
        yield {
            "pair_id": make_pair_id(url, caption),
            "url": url,
            "caption": caption,
            "page_url": page,
            "source": f"{page.split('/')[2]}.warc@0",
            "query_ids": [],
            "key": "",
            "status": "success",
            "width": 40,
            "height": 40,
            "jpg": image,
            "sha256": hashlib.sha256(image).hexdigest() if image else None,
            "reason": None if image else "http_404",
            "rejected": None if image else False,
            "error_message": None if image else f"HTTP Error 404: {url}",
            "similarity": 1.0,
            "labels": [],
            "tries": 0,
            "final_url": REDIRECTS.get(url, url),
            "attempts": 1,
            "ended_at": datetime(2026, 1, 1, tzinfo=UTC),
        }


def table_of(some, schema):
    names = set(schema.names)
    some = [{key: value for key, value in row.items() if key in names} for row in some]
    return pa.Table.from_pylist(some, schema).sort_by("pair_id")


def tally(some):
    result = Tally()
    for row in some:
        if row["reason"]:
            result.fail(row["reason"], row["pair_id"], {"url": row["url"]})
        else:
            result.keep()
    return result


def make_run(directory):
    """A run that is complete up to its data set."""
    settings = {
        "name": "birds",
        "queries": "none",
        "pages": {"seeds": [f"{BIRDS}/", f"{FISH}/"]},
        "pairs": {"shards": 2},
        "images": {"pairs_per_shard": 4},
        "embeddings": {
            "model": save_tiny_model(directory.parent / "m.pt"),
            "precision": "fp32",
            "label_sets": {"kind": {"classes": ["bird", "fish"]}},
        },
    }
    config = Config.model_validate(settings)
    run = Run(config, directory)
    bring_up_to_date(run, WORKS)
    write_text('{"message": "GET http://birds.example/heron.jpg"}\n', directory / "logs/run.jsonl")
    write_table(table_of(rows(), contracts.DATASET.remove(1)), directory / "truth.parquet")
    run.save()
    return run


def bring_up_to_date(run, works):
    for name, work in works.items():
        stage, receipts = STAGES[name](run), run.receipts(name)
        for shard in stage.plan():
            if receipts.valid(shard) is None:
                perform(work(run), shard, run.directory / name)


def ask_once_more(run, captions, night=1):
    """A further night: a list of what has failed, which fails again. Returns the list's name."""
    tables = {path.stem: pq.read_table(path).to_pylist() for path in run.outputs("requests")}
    last = {row["caption"]: (row["tries"], name) for name in tables for row in tables[name]}
    for name, table in tables.items():
        for row in table:
            last[row["caption"]] = max(last[row["caption"]], (row["tries"], name))

    def work(_shard, out):
        some = [row for row in rows() if row["caption"] in captions]
        for row in some:
            row |= {"tries": night, "failed_in": last[row["caption"]][1], "failed_for": "http_404"}
            row["image_in"] = row["failed_in"]
        table = table_of(some, contracts.REQUESTS)
        write_table(table, out / f"{list_name(table, 2)}.parquet")
        pairs = Tally()
        pairs.keep(len(some))
        return {"pairs": pairs}

    requests = Requests(run)
    perform(work, requests._shard(night), requests.folder)
    receipts = run.receipts("images")
    for shard in STAGES["images"](run).plan():
        if receipts.valid(shard) is None:
            again = failures_before(history_of(shard))
            perform(_images(run, tries=night), replace(shard, again=again), receipts.folder)
    after = ("embeddings", "labels", "selection", "dataset")
    bring_up_to_date(run, {name: WORKS[name] for name in after})
    return shard.name


def everything(directory):
    """All that can be read of a run's files, by their names: bytes, columns and records."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            values = [v for name in table.column_names for v in table[name].to_pylist()]
            content += b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)
        elif path.suffix == ".gz":
            content += gzip.decompress(content)
        yield str(path.relative_to(directory)), content


def where_is(directory, *wanted):
    return [
        name
        for name, content in everything(directory)
        if any(what in content or what in name.encode() for what in wanted)
    ]


def same_but_for_records(one, other):
    """Whether two runs hold the same: receipts but for who wrote them, and no logs nor records."""
    return _shards_and_receipts(one) == _shards_and_receipts(other)


def _shards_and_receipts(directory):
    found = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_file() and path.parent.name != "logs" and path.parent != directory:
            found[name] = path.read_bytes()
            if name.startswith(Side.RECEIPTS):
                found[name] = {**json.loads(found[name]), "lease": None}
    return found


def _pages(_run):
    def work(shard, out):
        host = shard.values["host"]
        with WarcWriter(out / f"{host}.warc", {"hostname": host}) as writer:
            urls = sorted(url for url in PAGES if url.split("/")[2] == host)
            for url in urls:
                headers = {"Content-Type": "text/html"}
                writer.add(url, 200, headers, PAGES[url].encode())
            writer.finish()
        pages = Tally()
        pages.keep(len(urls))
        pages.reject("off_site", f"{BIRDS}/x", {"url": f"{BIRDS}/x"})
        return {"pages": pages}

    return work


def _candidates(run):
    places = {}
    for path in run.outputs("pages"):
        content = path.read_bytes()
        for url in PAGES:
            at = content.find(b"WARC-Target-URI: %b\r\n" % url.encode())
            if at >= 0:
                places[url] = f"{path.name}@{content.rfind(b'WARC/1.1', 0, at)}"

    def work(shard, out):
        some = [row | {"source": places[row["page_url"]]} for row in rows()]
        some.sort(key=lambda row: row["pair_id"])
        write_table(table_of(some, contracts.PAIRS), out / f"{shard.name}-000.parquet")
        pairs = Tally()
        pairs.keep(len(some))
        return {"pairs": pairs}

    return work


def _pairs(run):
    ranges = id_ranges(run.config.pairs.shards)

    def work(shard, out):
        pairs = Tally()
        if shard.name != QUERY_COUNTS:
            first, last = ranges[int(shard.name)]
            found = pa.concat_tables(map(pq.read_table, run.outputs("candidates"))).to_pylist()
            some = [row for row in found if first <= row["pair_id"] <= last]
            write_table(table_of(some, contracts.PAIRS), out / f"{shard.name}.parquet")
            pairs.keep(len(some))
        return {"pairs": pairs}

    return work


def _requests(_run):
    def work(_shard, out):
        some = sorted(rows(), key=lambda row: row["pair_id"])
        for part in (some[:4], some[4:7], some[7:]):
            table = table_of(part, contracts.REQUESTS)
            write_table(table, out / f"{list_name(table, 1)}.parquet")
        pairs = Tally()
        pairs.keep(len(some))
        return {"pairs": pairs}

    return work


def _of_list(path):
    ids = set(pq.read_table(path)["pair_id"].to_pylist())
    return [row for row in rows() if row["pair_id"] in ids]


def _images(_run, tries=0):
    def work(shard, out):
        some = _of_list(shard.file("requests"))
        name = f"{shard.name}.parquet"
        write_table(table_of([r for r in some if r["jpg"]], contracts.IMAGES), out / name)
        answers = [row | {"tries": tries} for row in some]
        write_table(table_of(answers, contracts.ANSWERS), out / Side.TABLES / name)
        return {"images": tally(some)}

    return work


def _embeddings(run):
    about = {"precision": "fp32", "model": model_label(run.config.embeddings.model)}
    schema = contracts.embeddings_schema(32).with_metadata(about)

    def work(shard, out):
        some = _of_list(shard.file("images"))
        for row in some:
            vector = np.full(32, 32**-0.5, np.float16).tolist()
            row |= {"image_embedding": vector, "text_embedding": vector, "image_hash": 1}
        write_table(table_of(some, schema), out / f"{shard.name}.parquet")
        return {"images": tally(some)}

    return work


def _labels(_run):
    def work(shard, out):
        some = _of_list(shard.file("embeddings"))
        write_table(table_of(some, contracts.labels_schema()), out / f"{shard.name}.parquet")
        return {"images": tally(some)}

    return work


def _by_pairs(schema):
    """A file for each of the pairs', of those with an image."""

    def made(_run):
        def work(shard, out):
            total = Tally()
            for path in shard.files["pairs"]:
                some = [row for row in _of_list(path) if row["jpg"]]
                write_table(table_of(some, schema), out / path.name)
                total.keep(len(some))
            return {"pairs": total}

        return work

    return made


WORKS = {
    "pages": _pages,
    "candidates": _candidates,
    "pairs": _pairs,
    "requests": _requests,
    "images": _images,
    "embeddings": _embeddings,
    "labels": _labels,
    "selection": _by_pairs(contracts.SELECTION),
    "dataset": _by_pairs(contracts.DATASET),
}
