"""Hashes of the rows of a column. A pair costs two of them, and a third where its draw counts."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from workers.base.arrays import UInt64s

#: Bytes of a hash.
HASH_BYTES = 8

#: So few rows are hashed before Numba is loaded, and after an installation has compiled.
_FEW = 5_000


def hash_rows(texts: pa.Array | pa.ChunkedArray, prefix: bytes = b"") -> UInt64s:
    """BLAKE2b of each text with ``prefix`` before it, as the number that it is in big endian.

    Args:
        texts: strings or binaries, none of them null.
    """
    column = (texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts).cast(
        pa.large_binary()
    )
    if len(column) < _FEW:
        rows = (prefix + text for text in column.to_pylist())
        digests = b"".join(hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in rows)
        return np.frombuffer(digests, ">u8").astype(np.uint64)
    from workers.base.blake2b import digests_of

    _, offsets, letters = column.buffers()
    bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return digests_of(np.frombuffer(letters or b"", np.uint8), bounds, prefix)
