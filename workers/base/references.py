"""Character references of HTML ("&amp;", "&#233;") in any text."""

from __future__ import annotations

import html
import re

#: More digits than Python converts to a number; no character has so many.
_HUGE_NUMBER = re.compile(r"&#[0-9]{1000,};?")


def unescape(text: str, huge: str = "\ufffd") -> str:
    """The text with its references replaced; by ``huge`` those whose number is of no character."""
    try:
        return html.unescape(text)
    except ValueError:
        return html.unescape(_HUGE_NUMBER.sub(huge, text))
