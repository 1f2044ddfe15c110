"""What candidate pairs are read from: what a named file or folder is, found out before the work.

The kind of a file is told by its name, or else by its first bytes; see ``docs/inputs.md``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from pathlib import PurePosixPath

from workers.base.compressed import GZIP, beginning, format_of
from workers.base.credentials import shown
from workers.base.file_systems import base_name, list_files, open_file
from workers.base.settings import printable
from workers.extract.list_columns import (
    ListColumns,
    NamedColumns,
    find_columns,
    fits,
    named_columns,
)
from workers.fetch.local_images import Folder

_log = logging.getLogger(__name__)

#: HTML files that are read as one piece of work.
FILES_PER_INPUT = 500

_COMPRESSED = (".gz", ".zst")
_HEAD_BYTES = 1024

#: How the first record of a WAT file gives the file's own name, in lower case.
_WAT_NAME = re.compile(rb"\nwarc-filename:[^\r\n]*\.wat(?:\.(?:gz|zst))?[ \t]*\r?\n")


class InputKind(StrEnum):
    WARC = "warc"
    WAT = "wat"
    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    HTML = "html"


LISTS = frozenset({InputKind.PARQUET, InputKind.CSV, InputKind.TSV, InputKind.JSONL})

#: The kinds by the end of a file's name, the compression's own suffix taken off.
SUFFIXES = {
    ".wat": InputKind.WAT,
    ".warc": InputKind.WARC,
    ".parquet": InputKind.PARQUET,
    ".csv": InputKind.CSV,
    ".tsv": InputKind.TSV,
    ".jsonl": InputKind.JSONL,
    ".ndjson": InputKind.JSONL,
    ".json": InputKind.JSONL,
    ".html": InputKind.HTML,
    ".htm": InputKind.HTML,
    ".xhtml": InputKind.HTML,
}

_KNOWN = (
    "WARC (.warc), WAT (.wat), pair lists (.parquet, .csv, .tsv, .jsonl, .ndjson, .json) and "
    "HTML (.html, .htm, .xhtml); all but Parquet and HTML also with .gz or .zst"
)


@dataclass(frozen=True)
class Input:
    """One piece of work: a file, or some HTML files of a folder.

    ``columns`` is set for pair lists whose columns could be read; ``files`` (paths below
    ``url``) and ``root_url`` (what the folder is on the web, or "") for HTML. ``folder`` is set
    for lists and HTML in a folder whose images may be read, ``row_groups`` for a part of a Parquet
    file, ``span`` for one of a file of JSON lines.
    """

    url: str  # an absolute path or an fsspec URL
    kind: InputKind
    columns: ListColumns | None = None
    files: tuple[str, ...] = ()
    root_url: str = ""
    folder: Folder | None = None  # where its local images may be
    row_groups: tuple[int, int] | None = None  # from one until before another; None: all
    span: tuple[int, int] | None = None  # bytes in which its lines begin; None: all

    @cached_property
    def name(self) -> str:
        """The name under which the provenance of a pair gives the file."""
        return printable(base_name(self.url))

    def paths(self) -> list[str]:
        """The files that the work depends on."""
        return [f"{self.url}/{name}" for name in self.files] or [self.url]


def find_inputs(
    patterns: Iterable[str], columns: NamedColumns = None, root_url: str = ""
) -> list[Input]:
    """The inputs that paths, globs, folders and URLs name, sorted, each file once.

    ``columns`` names the URL and the caption column of every pair list, or of those that a name
    or glob fits; of others they are recognised. ``root_url`` is what a folder of HTML is on the
    web. What is passed over in a folder is logged.

    Raises:
        FileNotFoundError: a pattern names no file.
        ValueError: a file is of no known kind, or a list has no known columns; says what to do.
    """
    found: dict[str, Input] = {}
    pages: dict[str, set[str]] = {}
    for pattern in patterns:
        folder, files = list_files(pattern)
        kinds = {file: kind_of_name(file) if folder else kind_of(file) for file in files}
        if not any(kinds.values()):
            raise ValueError(f"{pattern}: no file in this folder is of a known kind: {_KNOWN}")
        _tell(pattern, [file for file, kind in kinds.items() if kind is None])
        for file, kind in kinds.items():
            if kind is InputKind.HTML:
                pages.setdefault(folder or file.rpartition("/")[0], set()).add(file)
            elif kind is not None and file not in found:
                found[file] = _input(file, kind, columns)
    _check_names([file for file, source in found.items() if source.kind in LISTS], columns)
    groups = [html for folder, files in pages.items() for html in _html(folder, files, root_url)]
    return sorted([*found.values(), *groups], key=lambda source: (source.url, source.files))


def _tell(folder: str, passed_over: list[str]) -> None:
    """Say what in a folder is not read."""
    if not passed_over:
        return
    suffixes = Counter(
        PurePosixPath(base_name(file)).suffix or "without one" for file in passed_over
    )
    what = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    files = "file of another kind is" if len(passed_over) == 1 else "files of other kinds are"
    _say_once(f"{shown(folder)}: {len(passed_over)} {files} passed over ({what})")


@cache
def _say_once(line: str) -> None:
    """Inputs are looked for more than once in a run."""
    _log.info(line)


def _check_names(lists: list[str], columns: NamedColumns) -> None:
    """Raise ValueError for a name or glob of ``columns`` that fits no list: it is misspelt."""
    for pattern in columns if isinstance(columns, Mapping) else ():
        if not any(fits(file, pattern) for file in lists):
            raise ValueError(f"list_columns names {pattern!r}, and no pair list is called that")


def _input(file: str, kind: InputKind, columns: NamedColumns) -> Input:
    return Input(
        file,
        kind,
        find_columns(file, kind, named_columns(file, columns)) if kind in LISTS else None,
    )


def _html(folder: str, files: Iterable[str], root_url: str) -> Iterator[Input]:
    inside = sorted(file.removeprefix(folder).lstrip("/") for file in files)
    for first in range(0, len(inside), FILES_PER_INPUT):
        some = tuple(inside[first : first + FILES_PER_INPUT])
        yield Input(folder, InputKind.HTML, files=some, root_url=root_url)


def kind_of(file: str) -> InputKind:
    """The kind of a file by its name, or else by its first bytes. Raises ValueError."""
    kind = kind_of_name(file) or _kind_of_bytes(_head(file))
    if kind is None:
        raise ValueError(f"{file}: neither its name nor its first bytes say what it is. {_KNOWN}")
    return kind


def kind_of_name(file: str) -> InputKind | None:
    """The kind that the end of a file's name stands for, if any.

    Raises ValueError for what is known to hold no pairs or cannot be read.
    """
    name = PurePosixPath(base_name(file).lower())
    compression = name.suffix if name.suffix in (*_COMPRESSED, ".bz2", ".xz", ".lz4") else ""
    suffix = (name.with_suffix("") if compression else name).suffix
    if suffix == ".wet":
        raise ValueError(
            f"{file}: WET files hold the text of pages without their images; name the WARC or "
            "WAT file of the same crawl"
        )
    kind = SUFFIXES.get(suffix)
    plain_only = kind in (InputKind.PARQUET, InputKind.HTML)
    if kind and compression and (plain_only or compression not in _COMPRESSED):
        raise ValueError(f"{file}: a {kind} file cannot be read from {compression}. {_KNOWN}")
    return kind


def _head(file: str) -> bytes:
    with open_file(file) as opened:
        head = opened.read(_HEAD_BYTES)
        if format_of(head) is not GZIP:
            return head
        opened.seek(0)
        return beginning(opened, GZIP, _HEAD_BYTES)


def _kind_of_bytes(head: bytes) -> InputKind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"warc/"):
        return InputKind.WAT if _WAT_NAME.search(text) else InputKind.WARC
    if text.startswith(b"par1"):
        return InputKind.PARQUET
    if text.startswith((b"<!doctype html", b"<html")):
        return InputKind.HTML
    return InputKind.JSONL if text.startswith(b'{"') else None
