"""How long is waited: as a server asks for it (Retry-After), or longer from attempt to attempt."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from workers.base.sampling import draw

#: Seconds that are waited for a host that wants to be left alone.
MAX_PAUSE = 60.0


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds by a header's value, which is seconds or a date (RFC 9110, section 10.2.3).

    0 for a time that has passed; None for a value that is neither.
    """
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def backoff(most: float, url: str, attempt: int) -> float:
    """Seconds after an attempt, from 0: uniform between nothing and ``most``, which doubles."""
    return most * 2**attempt * draw(0, url, attempt)
