"""One command at a time on a run: flock on its folder, or the lease of its bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.run.config import ConfigError
from pipelines.run.receipts import Side
from pipelines.run.staged import finish_staged
from workers.base.copies import Copy, copy_of, open_copy
from workers.base.credentials import shown
from workers.base.exit_codes import PASSING
from workers.base.lease import NAME as LEASE
from workers.base.lease import HeldError
from workers.base.processes import lock

#: Where pipelines.embed has the lock, the logs and what the embeddings were made with.
EMBED_HOME = "_run"


class LockedError(RuntimeError):
    """Another process is working on the run."""


def is_record(name: str) -> bool:
    """Whether an object of a bucket is what a command wants to have of a run from its start on."""
    folders = name.split("/")[:-1]  # an evaluation has such folders within its own
    return is_changing_record(name) or any(
        side in folders for side in (Side.RECEIPTS, Side.OUTPUTS, Side.ERRORS)
    )


def is_changing_record(name: str) -> bool:
    """Whether it is one that the command itself writes: not a shard, nor of one."""
    first, _, rest = name.partition("/")
    return first in ("logs", "_opt_outs", EMBED_HOME) if rest else name != LEASE


@contextmanager
def lock_folder(folder: Path, otherwise: str) -> Iterator[None]:
    """``hold_folder`` for a run: of one in a bucket, what was written of its records is sent at
    the end."""
    with hold_folder(folder, otherwise):
        copy = copy_of(folder)
        if copy is None:
            yield
            return
        copy.look(is_record)
        if finish_staged(copy):
            copy.look(is_record)
        try:
            yield
        finally:
            if copy.lease and copy.lease.is_held():
                copy.send_changed(is_changing_record)


@contextmanager
def hold_folder(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go of it whatever ends the process.

    Raises:
        LockedError: another process holds it; the message says what to do ``otherwise``.
        ConfigError: its file system has no locks, it cannot be made, or its bucket not be reached.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise ConfigError(
            f"{folder} cannot be written to: {error.strerror}; {otherwise}"
        ) from error
    with ExitStack() as stack:
        if copy := copy_of(folder):
            _take_lease(copy, stack, otherwise)
            yield
            return
        try:
            # The folder: nobody deletes that under its owner.
            stack.callback(os.close, lock(folder))
        except BlockingIOError as error:
            raise LockedError(
                f"{folder} is being worked on by another process; wait for it or {otherwise}"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{folder}: its file system has no locks ({error.strerror}), and two processes at "
                f"work there would not know of each other; {otherwise}"
            ) from error
        yield


def _take_lease(copy: Copy, stack: ExitStack, otherwise: str) -> None:
    try:
        stack.enter_context(copy.owned())
    except HeldError as error:
        raise LockedError(f"{error}; wait for it or {otherwise}") from error
    except OSError as error:
        raise ConfigError(
            f"{copy.bucket.url} cannot be reached or written to: {error.strerror}; {otherwise}"
        ) from error


def open_folder(
    option: str, place: Path | str, is_wanted: Callable[[str], bool] = is_record
) -> Path:
    """The folder of a place to work in, or that of the copy of a bucket's URL, with what is wanted.

    Raises ConfigError, with the option that has named it, for a bucket that cannot be reached.
    """
    if isinstance(place, Path):
        return place.absolute()
    try:
        copy = open_copy(place)
        copy.bucket.check()
        copy.look(is_wanted)
    except ValueError as error:
        raise ConfigError(f"{option} {error}") from error
    except OSError as error:
        raise ConfigError(f"{option} {shown(place)} cannot be reached: {error.strerror}") from error
    return copy.root
