"""Which failures may pass: what is asked for again later may then be there; and which may not."""

from __future__ import annotations

import re
from collections.abc import Mapping


class NeedsMendingError(Exception):
    """What no further attempt changes: an input or a setting is at fault. Says what to do."""


class FetchError(Exception):
    """A page or image that could not be had.

    Args:
        reason: for the tally.
        pause: seconds after which it may be asked for again, if that is known.
    """

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.pause = reason, pause


#: The reasons of ``images`` and ``pages`` for which nothing, or no whole answer, came. A status of
#: 408, 429 or 5xx says itself that it may be otherwise later. All other reasons are final.
_PASSING = re.compile(
    r"connection|timeout|unknown_host|dns|cut_off|truncated|robots_unreachable|host_away|host_slow"
    r"|http_(?:408|429|5\d\d)"
)


def reason_of(error: Exception, reasons: Mapping[type[Exception], str]) -> str:
    """What an error is called in a tally: by the first class that it is of."""
    return next(reason for kind, reason in reasons.items() if isinstance(error, kind))


def is_passing(reason: str) -> bool:
    """Whether a row that failed for this reason may not fail at another time."""
    return _PASSING.fullmatch(reason) is not None
