"""What a run must not use: the lists that its configuration names, and what was taken down."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from pipelines.run.attempts import hash_once
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from workers.base.file_systems import find_files
from workers.base.opt_outs import OptOutFiles, OptOuts, OptOutSettings, read_tombstones

#: The folder of a run where they are, as hashes alone.
OPT_OUTS = "_opt_outs"
_TAKEN_DOWN = "taken_down.txt"


def check_opt_outs(run: Run) -> None:
    """Raise ConfigError for a list, or the tombstones of a run, that cannot be read."""
    opt_outs_of(run.config)
    try:
        read_tombstones(opt_out_files(run).taken_down)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def opt_outs_of(config: Config) -> OptOuts:
    """The lists that a configuration names. Raises ConfigError."""
    try:
        return _read(config.opt_outs, _version(config.opt_outs))
    except (OSError, ValueError) as error:
        raise ConfigError(f"opt_outs: {error}") from error


@cache
def _read(settings: OptOutSettings, _version: str) -> OptOuts:
    return OptOuts.read(settings)


def _version(settings: OptOutSettings) -> str:
    """What the lists hold, as a hash: read again when a file's size or time has changed."""
    content = {
        name: [hash_once(path) for path in find_files(patterns)] for name, patterns in settings
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def opt_out_files(run: Run) -> OptOutFiles:
    """Where a run keeps them, whether they are there or not."""
    folder = run.directory / OPT_OUTS
    return OptOutFiles(folder / "lists.npy", folder / _TAKEN_DOWN)


def shared_opt_outs(run: Run) -> OptOutFiles:
    """They, as files that the run's workers can read. The run must be locked."""
    files = opt_out_files(run)
    opt_outs_of(run.config).save(files.lists)
    run.send_records()
    return files


def identity_of(run: Run, *, lists: bool) -> dict[str, str]:
    """What stands for them in a shard's key: nothing where there are none.

    Args:
        lists: those of the configuration, too, and not what was taken down alone.
    """
    parts = {"taken_down": read_tombstones(opt_out_files(run).taken_down)}
    if lists:
        parts["opt_outs"] = opt_outs_of(run.config)
    return {name: some.digest() for name, some in parts.items() if some}
