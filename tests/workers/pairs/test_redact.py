from __future__ import annotations

import random
import re

import phonenumbers
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberMatcher

from workers.pairs.phones import LIKE_A_NUMBER, phone_spans
from workers.pairs.redact import Redactor
from workers.pairs.seen_text import INVISIBLE, ranges, seen
from workers.pairs.settings import RedactSettings

REDACTOR = Redactor(RedactSettings())


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("write to jane.doe+web@mail.example.org!", "write to [email]!"),
        ("josé@example.org", "[email]"),
        ("JANE@EXAMPLE.ORG", "[email]"),
        ("müller@bücher.de", "[email]"),
        ("用户@例子.中国", "[email]"),
        ("डाटा@डाटा.भारत", "[email]"),
        ("user@xn--bcher-kva.xn--p1ai", "[email]"),
        ("see jane@example.org.Please write", "see [email].Please write"),
        ("jane@gmail.com_2019", "[email]_2019"),
        ("联系 jane@example.com谢谢", "联系 [email]谢谢"),
        ("a@b@example.org", "a@[email]"),
        ("jane＠example．org", "[email]"),
        ("call 212-555-0187 now", "call [phone] now"),
        ("(212) 736-5000 or +44 20 7946 0958", "[phone] or [phone]"),
        ("tel. 1-800-356-9377", "tel. [phone]"),
        ("+49 30 901820", "[phone]"),
        ("+1 (415) 736-5000 ext. 12", "[phone]"),
        ("tel. 020 7946 0958", "tel. 020 7946 0958"),  # British, without its prefix
        ("years 2010 2011 2012 2013 and 212-736-5000", "years 2010 2011 2012 2013 and [phone]"),
        ("٢١٢-٧٣٦-٥٠٠٠", "[phone]"),
        ("４１５-７３６-５０００", "[phone]"),
        ("212 555 0187; " * 15, "[phone]; " * 15),
    ],
)
def test_redaction(caption, expected):
    assert REDACTOR.redact(caption) == expected
    assert REDACTOR.suspects(pa.array([caption, "a cat"]))[0].as_py() or caption == expected


@pytest.mark.parametrize(
    "mark",
    [*"-./ \u2010\u2011\u2012\u2013\u2014\u2015\u2212\u00b7\u2022\u30fb\uff0d\ufe63\u2009\u00a0"],
)
def test_whatever_dash_or_dot_or_space_people_type(mark):
    caption = f"tel {mark.join(('415', '555', '2671'))}, please"
    assert REDACTOR.redact(caption) == "tel [phone], please"
    assert REDACTOR.suspects(pa.array([caption])).to_pylist() == [True]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["jane.doe@example.org", "212-736-5000", "+44 20 7946 0958"]))
def test_invisible_characters_hide_nothing(data, text):
    invisible = st.text(
        st.sampled_from("\u00ad\u200b\u200c\u200d\u200e\u202d\u2060\ufeff\ufe0f\U000e0061"),
        max_size=2,
    )
    hidden = "".join(f"{data.draw(invisible)}{char}" for char in text)
    redacted = REDACTOR.redact(f"write to {hidden}!")
    assert seen(redacted) in ("write to [email]!", "write to [phone]!")
    assert REDACTOR.suspects(pa.array([hidden])).to_pylist() == [True]


def test_what_is_invisible_is_what_unicode_lets_programs_ignore():
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    codes = {code for code in range(0x110000) if ignorable.match(chr(code))}
    assert set(ranges(INVISIBLE)) == codes


