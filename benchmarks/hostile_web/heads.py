"""How an answer begins: cases of status lines and of header fields."""

from __future__ import annotations

from benchmarks.hostile_web.answers import OK, answer, endless, kept_open, message, raw
from benchmarks.hostile_web.case import MAX_SECONDS, RETRIES, Case
from benchmarks.hostile_web.files import LOOKS, PNG

_TRIES = (1, RETRIES + 2)
#: What may be said of an answer that breaks the rules and can be understood nevertheless.
_ODD = ("kept", "bad_answer")
_REST = message(PNG)[len(OK) :]


def _picture(before: bytes) -> bytes:
    """An answer with other fields before its own."""
    return OK + before + _REST


CASES = [
    Case("a status line of garbage", "bad_answer", raw(b"\x16\3\1\2\xff\1\r\n\r\n"), _TRIES),
    Case("another protocol", "bad_answer", raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), _TRIES),
    Case("HTTP/0.9", "bad_answer", raw(PNG + b"\r\n\r\n"), _TRIES),
    Case("HTTP/2 without having agreed", "bad_answer",
         raw(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80\0\4\0\1\0\0\0\5\0\xff\xff\xff\r\n\r\n"), _TRIES),
    Case("a status that is no number", "bad_answer", raw(b"HTTP/1.1 fine\r\n" + _REST), _TRIES),
    Case("a status of four digits", "bad_answer", raw(b"HTTP/1.1 2000 OK\r\n" + _REST), _TRIES),
    Case("an endless status line", "bad_answer", endless(b"HTTP/1.1 200 ", b"O" * 65_536), _TRIES),
    Case("a status without a phrase", "kept", raw(b"HTTP/1.1 200\r\n" + _REST), looks=LOOKS),
    Case("HTTP/1.0", "kept", raw(b"HTTP/1.0 200 OK\r\n" + _REST), looks=LOOKS),
    Case("HTTP/9.9", _ODD, raw(b"HTTP/9.9 200 OK\r\n" + _REST), _TRIES),
    Case("10,000 header fields", "bad_answer",
         raw(_picture(b"".join(b"X-%d: x\r\n" % number for number in range(10_000)))), _TRIES),
    Case("endless header fields", "bad_answer", endless(OK, b"X: x\r\n" * 1_000), _TRIES),
    Case("a header field of 1 MB", "bad_answer", raw(_picture(b"X: " + b"x" * 2**20 + b"\r\n")),
         _TRIES),
    Case("an endless header field", "bad_answer", endless(OK + b"X: ", b"x" * 65_536), _TRIES),
    Case("slow headers", "timeout", endless(OK + b"X: ", b"x", 0.2), (1, RETRIES + 1),
         within=MAX_SECONDS),
    Case("a header field every half second", "timeout", endless(OK, b"X: x\r\n", 0.5),
         (1, RETRIES + 1), within=MAX_SECONDS),
    Case("100 Continue without end", ("timeout", "bad_answer"),
         endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1), _TRIES, within=MAX_SECONDS),
    Case("103 Early Hints before the answer", "kept",
         kept_open(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n", message(PNG)),
         looks=LOOKS),
    Case("101 Switching Protocols", ("http_101", "bad_answer"),
         answer(status=101, fields={"Upgrade": "x", "Connection": "Upgrade"}), _TRIES),
    Case("a field without a colon", _ODD, raw(_picture(b"a field\r\n")), _TRIES, LOOKS),
    Case("a field on two lines", _ODD, raw(_picture(b"X: a\r\n  b\r\n")), _TRIES, LOOKS),
    Case("a zero byte in a field", _ODD, raw(_picture(b"X: a\0b\r\n")), _TRIES, LOOKS),
    Case("lines that end in LF alone", _ODD,
         raw(message(PNG)[: -len(PNG)].replace(b"\r", b"") + PNG), _TRIES, LOOKS),
    Case("fields in another encoding", _ODD, raw(_picture(b"X-Name: caf\xe9 \xff\r\n")), _TRIES,
         LOOKS),
]  # fmt: skip
