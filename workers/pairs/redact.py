"""E-mail addresses and telephone numbers, blotted out of captions.

A telephone number is what Google's libphonenumber (the ``phonenumbers`` package) holds for a
valid one, so that years, dates, sizes, ISBNs and prices stay. It takes 0.2 ms a text, so a
caption is only given to it where a regular expression sees groups of digits like those of a
number. A run of digits without a mark between them stays as well: on the web that is nearly
always the number of a picture or an article.
"""

from __future__ import annotations

import re

import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from workers.pairs.settings import RedactSettings

EMAIL, PHONE = "[email]", "[phone]"

#: Bounded, as mail's standard bounds it: a search must stay linear in a long text.
_ADDRESS = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")

# A plus and seven digits; three groups of digits as numbers have and most dates do not; pairs of
# digits, as the French write them. RE2 and Python read it alike.
_MARK = r"[ ().\-/]{1,3}"
_GROUPS = (
    r"\+\(?\d(?:[ ().\-/]{0,3}\d){6,}"
    rf"|\d{{1,5}}{_MARK}\d{{3,5}}{_MARK}\d{{2,5}}(?:{_MARK}\d{{1,5}})*"
    rf"|\d{{1,4}}{_MARK}\d{{2,4}}{_MARK}\d{{3,5}}(?:{_MARK}\d{{1,5}})*"
    rf"|\d{{2,4}}(?:{_MARK}\d{{2}}){{4,}}"
)
_NUMBER = re.compile(_GROUPS)

#: Digits of a telephone number without its +prefix, at least.
_MIN_DIGITS = 9


class Redactor:
    """Blots out what its settings name. Redacting twice is redacting once."""

    def __init__(self, settings: RedactSettings) -> None:
        self._emails = settings.emails
        # Numbers with a + are found in every region; one is needed to look for those at all.
        self._regions = settings.phone_regions or ("ZZ",) if settings.phones else ()
        self._suspects = "|".join(["@"] * self._emails + [_GROUPS] * bool(self._regions))

    def suspects(self, captions: pa.StringArray) -> pa.BooleanArray:
        """Which captions may hold something to redact; the others surely hold nothing."""
        if not self._suspects:
            return pa.repeat(pa.scalar(False), len(captions))
        return pc.match_substring_regex(captions, self._suspects)

    def redact(self, caption: str) -> str:
        """The caption with what was found replaced by ``[email]`` and ``[phone]``."""
        if self._emails:
            caption = _ADDRESS.sub(EMAIL, caption)
        if any(map(_is_long, _NUMBER.findall(caption))):
            for region in self._regions:
                caption = _without_phones(caption, region)
        return caption


def _is_long(number: str) -> bool:
    return number[0] == "+" or sum(map(str.isdigit, number)) >= _MIN_DIGITS


def _without_phones(caption: str, region: str) -> str:
    parts, end = [], 0
    for match in phonenumbers.PhoneNumberMatcher(caption, region):
        if not match.raw_string.isdigit():
            parts += [caption[end : match.start], PHONE]
            end = match.end
    return "".join([*parts, caption[end:]])
