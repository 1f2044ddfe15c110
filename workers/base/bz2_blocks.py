"""What is whole in a damaged bz2 file: its blocks, each decompressed by itself.

A bz2 stream is a chain of blocks of at most 900 kB of content. Each begins, at any bit, with 48
bits that hardly ever occur otherwise and a checksum of its own. So the blocks before and after a
damaged one can be found and read; bzip2's own ``bzip2recover`` does the same.
"""

from __future__ import annotations

import bz2
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

BLOCK = 0x314159265359
END = 0x177245385090
MAGIC_BITS = 48
CRC_BITS = 32

#: More than a block can be, stored (it may be a little longer than its content) or not.
BLOCK_BYTES = 1_000_000

#: A block's offset in the file, its content and, if it has none, what is wrong.
Block = tuple[int, bytes, str | None]


@dataclass
class Recent:
    """The last that was read of a file, enough for a block: as it is stored, and decompressed."""

    start: int = 0  # of ``stored``, in the file
    stored: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)

    def add_stored(self, offset: int, data: bytes) -> None:
        if not self.stored:
            self.start = offset
        self.stored += data
        if len(self.stored) > 4 * BLOCK_BYTES:
            self.start += len(self.stored) - 2 * BLOCK_BYTES
            del self.stored[: -2 * BLOCK_BYTES]

    def add_content(self, data: bytes) -> None:
        self.content += data
        if len(self.content) > 4 * BLOCK_BYTES:
            del self.content[:-BLOCK_BYTES]


def recover(recent: Recent, read_up_to: int, following: Iterable[bytes]) -> Iterator[Block]:
    """All blocks from the one on in which decompression failed.

    Args:
        recent: what was read, with the piece that failed, and the content that came of it.
        read_up_to: where that piece starts; blocks that end before have been read.
        following: the rest of the file.
    """
    unread = 8 * (read_up_to - recent.start)  # in bits of the window
    is_first = True
    for start, data, begin, end in _extents(recent, following):
        last_byte = start - recent.start + (end + 7) // 8
        if 8 * last_byte <= unread:
            continue
        content = _block(data, begin, end)
        # Only the first may have been read: what it ends with, not its end, is in doubt.
        if not (is_first and content and recent.content.endswith(content)):
            damage = None if content else "damaged compression: a bz2 block is not whole"
            yield start + begin // 8, content, damage
        is_first = False


def _extents(recent: Recent, following: Iterable[bytes]) -> Iterator[tuple[int, bytes, int, int]]:
    """The blocks: offset and bytes of a window of the file, and first and last bit therein."""
    window, start = bytes(recent.stored), recent.start
    pieces = iter(following)
    while True:
        marks = _marks(window)
        for (begin, is_block), (end, _) in pairwise(marks):
            if is_block:
                yield start, window, begin, end
        kept = marks[-1][0] // 8 if marks else max(0, len(window) - 8)
        if not marks or not marks[-1][1]:
            kept = max(kept, len(window) - 8)
        elif len(window) - kept > 2 * BLOCK_BYTES:  # the next one's beginning is damaged
            yield start, window, marks[-1][0], 8 * len(window)
            kept = len(window) - 8
        more = b"".join(islice(pieces, 16))
        if not more:
            if marks and marks[-1][1]:
                yield start, window, marks[-1][0], 8 * len(window)
            return
        window, start = window[kept:] + more, start + kept


def _marks(window: bytes) -> list[tuple[int, bool]]:
    """The bits at which a block (True) or the end of a stream (False) begins, ascending."""
    found = set()
    for magic, is_block in ((BLOCK, True), (END, False)):
        for shift in range(8):
            # The bytes that it fills whole are searched, then all of its bits compared.
            inner = (magic << 8 >> shift).to_bytes(7, "big")[1:6]
            at = window.find(inner, 1)
            while at >= 0:
                bit = 8 * (at - 1) + shift
                if _bits(window, bit, bit + MAGIC_BITS) == magic:
                    found.add((bit, is_block))
                at = window.find(inner, at + 1)
    return sorted(found)


def _bits(data: bytes, begin: int, end: int) -> int:
    """The number that bits make up."""
    first, last = begin // 8, (end + 7) // 8
    number = int.from_bytes(data[first:last], "big") >> (8 * last - end)
    return number & ((1 << (end - begin)) - 1)


def _block(data: bytes, begin: int, end: int) -> bytes:
    """The content of the block in these bits, as a stream of its own; empty if damaged."""
    block = _bits(data, begin, min(end, begin + 16 * BLOCK_BYTES))
    bits = min(end, begin + 16 * BLOCK_BYTES) - begin
    if bits < MAGIC_BITS + CRC_BITS:
        return b""
    crc = block >> (bits - MAGIC_BITS - CRC_BITS) & ((1 << CRC_BITS) - 1)
    stream = (block << MAGIC_BITS | END) << CRC_BITS | crc
    bits += MAGIC_BITS + CRC_BITS
    padding = -bits % 8
    compressed = b"BZh9" + (stream << padding).to_bytes((bits + padding) // 8, "big")
    try:
        return bz2.decompress(compressed)
    except (OSError, ValueError):
        return _whole_before_damage(compressed)


def _whole_before_damage(compressed: bytes) -> bytes:
    """The content of a whole block that is followed by something else than a block."""
    decompressor = bz2.BZ2Decompressor()
    try:
        # Byte by byte: a call that meets damage returns nothing of what it read before.
        for i in range(len(compressed)):
            if content := decompressor.decompress(compressed[i : i + 1]):
                return content
    except (OSError, EOFError):
        pass
    return b""
