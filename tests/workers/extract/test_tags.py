from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from workers.extract.page_images import images_of
from workers.extract.tags import Document

PIECES = [
    "<img src=a alt='b c'>", "<IMG SRC=\"x&amp;y\"ALT=é />", "<img alt=1 alt=2 = =3>",
    "<img/src=a>", "<img src=?a=1&copy=2&lt;&notit;&#65;&#x42&eacute alt>", "<img src='",
    "<img alt=\"a>b\" title='<img>'>", "<imgx src=1>", "<img-x>", "<p title=\"<img src=q>\">",
    "</p>", "<a href=x/y>", "</a >", "<br/>", "<b>", "<noscript>", "</noscript>", "text", "é",
    "<!-- <img src=c> -->", "<!-->", "<!--->", "<!--", "-->", "--!>", "<!x <img>", "<?php >",
    "</ >", "</>", "<script>", "</script>", "</SCRIPT x>", "<style>", "</style/>", "<iframe>",
    "</iframe>", "\n", " ", "'", '"', "<", ">", "=", "/", "&", "-", "!",
]  # fmt: skip


def ours(html: str) -> list[dict[str, str]]:
    document = Document(html.encode())
    return [document.attributes(tag) for tag in document.start_tags("img")]


def lexbor(html: str) -> list[dict[str, str]]:
    nodes = LexborHTMLParser(html).css("img")
    return [{name: value or "" for name, value in node.attributes.items()} for node in nodes]


@settings(max_examples=400, deadline=None)  # the scanner is compiled when first used
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("<img src=a")
@example("<script><!-- </script><img src=a>")
def test_images_are_those_of_an_html5_parser(html):
    assert ours("<body>" + html) == lexbor("<body>" + html)


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000,
        "<figure>" * 20_000 + "<img src=b alt=dog>" * 1_000,
        "<img " + " ".join(f"a{n}=1" for n in range(100_000)) + ">",
        "<" * 500_000,
        "<a" * 500_000 + ">",
        "<a b='" * 200_001 + "'>",
        "<script></scrip" * 100_000 + "</script>",
        "<!-" * 300_000 + ">",
        "&lt" * 300_000,
        "<picture><source srcset='" + "," * 500_000 + "'></picture>",
    ],
)
def test_hostile_pages_hide_nothing_and_take_no_time(html):
    document = Document((html + "<img src=a alt=cat>").encode())
    *_, last = images_of(document)
    assert (last.reference(), last.texts()) == ("a", ["cat"])


def test_text_has_no_tags_comments_or_scripts():
    html = b"a <b title='x'>big</b><!-- <i> --><script>1</script> caf&eacute; &amp; bar"
    assert Document(html).text(0, len(html)) == "a big café & bar"
