"""img2dataset for real, over HTTP on loopback."""

import hashlib
import itertools
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.image_samples import encoded
from workers.base.contracts import ANSWERS, IMAGES, REQUESTS
from workers.base.failures import is_passing
from workers.base.opt_outs import Kind, OptOuts, normal_entry
from workers.base.pair_ids import make_pair_id
from workers.base.settings import DownloadSettings, ImageFormat
from workers.base.storage import write_table
from workers.fetch.download import _each_resized, download_shard
from workers.fetch.image_fetch import Fetched
from workers.fetch.images_before import ShardFiles
from workers.fetch.img2dataset_parts import img2dataset_parts

KINDS = get_args(ImageFormat)


def image(size=(40, 30), color=(200, 30, 30, 255)):
    buffer = BytesIO()
    Image.new("RGBA", size, color).save(buffer, "PNG")
    return buffer.getvalue()


BODIES = {
    "/good.png": image(),
    "/glass.png": image(color=(0, 0, 0, 0)),
    "/tiny.png": image((8, 8)),
    "/wide.png": image((400, 20)),
    "/text.png": b"<html>sorry</html>",
    "/cut.png": image((64, 64))[:60],
    "/empty.png": b"",
    **dict.fromkeys(("/private.png", "/none.png", "/named.png", "/others.png"), image()),
    "/short.png": image(),
}


ROBOTS = {
    "/private.png": ["noai"],
    "/none.png": ["none"],
    "/named.png": ["max-image-preview:none", "Clip-From-Scratch: noindex"],
    "/others.png": ["googlebot: noindex", "max-image-preview:none"],
}


