"""Text of any shape, read in time and memory that do not grow with its lines."""

import codecs
import gzip
import io
from collections.abc import Callable

import pytest

from tests.workers.packing import zstd
from workers.base.text_stream import LONG_LINE, MAX_LINE_BYTES, NOT_TEXT, LongLineError, TextStream

PACK: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd}


class Trickle(io.BytesIO):
    """Gives a file's bytes a few at a time, and counts them."""

    given = 0

    def read(self, size=-1):
        piece = super().read(min(size, 4096))
        self.given += len(piece)
        return piece


def test_a_long_line_is_passed_over_once_and_what_follows_is_read():
    """In pieces of 4 kB: where each were joined with those before it, this would copy 500 GB."""
    stream = TextStream(Trickle(b"first\n" + b"x" * (64 << 20) + b"\nlast\n"))
    assert stream.read() == f"first\n{LONG_LINE}\nlast\n".encode()


@pytest.mark.parametrize("pack", PACK)
def test_the_longest_line_is_whole_and_a_longer_one_is_not(pack):
    longest = b"a" * MAX_LINE_BYTES
    stream = TextStream(io.BytesIO(PACK[pack](longest + b"\n" + longest + b"a\n" + longest)))
    assert stream.read() == longest + b"\n" + LONG_LINE.encode() + b"\n" + longest


@pytest.mark.parametrize(("line", "quote"), [(b'"', b'"'), (b'""', b""), (b"-", b"")])
def test_what_opens_or_closes_a_quotation_still_does(line, quote):
    stream = TextStream(io.BytesIO(line + b"x" * MAX_LINE_BYTES + b"\n"))
    assert stream.read() == LONG_LINE.encode() + quote + b"\n"


def test_the_first_lines_cost_no_more_than_a_long_line():
    file = Trickle(b"x" * (64 << 20))
    with pytest.raises(LongLineError, match="the first line has more than 8,388,608 bytes"):
        TextStream(file).first_lines(100)
    assert file.given < MAX_LINE_BYTES + (1 << 20)
    file = Trickle(b"url,text\n" + b"x" * (64 << 20))
    assert TextStream(file).first_lines(100) == b"url,text\n"
    assert file.given < MAX_LINE_BYTES + (1 << 20)
    whole = b"a" * 1000 + b"\n"
    assert TextStream(Trickle(whole)).first_lines(100) == whole


def test_a_gzip_file_that_swells_a_thousand_times_is_not_unpacked_to_see_its_first_lines():
    file = Trickle(gzip.compress(bytes(100 << 20)))
    with pytest.raises(LongLineError):
        TextStream(file).first_lines(100)
    assert file.given < 20_000


def test_many_small_gzip_members_are_one_text():
    members = [gzip.compress(b"%d\n" % n) for n in range(5000)]
    lines = TextStream(io.BytesIO(b"".join(members))).read().splitlines()
    assert lines == [b"%d" % n for n in range(5000)]


def test_what_is_no_utf8_is_told_and_the_rest_stays():
    content = "né\n".encode() + b"n\xe9\n" + "\ufffd\n".encode()
    assert TextStream(io.BytesIO(content)).read().decode() == f"né\nn{NOT_TEXT}\n\ufffd\n"


def test_lines_come_whole_in_blocks():
    content = b"".join(b"%d\n" % n for n in range(400_000)) + b"end"
    stream = TextStream(io.BytesIO(content))
    blocks = list(iter(lambda: stream.read_lines(1000), b""))
    assert b"".join(blocks) == content
    assert len(blocks) > 2
    assert all(block.endswith(b"\n") for block in blocks[:-1])


TEXT = "url,é\U0001f600\n"
MARKS = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
}  # fmt: skip


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_other_encodings_and_ends_of_lines(pack, encoding, has_mark, line_end):
    written = (TEXT * 5000).replace("\n", line_end).encode(encoding)
    file = Trickle(PACK[pack]((MARKS[encoding] if has_mark else b"") + written))
    read = TextStream(file).read().decode()
    assert read == (TEXT * 5000).replace("\n", "\r\n" if line_end == "\r\n" else "\n")


@pytest.mark.parametrize("content", ["a\nb\rc\n", "a\r\nb\rc", "ab", ""])
def test_a_return_that_ends_no_first_line_stays(content):
    assert TextStream(io.BytesIO(content.encode())).read().decode() == content


@pytest.mark.parametrize("damage", [b"\x00\xd8", b"\x00\xdc"])
def test_half_a_pair_of_utf16_is_no_text_and_the_rest_stays(damage):
    content = codecs.BOM_UTF16_LE + "a\n".encode("utf-16-le") + damage + "b\nc".encode("utf-16-le")
    lines = TextStream(io.BytesIO(content + b"\0\0\0")).read().decode().split("\n")
    assert lines[0] == "a"
    assert NOT_TEXT in lines[1]
    assert lines[1].endswith("b")
    assert lines[2] == f"c\0{NOT_TEXT}"
