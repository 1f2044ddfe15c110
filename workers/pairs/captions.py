"""Captions: cleaned, redacted, kept or rejected by named rules, a column at a time.

A rule answers for a column of clean captions which of them it rejects; its name in
``caption_rules`` is the reason. A caption is rejected by the first rule that speaks, and later
rules do not see it. A new rule is a function, a line in ``caption_rules`` and a setting.

All of it works on Arrow columns and goes through Python only for the captions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.tally import SHOWN_CHARS
from workers.pairs.clean_text import clean_column, replaced
from workers.pairs.language import LanguageRule
from workers.pairs.redact import EMAIL, PHONE, Redactor
from workers.pairs.settings import CaptionSettings, LongCaptions, ShortCaptions

#: Which of some clean captions are rejected.
Rule = Callable[[pa.StringArray], pa.BooleanArray]

_IMAGE_EXTENSIONS = "jpe?g|jfif|png|gif|webp|svg|bmp|tiff?|avif|heic|ico"
_FILE_NAME = (
    r"(?i)^(?:"
    rf".*[\pL\pN_)\]]\.(?:{_IMAGE_EXTENSIONS})"  # IMG_0042.jpg, 1f600.png, My cat (2).jpeg
    r"|(?:img|dscn?|dscf|dcim|pxl|p|screenshot|scan)[-_ ]?\d[-_\d]*"  # DSC_0042
    r"|(?:image|photo|pic)[-_]?\d[-_\d]*"
    r")$"
)
_HEXADECIMAL = r"(?i)^[0-9a-f]{4,}(?:-[0-9a-f]{2,})*$"  # 1f600, a hash; with a digit
_URL = (
    r"(?i)^(?:(?:https?://|www\.)\S+"
    r"|[\pL\pN-]+(?:\.[\pL\pN-]+)*\.(?:com|net|org|info|edu|gov|co\.[a-z]{2})(?:/\S*)?)$"
)
_NO_LETTERS = rf"^(?:[^\pL]|\[{EMAIL[1:-1]}\]|\[{PHONE[1:-1]}\])*$"

#: Rules that need no redacted text: what they reject is not searched for addresses and numbers.
BEFORE_REDACTION = frozenset({"garbled", "too_long"})

#: Characters that an address or a number may have lost where a caption was cut.
_HALF_ADDRESS = 100

_EDGE_PUNCTUATION = " \t.,;:!?'\"()[]{}<>*-_#|/"

#: Texts that page builders put in place of a description.
BOILERPLATE = frozenset(
    {
        "ad",
        "advertisement",
        "alt",
        "alt text",
        "avatar",
        "banner",
        "blank",
        "caption",
        "click here",
        "click to enlarge",
        "click to view",
        "company logo",
        "default",
        "featured image",
        "figure",
        "graphic",
        "gravatar",
        "header image",
        "icon",
        "icons",
        "image",
        "image description",
        "image not found",
        "image placeholder",
        "images",
        "img",
        "loading",
        "logo",
        "logos",
        "no image",
        "no image available",
        "photo",
        "photograph",
        "photos",
        "pic",
        "picture",
        "pictures",
        "placeholder",
        "profile photo",
        "profile picture",
        "screenshot",
        "site logo",
        "spacer",
        "thumb",
        "thumbnail",
        "thumbs",
        "untitled",
        "user avatar",
        "website logo",
    }
)


@dataclass(frozen=True)
class CleanCaptions:
    """Some captions, cleaned; those that are rejected for ``BEFORE_REDACTION`` not redacted."""

    captions: pa.StringArray
    reasons: pa.StringArray  # why each is rejected; null where it is kept
    redacted: int  # captions in which something was blotted out


class CaptionCleaner:
    """Cleans captions and asks the rules that its settings name."""

    def __init__(self, settings: CaptionSettings) -> None:
        """Raises ValueError for a language that is not known."""
        self._redactor = Redactor(settings.redact)
        rules = caption_rules(settings)
        early = BEFORE_REDACTION & rules.keys()
        self._early = {reason: rule for reason, rule in rules.items() if reason in early}
        self._late = {reason: rule for reason, rule in rules.items() if reason not in early}

    def clean(self, captions: pa.StringArray) -> CleanCaptions:
        clean = clean_column(captions)
        reasons = first_reasons(clean, self._early)
        rest = pc.is_null(reasons)
        found = clean.filter(rest)
        redacted = replaced(found, self._redactor.suspects(found), self._redactor.redact)
        changed = pc.sum(pc.not_equal(found, redacted), min_count=0).as_py()
        late = first_reasons(redacted, self._late)
        return CleanCaptions(
            pc.replace_with_mask(clean, rest, redacted),
            pc.replace_with_mask(reasons, rest, late),
            changed,
        )

    def shown(self, caption: str) -> str:
        """As much of a clean caption as somebody who looks at a sample should see, redacted."""
        redacted = self._redactor.redact(caption[: 2 * SHOWN_CHARS])
        # Half an address or number at the cut is known for none.
        return redacted if len(caption) <= 2 * SHOWN_CHARS else redacted[:-_HALF_ADDRESS]


def caption_rules(settings: CaptionSettings) -> Mapping[str, Rule]:
    """The rules that are switched on, by the reason they give, in the order they are asked."""
    switched: dict[str, tuple[bool, Rule]] = {
        "garbled": (settings.garbled, garbled),
        "too_long": (True, too_long(settings.too_long)),
        "too_short": (True, too_short(settings.too_short)),
        "url": (settings.url, url),
        "file_name": (settings.file_name, file_name),
        "no_letters": (settings.no_letters, no_letters),
        "boilerplate": (settings.boilerplate, boilerplate),
    }
    rules = {reason: rule for reason, (is_on, rule) in switched.items() if is_on}
    if settings.language.allowed:
        rules["language"] = LanguageRule(settings.language)  # the slowest sees the fewest
    return rules


def first_reasons(captions: pa.StringArray, rules: Mapping[str, Rule]) -> pa.StringArray:
    """For each clean caption the first reason to reject it, null if there is none."""
    names = list(rules)
    reasons = np.full(len(captions), -1, np.int32)
    rest = np.arange(len(captions))
    for number, rule in enumerate(rules.values()):
        rejected = rule(captions).to_numpy(zero_copy_only=False)
        if rejected.any():
            reasons[rest[rejected]] = number
            rest = rest[~rejected]
            captions = captions.filter(pa.array(~rejected))
    return pa.array(names, pa.string()).take(pa.array(reasons, mask=reasons < 0))


def too_short(least: ShortCaptions) -> Rule:
    def rule(captions: pa.StringArray) -> pa.BooleanArray:
        few_chars = pc.less(pc.utf8_length(captions), least.chars)
        return pc.or_(few_chars, pc.less(_words(captions), least.words))

    return rule


def too_long(most: LongCaptions) -> Rule:
    def rule(captions: pa.StringArray) -> pa.BooleanArray:
        many_chars = pc.greater(pc.utf8_length(captions), most.chars)
        return pc.or_(many_chars, pc.greater(_words(captions), most.words))

    return rule


def _words(captions: pa.StringArray) -> pa.IntegerArray:
    """The words of clean captions; an empty one has none."""
    has_words = pc.cast(pc.not_equal(captions, ""), pa.int32())
    return pc.add(pc.count_substring(captions, " "), has_words)


def garbled(captions: pa.StringArray) -> pa.BooleanArray:
    """Text that was decoded wrongly beyond repair."""
    return pc.match_substring(captions, "\ufffd")


def url(captions: pa.StringArray) -> pa.BooleanArray:
    """A web address and nothing else."""
    return pc.match_substring_regex(captions, _URL)


def file_name(captions: pa.StringArray) -> pa.BooleanArray:
    """The name of an image file, or what cameras and icon sets name their files."""
    name = pc.match_substring_regex(captions, _FILE_NAME)
    hexadecimal = pc.match_substring_regex(captions, _HEXADECIMAL)
    return pc.or_(name, pc.and_(hexadecimal, pc.match_substring_regex(captions, "[0-9]")))


def no_letters(captions: pa.StringArray) -> pa.BooleanArray:
    """Numbers, signs, emoji; what is left where all the rest was redacted."""
    return pc.match_substring_regex(captions, _NO_LETTERS)


def boilerplate(captions: pa.StringArray) -> pa.BooleanArray:
    """What stands where a description should be: "logo", "Image 3", "[photo]"."""
    lower = pc.utf8_lower(captions)
    words = pc.utf8_trim(pc.replace_substring_regex(lower, r"\d+", " "), _EDGE_PUNCTUATION)
    return pc.is_in(words, pa.array(sorted(BOILERPLATE)))
