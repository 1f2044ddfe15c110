"""What is left of a host under a run's directory, whatever it is packed in."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: Bytes of an image's middle, by which it is known in a file that is no Parquet.
_PIECE = 200


@dataclass(frozen=True)
class Remains:
    """What to look for: a host's name, and the images that no other host has."""

    host: str
    images: frozenset[bytes]

    @classmethod
    def of(cls, run_dir: Path, host: str) -> Remains:
        """The images of a host, before they are taken down."""
        own: set[bytes] = set()
        others: set[bytes] = set()
        for path in (run_dir / "images").glob("*.parquet"):
            table = pq.read_table(path, columns=["url", "jpg"])
            for url, jpg in zip(*table.to_pydict().values(), strict=True):
                (own if url.startswith(f"http://{host}:") else others).add(jpg)
        return cls(host, frozenset(own - others))

    def find(self, run_dir: Path) -> list[str]:
        """The files that hold any of it. The configuration in the record is the user's own."""
        return [
            str(path.relative_to(run_dir))
            for path in sorted(run_dir.rglob("*"))
            if path.is_file() and path.name != "run.json" and self._is_in(path)
        ]

    def _is_in(self, path: Path) -> bool:
        if path.suffix == ".parquet" and any(map(self._is_in_column, _columns(path))):
            return True
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        pieces = (jpg[len(jpg) // 2 :][:_PIECE] for jpg in self.images)
        return self.host.encode() in content or any(piece in content for piece in pieces)

    def _is_in_column(self, column: pa.ChunkedArray) -> bool:
        if pa.types.is_binary(column.type):
            return not self.images.isdisjoint(column.to_pylist())
        return bool(pc.any(pc.match_substring(column, self.host)).as_py())


def _columns(path: Path) -> Iterator[pa.ChunkedArray]:
    """The columns of a Parquet file that can hold a URL or an image."""
    for name in pq.read_schema(path).names:
        kind = pq.read_schema(path).field(name).type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            yield pq.read_table(path, columns=[name])[name]
