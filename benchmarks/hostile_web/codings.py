"""How a body is compressed: cases of bombs, of damage and of lies."""

from __future__ import annotations

import gzip
import zlib
from functools import cache, reduce

import brotli
import zstandard

from benchmarks.hostile_web.answers import answer
from benchmarks.hostile_web.case import RETRIES, Case, Doing
from benchmarks.hostile_web.files import LOOKS, PNG, deflated

#: Bytes that each bomb becomes.
_BOMB_BYTES = 64 * 2**20
_BLOCK = bytes(2**20)
_GZIP = 31  # zlib's name for it
#: What a damaged body may be called.
_DAMAGED = ("content_encoding", "cut_off")
_TRIES = (1, RETRIES + 1)


def _coded(coding: str, body: bytes) -> Doing:
    return answer(body, fields={"Content-Encoding": coding})


@cache
def bomb_of_gzip() -> bytes:
    """64 MiB in 300 KB."""
    return deflated(_BLOCK, _BOMB_BYTES // len(_BLOCK), _GZIP)


def _brotli_bomb() -> bytes:
    packer = brotli.Compressor(quality=1)
    parts = [packer.process(_BLOCK) for _ in range(_BOMB_BYTES // len(_BLOCK))]
    return b"".join([*parts, packer.finish()])


def _zstd_bomb() -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    parts = [packer.compress(_BLOCK) for _ in range(_BOMB_BYTES // len(_BLOCK))]
    return b"".join([*parts, packer.flush()])


_ZIPPED = gzip.compress(PNG, mtime=0)
_RAW = zlib.compressobj(wbits=-15)
#: What several codings may come to: one alone may be undone, and leaves no picture.
_DEEP = ("too_large", "content_encoding", "not_an_image")
#: What is too much, be it for its size or for how much it grows.
_BOMB = ("too_large", "content_encoding")
_TEN_TIMES = reduce(lambda body, _: gzip.compress(body, mtime=0), range(10), PNG)

CASES = [
    Case("a gzip bomb", _BOMB, _coded("gzip", bomb_of_gzip())),
    Case("a gzip bomb in gzip", _DEEP,
         _coded("gzip, gzip", gzip.compress(bomb_of_gzip(), mtime=0))),
    Case("a deflate bomb", _BOMB,
         _coded("deflate", deflated(_BLOCK, _BOMB_BYTES // len(_BLOCK)))),
    Case("a brotli bomb", _BOMB, _coded("br", _brotli_bomb())),
    Case("a zstd bomb", _BOMB, _coded("zstd", _zstd_bomb())),
    Case("ten codings", _DEEP, _coded(", ".join(["gzip"] * 10), _TEN_TIMES)),
    Case("good gzip", "kept", _coded("gzip", _ZIPPED), looks=LOOKS),
    Case("good gzip of two members", "kept",
         _coded("gzip", gzip.compress(PNG[:99]) + gzip.compress(PNG[99:])), looks=LOOKS),
    Case("good deflate", ("kept", "content_encoding"), _coded("deflate", zlib.compress(PNG)),
         looks=LOOKS),
    Case("good deflate without zlib's head", ("kept", "content_encoding"),
         _coded("deflate", _RAW.compress(PNG) + _RAW.flush()), looks=LOOKS),
    Case("good brotli", "kept", _coded("br", brotli.compress(PNG)), looks=LOOKS),
    Case("good zstd", "kept", _coded("zstd", zstandard.compress(PNG)), looks=LOOKS),
    Case("gzip that is cut off", _DAMAGED, _coded("gzip", _ZIPPED[:-20]), _TRIES),
    Case("gzip that is damaged", _DAMAGED, _coded("gzip", _ZIPPED[:12] + b"\xff" * 60), _TRIES),
    Case("deflate that is damaged", _DAMAGED, _coded("deflate", b"\x78\x9c" + b"\xff" * 60),
         _TRIES),
    Case("brotli that is damaged", _DAMAGED, _coded("br", b"\xff" * 60), _TRIES),
    Case("zstd that is damaged", _DAMAGED, _coded("zstd", zstandard.compress(PNG)[:-9]), _TRIES),
    Case("gzip that is none", ("kept", "content_encoding"), _coded("gzip", PNG), looks=LOOKS),
    Case("brotli that is none", ("kept", "content_encoding"), _coded("br", PNG), looks=LOOKS),
    Case("gzip of which nothing is said", "not_an_image", answer(_ZIPPED)),
    Case("an unknown coding", ("content_encoding", "kept"), _coded("xyzzy", PNG), looks=LOOKS),
    Case("utf-8 as a coding", ("content_encoding", "kept"), _coded("utf-8", PNG), looks=LOOKS),
    Case("identity as a coding", "kept", _coded("identity", PNG), looks=LOOKS),
]  # fmt: skip
