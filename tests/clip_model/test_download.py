"""Fetching published weights, from a server on this machine that misbehaves on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import clip_model
from clip_model import CLIP, download, registry
from clip_model.download import DownloadError
from clip_model.model_files import checkpoint_path
from tests.clip_model.test_checkpoint_formats import VIT, assert_same, random_model

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, and remembers what ranges were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []  # bytes after which each next answer breaks off
        self.knows_ranges = True
        self.status = 200
        self.delay = 0.0
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        time.sleep(self.server.delay)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        content = self.server.content
        if self.server.status != 200:
            self.send_error(self.server.status)
        elif not self.server.knows_ranges:
            self.answer(200, content)
        elif start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
        else:
            self.answer(206 if wanted else 200, content[start:])

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.pt"


def fetch(server: Server, target: Path, sha256: str = SHA256) -> Path:
    return download.download(f"{server.url}/file.pt", sha256, target)


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {target.name + ".lock"}


def test_whole_file_with_a_progress_bar(server, target, capfd) -> None:
    assert fetch(server, target) == target
    assert target.read_bytes() == CONTENT
    assert names(target) == {"file.pt"}  # nothing temporary is left
    assert "file.pt: 100%" in capfd.readouterr().err


def test_cached_file_is_not_fetched_again(server, target) -> None:
    fetch(server, target)
    fetch(server, target)
    assert len(server.requests) == 1


def test_cut_connection_is_resumed(server, target) -> None:
    server.cuts = [1_000_000, 2_000_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=3000000-"]


def test_next_call_goes_on_where_the_last_ended(server, target) -> None:
    server.cuts = [1_000_000, *[0] * download.ATTEMPTS]
    with pytest.raises(DownloadError, match="1000000 bytes are kept .* goes on from there"):
        fetch(server, target)
    assert names(target) == {"file.pt.partial"}  # never under its own name
    server.requests.clear()
    fetch(server, target)
    assert server.requests == ["bytes=1000000-"]
    assert target.read_bytes() == CONTENT


def test_server_without_ranges(server, target) -> None:
    server.knows_ranges = False
    server.cuts = [1_000_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_partial_file_that_is_whole_already(server, target) -> None:
    target.parent.mkdir()
    target.with_name("file.pt.partial").write_bytes(CONTENT)
    assert fetch(server, target).read_bytes() == CONTENT


def test_partial_file_that_is_too_long(server, target) -> None:
    target.parent.mkdir()
    target.with_name("file.pt.partial").write_bytes(CONTENT + b"more")
    assert fetch(server, target).read_bytes() == CONTENT


def test_tampered_file_is_refused_and_deleted(server, target) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match="SHA256 checksum is .*Try again"):
        fetch(server, target)
    assert names(target) == set()
    server.content = CONTENT
    assert fetch(server, target).read_bytes() == CONTENT


def test_tampered_partial_file_is_refused_and_deleted(server, target) -> None:
    target.parent.mkdir()
    target.with_name("file.pt.partial").write_bytes(b"!" * 1000)
    with pytest.raises(DownloadError, match="SHA256"):
        fetch(server, target)
    assert fetch(server, target).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:1000], CONTENT + b"!", b""])
def test_cached_file_of_another_checksum_is_left_alone(server, target, content) -> None:
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(DownloadError, match=r"Delete it .* or move it"):
        fetch(server, target)
    assert target.read_bytes() == content
    assert not server.requests


def test_folder_in_the_way(server, target) -> None:
    target.mkdir(parents=True)
    with pytest.raises(DownloadError, match="not a regular file"):
        fetch(server, target)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusal_of_the_server(server, target, status) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=f"HTTP Error {status}"):
        fetch(server, target)
    assert len(server.requests) == 1


def test_no_server(target) -> None:
    with Server() as closed:
        pass
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(closed, target)


def test_two_at_once_fetch_once(server, target) -> None:
    server.delay = 0.2
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda _: fetch(server, target), range(3)))
    assert len(server.requests) == 1
    assert target.read_bytes() == CONTENT


@pytest.fixture
def published(server, monkeypatch, tmp_path) -> CLIP:
    """A small model that the server publishes as ViT-B/32."""
    model = random_model(VIT)
    clip_model.save(model, tmp_path / "published.pt", "openai")
    server.content = (tmp_path / "published.pt").read_bytes()
    sha256 = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(registry, "SERVER", server.url)
    monkeypatch.setitem(registry.PUBLISHED, "ViT-B/32", registry.Published("ViT-B-32.pt", sha256))
    return model


def test_load_by_name(server, published, tmp_path) -> None:
    model, preprocess = clip_model.load("ViT-B/32", "cpu", False, str(tmp_path / "cache"))
    assert_same(model, published)
    assert (tmp_path / "cache" / "ViT-B-32.pt").is_file()
    assert callable(preprocess)


def test_default_cache_is_that_of_openai(published, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = checkpoint_path("ViT-B/32")
    assert path == tmp_path / "home" / ".cache" / "clip" / "ViT-B-32.pt"
    assert path.is_file()


def test_addresses_contain_the_checksums() -> None:
    assert len(registry.PUBLISHED) == 9
    for published in registry.PUBLISHED.values():
        assert len(bytes.fromhex(published.sha256)) == 32
        assert published.url.endswith(f"/clip/models/{published.sha256}/{published.filename}")
