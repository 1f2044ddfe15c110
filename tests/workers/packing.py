"""Compression that Python's own library lacks."""

from __future__ import annotations

from io import BytesIO

from fastwarc.stream_io import ZstdWriter


def zstd(content: bytes) -> bytes:
    packed = BytesIO()
    writer = ZstdWriter(packed)
    writer.write(content)
    writer.close()
    return packed.getvalue()
