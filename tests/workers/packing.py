"""Compression that Python's own library lacks."""

from __future__ import annotations

from typing import cast

import pyarrow as pa


def zstd(content: bytes) -> bytes:
    """One frame. FastWARC's writer would leave out what is behind the first 8 MiB."""
    return cast(bytes, pa.compress(content, codec="zstd", asbytes=True))
