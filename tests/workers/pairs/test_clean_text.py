from __future__ import annotations

import unicodedata

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ftfy.badness import is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.pairs.clean_text import NEEDS_FTFY, clean_caption, clean_column


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
        ("sch\u00ad\u00f6n", "schön"),
        ("caf\u00c3\u00ad", "cafí"),  # the soft hyphen is half a letter
        ("a&shy;b\u200bc\u2060d\ufeffe", "abcde"),
        ("\u2066cat\u2069 \u200fdog\u200e", "cat dog"),
        ("&am\u00adp; cat", "& cat"),
        (
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),  # its joiner stays
        ("\U0001f469\u200d\U0001f680 \u2764\ufe0f", "\U0001f469\u200d\U0001f680 \u2764\ufe0f"),
    ],
)
def test_cleaning(raw, expected):
    assert clean_caption(raw) == expected
    assert clean_column(pa.array([raw])).to_pylist() == [expected]


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
    assert clean_column(pa.array(texts, pa.string())).to_pylist() == list(map(clean_caption, texts))


#: What the fast path leaves to ftfy, and why.
LATIN = [chr(code) for code in (*range(0xA1, 0x180), *range(0x2013, 0x2020))]


def needs_ftfy(texts):
    return pc.match_substring_regex(pa.array(texts), NEEDS_FTFY).to_pylist()


def test_what_looks_decoded_wrongly_to_ftfy_is_given_to_it():
    """Every two characters of Latin and some of other scripts, in words and alone."""
    others = [chr(code) for code in (0x410, 0x412, 0x413, 0x432, 0x44F, 0x451, 0x3B2, 0x2502)]
    texts = [
        f"{a}{one}{other}{b}"
        for a, b in (("", "ж"), ("z", "z"), ("Z ", " Z"))
        for one in LATIN + others
        for other in (*LATIN, *others, *"Z \u00a0\u20ac\u0402")
    ]
    bad = [is_bad(text) for text in texts]
    assert sum(bad) > 10_000
    asked = needs_ftfy(texts)
    assert [text for text, one, yes in zip(texts, bad, asked, strict=True) if one and not yes] == []


def test_what_is_not_given_to_ftfy_it_would_not_fix():
    """Every character of the alphabets that are left alone, and a part of the large ones."""
    codes = [*range(0x20, 0x3400), *range(0x4E00, 0xD800, 97), *range(0xF900, 0x20000, 7), 0xFE0F]
    texts = [text for code in codes for text in (f"Z {chr(code)}", f"z{chr(code)}z")]
    plain = [text for text, asked in zip(texts, needs_ftfy(texts), strict=True) if not asked]
    assert len(plain) > 7_000
    fixed = map(ftfy.fix_text, plain)
    straight = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
    assert [a for a, b in zip(plain, fixed, strict=True) if a.translate(straight) != b] == []


def test_no_two_characters_that_are_left_alone_are_written_as_one():
    splits = [unicodedata.decomposition(chr(code)).split() for code in range(0x30000)]
    seconds = {chr(int(split[1], 16)) for split in splits if len(split) == 2 and split[0][0] != "<"}
    seconds |= set(map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))))  # of Hangul
    assert len(seconds) > 100
    assert all(needs_ftfy([f"a{second}" for second in sorted(seconds)]))


@pytest.mark.parametrize("text", ["a \ud800 cat", "\udfff", "&#xd800; cat", "\ud83d\ude00"])
def test_lone_surrogates_never_raise(text):
    clean_caption(text).encode()
