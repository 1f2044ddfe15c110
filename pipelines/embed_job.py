"""The run of `pipelines.embed`: which files, with which settings, into which folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from glob import has_magic
from os.path import abspath
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from pipelines.run.attempts import hash_once
from pipelines.run.config import Config, ConfigError, RaySettings, digest
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.lock import EMBED_HOME
from pipelines.run.precision import check_precision, decided
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Receipt, Shard, first_problem
from pipelines.run.references import check_embeddings
from pipelines.run.totals import StageTotals
from pipelines.stages.embeddings import (
    BOTH_PARTS,
    Embed,
    Embeddings,
    content_of,
    embed_in_actors,
    recorded_precision,
)
from workers.base.bucket import is_bucket
from workers.base.copies import as_urls, copy_of, listed, open_copy
from workers.base.credentials import shown
from workers.base.file_systems import find_files
from workers.base.settings import local_path, printable
from workers.base.storage import write_json
from workers.embedding.settings import EmbedSettings, InputSettings
from workers.embedding.tar_reader import TAR_ENDINGS

log = logging.getLogger(__name__)

ENDINGS = (".parquet", *TAR_ENDINGS)
#: Hexadecimal digits of a hash of an input's path in its output's name.
PATH_DIGITS = 10
#: Raise it when outputs are named or placed in another way.
LAYOUT = 2
#: Outputs that the summary names.
NAMED = 10

_IDENTITY = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class EmbedRun(Run):
    """A folder of embeddings: a run of one stage, recorded by what they were made with."""

    source: InputSettings = BOTH_PARTS
    option: ClassVar[str] = "--out"

    @classmethod
    def of(cls, settings: EmbedSettings, source: InputSettings, place: Path | str) -> EmbedRun:
        """A folder's, or that of a bucket's URL."""
        config = Config(name="embed", queries="none", embeddings=settings)
        return replace(cls.open(config, place), source=source)

    @property
    def home(self) -> Path:
        return self.directory / EMBED_HOME

    @property
    def _identity_file(self) -> Path:
        return self.home / "settings.json"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on beside the shards."""
        content = content_of(self.config.embeddings)
        return {
            "version": Embeddings.version,
            "layout": LAYOUT,
            "settings": content.identity,
            "files": {
                name: [hash_once(path) for path in paths] for name, paths in content.files.items()
            },
            "input": self.source.model_dump(),
        }

    def save(self) -> None:
        write_json(self.identity, self._identity_file)
        self.send_records()

    def decision(self, key: str) -> str | None:  # noqa: ARG002 - there is one alone
        """The precision that is on record; None where that cannot be read."""
        try:
            recorded = _IDENTITY.validate_json(self._identity_file.read_bytes())
            decision: str = recorded["settings"]["precision"]
        except (OSError, ValidationError, LookupError, TypeError):
            return None
        return decision

    def refuse_other_content(self, shards: Sequence[Shard]) -> None:
        """Raise ConfigError where the folder holds files of another kind, model or settings.

        Nothing is ever removed: the shards may be given a part at a time.
        """
        if not self.directory.is_dir():
            return
        self.receipts(Embeddings.name).refuse_foreign_data()
        if not self._identity_file.exists():
            if any(path.name != EMBED_HOME for path in listed(self.directory)):
                raise ConfigError(
                    f"--out {self.directory}: it holds other files; choose an empty place"
                )
            return
        try:
            recorded = _IDENTITY.validate_json(self._identity_file.read_bytes())
        except (IsADirectoryError, ValidationError) as error:
            self._refuse_unknown_content(shards, first_problem(error))
            return
        if recorded != self.identity:
            raise ConfigError(
                f"--out {self.directory}: its embeddings were made by another model or release, or "
                f"with other settings ({self._identity_file}); choose another folder"
            )

    def _refuse_unknown_content(self, shards: Sequence[Shard], problem: str) -> None:
        """Where the record cannot be read, a receipt tells: its key covers the settings, too."""
        receipts = self.receipts(Embeddings.name)
        found = (receipts.get(shard.name) for shard in shards)
        keys = {receipt.key for receipt in found if receipt}
        if receipts.all() and keys.isdisjoint(shard.key for shard in shards):
            raise ConfigError(
                f"--out {self.directory}: {self._identity_file} cannot be read ({problem}), and "
                "none of its embeddings is known to be of this model, these settings and SHARDS; "
                "give the same command as before, or choose another folder"
            )
        log.warning("%s cannot be read (%s); it is made again", self._identity_file, problem)


