"""How a body comes: cases of lengths, of endings, of time, and of abused connections."""

from __future__ import annotations

from benchmarks.hostile_web.answers import (
    BLOCK,
    CHUNKED,
    OK,
    answer,
    endless,
    held,
    kept_open,
    late,
    message,
    raw,
    reset,
)
from benchmarks.hostile_web.case import MAX_BYTES, MAX_SECONDS, RETRIES, Case
from benchmarks.hostile_web.files import HTML, LOOKS, PNG, file_of, plain
from benchmarks.hostile_web.looks import BLACK, GREEN, Looks
from benchmarks.hostile_web.server import Seen

#: Tries at what may pass, at least one; a client may ask once more on a new connection where one
#: that was kept open has ended meanwhile (RFC 9112, section 9.3.1).
_TRIES = (1, RETRIES + 2)
#: Where a connection ends without a word, a client may ask once more by itself (RFC 9110, 9.2.2).
_TWICE = (1, 2 * (RETRIES + 1))
#: Bytes that are on their way in a machine's buffers when a client has had enough.
_ON_THE_WAY = 16 * 2**20

_LENGTH = b"Content-Length: %d\r\n"


def _sized(length: int, body: bytes, more: bytes = b"") -> bytes:
    return OK + more + _LENGTH % length + b"\r\n" + body


def _chunks(*parts: bytes) -> bytes:
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def _taken(case: Case, seen: Seen) -> str:
    """No more is read than is allowed, but for what was sent already."""
    most = max(visit.sent for visit in seen.of(case))
    return f"{most:,} bytes were taken" if most > MAX_BYTES + _ON_THE_WAY else ""


_HALF = len(PNG) // 2
_BLACK = file_of(plain(BLACK), "PNG")
#: What a body may be called that is not there as a whole.
_CUT = ("cut_off", "connection")
#: What may be said of an answer that breaks the rules and can be understood nevertheless.
_ODD = ("kept", "bad_answer")

