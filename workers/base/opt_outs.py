"""Opt-outs: images and places of the web that are not to be used, as lists of them say.

What is listed is known by hashes of 64 bits alone: ten million entries are 80 MB, the lists' text
is in no process's memory, and what is stored of them tells nobody what was listed. Another entry's
hash is met by mistake once in 10**12 look-ups at that size; it costs one pair.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from tldextract import TLDExtract

from workers.base.arrays import Bools, UInt64s
from workers.base.credentials import shown
from workers.base.file_systems import find_files
from workers.base.settings import FileName, Settings
from workers.base.storage import replacing
from workers.base.text_stream import TextStream
from workers.base.urls import UrlError, normal_host, normal_urls, url_keys, without_tracking

log = logging.getLogger(__name__)

#: Bytes of a list that are looked at at a time.
_BLOCK_BYTES = 4 << 20

#: Python's syntax and RE2's.
_SCHEME = "^https?://"
_HOST_OF_URL = r"^[a-z]+://(?P<host>\[[^\]]*\]|[^/:]*)"
_PORT = re.compile(":[0-9]+$")
_COMMENT = r"(?:^|\s)#.*$"
_NORMAL_DOMAIN = r"^(?:[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9\-]{0,62}$"
_SHA256 = "^[0-9a-f]{64}$"


class OptOutSettings(Settings):
    """What must not be asked for, selected or trained on. Each file is a list, an entry a line;
    what follows a `#` at the start of a line or after a space is a comment; plain, gzip or zstd.
    """

    urls: tuple[FileName, ...] = Field(
        default=(),
        description="files, globs of URLs of images or pages; http or https, and parameters that "
        "tell where a visitor came from, such as utm_source, do not matter",
    )
    domains: tuple[FileName, ...] = Field(
        default=(),
        description="files, globs of domains: their pages and images, their sub-domains' too",
    )
    sha256: tuple[FileName, ...] = Field(
        default=(), description="files, globs of sha256 sums of images as they are served"
    )
    image_hashes: tuple[FileName, ...] = Field(
        default=(),
        description="files, globs of hashes as the column `image_hash` has them, or as 0x...",
    )


class Kind(StrEnum):
    """What an entry names."""

    URL = "url"
    DOMAIN = "domain"
    SHA256 = "sha256"
    IMAGE_HASH = "image_hash"
    PAIR_ID = "pair_id"


#: Columns that say what a row is of.
URL_COLUMNS = ("url", "page_url", "target", "final_url")
VALUE_COLUMNS = {str(kind): kind for kind in (Kind.PAIR_ID, Kind.SHA256, Kind.IMAGE_HASH)}


def entry_key(kind: Kind, value: str) -> bytes:
    """The hash of an entry in its normal form."""
    return hashlib.blake2b(f"{kind} {value}".encode(), digest_size=8).digest()


def _keys(kind: Kind, values: Iterable[str]) -> UInt64s:
    return np.frombuffer(b"".join(entry_key(kind, value) for value in values), "<u8")


@dataclass(frozen=True)
class OptOuts:
    """What is listed; ``reason`` is what the tally calls rows that are."""

    keys: UInt64s  # sorted, each once
    reason: str = "opted_out"

    @classmethod
    def none(cls) -> OptOuts:
        return cls(np.zeros(0, np.uint64))

    @classmethod
    def of(cls, entries: Iterable[tuple[Kind, str]], reason: str = "opted_out") -> OptOuts:
        """Of entries in normal form."""
        keys = b"".join(entry_key(kind, value) for kind, value in entries)
        return cls(np.unique(np.frombuffer(keys, "<u8")), reason)

    @classmethod
    def read(cls, settings: OptOutSettings) -> OptOuts:
        """Read all lists.

        Raises ValueError for a line that is no entry, naming file and line, and FileNotFoundError.
        """
        lists = {
            Kind.URL: settings.urls,
            Kind.DOMAIN: settings.domains,
            Kind.SHA256: settings.sha256,
            Kind.IMAGE_HASH: settings.image_hashes,
        }
        parts = [
            _keys(kind, values)
            for kind, patterns in lists.items()
            for path in find_files(patterns)
            for values in _entries(kind, path)
        ]
        return cls(np.unique(np.concatenate(parts))) if parts else cls.none()

    def save(self, path: Path) -> None:
        """Write the hashes, for ``load``."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.keys)

    @classmethod
    def load(cls, path: Path, reason: str = "opted_out") -> OptOuts:
        """Those of a file; all processes of a machine share one copy in memory."""
        return cls(np.load(path, mmap_mode="r"), reason)

    def digest(self) -> str:
        """The sha256 of what is listed, in whatever order and words."""
        return hashlib.sha256(np.ascontiguousarray(self.keys).tobytes()).hexdigest()

    def __bool__(self) -> bool:
        return len(self.keys) > 0

    def has_urls(self, urls: Any) -> Bools:
        """Which of a column of normal URLs are listed, or lie in a listed domain; a null does not.

        ``file:`` URLs count as they are.
        """
        if not self or not len(urls):
            return np.zeros(len(urls), np.bool_)
        column = urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls
        column = pc.fill_null(column, "")
        return self._has(Kind.URL, url_names(column)) | self._has_hosts(column)

    def has_url(self, url: str) -> bool:
        """``has_urls`` of one, without Arrow, which would take most of a millisecond for it."""
        if not self:
            return False
        if self.has(Kind.URL, re.sub(_SCHEME, "", without_tracking(url))):
            return True
        host = re.match(_HOST_OF_URL, url)
        return host is not None and self.has_host(host["host"])

    def _has_hosts(self, urls: Any) -> Bools:
        hosts = pc.struct_field(pc.extract_regex(urls, _HOST_OF_URL), "host").dictionary_encode()
        listed = [host is not None and self.has_host(host) for host in hosts.dictionary.to_pylist()]
        places = pc.fill_null(hosts.indices, len(listed)).to_numpy(zero_copy_only=False)
        found: Bools = np.array([*listed, False], np.bool_)[places]
        return found

    def has_host(self, host: str) -> bool:
        """Whether a HOST or HOST:PORT, or a domain that it belongs to, is listed."""
        return bool(self._has(Kind.DOMAIN, domains_of(_PORT.sub("", host))).any())

    def has_rows(self, table: pa.Table) -> Bools:
        """Which rows of a table are listed, by those of its columns that say what a row is of."""
        found = np.zeros(len(table), np.bool_)
        for name in table.column_names:
            if name in URL_COLUMNS:
                found |= self.has_urls(table[name])
            elif name in VALUE_COLUMNS:
                found |= self.has_values(VALUE_COLUMNS[name], table[name])
        return found

    def has_values(self, kind: Kind, column: Any) -> Bools:
        """Which values of a column are listed; ``sha256``, ``image_hash`` and ``pair_id``."""
        values = pc.fill_null(column.cast(pa.string()), "")
        return self._has(kind, values.to_pylist())

    def has(self, kind: Kind, value: str) -> bool:
        return bool(self._has(kind, [value])[0])

    def _has(self, kind: Kind, values: Sequence[str]) -> Bools:
        if not self:
            return np.zeros(len(values), np.bool_)
        keys = _keys(kind, values)
        places = np.searchsorted(self.keys, keys)
        found: Bools = self.keys[np.minimum(places, len(self.keys) - 1)] == keys
        return found


