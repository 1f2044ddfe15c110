"""The identity of a pair, on which every stage of every run can be joined."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from workers.urls import url_keys, without_tracking


def make_pair_id(url: str, caption: str) -> str:
    """The identity of a pair: 32 hexadecimal digits, a hash of its content alone.

    It is the same in every stage and every run, however the pairs were sharded. The same picture
    with other tracking parameters (``urls.without_tracking``) is the same pair. URLs hold no line
    feed, so (url, caption) cannot collide by shifting text between the two.
    """
    return _hash(without_tracking(url), caption)


def make_pair_ids(urls: pa.Array, captions: pa.Array) -> list[str]:
    """``make_pair_id`` of every pair; few URLs have to be looked at."""
    keys = url_keys(urls).to_pylist()
    return [_hash(key, text) for key, text in zip(keys, captions.to_pylist(), strict=True)]


def _hash(url: str, caption: str) -> str:
    return hashlib.blake2b(f"{url}\n{caption}".encode(), digest_size=16).hexdigest()