HEADERS = {
    "/moved": {"Location": "/tagged.png"},
    "/lost": {"Location": "/short.png", "ETag": '"the redirect"'},
    "/tagged.png": {
        "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
        "ETag": '"ä"'.encode().decode("latin-1"),
    },
}
BUSY = itertools.count()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = BODIES.get(self.path)
        status = 200 if body is not None else 404
        if self.path in ("/moved", "/lost"):
            status, body = 302, b""
        if self.path == "/busy.png" and next(BUSY) == 0:
            status, body = 503, b""
        self.send_response(status)
        for name, value in HEADERS.get(self.path, {}).items():
            self.send_header(name, value)
        for directives in ROBOTS.get(self.path, []):
            self.send_header("X-Robots-Tag", directives)
        length = len(body or b"") + (100 if self.path == "/short.png" else 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(folder, name="00000.parquet"):
    folder.mkdir(exist_ok=True)
    return ShardFiles(folder / name, folder / "without" / name)


def shard_of(urls, path):
    rows = [
        {
            "pair_id": make_pair_id(url, f"caption of {url}"),
            "url": url,
            "caption": f"caption of {url}",
            "tries": 0,
        }
        for url in urls
    ]
    rows.sort(key=lambda row: row["pair_id"])
    write_table(pa.Table.from_pylist(rows, schema=REQUESTS), path)
    return path


def test_every_row_ends_as_kept_rejected_or_failed(host, tmp_path):
    urls = [f"{host}{path}" for path in (*BODIES, "/absent.png")] + ["http://127.0.0.1:9/x.png"]
    pairs = shard_of(urls, tmp_path / "pairs.parquet")
    settings = DownloadSettings(
        allow_private_hosts=("127.0.0.1",),
        min_image_size=16,
        max_aspect_ratio=5,
        resize_mode="no",
        timeout=5,
    )
    out = files_in(tmp_path)
    tally = download_shard(pairs, out, settings)["images"]
    tally.check()
    assert tally.counts() == {
        "in": 14,
        "kept": 3,
        "rejected": {"aspect_ratio": 1, "opted_out": 3, "too_small": 1},
        "failed": {"connection": 1, "cut_off": 1, "http_404": 1, "not_an_image": 3},
    }
    table = pq.read_table(out.images)
    assert table.schema.equals(IMAGES)
    assert table["pair_id"].to_pylist() == sorted(table["pair_id"].to_pylist())
    by_url = {row["url"]: row for row in table.to_pylist()}
    assert by_url[f"{host}/good.png"]["width"] == 40
    answers = pq.read_table(out.answers)
    assert answers.schema.equals(ANSWERS)
    assert answers["pair_id"].to_pylist() == pq.read_table(pairs)["pair_id"].to_pylist()
    kept = answers.filter(pc.is_null(answers["reason"]))
    assert kept["pair_id"].to_pylist() == table["pair_id"].to_pylist()
    glass = Image.open(BytesIO(by_url[f"{host}/glass.png"]["jpg"]))
    assert glass.convert("RGB").getpixel((5, 5)) == (255, 255, 255)  # transparency is white


def test_the_same_shard_twice_gives_the_same_bytes(host, tmp_path):
    BODIES.update({f"/{n}.png": image((30 + n, 40)) for n in range(60)})
    pairs = shard_of([f"{host}/{n}.png" for n in range(60)], tmp_path / "pairs.parquet")
    settings = DownloadSettings(allow_private_hosts=("127.0.0.1",), connections=16)
    first, second = (files_in(tmp_path / name, "00007.parquet") for name in ("a", "b"))
    for out in (first, second):
        download_shard(pairs, out, settings)
    assert first.images.read_bytes() == second.images.read_bytes()
    keys = pq.read_table(first.images)["key"].to_pylist()
    assert keys == [f"00007-{n:05d}" for n in range(60)] == sorted(keys)


def test_two_images_are_made_smaller_at_a_time_and_come_in_their_order(monkeypatch):
    monkeypatch.setattr("workers.fetch.download.usable_cores", lambda: 2)
    both = threading.Barrier(2)
    resizer = img2dataset_parts().Resizer(20, "keep_ratio", True)

    def with_another(picture):
        both.wait(30)  # raises where the other does not come
        return resizer(picture)

    fetched = [(f"{n}", Fetched(image((30 + n, 30)), sha256=f"{n}")) for n in range(8)]
    resized = list(_each_resized(fetched, with_another, ("PNG",)))
    assert [url for url, *_ in resized] == [f"{n}" for n in range(8)]
    assert [row["original_width"] for *_, (_, row) in resized] == list(range(30, 38))


def test_no_more_contents_are_taken_than_two_for_a_thread(monkeypatch):
    monkeypatch.setattr("workers.fetch.download.usable_cores", lambda: 2)
    taken, gate = [], threading.Event()

    def fetching():
        for n in range(20):
            taken.append(n)
            if len(taken) == 5:
                gate.set()
            yield f"{n}", Fetched(image())

    def held(_):
        assert gate.wait(30)
        return None, None, None, None, None, "an error"

    next(_each_resized(fetching(), held, ("PNG",)))
    assert len(taken) == 5  # the last of them waits until the first has been worked on


def test_what_may_pass_is_asked_for_again_and_nothing_else():
    for reason in ("connection", "timeout", "dns", "http_408", "http_429", "http_500", "http_599"):
        assert is_passing(reason)
    for reason in ("http_404", "http_410", "http_4290", "not_an_image", "opted_out", "other"):
        assert not is_passing(reason)


def test_formats_that_are_not_named_are_refused_before_they_are_decoded():
    decoded = []

    def resizer(stream):
        decoded.append(str(Image.open(stream).format))
        return b"a JPEG", 40, 30, 40, 30, None

    def results(formats):
        decoded.clear()
        files = (encoded(Image.new("RGB", (40, 30)), kind) for kind in KINDS)
        contents = [(kind, Fetched(data)) for kind, data in zip(KINDS, files, strict=True)]
        return {kind: row for kind, _, (_, row) in _each_resized(contents, resizer, formats)}

    web = DownloadSettings().formats
    assert web == ("AVIF", "GIF", "JPEG", "PNG", "WEBP")
    rows = results(web)
    assert sorted(decoded) == sorted(web)
    for kind in KINDS:
        if kind in web:
            assert rows[kind]["original_format"] == kind
        else:
            text = "not an image: none of AVIF, GIF, JPEG, PNG, WEBP"
            assert rows[kind] == {
                "reason": "not_an_image",
                "rejected": False,
                "error_message": text,
            }
    assert {kind: row["original_format"] for kind, row in results(KINDS).items()} == {
        kind: kind for kind in KINDS
    }
    assert sorted(decoded) == sorted(KINDS)


def test_a_format_is_told_by_its_content(host, tmp_path, monkeypatch):
    """Whatever its server says, which is nothing here, and its name."""
    tiff, bmp = (encoded(Image.new("RGB", (40, 30)), kind) for kind in ("TIFF", "BMP"))
    for path, content in {"/as.png": tiff, "/as.jpg": bmp, "/as.tiff": image()}.items():
        monkeypatch.setitem(BODIES, path, content)
    pairs = shard_of([f"{host}/as.{end}" for end in ("png", "jpg", "tiff")], tmp_path / "pairs")
    loopback = DownloadSettings(allow_private_hosts=("127.0.0.1",))
    with_tiff = DownloadSettings(allow_private_hosts=("127.0.0.1",), formats=("TIFF", "PNG"))
    for settings, kept in (loopback, ["PNG"]), (with_tiff, ["PNG", "TIFF"]):
        out = files_in(tmp_path)
        tally = download_shard(pairs, out, settings)["images"]
        assert tally.failed == {"not_an_image": 3 - len(kept)}
        assert sorted(pq.read_table(out.images)["original_format"].to_pylist()) == kept


def test_what_is_listed_is_rejected_by_its_url_and_by_what_came(host, tmp_path):
    urls = [f"{host}{path}" for path in ("/good.png", "/glass.png", "/others.png", "/tiny.png")]
    entries = [
        (Kind.URL, normal_entry(Kind.URL, urls[0])),
        (Kind.SHA256, hashlib.sha256(BODIES["/glass.png"]).hexdigest()),
    ]
    settings = DownloadSettings(allow_private_hosts=("127.0.0.1",))
    pairs, out = shard_of(urls, tmp_path / "pairs.parquet"), files_in(tmp_path)
    tally = download_shard(pairs, out, settings, [OptOuts.of(entries)])["images"]
    assert tally.counts() == {"in": 4, "kept": 2, "rejected": {"opted_out": 2}, "failed": {}}
    answers = pq.read_table(out.answers)
    dropped = answers.filter(pc.is_valid(answers["reason"]))
    assert sorted(dropped["url"].to_pylist()) == sorted(urls[:2])
    # Of the two only the one whose content is listed was asked for.
    assert {row["url"]: row["http_status"] for row in dropped.to_pylist()} == {
        urls[0]: None,
        urls[1]: 200,
    }


def further_captions(urls, shard, path):
    """A list of a further caption of each URL, whose images a shard is said to have."""
    rows = [
        {"pair_id": make_pair_id(url, "further"), "url": url, "caption": "further", "tries": 0}
        | {"image_in": shard}
        for url in urls
    ]
    rows.sort(key=lambda row: row["pair_id"])
    write_table(pa.Table.from_pylist(rows, schema=REQUESTS), path)
    return path


def test_images_that_another_shard_has_are_its_images_whatever_their_server_says(host, tmp_path):
    paths = [f"/{n}.png" for n in range(600)]  # three row groups
    BODIES.update({path: image((30 + n % 50, 40)) for n, path in enumerate(paths)})
    urls = [f"{host}{path}" for path in paths]
    settings = DownloadSettings(allow_private_hosts=("127.0.0.1",), connections=16)
    old, new = files_in(tmp_path / "old"), files_in(tmp_path / "new")
    download_shard(shard_of(urls, tmp_path / "first.parquet"), old, settings)
    for path in paths:
        del BODIES[path]
    entries = [
        (Kind.URL, normal_entry(Kind.URL, urls[0])),
        (Kind.SHA256, hashlib.sha256(image((31, 40))).hexdigest()),
    ]
    never = f"{host}/good.png"
    asked = further_captions([*urls, never], "old", tmp_path / "second.parquet")
    before = {"old": old, "unnamed": ShardFiles(tmp_path / "absent", tmp_path / "absent")}
    opt_outs = [OptOuts.of(entries)]
    tally = download_shard(asked, new, settings, opt_outs, before=before)["images"]
    assert tally.counts() == {
        "in": 601,
        "kept": 588,  # and what the old shard does not have is asked for
        "rejected": {"opted_out": 1},
        "failed": {"http_404": 12},  # those of a listed content are asked for, too
    }
    first = {row["url"]: row for row in pq.read_table(old.images).to_pylist()}
    for row in pq.read_table(new.images).to_pylist():
        assert row["caption"] == "further"
        assert row["url"] == never or row["jpg"] == first[row["url"]]["jpg"]
    answers = pq.read_table(new.answers)
    assert answers["pair_id"].to_pylist() == pq.read_table(asked)["pair_id"].to_pylist()
    attempts = {row["url"]: row["attempts"] for row in answers.to_pylist()}
    assert (attempts[urls[2]], attempts[never]) == (0, 1)


def test_an_image_that_stands_in_two_row_groups_is_given_once(host, tmp_path):
    url = f"{host}/good.png"
    rows = [
        {"pair_id": make_pair_id(url, f"{n}"), "url": url, "caption": f"{n}", "tries": 0}
        for n in range(300)
    ]
    asked = pa.Table.from_pylist(rows, schema=REQUESTS).sort_by("pair_id")
    write_table(asked, tmp_path / "first.parquet")
    settings = DownloadSettings(allow_private_hosts=("127.0.0.1",))
    old, new = files_in(tmp_path / "old"), files_in(tmp_path / "new")
    download_shard(tmp_path / "first.parquet", old, settings)
    assert pq.read_metadata(old.images).num_row_groups == 2
    further = further_captions([url], "old", tmp_path / "second.parquet")
    tally = download_shard(further, new, settings, before={"old": old})["images"]
    assert tally.counts()["in"] == tally.counts()["kept"] == 1


def test_what_a_picture_was_and_who_answered(host, tmp_path):
    BODIES.update({"/tagged.png": image(), "/busy.png": image()})
    urls = [f"{host}{path}" for path in ("/moved", "/busy.png", "/text.png", "/absent.png")]
    urls += ["ftp://127.0.0.1/x.png", f"{host}/lost"]
    settings = DownloadSettings(allow_private_hosts=("127.0.0.1",), retries=1, retry_pause=0)
    pairs, out = shard_of(urls, tmp_path / "pairs.parquet"), files_in(tmp_path)
    before = datetime.now(UTC) - timedelta(seconds=0.001)
    download_shard(pairs, out, settings)
    rows = {row["url"]: row for row in pq.read_table(out.images).to_pylist()}
    assert set(rows) == set(urls[:2])
    good = BODIES["/good.png"]
    for row in rows.values():
        assert row["original_bytes"] == len(good) != len(row["jpg"])
        assert row["original_format"] == "PNG"
        is_moved = row["url"] == urls[0]
        assert row["final_url"] == (f"{host}/tagged.png" if is_moved else row["url"])
        assert row["sha256"] == hashlib.sha256(good).hexdigest()
    answers = {row["url"]: row for row in pq.read_table(out.answers).to_pylist()}
    about = ("final_url", "http_status", "last_modified", "etag", "attempts")
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert [tuple(answers[url][name] for name in about) for url in urls] == [
        (f"{host}/tagged.png", 200, date, '"ä"', 1),
        (urls[1], 200, None, None, 2),
        (urls[2], 200, None, None, 1),
        (urls[3], 404, None, None, 1),
        (None, None, None, None, 1),
        (f"{host}/short.png", None, None, None, 2),
    ]
    assert [answers[url]["reason"] for url in urls] == [
        None,
        None,
        "not_an_image",
        "http_404",
        "not_http",
        "cut_off",
    ]
    assert [answers[url]["rejected"] for url in urls] == [*(None, None, False, False, True, False)]
    assert all(before <= row["ended_at"] <= datetime.now(UTC) for row in answers.values())
