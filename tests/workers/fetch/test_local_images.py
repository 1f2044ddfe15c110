"""Images that are files: only those in the folders that were named, by whatever way."""

import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.stages import STAGES
from pipelines.stages.candidates import Candidates
from workers.base.contracts import REQUESTS
from workers.base.failures import FetchError
from workers.base.settings import DownloadSettings
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.base.urls import UrlError
from workers.extract.dispatch import extract_pairs
from workers.fetch.download import download_shard
from workers.fetch.images_before import ShardFiles
from workers.fetch.local_images import Folder, LocalBase, LocalImages


@pytest.fixture
def root(tmp_path):
    """A folder with images, and what lies beside it."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "photos2").mkdir()
    for name in ("photos/a b.png", "photos/sub/c%d.png", "photos2/secret.png", "secret.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("c%25d.png", "file://photos/sub/c%25d.png"),
        ("../a%20b.png", "file://photos/a%20b.png"),
        ("../a b.png?v=2#top", "file://photos/a%20b.png"),
        ("/a b.png", "file://photos/a%20b.png"),
        ("%2e%2e/a%20b.png", "file://photos/a%20b.png"),
        ("ä.png", "file://photos/sub/%C3%A4.png"),
        ("%ff.png", "file://photos/sub/%FF.png"),
        ("../../../../a%20b.png", "file://photos/a%20b.png"),  # as on the web
        ("file://photos/a%20b.png", "file://photos/a%20b.png"),
        ("FILE:///ROOT/a%20b.png", "file://photos/a%20b.png"),
        ("file://localhost/ROOT/x/../a%20b.png", "file://photos/a%20b.png"),
        ("https://A.example/a.png", "https://a.example/a.png"),
        ("%2e%2e/%2e%2e/secret.png", "local_file"),
        ("..%2f..%2fsecret.png", "local_file"),
        ("..%2f..%2fphotos2/secret.png", "local_file"),
        ("file:///etc/passwd", "local_file"),
        ("file:///ROOT/../secret.png", "local_file"),
        ("file:///ROOT2/secret.png", "local_file"),
        ("file://other/a.png", "local_file"),
        ("//other/a.png", "local_file"),
        ("a%00.png", "bad_url"),
        ("file://[a/b", "bad_url"),
        ("\ud800.png", "bad_url"),
        ("ftp://a/b", "not_http"),
        ("x" * 9_000, "url_too_long"),
    ],
)
def test_a_reference_on_a_local_page_is_a_file_of_its_root_or_refused(root, reference, url):
    folder = Folder("photos", str(root), "sub")
    base = LocalBase(folder, "page.html")
    try:
        found = base.absolute_url(reference.replace("/ROOT", str(root)))
    except UrlError as error:
        found = error.reason
    assert found == url


def test_the_innermost_root_is_a_folders_own_and_links_lead_to_it(root, tmp_path):
    roots = {"all": str(tmp_path), "photos": str(root)}
    (tmp_path / "link").symlink_to(root)
    assert Folder.of(str(tmp_path / "link" / "sub"), roots) == Folder("photos", str(root), "sub")
    assert Folder.of(str(tmp_path / "photos2"), roots) == Folder("all", str(tmp_path), "photos2")
    assert Folder.of("/", roots) is None


def test_only_files_below_a_root_are_opened(root, tmp_path):
    opened = LocalImages({"photos": str(root)}, 100_000).read
    assert opened("file://photos/a%20b.png") == (root / "a b.png").read_bytes()
    (root / "inside.png").symlink_to(root / "a b.png")
    assert opened("file://photos/inside.png") == (root / "a b.png").read_bytes()
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    (root / "null").symlink_to("/dev/null")
    os.mkfifo(root / "pipe")
    refused = {
        "file://photos/out.png": "local_file",
        "file://photos/out/secret.png": "local_file",
        "file://photos/../secret.png": "local_file",
        "file://photos/%2e%2e/secret.png": "local_file",
        "file://photos/../photos2/secret.png": "local_file",
        "file://photos/null": "local_file",
        "file:///etc/passwd": "local_file",
        "file://localhost/etc/passwd": "local_file",
        "file://other/a.png": "local_file",
        "file://[photos/a.png": "local_file",
        "file://photos/pipe": "not_a_file",
        "file://photos/sub": "not_a_file",
        "file://photos/": "not_a_file",
        "file://photos/circle": "no_such_file",
        "file://photos/absent.png": "no_such_file",
        "file://photos/a%00.png": "no_such_file",
    }
    for url, reason in refused.items():
        with pytest.raises(FetchError, match=reason):
            opened(url)
    assert len((root / "a b.png").read_bytes()) > 10
    for roots, reason in (({"photos": str(root)}, "too_large"), ({}, "local_file")):
        with pytest.raises(FetchError, match=reason):
            LocalImages(roots, 10).read("file://photos/a%20b.png")


LIST = """url,caption
a b.png,a red square
sub/c%d.png,another
../secret.png,outside
file:///etc/passwd,a file
https://a.example/a.png,of the web
"""
PAGE = '<img src="../a%20b.png" alt="a red square"><img src="file:///etc/passwd" alt="a file">'


@pytest.fixture
def run_of(root, tmp_path):
    (root / "list.csv").write_text(LIST)
    (root / "sub" / "page.html").write_text(PAGE)

    def _run(folder, roots):
        inputs = [str(folder / "list.csv"), str(folder / "sub")]
        tree = {"name": "a", "queries": "none", "pairs": {"inputs": inputs}}
        config = Config.model_validate(tree | {"images": {"local_roots": roots}})
        return Run.open(config, tmp_path / "run")

    return _run


def extracted(run):
    pages, images = Tally(), Tally()
    inputs = Candidates(run).inputs_to_read()
    tables = [table for source in inputs for table in extract_pairs(source, pages, images)]
    return sorted({url for table in tables for url in table["url"].to_pylist()}), images.counts()


def test_lists_and_pages_refer_to_files_where_it_is_allowed(run_of, root, tmp_path):
    urls, counts = extracted(run_of(root, {}))
    assert urls == ["https://a.example/a.png"]
    assert counts["rejected"] == {"local_file": 2, "no_page_url": 1, "not_http": 3}
    urls, counts = extracted(run_of(root, {"photos": str(root)}))
    local = ["file://photos/a%20b.png", "file://photos/sub/c%25d.png"]
    assert urls == [*local, "https://a.example/a.png"]
    assert counts["rejected"] == {"local_file": 3}
    key = [shard.key for shard in STAGES["candidates"](run_of(root, {"photos": str(root)})).plan()]
    moved = root.rename(tmp_path / "moved")
    assert extracted(run_of(moved, {"photos": str(moved)}))[0] == urls
    assert key != [shard.key for shard in STAGES["candidates"](run_of(moved, {})).plan()]


def test_a_root_that_is_not_there_is_refused_and_where_it_lies_is_in_no_key(run_of, root):
    with pytest.raises(ConfigError, match="images.local_roots.photos: there is no folder /absent"):
        STAGES["images"](run_of(root, {"photos": "/absent"})).check()
    assert "local_roots" not in DownloadSettings(local_roots={"a": "/here"}).identity()


def test_local_images_go_the_way_of_all(root, tmp_path):
    names = ["a%20b.png", "absent.png", "list.csv", "../secret.png", "sub/c%25d.png"]
    (root / "list.csv").write_text(LIST)
    rows: list[dict[str, Any]] = [
        {"pair_id": str(n), "url": f"file://photos/{name}", "caption": name, "tries": 0}
        for n, name in enumerate(names)
    ]
    write_table(pa.Table.from_pylist(rows, schema=REQUESTS), tmp_path / "list.parquet")
    out = ShardFiles(tmp_path / "00000.parquet", tmp_path / "without.parquet")
    settings = DownloadSettings(local_roots={"photos": str(root)}, retries=0)
    tally = download_shard(tmp_path / "list.parquet", out, settings)["images"]
    tally.check()
    assert tally.failed == {"no_such_file": 1, "not_an_image": 1, "local_file": 1}
    images = pq.read_table(out.images)
    assert images["pair_id"].to_pylist() == ["0", "4"]
    assert all(jpg[:2] == b"\xff\xd8" for jpg in images["jpg"].to_pylist())
