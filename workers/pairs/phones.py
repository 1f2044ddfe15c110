"""Telephone numbers in a text, as Google's libphonenumber (package ``phonenumbers``) finds them.

It takes 0.3 ms a text, and more the more digits there are. So it is given only the runs of digits
and marks in which a number of a region can be, with what it looks at around them. That a number
can be there is asked of its own tables: it tries nothing but whole groups of digits beside each
other, and their digits must be those of a valid number behind the prefixes that a country knows.
The numbers are those that it finds in the whole text, where that has no more than 21 groups of
digits in a row.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from workers.pairs.seen_text import DASHES

# A plus and seven digits; three groups of digits as numbers have and most dates do not; pairs of
# digits, as the French write them. RE2 and Python read it alike.
_MARK_CHARS = rf" ().\-/{DASHES}"
_MARK = rf"[{_MARK_CHARS}]{{1,3}}"
LIKE_A_NUMBER = (
    rf"\+\(?[0-9](?:[{_MARK_CHARS}]{{0,3}}[0-9]){{6,}}"
    rf"|[0-9]{{1,5}}{_MARK}[0-9]{{3,5}}{_MARK}[0-9]{{2,5}}(?:{_MARK}[0-9]{{1,5}})*"
    rf"|[0-9]{{1,4}}{_MARK}[0-9]{{2,4}}{_MARK}[0-9]{{3,5}}(?:{_MARK}[0-9]{{1,5}})*"
    rf"|[0-9]{{2,4}}(?:{_MARK}[0-9]{{2}}){{4,}}"
)
_LIKE_A_NUMBER = re.compile(LIKE_A_NUMBER)

#: Digits of a telephone number without its +prefix, at least.
_MIN_DIGITS = 9

# libphonenumber's own: no number goes beyond a run, but for an extension behind it, and it gives up
# a run that holds none after 21 groups of digits.
_INSIDE = rf" ()\[\]./~x\-{DASHES}"
_RUN = re.compile(rf"(?:[+(\[][{_INSIDE}]{{0,4}}){{0,2}}[0-9]+(?:[{_INSIDE}]{{1,4}}[0-9]+){{0,20}}")

#: What may belong to a number that begins in a run: an extension ("ext. 123"), more groups.
_BEHIND = re.compile(".{0,48}[0-9]*", re.DOTALL)

#: Digits of the longest number with all its prefixes, and more.
_MAX_DIGITS = 32


def phone_spans(text: str, region: str) -> Iterator[tuple[int, int]]:
    """Where telephone numbers stand, those of ``region`` also without their +prefix.

    A run of digits without a mark between them is none: on the web that is nearly always the
    number of an image or an article. ``text`` is as ``seen`` gives it.
    """
    end = 0
    while run := _RUN.search(text, end):
        end = run.end()
        if not _may_hold_number(run[0], region):
            continue
        first = max(run.start() - 1, 0)
        behind = _BEHIND.match(text, end)
        window = text[first : behind.end() if behind else end]
        for match in phonenumbers.PhoneNumberMatcher(window, region, max_tries=sys.maxsize):
            if first + match.start >= run.end():
                break
            end = max(end, first + match.end)
            if not match.raw_string.isdigit():
                yield first + match.start, first + match.end


def _may_hold_number(run: str, region: str) -> bool:
    if not any(map(_is_long, _LIKE_A_NUMBER.findall(run))):
        return False
    return "+" in run or _has_digits_of(region, re.findall("[0-9]+", run))


def _is_long(number: str) -> bool:
    return number[0] == "+" or sum(map(str.isdigit, number)) >= _MIN_DIGITS


def _has_digits_of(region: str, groups: list[str]) -> bool:
    """Whether the digits of some groups beside each other can be a valid number."""
    is_number = _valid_digits(region).fullmatch
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > _MAX_DIGITS:
                break
            if is_number(digits):
                return True
    return False


@cache
def _valid_digits(region: str) -> re.Pattern[str]:
    """What the digits of every valid number without a plus match, as it is dialled in a region."""
    home = PhoneMetadata.metadata_for_region(region)
    if home is None or not home.country_code:  # the region of no country: all have a plus
        return re.compile(r"(?!)")
    if home.national_prefix_transform_rule:  # digits are written that the number does not have
        return re.compile(r"[0-9]{7,}")
    kinds = {
        kind.national_number_pattern
        for one in COUNTRY_CODE_TO_REGION_CODE[home.country_code]
        for kind in _kinds(PhoneMetadata.metadata_for_region(one))
    }
    numbers = "|".join(sorted(f"(?:{pattern})" for pattern in kinds))
    prefix = rf"(?:{home.national_prefix_for_parsing or ''})?"
    abroad = rf"(?:{home.international_prefix})[0-9]{{5,}}"
    return re.compile(rf"{abroad}|(?:{home.country_code})?{prefix}{prefix}(?:{numbers})")


def _kinds(country: PhoneMetadata | None) -> list[phonenumbers.PhoneNumberDesc]:
    """What libphonenumber knows of the numbers of each kind that a country has."""
    if country is None:
        return []
    kinds = (
        country.fixed_line, country.mobile, country.toll_free, country.premium_rate,
        country.shared_cost, country.personal_number, country.voip, country.pager, country.uan,
        country.voicemail,
    )  # fmt: skip
    return [kind for kind in kinds if kind is not None and kind.national_number_pattern]
