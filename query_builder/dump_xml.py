"""The XML of a dump, piece by piece: decompressed, as UTF-8, with its damaged places marked."""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain

import webencodings

from query_builder.sources import Part, read_stored
from workers.base.compressed import BZ2, Chunk, beginning, decompressed
from workers.base.file_systems import open_file

#: Bytes of XML in which its encoding is declared.
_DECLARATION_BYTES = 1 << 12

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding=["']([\w.:-]+)["']""")
_SNIFFED = (
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    ("<?".encode("utf-16-le"), "utf-16-le"),
    ("<?".encode("utf-16-be"), "utf-16-be"),
)
#: Labels of the web that no declaration in a dump can mean.
_NO_XML = ("utf-16le", "utf-16be", "replacement", "x-user-defined")


def read_xml(part: Part) -> Generator[Chunk, None, None]:
    """The XML of a part of a dump. Raises OSError if the file cannot be opened or read."""
    with open_file(part.file) as file:
        # The declaration stands at the start of the file, wherever the part is.
        head = beginning(file, BZ2, _DECLARATION_BYTES) if part.start else b""
        found = (
            chunk
            for chunk in decompressed(read_stored(file, part), part.start)
            if chunk.data or chunk.damage
        )
        first = next(found, Chunk(part.start))
        chunks = chain([first], found)
        encoding = _encoding(head or first.data)
        yield from chunks if encoding == "utf-8" else _as_utf8(chunks, encoding)


def first_xml(dump: str, size: int) -> bytes:
    """The XML that a dump begins with, up to damage: ``size`` bytes or more, if it has them.

    Raises OSError if the file cannot be opened or read.
    """
    xml = b""
    with closing(read_xml(Part(dump))) as chunks:
        for chunk in chunks:
            xml += chunk.data
            if chunk.damage or len(xml) >= size:
                break
    return xml


def _encoding(head: bytes) -> str:
    """The encoding that a document begins with or declares; UTF-8 is XML's default.

    Labels are the web's, never Python's codecs, some of which are no encodings. Who can read a
    declaration byte by byte, as here, is not in UTF-16, whatever it says.
    """
    for mark, encoding in _SNIFFED:
        if head.startswith(mark):
            return encoding
    declared = _DECLARED.match(head.removeprefix(codecs.BOM_UTF8))
    known = webencodings.lookup(declared[1].decode()) if declared else None
    if known is None or known.name in _NO_XML:
        return "utf-8"  # the pages that are not will be reported
    return str(known.codec_info.name)


def _as_utf8(chunks: Iterable[Chunk], encoding: str) -> Iterator[Chunk]:
    """The same XML in UTF-8.

    After damage it starts with a page: only there the start of a character is certain.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    page = "<page".encode(encoding)
    lost, carried = False, b""
    for chunk in chunks:
        data, carried = carried + chunk.data, b""
        if chunk.damage:
            decoder.reset()
            lost = True
            yield chunk
            continue
        while data:
            if lost:
                at = data.find(page)
                if at < 0:
                    carried = data[1 - len(page) :]
                    break
                data, lost = data[at:], False
            try:
                yield Chunk(chunk.offset, decoder.decode(data).encode())
                break
            except UnicodeDecodeError as error:
                whole, data = error.object[: error.start], error.object[error.end :]
                yield Chunk(chunk.offset, whole.decode(encoding).encode())
                yield Chunk(chunk.offset, damage=f"not {encoding}: {error.reason}")
                decoder.reset()
                lost = True
