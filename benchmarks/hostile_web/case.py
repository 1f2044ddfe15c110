"""A case: what a server of the hostile web does with a picture, and what must come of its rows."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hostile_web.looks import Looks
from workers.base.settings import ImageFormat

if TYPE_CHECKING:
    from benchmarks.hostile_web.server import Exchange, Seen

#: Of the fetcher, in all cases: seconds without a word, seconds for one try, bytes of a picture,
#: further tries, downloads at a time.
TIMEOUT, MAX_SECONDS, MAX_BYTES, RETRIES, CONNECTIONS = 2.0, 5.0, 4 * 2**20, 1, 16
#: Formats of its pictures: those of the web, and TIFF, which has floats.
FORMATS: tuple[ImageFormat, ...] = ("AVIF", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
#: Seconds that nothing may take longer than its bound.
PATIENCE = 1.0
#: Who asks: robots.txt and X-Robots-Tag call it `hostile-web`.
AGENT = "hostile-web (+https://hostile-web.example/bot)"
#: Exchanges that a host may have at a time.
AT_ONCE = 2

#: What the tally calls a row that has become a picture.
KEPT = "kept"

#: What a server does with a connection or a request. Raises ConnectionError where the other side
#: has gone, which ends it.
Doing = Callable[["Exchange"], Awaitable[None]]
#: What is wrong with a case, of all that was seen at the servers; "" if nothing.
Check = Callable[["Case", "Seen"], str]


@dataclass(frozen=True)
class Case:
    """One misbehaviour, at a host of its own.

    Its URLs are `/SLUG/0.png`, `/SLUG/1.png` and so on; whatever else lies under `/SLUG/` is the
    case's as well, and is counted.
    """

    name: str
    expected: Sequence[str] | str  # reasons of which each row must have one
    does: Doing  # with a request for the picture
    requests: tuple[int, int] = (1, 1)  # least and most for its pictures, at all its hosts
    looks: Looks | None = None  # how a kept picture must look
    within: float = TIMEOUT  # seconds that one exchange may take
    robots: Doing | None = None  # what it does with one for robots.txt; None: 404
    tdm: Doing | None = None  # the same of /.well-known/tdmrep.json
    at_accept: Doing | None = None  # before anything is read of a connection
    host: str = ""  # cases of the same word share a host; "": one of its own
    url: str = ""  # in the place of its own URL, with the names that `Web.filled` knows
    urls: int = 1
    captions: int = 1  # rows of each URL
    is_listed: bool = False  # its URL stands on a list of opt-outs
    is_tls: bool = False  # its host speaks TLS, with a certificate that nobody trusts
    check: Check | None = None  # what else may be wrong

    @property
    def slug(self) -> str:
        """Its name in URLs."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def reasons(self) -> Sequence[str]:
        return (self.expected,) if isinstance(self.expected, str) else self.expected