@dataclass(frozen=True)
class OptOutFiles:
    """Where a run keeps what its workers must honour; a file that is not there lists nothing."""

    lists: Path  # as ``OptOuts.save`` writes them
    taken_down: Path  # tombstones

    def load(self) -> tuple[OptOuts, ...]:
        """Those that list anything."""
        lists = OptOuts.load(self.lists) if self.lists.is_file() else OptOuts.none()
        return tuple(filter(None, (lists, read_tombstones(self.taken_down))))


def read_tombstones(path: Path) -> OptOuts:
    """What was taken down out of a run: its file has a line an entry, KIND HASH DATE.

    Raises ValueError for a line that is none: what it stood for would come back.
    """
    keys = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        entry = re.fullmatch(r"[a-z0-9_]+ ([0-9a-f]{16}) [0-9-]+", line)
        if not entry:
            raise ValueError(f"{path}, line {number}: this is no tombstone; restore the file")
        keys.append(bytes.fromhex(entry[1]))
    return OptOuts(np.unique(np.frombuffer(b"".join(keys), "<u8")), reason="taken_down")


def url_names(urls: Any) -> list[str]:
    """What normal URLs are recognised by: without tracking parameters, http and https as one."""
    names: list[str] = pc.replace_substring_regex(url_keys(urls), _SCHEME, "").to_pylist()
    return names


def domains_of(host: str) -> list[str]:
    """A host and the domains that it belongs to: a.b.example, b.example, example."""
    labels = host.split(".")
    return [".".join(labels[first:]) for first in range(len(labels))]


