"""A job of `pipelines.embed`: which files, with which settings, into which folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os.path import abspath
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.run import log as logs
from pipelines.run.config import ConfigError, Gate, RaySettings, digest
from pipelines.run.directory import lock_folder
from pipelines.run.engines import in_process
from pipelines.run.gates import barren, is_met, shortfall
from pipelines.run.precision import check_precision, decided, precision_of
from pipelines.run.progress import Progress, Reporter
from pipelines.run.receipts import Ledger, Outcome, Receipt, Shard, Side, StageTotals, first_problem
from pipelines.run.references import check_embeddings
from pipelines.stages.embeddings import Embed, Embeddings, content_of, embed_in_actors
from workers.base.credentials import shown
from workers.base.exit_codes import ExitCode
from workers.base.file_systems import find_files
from workers.base.output import say
from workers.base.settings import local_path, printable
from workers.base.storage import file_hash, write_json
from workers.embedding.settings import EmbedSettings, InputSettings
from workers.embedding.shard_reader import TAR_ENDINGS

log = logging.getLogger(__name__)

#: Folder for the lock, the logs and what the embeddings were made with.
RECORD = "_run"
ENDINGS = (".parquet", *TAR_ENDINGS)
#: Hexadecimal digits of a hash of an input's path in its output's name.
PATH_DIGITS = 10
#: Raise it when outputs are named or placed in another way.
LAYOUT = 2
#: Outputs that the summary names.
NAMED = 10

_IDENTITY = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Job:
    """Shards to embed into a folder, with a receipt for each."""

    settings: EmbedSettings
    source: InputSettings
    folder: Path
    patterns: Sequence[str]

    def run(self, ray: RaySettings | None) -> ExitCode:
        """Do the shards without a valid receipt, in Ray actors, or in this process without Ray.

        Raises:
            ConfigError: a file is missing, the folder holds something else, or a machine would
                only emulate the precision.
            LockedError: another process works on the folder.
        """
        files = shard_files(self.patterns)
        content_of(self.settings)  # what is not there is said before a cluster is asked anything
        check_embeddings(self.settings)
        settings = decided(self.settings, self._recorded_precision(), ray)
        return replace(self, settings=settings)._run(files, ray)

    def _run(self, files: Sequence[Path], ray: RaySettings | None) -> ExitCode:
        shards = plan(files, digest(self.identity), Ledger(self.shards).receipts())
        self._refuse_other_content(shards)  # before anything is written there
        if not all(map(Ledger(self.shards).is_done, shards)):
            check_precision(self.settings, ray)
        with lock_folder(self.folder / RECORD, "choose another --out"):
            self._refuse_other_content(shards)  # another process may have written it since
            write_json(self.identity, self._identity_file)
            logs.configure(self.folder / RECORD)
            ledger = Ledger(self.shards)
            ledger.clear_scratch()
            todo = [shard for shard in shards if not ledger.is_done(shard)]
            if todo:
                log.info("%d of %d shards to do", len(todo), len(shards))
            else:
                log.info("nothing to do")
            failures = self._work(todo, len(shards), ray) if todo else 0
            receipts = self._receipts(shards)
            say(self._summary(shards, StageTotals.of(receipts)))
        if failures:
            return ExitCode.PARTIAL
        return ExitCode.COMPLETE if self._has_rows(receipts) else ExitCode.QUALITY

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on beside the shards."""
        content = content_of(self.settings)
        return {
            "version": Embeddings.version,
            "layout": LAYOUT,
            "settings": content.identity,
            "files": {
                name: [file_hash(path) for path in paths] for name, paths in content.files.items()
            },
            "input": self.source.model_dump(),
        }

    @property
    def shards(self) -> Path:
        """Where the embeddings are, and nothing else: any tool may be given the folder."""
        return self.folder / Embeddings.name

    @property
    def _identity_file(self) -> Path:
        return self.folder / RECORD / "settings.json"

    def _recorded_precision(self) -> object:
        """That of the record; if it cannot be read, that of the embeddings."""
        try:
            recorded = _IDENTITY.validate_json(self._identity_file.read_bytes())
            return recorded["settings"]["precision"]
        except (OSError, ValidationError, LookupError, TypeError):
            return precision_of(Ledger(self.shards).outputs())

    def _refuse_other_content(self, shards: Sequence[Shard]) -> None:
        """Raise ConfigError where the folder holds files of another kind, model or settings.

        Nothing is ever removed: the shards may be given a part at a time.
        """
        if not self.folder.is_dir():
            return
        Ledger(self.shards).refuse_foreign_data()
        if not self._identity_file.exists():
            if any(path.name != RECORD for path in self.folder.iterdir()):
                raise ConfigError(
                    f"--out {self.folder}: it holds other files; choose an empty folder"
                )
            return
        try:
            recorded = _IDENTITY.validate_json(self._identity_file.read_bytes())
        except (IsADirectoryError, ValidationError) as error:
            self._refuse_unknown_content(shards, first_problem(error))
            return
        if recorded != self.identity:
            raise ConfigError(
                f"--out {self.folder}: its embeddings were made by another model or release, or "
                f"with other settings ({self._identity_file}); choose another folder"
            )

    def _refuse_unknown_content(self, shards: Sequence[Shard], problem: str) -> None:
        """Where the record cannot be read, a receipt tells: its key covers the settings, too."""
        ledger = Ledger(self.shards)
        found = (ledger.receipt(shard.name) for shard in shards)
        keys = {receipt.key for receipt in found if receipt}
        if ledger.receipts() and keys.isdisjoint(shard.key for shard in shards):
            raise ConfigError(
                f"--out {self.folder}: {self._identity_file} cannot be read ({problem}), and none "
                "of its embeddings is known to be of this model, these settings and SHARDS; give "
                "the same command as before, or choose another folder"
            )
        log.warning("%s cannot be read (%s); it is made again", self._identity_file, problem)

    def _work(self, todo: list[Shard], total: int, ray: RaySettings | None) -> int:
        """The number of shards that failed."""
        failures = 0
        with Progress("embed", total, total - len(todo), self.shards) as progress:
            for outcome in self._outcomes(todo, ray):
                progress.advance(outcome)
                if outcome.error:
                    failures += 1
                    fields = {"shard": outcome.shard, "error": outcome.error}
                    log.error("%s", outcome.failure(), extra={"fields": fields})
            log.info(progress.line())
        return failures

    def _outcomes(self, todo: list[Shard], ray: RaySettings | None) -> Iterator[Outcome]:
        work = Embed(self.settings, self.source)
        if ray is not None:
            yield from embed_in_actors(work, todo, self.shards, ray)
            return
        load(work)  # before the first shard, so that what is wrong with it is said once
        with Reporter(work.activity, self.shards, "here"):
            yield from in_process(work, todo, self.shards)

    def _receipts(self, shards: Sequence[Shard]) -> list[Receipt]:
        receipts = [Ledger(self.shards).receipt(shard.name) for shard in shards]
        return [receipt for receipt in receipts if receipt]

    def _has_rows(self, receipts: Sequence[Receipt]) -> bool:
        """Whether anything was embedded, of every shard that has rows; says why not."""
        totals, samples = StageTotals.of(receipts), Side.REJECTED.of(self.shards)
        if not is_met(Gate(), totals):
            log.error("%s", shortfall("embed", Gate(), totals, samples))
            return False
        if line := barren("embed", receipts, samples):
            log.error("%s", line)
        return not line

    def _summary(self, shards: Sequence[Shard], totals: StageTotals) -> str:
        """The account of all that has a receipt."""
        lines = [f"{totals.shards} of {len(shards)} shards are in {self.shards}"]
        for kind, counts in totals.rows.items():
            failed = ", ".join(f"{reason} {n:,}" for reason, n in counts["failed"].items())
            lines.append(
                f"{counts['in']:,} {kind} in, {counts['kept']:,} kept, "
                f"{sum(counts['failed'].values()):,} failed{': ' if failed else ''}{failed}"
            )
        names = [f"  {shard.name}.parquet of {shown(str(shard.made_of))}" for shard in shards]
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
    try:
        folder = local_path(pattern).absolute()
        if folder.is_dir():
            return [path for ending in ENDINGS for path in folder.glob(f"*{ending}")]
        return find_files([pattern])
    except FileNotFoundError as error:
        raise ConfigError(f"SHARDS: {error}") from error


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
    moved = {r.key: r.shard for r in done if r.made_of and not Path(r.made_of).exists()}
    shards = {path: _shard(Path(path), settings_digest, moved) for path in map(abspath, files)}
    names = Counter(shard.name for shard in shards.values())
    if twice := [path for path, shard in shards.items() if names[shard.name] > 1]:
        raise ConfigError(f"SHARDS: {' and '.join(twice)} cannot be told apart; embed them apart")
    return list(shards.values())


def _shard(path: Path, settings_digest: str, moved: Mapping[str, str]) -> Shard:
    status = path.stat()
    key = digest([settings_digest, [path.name, status.st_size, status.st_mtime_ns]])
    name = f"{_stem(path)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:PATH_DIGITS]}"
    return Shard(moved.get(key, name), key, {"images": (path,)}, made_of=printable(path))


def _stem(path: Path) -> str:
    return printable(path.name[: -len(next(e for e in ENDINGS if path.name.endswith(e)))])
