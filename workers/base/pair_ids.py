"""The identity of a pair, on which every stage of every run can be joined."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from workers.base.urls import url_keys, without_tracking

#: Digits of a pair_id that are those of all captions of one URL.
URL_DIGITS = 16


def make_pair_id(url: str, caption: str) -> str:
    """The identity of a pair: 32 hexadecimal digits, hashes of its content alone.

    It is the same in every stage and every run, however the pairs were sharded. The first half is
    the URL's, so that all captions of an image follow each other wherever pairs are sorted, and it
    is asked for once; the second that of both. The same image with other tracking parameters
    (``urls.without_tracking``) is the same pair. URLs hold no line feed, so (url, caption) cannot
    collide by shifting text between the two.
    """
    return _hash(without_tracking(url).encode(), caption.encode())


def make_pair_ids(urls: pa.Array, captions: pa.Array) -> list[str]:
    """``make_pair_id`` of every pair; few URLs have to be looked at."""
    columns = (texts.cast(pa.binary()).to_pylist() for texts in (url_keys(urls), captions))
    return [_hash(*pair) for pair in zip(*columns, strict=True)]


def _hash(url: bytes, caption: bytes) -> str:
    pair = hashlib.blake2b(url, digest_size=URL_DIGITS // 2)
    of_url = pair.hexdigest()
    pair.update(b"\n%b" % caption)
    return of_url + pair.hexdigest()
