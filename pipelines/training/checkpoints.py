"""The checkpoints of a training: each there in full, or not at all.

A folder holds `step-000001200.pt` for each that is kept, and `checkpoints.json`, which names them
with their sha256 and is written after them and before any is removed. So whatever ends a process,
the list names whole files. The folder may be of a bucket (``workers.base.copies``): nothing is
renamed or listed there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from workers.base.copies import bring, copy_of, discard, publish
from workers.base.storage import file_hash, replacing, write_json

log = logging.getLogger(__name__)

LIST = "checkpoints.json"

#: What a training goes on from: tensors and plain data. `step` is how many steps it has done.
State = dict[str, Any]


class Entry(BaseModel):
    """A checkpoint that is kept."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    step: int
    sha256: str
    score: float | None  # on held-out pairs, more is better; None where it was not judged

    @property
    def file(self) -> str:
        return f"step-{self.step:09d}.pt"


class _List(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    entries: list[Entry]


class Checkpoints:
    """Those of one training; one process writes them, any may read."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Keeps the last ``keep``, and the best that was judged."""
        self.folder, self._keep = folder, keep

    def entries(self) -> list[Entry]:
        """What is kept, the oldest first; nothing where the list is damaged."""
        path = self.folder / LIST
        bring([path])
        try:
            return _List.model_validate_json(path.read_bytes()).entries
        except FileNotFoundError:
            return []
        except ValidationError as error:
            log.warning("%s cannot be read, so the training begins anew: %s", path, error)
            return []

    def save(self, state: State, score: float | None = None) -> None:
        """Keep a state; what is no longer among those to keep is removed after."""
        before = self.entries()
        path = self.folder / Entry(step=state["step"], sha256="", score=None).file
        with replacing(path) as temporary:
            torch.save(state, temporary)
        publish(path)
        entry = Entry(step=state["step"], sha256=file_hash(path), score=score)
        kept = self._kept([*(one for one in before if one.step < entry.step), entry])
        write_json(_List(entries=kept).model_dump(), self.folder / LIST)
        publish(self.folder / LIST)
        files = {one.file for one in kept}
        for old in {one.file for one in before} - files:
            discard(self.folder / old)
        if copy_of(self.folder):
            path.unlink(missing_ok=True)  # it is in the bucket; this machine's disk may be small

    def _kept(self, entries: Sequence[Entry]) -> list[Entry]:
        judged = [one for one in entries if one.score is not None]
        best = max(judged, key=lambda one: (one.score, one.step), default=None)
        return [one for one in entries if one in entries[-self._keep :] or one is best]

    def latest(self) -> State | None:
        """The newest state that is whole; None where there is none."""
        if copy_of(self.folder):  # another machine may have written it since
            (self.folder / LIST).unlink(missing_ok=True)
        for entry, path in self._newest_first():
            bring([path])
            try:
                whole = file_hash(path) == entry.sha256
            except FileNotFoundError:
                whole = False
            if whole:
                state: State = torch.load(path, map_location="cpu", weights_only=True)
                if copy_of(path):
                    path.unlink()
                return state
            log.warning("%s is damaged, so the training goes on from the one before it", path)
        return None

    def _newest_first(self) -> Iterator[tuple[Entry, Path]]:
        for entry in reversed(self.entries()):
            yield entry, self.folder / entry.file
