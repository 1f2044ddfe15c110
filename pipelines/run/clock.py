"""What time it is: the one place that says when a shard was done, and that it is due again."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since 1970."""
    return round(time.time(), 3)
