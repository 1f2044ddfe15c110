"""Which directives mean that a page or image is not for us; the headers are of kinds as met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.base.robots_directives import OPT_OUTS, directives_of, is_opted_out

US = "birds-research"


@pytest.mark.parametrize(
    "value",
    [
        *sorted(OPT_OUTS),
        "none",
        "NoAI, NoImageAI",
        "index,noimageai",
        "noindex nofollow",
        "noindex;nofollow",
        "*: noai",
        "robots: noai",
        "birds-research: noindex",
        "Birds-Research/2.1: none",
        "birds-research: max-image-preview:large, noindex",
        "googlebot: nofollow, birds-research: noai",
        "max-image-preview:large, noindex",
        "noai, max-snippet: 3",
        "max-image-preview: none, none",
        "unavailable_after: 25 Jun 2026 15:00:00 PST, noai",
        "unavailable_after: Thursday, 25-Jun-26 15:00:00 GMT, noindex",
        "unavailable_after: 2026-06-25T15:00:00Z,noindex",
        "noindex, unavailable_after: 25 Jun 2026 15:00:00 PST",
        "noindex: true",
    ],
)
def test_not_for_us(value):
    assert is_opted_out([value], US)
    assert is_opted_out(["all", value, "max-snippet:-1"], US)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "all",
        "index, follow, nofollow, noarchive, nosnippet",
        "max-image-preview:none",
        "max-image-preview: none",
        "max-snippet:-1, max-image-preview:none, max-video-preview:-1",
        "unavailable_after: 25 Jun 2026 15:00:00 PST",
        "unavailable_after: Thursday, 25-Jun-26 15:00:00 GMT",
        "unavailable_after: 2026-06-25T15:00:00+00:00",
        "googlebot: noindex",
        "Googlebot-Image: noindex, noimageindex",
        "googlebot: max-image-preview: none",
        "googlebot: unavailable_after: 25 Jun 2026 15:00:00 PST, noindex",
        "birds: noai",
        "birds-research-2: noai",
        "birds-researcher: noai",
        "noindexing, nonesuch",
        ":, ::, ,",
    ],
)
def test_not_against_us(value):
    assert not is_opted_out([value], US)


def test_a_name_holds_for_its_own_line_alone():
    assert is_opted_out(["googlebot: nofollow", "noai"], US)
    assert not is_opted_out(["googlebot: nofollow", "all"], US)


def test_none_means_that_links_are_not_followed_either():
    assert {"noindex", "nofollow"} <= directives_of(["None"], US)


def test_without_a_name_of_ours_only_what_all_are_told_counts():
    assert not is_opted_out(["birds-research: noai"], None)
    assert is_opted_out(["birds-research: noai", "*: noai"], None)


@given(st.lists(st.text(alphabet="noaiex:,; *-_1\xe9\ud800", max_size=30), max_size=3))
def test_any_text_is_parsed(values):
    is_opted_out(values, US)