CASES = [
    Case("endless body", "too_large", endless(OK + b"\r\n"), check=_taken),
    Case(
        "endless chunks",
        "too_large",
        endless(CHUNKED, b"10000\r\n" + BLOCK + b"\r\n"),
        check=_taken,
    ),
    Case("one endless chunk", "too_large", endless(CHUNKED + b"fffffffffff\r\n"), check=_taken),
    Case("10 TB promised", "too_large", endless(_sized(10**13, b"")), check=_taken),
    Case("a chunk of 2**70 bytes", ("too_large", "bad_answer", *_CUT),
         endless(CHUNKED + b"4" + b"0" * 17 + b"\r\n"), _TRIES, check=_taken),
    Case("an endless extension of a chunk", "too_large",
         endless(CHUNKED + b"10;a=", b"a" * 65_536), check=_taken),
    Case("endless trailers", ("bad_answer", "too_large", "timeout", *_CUT),
         endless(_chunks(PNG) + b"0\r\n", b"X: x\r\n" * 1_000, 0.02), _TRIES, within=MAX_SECONDS),
    Case("chunks that are no numbers", ("bad_answer", *_CUT), raw(CHUNKED + b"zz\r\n" + PNG),
         _TRIES),
    Case("a chunk of a negative size", ("bad_answer", *_CUT), raw(CHUNKED + b"-5\r\n" + PNG),
         _TRIES),
    Case("chunks without an end", _CUT, raw(_chunks(PNG)), _TRIES),
    Case("good chunks", "kept", kept_open(_chunks(PNG[:_HALF], PNG[_HALF:]), b"0\r\n\r\n"),
         looks=LOOKS),
    Case("dripping body", "timeout", endless(_sized(900_000, b""), b"x", 0.1),
         (1, RETRIES + 1), within=MAX_SECONDS),
    Case("dripping chunks", "timeout", endless(CHUNKED, b"1\r\nx\r\n", 0.1),
         (1, RETRIES + 1), within=MAX_SECONDS),
    Case("half a body and silence", "timeout", held(_sized(len(PNG), PNG[:_HALF])),
         (1, RETRIES + 1)),
    Case("a head and silence", "timeout", held(_sized(len(PNG), b"")), (1, RETRIES + 1)),
    Case("silence", "timeout", held(), (1, RETRIES + 1)),
    Case("silence where a connection is accepted", ("timeout", "robots_unreachable"), held(),
         (0, 0), at_accept=held()),
    Case("a late answer", "kept", late(1.2, answer(PNG)), looks=LOOKS),
    Case("Content-Length above what comes", _CUT, raw(_sized(len(PNG) + 999, PNG)), _TRIES),
    Case("Content-Length below what comes", ("not_an_image", "bad_answer"),
         raw(_sized(_HALF, PNG))),
    Case("a negative Content-Length", _ODD, raw(_sized(-1, PNG)), _TRIES),
    Case("a Content-Length that is no number", _ODD,
         raw(OK + b"Content-Length: many\r\n\r\n" + PNG)),
    Case("Content-Length with a plus", _ODD,
         raw(OK + b"Content-Length: +%d\r\n\r\n" % len(PNG) + PNG), looks=LOOKS),
    Case("Content-Length twice, the same", _ODD,
         raw(_sized(len(PNG), PNG, _LENGTH % len(PNG))), looks=LOOKS),
    Case("Content-Length twice, another", "bad_answer",
         raw(_sized(len(PNG), PNG, _LENGTH % _HALF))),
    Case("Content-Length and chunks", _ODD,
         raw(_sized(5, b"", b"Transfer-Encoding: chunked\r\n") + _chunks(PNG)[len(CHUNKED):]
             + b"0\r\n\r\n"), looks=LOOKS),
    Case("an unknown Transfer-Encoding", ("bad_answer", "content_encoding", "not_an_image"),
         raw(OK + b"Transfer-Encoding: xyzzy\r\n\r\n" + b"what is this?" * 9)),
    Case("an empty body", "not_an_image", answer()),
    Case("a body until the connection ends", "kept", raw(OK + b"\r\n" + PNG), looks=LOOKS),
    Case("closed without a word", _CUT, raw(), _TWICE),
    Case("closed in the middle", _CUT, raw(_sized(len(PNG), PNG[:_HALF])), _TRIES),
    Case("reset without a word", _CUT, reset(), _TWICE),
    Case("reset in the middle", _CUT, reset(_sized(len(PNG), PNG[:_HALF])), _TRIES),
    Case("closed at once", ("connection", "robots_unreachable"), raw(), (0, 0), at_accept=raw()),
    # An answer too many is taken for that to the next request, of the same host.
    Case("answered before it was asked", (*_ODD, *_CUT, "robots_unreachable", "http_404"), raw(),
         (0, RETRIES + 2), LOOKS, robots=raw(), at_accept=kept_open(message(PNG))),
    Case("garbage after the answer", _ODD, kept_open(message(PNG) + b"\0garbage\r\n\r\n"),
         (1, 2), LOOKS, host="garbage"),
    Case("the next picture after garbage", "kept",
         answer(file_of(plain(GREEN), "PNG")), (1, 2), Looks.all_over(GREEN), host="garbage"),
    Case("two answers at once", "kept", kept_open(message(PNG) + message(_BLACK)), (3, 6), LOOKS,
         host="double", urls=3),
    Case("the next picture after two answers", "kept", answer(file_of(plain(GREEN), "PNG")),
         (3, 6), Looks.all_over(GREEN), host="double", urls=3),
    Case("an answer with a page behind it", "kept",
         kept_open(message(PNG) + message(HTML, 404)), (3, 6), LOOKS, urls=3),
    Case("20 captions of one URL", "kept", answer(PNG), looks=LOOKS, captions=20),
]  # fmt: skip
