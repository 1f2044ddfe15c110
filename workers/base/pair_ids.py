"""The identity of a pair, on which every stage of every run can be joined."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from workers.base.urls import url_keys, without_tracking


def make_pair_id(url: str, caption: str) -> str:
    """The identity of a pair: 32 hexadecimal digits, a hash of its content alone.

    It is the same in every stage and every run, however the pairs were sharded. The same image
    with other tracking parameters (``urls.without_tracking``) is the same pair. URLs hold no line
    feed, so (url, caption) cannot collide by shifting text between the two.
    """
    return _hash(without_tracking(url).encode(), caption.encode())


def make_pair_ids(urls: pa.Array, captions: pa.Array) -> list[str]:
    """``make_pair_id`` of every pair; few URLs have to be looked at."""
    columns = (texts.cast(pa.binary()).to_pylist() for texts in (url_keys(urls), captions))
    return [_hash(*pair) for pair in zip(*columns, strict=True)]


def _hash(url: bytes, caption: bytes) -> str:
    return hashlib.blake2b(b"%b\n%b" % (url, caption), digest_size=16).hexdigest()