class EmbedFiles(Embeddings):
    """A shard a file from outside; what was made of others stays.

    Args:
        ray: where the work is done; None for this process, without Ray.
    """

    reads = ()
    title = "embed"
    run: EmbedRun

    def __init__(self, run: EmbedRun, files: Sequence[Path], ray: RaySettings | None) -> None:
        super().__init__(run)
        self.files, self.ray = files, ray

    def check(self) -> None:
        """Decide the precision, too: a folder that cannot be gone on with is left as it is."""
        embeddings = self.run.config.embeddings
        content_of(embeddings)  # what is not there is said before a cluster is asked anything
        check_embeddings(embeddings)
        settings = decided(embeddings, recorded_precision(self.run), self.ray)
        config = self.run.config.model_copy(update={"embeddings": settings})
        self.run = replace(self.run, config=config)
        self.run.refuse_other_content(self.shards)
        if not all(map(self.receipts.is_done, self.shards)):
            check_precision(settings, self.ray)

    def prepare(self) -> None:
        self.run.refuse_other_content(self.shards)  # another process may have written it since
        self.run.save()

    @cached_property
    def shards(self) -> list[Shard]:
        return plan(self.files, digest(self.run.identity), self.receipts.all())

    def plan(self) -> list[Shard]:
        return self.shards

    def discard_others(self, shards: Sequence[Shard]) -> None:  # noqa: ARG002 - they stay
        self.receipts.clear_scratch()

    def done(self) -> list[Receipt]:
        return [receipt for shard in self.shards if (receipt := self.receipts.valid(shard))]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        work = Embed(self.run.config.embeddings, self.run.source)
        if self.ray is not None:
            yield from embed_in_actors(work, shards, self.folder, self.ray)
            return
        load(work)  # before the first shard, so that what is wrong with it is said once
        with Reporter(work.activity, self.folder, "here"):
            yield from in_process(work, shards, self.folder)

    def summary(self) -> str:
        """The tally of all that has a receipt."""
        totals = StageTotals.of(self.done())
        lines = [f"{totals.shards} of {len(self.shards)} shards are in {self.folder}"]
        for kind, counts in totals.rows.items():
            failed = ", ".join(f"{reason} {n:,}" for reason, n in counts["failed"].items())
            lines.append(
                f"{counts['in']:,} {kind} in, {counts['kept']:,} kept, "
                f"{sum(counts['failed'].values()):,} failed{': ' if failed else ''}{failed}"
            )
        names = [f"  {shard.name}.parquet of {shown(str(shard.made_of))}" for shard in self.shards]
        more = [f"  ... and {len(names) - NAMED:,} more; each receipt says what it was made of"]
        return "\n".join([*lines, *names[:NAMED], *more[: len(names) > NAMED]])


def load(work: Embed) -> None:
    """Load a work's model, labels and heads. Raises ConfigError."""
    from workers.embedding.labels import LabelError

    try:
        _ = work.embedder
    except (LabelError, RuntimeError) as error:
        raise ConfigError(str(error)) from error


def shard_files(patterns: Sequence[str]) -> list[Path]:
    """The files that paths, folders and globs name. Raises ConfigError for one that names none."""
    files: set[Path] = set()
    for pattern in patterns:
        files.update(_named(pattern))
    found = sorted(path for path in files if not path.name.startswith(("_", ".")))
    if not found:
        raise ConfigError(f"SHARDS: no {', '.join(ENDINGS)} in {', '.join(patterns)}")
    for path in found:
        if not path.name.endswith(ENDINGS):
            raise ConfigError(f"SHARDS: {path} is none of {', '.join(ENDINGS)}")
    return found


def _named(pattern: str) -> list[Path]:
    if is_bucket(pattern):
        return _objects(pattern)
    try:
        folder = local_path(pattern).absolute()
        if folder.is_dir():
            return [path for ending in ENDINGS for path in folder.glob(f"*{ending}")]
        return find_files([pattern])
    except FileNotFoundError as error:
        raise ConfigError(f"SHARDS: {error}") from error


def _objects(pattern: str) -> list[Path]:
    """The objects that a URL names: one, those of a folder, or those whose last part is so."""
    above, _, last = pattern.rstrip("/").rpartition("/")
    try:
        found = _those_of(above, last) if is_bucket(above) else []
        if not found and not has_magic(last):
            found = [p for ending in ENDINGS for p in _those_of(pattern, f"*{ending}")]
    except (ValueError, OSError) as error:
        raise ConfigError(f"SHARDS: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise ConfigError(f"SHARDS: there is no object {shown(pattern)}")
    return found


def _those_of(url: str, name: str) -> list[Path]:
    copy = open_copy(url)
    copy.bucket.check()
    copy.look(lambda _: False)
    return [copy.root / n for n in copy.found if "/" not in n and fnmatchcase(n, name)]


def plan(files: Sequence[Path], settings_digest: str, done: Sequence[Receipt] = ()) -> list[Shard]:
    """A shard for each file, of the file's name and a hash of its path.

    So its output has the same name whatever it is given together with, and however it is named
    (from another folder, by a glob). A file that has moved since is known by its stamp, and keeps
    its output's name.

    A file's name, size and time stand for its content, as in `make`: reading terabytes to hash
    them would take longer than many a GPU needs to embed them.

    Args:
        done: the receipts of what has been embedded before.
    """
    moved = {r.key: r.shard for r in done if r.made_of and _has_gone(r.made_of)}
    shards = {origin_of(path): _shard(path, settings_digest, moved) for path in files}
    names = Counter(shard.name for shard in shards.values())
    if twice := [path for path, shard in shards.items() if names[shard.name] > 1]:
        raise ConfigError(f"SHARDS: {' and '.join(twice)} cannot be told apart; embed them apart")
    return list(shards.values())


def _has_gone(origin: str) -> bool:
    return not is_bucket(origin) and not Path(origin).exists()


def origin_of(path: Path) -> str:
    """What a file is called whatever folder it is named from: an object, by its URL."""
    return as_urls(str(path)) if copy_of(path) else abspath(path)  # noqa: PTH100 - as it is named


def stamp_of(path: Path) -> tuple[int, int | str]:
    """What changes when a file's content does."""
    if copy := copy_of(path):
        stat = copy.found[copy.name_of(path)]
        return stat.size, stat.generation or stat.tag or stat.written.isoformat()
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _shard(path: Path, settings_digest: str, moved: Mapping[str, str]) -> Shard:
    origin = origin_of(path)
    key = digest([settings_digest, [path.name, *stamp_of(path)]])
    name = f"{_stem(path)}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:PATH_DIGITS]}"
    file = path if copy_of(path) else Path(origin)
    return Shard(moved.get(key, name), key, {"images": (file,)}, made_of=printable(origin))


def _stem(path: Path) -> str:
    return printable(path.name[: -len(next(e for e in ENDINGS if path.name.endswith(e)))])
