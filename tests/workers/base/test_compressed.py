"""Compressed files: what is whole of them is read, however they come and whatever is damaged."""

import bz2
import gzip
import io
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.packing import zstd
from workers.base.compressed import (
    BZ2,
    GZIP,
    ZSTD,
    DamageError,
    beginning,
    decompressed,
    format_of,
    unpack,
)

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "bz2": bz2.compress,
}
#: With a checksum, without which a frame that took some of the next would pass for a whole one.
CHECKED = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor(write_checksum=True).compress}
FORMATS = {"gzip": GZIP, "zstd": ZSTD, "bz2": BZ2}
#: What compresses a little and tells its place: a line's number and digits that are no other's.
TEXTS = [
    b"%d %s\n" % (n, random.Random(n).randbytes(size).hex().encode())
    for n, size in enumerate([10, 150_000, 3, 400, 90_000, 7, 1000])
]


def read(stored: bytes, cuts: list[int] | None = None) -> tuple[bytes, list[str]]:
    """The content of a file that comes in pieces, and what was damaged."""
    ends = sorted({0, len(stored), *(cut % (len(stored) + 1) for cut in cuts or [])})
    chunks = list(decompressed(stored[a:b] for a, b in pairwise(ends)))
    assert all(bool(chunk.data) != bool(chunk.damage) for chunk in chunks)
    assert all(0 <= chunk.offset <= len(stored) for chunk in chunks)
    return b"".join(chunk.data for chunk in chunks), [c.damage for c in chunks if c.damage]


@pytest.mark.parametrize("pack", PACK)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=20))
@settings(max_examples=20, deadline=None)
def test_a_file_is_read_the_same_in_whatever_pieces_it_comes(pack, cuts):
    stored = b"".join(map(PACK[pack], TEXTS))
    assert read(stored, cuts) == (b"".join(TEXTS), [])


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_damage_costs_no_member_but_its_own(pack, cuts, data):
    """A checksum tells it, at the end of what was read."""
    packed = [CHECKED[pack](text) for text in TEXTS]
    which = data.draw(st.integers(1, len(TEXTS) - 1))  # the first says what the file is
    at = data.draw(st.integers(0, len(packed[which]) - 1))
    member = bytearray(packed[which])
    if data.draw(st.booleans()):
        member[at] ^= data.draw(st.integers(1, 255))
    else:
        del member[at:]
    content, damage = read(b"".join([*packed[:which], bytes(member), *packed[which + 1 :]]), cuts)
    assert all(text in content for n, text in enumerate(TEXTS) if n != which)
    assert damage or not at or content == b"".join(TEXTS)  # of a header's field that says nothing


@pytest.mark.parametrize("pack", PACK)
def test_a_file_that_is_cut_off_gives_what_is_there_and_says_so(pack):
    content, damage = read(PACK[pack](b"".join(TEXTS))[:-20])
    assert b"".join(TEXTS).startswith(content)
    assert damage == ["truncated: the compressed stream has no end"]


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [-9, -20_000, -60_000])
@pytest.mark.parametrize("behind", [1, 4])
def test_a_cut_member_hides_none_behind_it(pack, cut, behind):
    """Of zstd it takes a block's length of them for its own, or all to the file's end."""
    packed = [CHECKED[pack](TEXTS[1])[:cut], *(CHECKED[pack](TEXTS[2]) for _ in range(behind))]
    content, damage = read(b"".join(packed), list(range(0, 1 << 18, 1 << 12)))
    assert content.endswith(TEXTS[2] * behind)
    assert len(damage) == 1


def test_zeros_behind_gzip_members_are_padding():
    assert read(gzip.compress(b"a") + bytes(9) + gzip.compress(b"b") + bytes(512)) == (b"ab", [])


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_what_swells_comes_in_pieces(pack):
    chunks = decompressed([PACK[pack](bytes(100 << 20))])
    sizes = [len(chunk.data) for chunk in chunks]
    assert sum(sizes) == 100 << 20
    assert max(sizes) <= 64 << 20


def test_the_longest_window_of_zstd_is_read():
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert read(frame.compress(b"far") + frame.flush()) == (b"far", [])


@pytest.mark.parametrize("pack", PACK)
def test_one_member_alone(pack):
    stored = PACK[pack](TEXTS[1])
    assert format_of(stored) is FORMATS[pack]
    assert unpack(stored + b"more", FORMATS[pack], 1 << 20) == (TEXTS[1], len(stored))
    with pytest.raises(DamageError):
        unpack(stored[:-1], FORMATS[pack], 1 << 20)
    with pytest.raises(DamageError):
        unpack(stored, FORMATS[pack], 100)
    file = io.BytesIO(b"x" + stored)
    file.seek(1)
    assert beginning(file, FORMATS[pack], 12) == TEXTS[1][:12]
    assert beginning(io.BytesIO(b"x" + stored), FORMATS[pack], 12) == b""


@pytest.mark.parametrize("content", [b"", b"B", b"BZ", b"a line\n"])
def test_what_is_not_compressed_is_read_as_it_is(content):
    assert read(content, [1]) == (content, [])