@pytest.mark.parametrize(
    "caption",
    [
        "1920x1080", "1920 x 1080", "1939-1945", "2020-01-01 12:30:00", "12/25/2015 10:30",
        "ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2", "ISSN 2049-3630", "100 000 000",
        "IMG_20150102_123456", "photo 2125551234", "1,234,567.89", "2010 2011 2012 2013",
        "192.168.100.200", "EAN 4006381333931", "52.5200 13.4050", "2014-2015 2016-2017",
        "1080 1920 3840 2160", "follow @example", "two @ signs @ work", "$1.299.000",
        "1914–1918, 1939–1945", "85mm@f1.4", "i7-8700K@4.9GHz", "f/2.8@50mm", "1080p@60.fps",
        "user@host", "user@host.corp", "v1.2@rc.3", "logo@2x.png", "icon@3x.jpg", "@example.org",
        "jane@", "jane@.org", "jane@example.", "10@1.000",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_number_or_an_address_stays(caption):
    assert REDACTOR.redact(caption) == caption


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


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("0123456789 -.()+@aé.org–\u200b"), max_size=40))
def test_redacting_twice_is_redacting_once_and_the_gate_lets_nothing_through(text):
    redacted = REDACTOR.redact(text)
    assert REDACTOR.redact(redacted) == redacted
    assert redacted == text or REDACTOR.suspects(pa.array([text])).to_pylist() == [True]


def numbers_of_all_countries() -> list[str]:
    """libphonenumber's example of every kind of number in every country, in all its formats."""
    numbers = [
        phonenumbers.example_number_for_type(region, kind)
        for region in sorted(phonenumbers.SUPPORTED_REGIONS)
        for kind in range(11)
    ]
    there = [number for number in numbers if number]
    written = [phonenumbers.format_number(number, style) for number in there for style in range(4)]
    return written + [phonenumbers.format_out_of_country_calling_number(n, "US") for n in there]


def whole_text_spans(text: str, region: str) -> set[tuple[int, int]]:
    """What libphonenumber finds if it is given everything."""
    matches = PhoneNumberMatcher(text, region)
    return {(m.start, m.end) for m in matches if not m.raw_string.isdigit()}


def is_like_a_number(text: str) -> bool:
    found = re.findall(LIKE_A_NUMBER, text)
    return any(one[0] == "+" or sum(map(str.isdigit, one)) >= 9 for one in found)


AROUND = [
    "2010", "1999/2000", "2010–2011", "12/25/2015", "2015-01-02 10:30", "1920x1080", "$1,299.00",
    "ISBN 978-3-16-148410-0", "52.5200 13.4050", "tel", "(", "–", "2010 2011 2012 2013 2014", "a",
    "+", "1 2 3 4 5 6 7 8 9 10", "é", "%", "€", "00", "011", "0", ".", "/", "4006381333931",
]  # fmt: skip


@pytest.mark.parametrize("region", ["US", "GB", "FR", "AR", "DK", "ZZ"])
def test_the_same_numbers_are_found_as_in_the_whole_text(region):
    """By itself nothing is different; beside others, but for what alone is not looked at."""
    numbers = numbers_of_all_countries()
    assert len(numbers) > 5_000
    rng = random.Random(region)
    found = 0
    for number in rng.sample(numbers, 1_000):
        alone = set(phone_spans(number, region))
        assert alone == (whole_text_spans(number, region) if is_like_a_number(number) else set())
        pool = [rng.choice(AROUND) for _ in range(rng.randint(1, 4))]
        pool.insert(rng.randint(0, len(pool)), number)
        text = rng.choice([" ", ", ", " / ", "; "]).join(pool)
        ours, all_there = set(phone_spans(text, region)), whole_text_spans(text, region)
        assert ours <= all_there, text
        assert not [text[a:b] for a, b in all_there - ours if is_like_a_number(text[a:b])], text
        found += len(ours)
    assert found > 300


def test_in_a_long_text_no_search_begins_everywhere_anew():
    for text in ("1 " * 50_000, "a." * 50_000, "a@" * 50_000, "@" * 50_000, "1995 2026 " * 5_000):
        assert REDACTOR.redact(text) == text
    assert REDACTOR.redact("1 212 736 5000, " * 500) == "[phone], " * 500
