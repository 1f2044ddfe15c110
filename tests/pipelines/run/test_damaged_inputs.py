"""Damaged inputs, end to end: what could be read is used, the exit code says that it is partial."""

import bz2
import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime

import pyarrow.dataset as ds
import pytest

from workers.crawl.warc_writer import response_record

PAGES_OF_WARC = 20

PAGES = "".join(
    f"<page><title>Cat {n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id>"
    f"<text>a cat and a dog number{n}</text></revision></page>\n"
    for n in range(200)
)
DUMP = f"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo><namespaces>
<namespace key="0" /></namespaces></siteinfo>
{PAGES}</mediawiki>
"""

CONFIG = """\
name: damaged
queries: {{dumps: [{dump}], min_count: 2, titles: none}}
pairs: {{inputs: [{warc}, {lost}], shards: 1}}
"""


def lost_page(*, damaged: bool) -> bytes:
    """A file of one page, whose body says that it is packed."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    block += b"\x1f\x8b\x08 and no more" if damaged else gzip.compress(b"<p>no picture")
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://b.example/\r\n"
    return f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def warc_bytes() -> bytes:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    html = {"Content-Type": "text/html"}
    pages = [
        b"".join(b'<img src="/%d-%d.png" alt="a cat, %d">' % (n, k, k) for k in range(50))
        for n in range(PAGES_OF_WARC)
    ]
    return b"".join(
        gzip.compress(response_record(f"http://a.example/{n}", 200, html, page, now))
        for n, page in enumerate(pages)
    )


@pytest.fixture
def run(tmp_path):
    """Writes the two inputs, whole or cut off, and runs the text stages."""

    def _run(*, dump_share: float, warc_share: float):
        dump, warc = (
            b"".join(bz2.compress(part.encode()) for part in DUMP.splitlines(keepends=True)),
            warc_bytes(),
        )
        (tmp_path / "dump.xml.bz2").write_bytes(dump[: int(len(dump) * dump_share)])
        (tmp_path / "crawl.warc.gz").write_bytes(warc[: int(len(warc) * warc_share)])
        (tmp_path / "lost.warc").write_bytes(lost_page(damaged=warc_share < 1))
        config = tmp_path / "config.yaml"
        config.write_text(
            CONFIG.format(
                dump=tmp_path / "dump.xml.bz2",
                warc=tmp_path / "crawl.warc.gz",
                lost=tmp_path / "lost.warc",
            )
        )
        command = [sys.executable, "-m", "pipelines.build_dataset", str(config)]
        command += ["--run-dir", str(tmp_path / "run")]
        names = ("queries", "pages", "candidates", "pairs")
        stages = [word for name in names for word in ("--stage", name)]
        return subprocess.run([*command, *stages], capture_output=True, text=True, timeout=120)

    return _run


def rows_of(tmp_path, stage):
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    return record["stages"][stage]["rows"]


def test_damage_is_reported_until_it_is_mended(tmp_path, run):
    result = run(dump_share=0.8, warc_share=0.7)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "queries: coverage is partial: damaged_dump (1)" in result.stderr
    assert "candidates: coverage is partial: damaged_record (1) in crawl.warc.gz@" in result.stderr
    lost = f"candidates: coverage is partial: damaged_file (1) in {tmp_path / 'lost.warc'}"
    assert lost in " ".join(result.stderr.split())
    assert rows_of(tmp_path, "queries")["pages"]["failed"] == {"damaged_dump": 1}
    rows = rows_of(tmp_path, "candidates")
    assert rows["pages"]["failed"] == {"bad_encoding": 1, "damaged_file": 1, "damaged_record": 1}
    assert 0 < rows["pages"]["kept"] < PAGES_OF_WARC
    (rejected,) = (tmp_path / "run/_rejected/candidates").glob("*.json")
    samples = json.loads(rejected.read_text())
    (sample,) = samples["pages"]["damaged_record"].values()
    assert "crawl.warc.gz@" in sample["source"]
    assert (
        ds.dataset(tmp_path / "run/pairs").count_rows()
        == rows_of(tmp_path, "pairs")["pairs"]["kept"]
        > 0
    )
    assert "| candidates | pages |" in result.stdout, "the report is written all the same"

    again = run(dump_share=0.8, warc_share=0.7)
    assert again.returncode == 3, "coverage does not become whole by asking again"
    assert "nothing to do" in again.stderr

    mended = run(dump_share=1, warc_share=1)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert rows_of(tmp_path, "candidates")["pages"]["kept"] == PAGES_OF_WARC + 1
