from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.workers.pairs.test_clean_text import TEXTS
from workers.pairs.captions import CaptionCleaner, CleanCaptions, caption_rules
from workers.pairs.clean_text import clean_column
from workers.pairs.language import LanguageRule
from workers.pairs.settings import CaptionSettings, LanguageSettings

RULES = CaptionSettings.model_validate({"too_long": {"chars": 40, "words": 9}})
ENGLISH = LanguageSettings(allowed=("en",))


def clean(captions: list[str], rules: CaptionSettings = RULES) -> CleanCaptions:
    return CaptionCleaner(rules).clean(pa.array(captions, pa.string()))


def reason(caption: str, **changes: object) -> str | None:
    changed = RULES.model_dump() | changes
    return clean([caption], CaptionSettings.model_validate(changed)).reasons[0].as_py()


@settings(deadline=None, max_examples=40)
@given(st.lists(TEXTS, max_size=7))
def test_at_most_one_reason_and_a_rejected_caption_does_not_sway_the_others(texts):
    reasons = clean(texts).reasons.to_pylist()
    assert reasons == [clean([text]).reasons[0].as_py() for text in texts]
    assert set(reasons) <= {None, *caption_rules(RULES)}


@pytest.mark.parametrize(
    ("expected", "caption"),
    [
        ("too_short", ""),
        ("too_short", "ab"),
        ("too_long", "words " * 8),
        ("too_long", "a b c d e f g h i j"),
        ("too_long", "212-555-0187 " * 4),
        ("url", "https://example.org/cat"),
        ("url", "www.example.de/cat?a=b"),
        ("url", "shop.example.com"),
        ("url", "Example.co.uk"),
        ("file_name", "IMG_0042.jpg"),
        ("file_name", "1f600.png"),
        ("file_name", "1f468-1f3fb-200d-1f9b0"),
        ("file_name", "DSC05585.JPG"),
        ("file_name", "dsc_0042"),
        ("file_name", "My holiday (2).jpeg"),
        ("file_name", "Screenshot 2020-01-01"),
        ("file_name", "d41d8cd98f00b204e9800998ecf8427e"),
        ("no_letters", "12:30"),
        ("no_letters", "- 1 / 20 -"),
        ("no_letters", "★★★☆"),
        ("no_letters", "jane@example.org, 212-555-0187"),
        ("garbled", "na\ufffdve"),
        ("garbled", "na\ufffdve and much too long to be kept as a caption"),
        ("boilerplate", "Logo"),
        ("boilerplate", "[Image]"),
        ("boilerplate", "photo 3"),
        ("boilerplate", "Click to enlarge"),
        (None, "a photo of a logo"),
        (None, "ox-drawn cart"),
        (None, "facade"),
        (None, "deadbeef"),
        (None, "Boeing 747"),
        (None, "made with Node.js"),
        (None, "seen at www.example.org today"),
        (None, "写真の猫"),
        (None, "P-51 Mustang"),
        (None, "a photo for jane@example.org"),
    ],
)
def test_rules(expected, caption):
    assert reason(caption) == expected


@pytest.mark.parametrize("rule", ["url", "file_name", "no_letters", "garbled", "boilerplate"])
def test_a_rule_can_be_switched_off(rule):
    caption = {
        "url": "www.example.de/cat",
        "file_name": "cat.jpg",
        "no_letters": "12:30",
        "garbled": "na\ufffdve",
        "boilerplate": "Logo",
    }[rule]
    assert reason(caption) == rule
    assert reason(caption, **{rule: False}) is None


def test_lengths_are_settable():
    assert reason("ab", too_short={"chars": 2, "words": 0}) is None
    assert reason("two words", too_short={"chars": 0, "words": 3}) == "too_short"
    assert reason("", too_short={"chars": 0, "words": 0}, no_letters=False) is None


def test_an_unknown_rule_is_an_error():
    with pytest.raises(ValidationError, match="too_shrot"):
        CaptionSettings.model_validate({"too_shrot": {"chars": 3, "words": 1}})


def test_language():
    captions = ["a red cat on the sofa", "ein roter Kater auf dem Sofa", "Eiffel Tower", "写真の猫"]
    english = CaptionSettings(language=ENGLISH)
    assert clean(captions, english).reasons.to_pylist() == [None, "language", None, "language"]
    german = CaptionSettings(language=LanguageSettings(allowed=("de", "en")))
    assert clean(captions, german).reasons.to_pylist() == [None, None, None, "language"]
    assert clean(captions).reasons.to_pylist() == [None] * 4
    with pytest.raises(ValueError, match="knows no english"):
        LanguageRule(LanguageSettings(allowed=("english",)))


def test_a_less_sure_guess_rejects_more():
    captions = ["facade", "Paris", "Taj Mahal", "le chat", "un gato negro", "ice cream", "La Scala"]
    rejected = [
        clean(captions, CaptionSettings(language=LanguageSettings(
            allowed=("en",), min_probability=least))).reasons.null_count
        for least in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    assert rejected == sorted(rejected)
    assert rejected[0] < rejected[-1]


def test_what_is_too_long_is_not_searched_and_a_sample_shows_nothing_personal():
    long = "jane@example.org " * 10 + "years 2010 2011 2012 2013 " * 300
    found = clean([long, "a cat of jane@example.org"])
    assert found.reasons.to_pylist() == ["too_long", None]
    assert (found.redacted, found.captions[1].as_py()) == (1, "a cat of [email]")
    shown = CaptionCleaner(RULES).shown
    assert shown(long).startswith("[email] " * 10 + "years 2010")
    assert shown("a cat of jane@example.org") == "a cat of [email]"
    cut_inside = "a" * 1_985 + " jane.doe.the.third@example.org" + "a" * 9_000
    assert "jane" not in shown(cut_inside)
    assert len(shown(cut_inside)) > 1_000
    many = "jane@a-long-name-of-a-host.example.org " * 100
    assert "@" not in shown(many)


def test_a_number_of_more_digits_than_python_converts_is_no_character():
    captions = pa.array([f"a cat {amp}#{'9' * 5_000}; &amp; a dog" for amp in ("&", "&amp;")])
    assert clean_column(captions).to_pylist() == ["a cat \ufffd & a dog"] * 2
