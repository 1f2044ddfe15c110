from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.captions import caption_rules, clean_caption, first_reason
from workers.settings import PairSettings

RULES = caption_rules(PairSettings(max_caption_chars=40))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\n cat\t\u00a0and \u3000dog ", "a cat and dog"),
        ("cats &amp; dogs", "cats & dogs"),
        ("caf&eacute;", "café"),
        ("schÃ¶n", "schön"),
        ("It’s", "It's"),
        ("plain ASCII", "plain ASCII"),
        ("zero\x00 \x1b[31mred", "zero red"),
        ("\ud800 lone surrogate", "\ufffd lone surrogate"),
        ("grinning face \U0001f600", "grinning face \U0001f600"),
    ],
)
def test_cleaning(raw, clean):
    assert clean_caption(raw) == clean


@given(st.text())
def test_a_clean_caption_can_be_stored_and_has_single_spaces(text):
    clean = clean_caption(text)
    clean.encode()
    assert clean == " ".join(clean.split())


@given(st.text())
def test_at_most_one_reason(text):
    reason = first_reason(clean_caption(text), RULES)
    assert reason in {
        *(None, "too_short", "too_long", "file_name", "no_letters", "garbled", "boilerplate"),
    }


@pytest.mark.parametrize(
    ("reason", "caption"),
    [
        ("too_short", ""),
        ("too_short", "ab"),
        ("too_long", "word " * 9),
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
        (None, "写真の猫"),
        (None, "P-51 Mustang"),
    ],
)
def test_rules(reason, caption):
    assert first_reason(caption, RULES) == reason
