"""The identity of a pair, on which every stage of every run can be joined."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.hashes import HASH_BYTES, hash_rows
from workers.base.urls import url_keys, without_tracking

#: Digits of a pair_id that are those of all captions of one URL.
URL_DIGITS = 2 * HASH_BYTES

_LINE_FEED = pa.scalar("\n", pa.large_string())

#: The two hexadecimal digits of every byte.
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


def make_pair_id(url: str, caption: str) -> str:
    """The identity of a pair: 32 hexadecimal digits, hashes of its content alone.

    It is the same in every stage and every run, however the pairs were sharded. The first half is
    the URL's, so that all captions of an image follow each other wherever pairs are sorted, and it
    is asked for once; the second that of both. The same image with other tracking parameters
    (``urls.without_tracking``) is the same pair. URLs hold no line feed, so (url, caption) cannot
    collide by shifting text between the two.
    """
    pair = hashlib.blake2b(without_tracking(url).encode(), digest_size=HASH_BYTES)
    of_url = pair.hexdigest()
    pair.update(b"\n%b" % caption.encode())
    return of_url + pair.hexdigest()


def url_digits(pair_ids: Any) -> Any:
    """What the ids of all captions of a URL begin with, of an array of ids."""
    return pc.utf8_slice_codeunits(pair_ids, 0, URL_DIGITS)


def make_pair_ids(urls: pa.Array, captions: pa.Array) -> pa.StringArray:
    """``make_pair_id`` of every pair; few URLs have to be looked at."""
    keys = url_keys(urls).cast(pa.large_string())
    pairs = pc.binary_join_element_wise(keys, captions.cast(pa.large_string()), _LINE_FEED)
    digests = np.column_stack([hash_rows(keys), hash_rows(pairs)])
    digits = _HEX[digests.astype(">u8").view(np.uint8)]
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * 2 * URL_DIGITS
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(digits))
