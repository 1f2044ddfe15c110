"""Bodies with the codings that are declared, with others, and with none; cut, and damaged."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.packing import zstd
from workers.extract.http_messages import CodingError, HttpError, decoded, parse_response

_NUMBERS = Random(0)
HTML = b"".join(
    b"<p>text %d <img src=%d.png alt='a cat'>" % (n, _NUMBERS.randrange(10**9))
    for n in range(15_000)
)


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


def chunked(body: bytes, size: int = 1000) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nA: b\r\n\r\n"
    )


def read(headers: str, body: bytes) -> bytes:
    lines = "".join(f"{line}\r\n" for line in ("Content-Type: text/html", *headers.split("\n")))
    return decoded(*parse_response(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": partial(brotli.compress, quality=5),
    "zstd": zstd,
}


@pytest.mark.parametrize("coding", PACK)
def test_one_coding(coding):
    packed = PACK[coding](HTML)
    assert read(f"content-encoding: {coding}", packed) == HTML
    assert read(f"Transfer-Encoding: {coding}, chunked", chunked(packed)) == HTML
    assert read(f"Content-Encoding: {coding}\nTransfer-Encoding: CHUNKED", chunked(packed)) == HTML


@pytest.mark.parametrize(
    "headers",
    [
        *(f"Content-Encoding: {coding}" for coding in PACK),
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Content-Encoding: br\nTransfer-Encoding: chunked",
        "Content-Encoding: gzip, br",
        "Content-Encoding: gzip\nContent-Encoding: gzip",
        "Content-Encoding: identity",
        "Content-Encoding: none",
        "Content-Encoding: utf-8",
        "Content-Encoding: ,,",
        "Content-Encoding: text/html; charset=utf-8",
        "Content-Encoding: compress",
        "Content-Encoding: aws-chunked",
    ],
)
@pytest.mark.parametrize("body", [HTML, "<p>čaj".encode(), "\ufeff<p>čaj".encode("utf-16-le"), b""])
def test_a_body_that_does_not_have_what_is_declared_is_taken_as_it_is(headers, body):
    assert read(headers, body) == body


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip\nTransfer-Encoding: chunked", gzip.compress(HTML)),  # no chunks
        ("Content-Encoding: gzip\nTransfer-Encoding: chunked", chunked(HTML)),  # no gzip
        ("Content-Encoding: br, gzip", gzip.compress(HTML)),
        ("Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(HTML))),
        ("Content-Encoding: gzip\nContent-Encoding: br", brotli.compress(gzip.compress(HTML))),
        ("Content-Encoding: gzip", gzip.compress(gzip.compress(HTML))),  # packed once more
        ("Vary: Accept-Encoding", gzip.compress(HTML)),  # the header was left out
        ("Content-Encoding: gzip", gzip.compress(HTML[:9]) + gzip.compress(HTML[9:])),
        ("Content-Encoding: gzip", gzip.compress(HTML) + b"\0\0"),
        ("Content-Encoding: gzip", gzip.compress(HTML) + b"<!-- cached -->"),
        ("Content-Encoding: deflate", zlib.compress(HTML) + b"<!-- cached -->"),
        ("Content-Encoding: br", brotli.compress(HTML) + b"<!-- cached -->"),
    ],
)
def test_what_is_there_is_undone(headers, body):
    assert read(headers, body) == HTML


@pytest.mark.parametrize(
    ("coding", "share"),
    [*((coding, share) for coding in (*PACK, "chunked") for share in (0.3, 0.6, 0.9))],
)
def test_a_body_that_is_cut_off_is_used_as_far_as_it_goes(coding, share):
    kind = "Transfer" if coding == "chunked" else "Content"
    packed = PACK.get(coding, chunked)(HTML)
    found = read(f"{kind}-Encoding: {coding}", packed[: int(len(packed) * share)])
    assert HTML.startswith(found)
    # What zstd and brotli give comes by the block.
    assert len(found) > len(HTML) * (share - (0.1 if coding not in ("zstd", "br") else 0.3))


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "dcb"])
@pytest.mark.parametrize(
    "body", [bytes(range(256)), b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08 and no more"]
)
def test_what_is_neither_packed_nor_text_fails(coding, body):
    with pytest.raises(CodingError):
        read(f"Content-Encoding: {coding}", body)


def test_damage_inside_of_gzip_fails():
    packed = bytearray(gzip.compress(HTML))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(CodingError):
        read("Content-Encoding: gzip", bytes(packed))


def test_more_codings_than_anybody_applies_fail():
    with pytest.raises(CodingError):
        read("Content-Encoding: " + ", ".join(["gzip"] * 6), HTML)


@pytest.mark.parametrize("block", [b"", b"HTTP/1.1 OK\r\n\r\n", b"<html>", b"HTTP/1.1\r\n\r\n"])
def test_what_is_no_response(block):
    with pytest.raises(HttpError):
        parse_response(block)


def test_headers_that_end_in_line_feeds_alone():
    headers, body = parse_response(b"HTTP/1.1 200 OK\nCONTENT-type: text/html\n\n<p>a\r\n\r\n")
    assert headers.get("Content-Type") == "text/html"
    assert body == b"<p>a\r\n\r\n"


@settings(deadline=None, max_examples=100)
@given(
    codings=st.lists(st.sampled_from([*PACK, "chunked", "none", "é"]), max_size=3),
    body=st.binary(max_size=200) | st.sampled_from([HTML, gzip.compress(HTML), zstd(HTML)]),
    cut=st.integers(0, 300),
)
def test_any_body_is_decoded_or_refused(codings, body, cut):
    with suppress(CodingError):
        read(f"Content-Encoding: {','.join(codings)}", body[cut:] if cut % 2 else body[:cut])
