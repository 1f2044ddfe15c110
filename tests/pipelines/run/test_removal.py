"""What texts say of what goes: in whatever spelling it is found, and nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.run.removal import Mentions
from workers.base.opt_outs import Kind, OptOuts

ENTRIES = [
    (Kind.DOMAIN, "birds.example"),
    (Kind.URL, "fish.example:81/a%20b.jpg?x=1&y=2"),
    (Kind.URL, "fish.example/"),
]
MENTIONS = Mentions(OptOuts.of(ENTRIES), ["birds.example", "fish.example"])


@pytest.mark.parametrize(
    "text",
    [
        "birds.example",
        "http://birds.example/heron.jpg",
        "https://user@www.BIRDS.example:8080/a/b?c#d",
        "//cdn.birds.example/a.jpg",
        "birds.example_8080",
        "birds.example_8080.warc@1234",
        "birds.example.warc",
        "http://fish.example:81/a%20b.jpg?x=1&y=2",
        "//FISH.example:81/a%20b.jpg?x=1&amp;y=2#top",
        "https://fish.example:81/c/../a%20b.jpg?x=1&y=2&utm_source=z",
    ],
)
@pytest.mark.parametrize(
    ("before", "behind"),
    [("", ""), ("see ", ", or"), ('<img src="', '">'), ("(", ")."), ('{"m": "', '"}'), ("'", "'")],
)
def test_what_goes_becomes_dots(text, before, behind):
    redacted = MENTIONS.redacted(f"{before}{text}{behind}".encode()).decode()
    assert len(redacted) == len(before + text + behind)
    assert "birds" not in redacted.lower()
    assert "b.jpg" not in redacted
    assert redacted.startswith(before)
    assert redacted.endswith(behind[-1:])


@pytest.mark.parametrize(
    "text",
    [
        "birds.example.org",
        "my-birds.example",
        "mybirds.example",
        "birds.examples",
        "fish.example",
        "fish.example.warc@7",
        "http://fish.example:81/a%20b.jpg",
        "http://fish.example:81/a%20b.jpg?x=1&y=2&z=3",
        "http://fish.example/a%20b.jpg?x=1&y=2",
    ],
)
def test_what_stays_is_left_as_it_is(text):
    assert MENTIONS.redacted(text.encode()) == text.encode()


def test_an_address_within_an_address_is_found():
    text = b"http://a.example/?u=http%3A%2F%2Fbirds.example%2Fa.jpg"
    assert b"birds" not in MENTIONS.redacted(text)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet='birds.example/:&;%2F "<>@_é\n\\', max_size=40), st.binary(max_size=20))
def test_any_text_stays_as_long_and_a_second_look_finds_nothing(text, more):
    content = text.encode() + more
    redacted = MENTIONS.redacted(content)
    assert len(redacted) == len(content)
    assert MENTIONS.redacted(redacted) == redacted
