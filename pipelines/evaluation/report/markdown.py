"""Text and tables of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

#: Stands where there is nothing to show.
NOTHING = "–"


def clean(text: object) -> str:
    """One line of what can be printed, for XML and Markdown; the rest becomes ``\\ufffd``."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def escape(text: object) -> str:
    """A name or a sentence inside Markdown, which then means nothing but itself."""
    escaped = re.sub(r"[\\`*\[\]<>|~&$]", r"\\\g<0>", clean(text))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)  # not inside of a word


def table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """A table of Markdown: its first ``texts`` columns are text, the others numbers."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * texts}{'--:|' * (len(header) - texts)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def amount(numbers: Sequence[int], one: str) -> str:
    """Such as ``57 to 10,000 pictures``, or ``1 picture`` where all are the same."""
    low, high = min(numbers), max(numbers)
    return counted(low, one) if low == high else f"{low:,} to {counted(high, one)}"


def counted(number: int, one: str) -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"
