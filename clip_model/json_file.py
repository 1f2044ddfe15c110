"""Configurations in JSON files, as Hugging Face and open_clip keep them beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_FILE = 1 << 20  # bytes; an index of 5,000 tensors has half of it


def read_json(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        RuntimeError: it is not JSON, or not a table, or larger than any configuration.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise RuntimeError(f"{path} is larger than any configuration: {LARGEST_FILE:,} bytes")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuntimeError(f"{path}: {error}") from error


def parse_json(text: str) -> dict[str, Any]:
    """A table, written as JSON.

    Raises:
        ValueError: it is not JSON, or not a table.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("not a table")
    return fields


def read_section(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A table inside of the table; empty if there is none.

    Raises:
        RuntimeError: something else stands there.
    """
    section = {} if fields.get(name) is None else fields[name]
    if not isinstance(section, dict):
        raise RuntimeError(f"the configuration's {name!r} is not a table")
    return section


def write_json(fields: Mapping[str, Any], path: Path) -> None:
    """Write a table."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; then the file is renamed into place, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    yield temporary
    temporary.replace(path)
