from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.pairs.captions import (
    CaptionCleaner,
    CleanCaptions,
    caption_rules,
    clean_caption,
    clean_column,
)
from workers.pairs.language import LanguageRule
from workers.pairs.redact import Redactor
from workers.pairs.settings import CaptionSettings, LanguageSettings, RedactSettings

RULES = CaptionSettings.model_validate({"too_long": {"chars": 40, "words": 9}})
ENGLISH = LanguageSettings(allowed=("en",))


def clean(captions: list[str], rules: CaptionSettings = RULES) -> CleanCaptions:
    return CaptionCleaner(rules).clean(pa.array(captions, pa.string()))


def reason(caption: str, **changes: object) -> str | None:
    changed = RULES.model_dump() | changes
    return clean([caption], CaptionSettings.model_validate(changed)).reasons[0].as_py()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a\n cat\t\u00a0and \u3000dog ", "a cat and dog"),
        ("two  spaces", "two spaces"),
        ("cats &amp; dogs", "cats & dogs"),
        ("cats &amp;amp;amp; dogs", "cats & dogs"),
        ("caf&eacute;", "café"),
        ("schÃ¶n", "schön"),
        ("It’s", "It's"),
        ("plain ASCII", "plain ASCII"),
        ("", ""),
        ("zero\x00 \x1b[31mred", "zero red"),
        ("grinning face \U0001f600", "grinning face \U0001f600"),
        ("cafe\u0301", "café"),
    ],
)
def test_cleaning(raw, expected):
    assert clean_caption(raw) == expected
    assert clean([raw]).captions.to_pylist() == [expected]


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_a_clean_caption_can_be_stored_has_single_spaces_and_stays(text):
    caption = clean_caption(text)
    caption.encode()
    assert caption == " ".join(caption.split())
    assert clean_caption(caption) == caption


#: Characters from everywhere, and many from where the fast path decides.
TEXTS = st.text(
    st.one_of(
        st.sampled_from(
            " a e.&Bz'\u00e9\u00c3\u00e0\u00fc\u00d8\u2013\u0413\u0456\u732b\u30ab\ud55c"
        ),
        st.characters(max_codepoint=0x17F, codec="utf-8"),
        st.characters(codec="utf-8"),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, max_size=20))
def test_a_column_is_cleaned_as_each_caption_alone(texts):
    as_they_are = CaptionSettings(redact=RedactSettings(emails=False, phones=False))
    assert clean(texts, as_they_are).captions.to_pylist() == [clean_caption(text) for text in texts]


def test_what_ftfy_is_not_asked_about_it_would_not_fix(monkeypatch):
    """Every two characters of Latin and some of other scripts, in words and alone."""
    special = [
        chr(c)
        for c in (*range(0xA1, 0x180), *range(0x2013, 0x2020), 0x410, 0x413, 0x44F, 0x451, 0x30FC)
    ]
    texts = [
        f"{a}{one}{other}{b}"
        for a in ("", "Z", "z ")
        for b in ("", "z", " Z", "'")
        for one in special
        for other in (*special, "", " ")
    ]
    with monkeypatch.context() as patch:
        patch.setattr("workers.pairs.captions.ftfy.fix_text", lambda text: "\0")
        fast = clean_column(pa.array(texts)).to_pylist()
    pairs = [
        (clean_caption(text), fixed)
        for text, fixed in zip(texts, fast, strict=True)
        if fixed != "\0"
    ]
    assert len(pairs) > 1_000
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, max_size=20))
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


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("write to jane.doe+web@mail.example.org!", "write to [email]!"),
        ("josé@example.org", "[email]"),
        ("call 212-555-0187 now", "call [phone] now"),
        ("(212) 736-5000 or +44 20 7946 0958", "[phone] or [phone]"),
        ("tel. 1-800-356-9377", "tel. [phone]"),
        ("+49 30 901820", "[phone]"),
        ("tel. 020 7946 0958", "tel. 020 7946 0958"),  # British, without its prefix
    ],
)
def test_redaction(caption, expected):
    found = clean([caption, "a cat"])
    assert found.captions.to_pylist() == [expected, "a cat"]
    assert found.redacted == (caption != expected)


@pytest.mark.parametrize(
    "caption",
    [
        "1920x1080", "1920 x 1080", "1939-1945", "2020-01-01 12:30:00", "12/25/2015 10:30",
        "ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2", "ISSN 2049-3630", "100 000 000",
        "IMG_20150102_123456", "photo 2125551234", "1,234,567.89", "2010 2011 2012 2013",
        "192.168.100.200", "EAN 4006381333931", "52.5200 13.4050", "2014-2015 2016-2017",
        "1080 1920 3840 2160", "follow @example", "two @ signs @ work", "$1.299.000",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_number_or_an_address_stays(caption):
    found = clean([caption])
    assert found.captions.to_pylist() == [caption]
    assert found.redacted == 0


def test_redaction_is_settable():
    text = "jane@example.org 212-555-0187, 020 7946 0958"
    assert Redactor(RedactSettings(emails=False)).redact(text) == (
        "jane@example.org [phone], 020 7946 0958"
    )
    assert Redactor(RedactSettings(phones=False)).redact(text).startswith("[email] 212")
    assert Redactor(RedactSettings(phone_regions=("GB",))).redact(text).endswith("[phone]")
    none = Redactor(RedactSettings(phone_regions=()))
    assert none.redact("212-555-0187 +44 20 7946 0958") == "212-555-0187 [phone]"
    with pytest.raises(ValueError, match="no region XX"):
        RedactSettings(phone_regions=("XX",))


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("0123456789 -.()+@aé.org"), max_size=40))
def test_redacting_twice_is_redacting_once_and_the_gate_lets_nothing_through(text):
    redactor = Redactor(RedactSettings())
    redacted = redactor.redact(text)
    assert redactor.redact(redacted) == redacted
    if "@" in text and redacted != text and "[email]" in redacted:
        assert redactor.suspects(pa.array([text])).to_pylist() == [True]


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
