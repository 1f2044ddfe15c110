"""What the commands say to a scheduler, and of which errors they say it."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from enum import IntEnum

from workers.base.credentials import shown


class ExitCode(IntEnum):
    """The exit codes of all commands. An interrupt is 128 + its signal's number."""

    COMPLETE = 0  # or nothing to do
    CONFIGURATION = 2  # or the machine cannot be used as it is
    PARTIAL = 3  # some shards failed, or some input is damaged
    QUALITY = 4  # a gate was not met
    FAULT = 70  # of the program itself
    LOCKED = 75  # another process works on the run
    INTERRUPTED = 130  # by SIGINT


#: What may be over when the command is run again: a full disk or quota, a store that is gone.
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM})


def explain(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and the line, free of credentials, for an error that nobody has foreseen."""
    code, text = _explain(error)
    return code, shown(text)


def _explain(error: BaseException) -> tuple[ExitCode, str]:
    for cause in causes(error):  # Beam raises another error of a work's
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return ExitCode.PARTIAL, f"{cause}; once that is mended, the same command goes on"
    if isinstance(error, OSError) and error.filename is not None:
        return ExitCode.CONFIGURATION, str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return ExitCode.FAULT, (
        f"a fault of the program, in {place.filename}, line {place.lineno}: "
        f"{type(error).__name__}: {error}"
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, those that it was raised for, and those that are in a group."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            for inner in cause.exceptions:
                yield from causes(inner)
        cause = cause.__cause__ or cause.__context__