def _entries(kind: Kind, path: Path) -> Iterator[list[str]]:
    """The entries of a list in normal form, block by block."""
    line = 1
    empty = True
    with path.open("rb") as file, TextStream(file) as stream:
        while block := stream.read_lines(_BLOCK_BYTES):
            lines = pa.array(block.decode().removesuffix("\n").split("\n"), pa.string())
            texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, _COMMENT, ""))
            filled = pc.not_equal(texts, "")
            texts = texts.filter(filled)
            values = _NORMAL[kind](texts)
            if values.null_count:
                at = pc.index(pc.is_null(values), True).as_py()
                number = line + int(np.flatnonzero(filled.to_numpy(zero_copy_only=False))[at])
                raise ValueError(f"{path}, line {number}: {_problem(kind, texts[at].as_py())}")
            empty &= not len(values)
            line += len(lines)
            yield url_names(values) if kind is Kind.URL else values.to_pylist()
        if stream.error:
            raise ValueError(f"{path}, line {line}: the file breaks off here: {stream.error}")
    if empty:
        log.warning("%s: the list is empty", path)


def _normal_urls(texts: Any) -> Any:
    normal, reasons = normal_urls(texts)
    known = pc.if_else(pc.is_null(reasons), normal, None)
    return pc.if_else(pc.starts_with(texts, "file://"), texts, known)


def _normal_domains(texts: Any) -> Any:
    simple = pc.match_substring_regex(texts, _NORMAL_DOMAIN)
    others = [_normal_domain(text) for text in texts.filter(pc.invert(simple)).to_pylist()]
    normal = pc.replace_with_mask(texts, pc.invert(simple), pa.array(others, pa.string()))
    return pc.if_else(pc.is_in(normal, value_set=_public_suffixes()), None, normal)


def _normal_domain(text: str) -> str | None:
    """A domain or an address as it stands in normal URLs; None for what is more, or none."""
    try:
        host = normal_host(text)
    except (UrlError, ValueError):
        return None
    is_alone = not re.search(r"[\s/?#@*\\]", text) and (host.startswith("[") or ":" not in text)
    return host if is_alone else None


def _normal_sha256(texts: Any) -> Any:
    lower = pc.ascii_lower(texts)
    return pc.if_else(pc.match_substring_regex(lower, _SHA256), lower, None)


def _normal_image_hashes(texts: Any) -> Any:
    return pa.array([_normal_image_hash(text) for text in texts.to_pylist()], pa.string())


def _normal_image_hash(text: str) -> str | None:
    if not re.fullmatch("0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", text, re.ASCII):
        return None
    number = int(text, 16 if text.startswith("0x") else 10)
    return str(number) if 0 < number < 1 << 64 else None


def _normal_pair_ids(texts: Any) -> Any:
    lower = pc.ascii_lower(texts)
    return pc.if_else(pc.match_substring_regex(lower, "^[0-9a-f]{32}$"), lower, None)


#: Entries of a list in normal form; null for what is none.
_NORMAL = {
    Kind.PAIR_ID: _normal_pair_ids,
    Kind.URL: _normal_urls,
    Kind.DOMAIN: _normal_domains,
    Kind.SHA256: _normal_sha256,
    Kind.IMAGE_HASH: _normal_image_hashes,
}

_EXPECTED = {
    Kind.PAIR_ID: "the 32 hexadecimal digits of a pair_id",
    Kind.URL: "an http or https URL, such as https://birds.example/heron.jpg",
    Kind.DOMAIN: "a domain alone, such as birds.example",
    Kind.SHA256: "the 64 hexadecimal digits of a sha256",
    Kind.IMAGE_HASH: "a number above 0 of 64 bits, as image_hash has it, or 0x and its digits",
}


def normal_entry(kind: Kind, text: str) -> str:
    """An entry as ``entry_key`` takes it. Raises ValueError, which says what it must be."""
    values = _NORMAL[kind](pa.array([text.strip()], pa.string()))
    if values.null_count:
        raise ValueError(_problem(kind, text))
    return url_names(values)[0] if kind is Kind.URL else str(values[0].as_py())


def _problem(kind: Kind, text: str) -> str:
    text = shown(text if len(text) <= 200 else f"{text[:200]}...")
    if kind is Kind.DOMAIN and _normal_domain(text) in _suffix_names():
        return f"{text!r} is everybody's: under it anyone registers domains; name them"
    return f"{text!r} is not {_EXPECTED[kind]}"


@cache
def _suffix_names() -> frozenset[str]:
    """The Public Suffix List that tldextract brings along: what no one alone has registered."""
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None).tlds
    return frozenset({*suffixes, *(suffix.encode("idna").decode() for suffix in suffixes)})


@cache
def _public_suffixes() -> Any:
    return pa.array(sorted(_suffix_names()), pa.string())
