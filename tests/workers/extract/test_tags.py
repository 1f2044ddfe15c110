from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree
from selectolax.lexbor import LexborHTMLParser

from workers.extract.page_images import images_of
from workers.extract.tags import Document

PIECES = [
    "<img src=a alt='b c'>", "<IMG SRC=\"x&amp;y\"ALT=é />", "<img alt=1 alt=2 = =3>",
    "<img/src=a>", "<img src=?a=1&copy=2&lt;=&notit;&#65;&#x42&eacute alt>", "<img src='",
    "<img alt=\"a>b\" title='<img>'>", "<imgx src=1>", "<img-x>", "<p title=\"<img src=q>\">",
    "</p>", "<a href=x/y>", "</a >", "<br/>", "<b>", "<noscript>", "</noscript>", "text", "é",
    "<!-- <img src=c> -->", "<!-->", "<!--->", "<!--", "-->", "--!>", "<!x <img>", "<?php >",
    "</ >", "</>", "<script>", "</script>", "</SCRIPT x>", "<style>", "</style/>", "<iframe>",
    "</iframe>", "\n", " ", "'", '"', "<", ">", "=", "/", "&", "-", "!", "<image src=i>",
    "<plaintext>",
]  # fmt: skip

#: SVG, MathML and templates, with what ends them and what may stand in them.
FOREIGN = [
    "<svg>", "</svg>", "<svg/>", "<SVG a='/'>", "<svg a=/>", "<g>", "</g>", "<path/>", "<title>",
    "</title>", "<title/>", "<desc>", "</desc>", "<foreignObject>", "</foreignobject>", "<style>",
    "</style>", "<style/>", "<script>", "</script>", "<script/>", "<textarea>", "</textarea>",
    "<iframe/>", "<xmp/>", "<noembed/>", "<math>", "</math>", "<mi>", "</mi>", "<mtext>",
    "</mtext>", "<mglyph>", "<malignmark/>", "<annotation-xml>", "</annotation-xml>",
    "<annotation-xml encoding='TEXT/HTML'>", "<annotation-xml encoding=MathML>", "<![CDATA[",
    "]]>", "<![cdata[",
    "<template>", "</template>", "<font>", "<font color=a>", "</font>", "<br>", "</br>", "<div>",
    "</div>", "<img src=a>", "<img src=b/>", "<image href=c>", "<!-- ", "-->", "text",
]  # fmt: skip


KNOWN = ("src", "alt", "title", "=", "class")


def ours(html: str, *, xml: bool = False) -> list[dict[str, str]]:
    document = Document(html.encode(), xml=xml)
    return [tag.attributes for tag in document.start_tags(("img",), KNOWN)]


def lexbor(html: str) -> list[dict[str, str]]:
    nodes = LexborHTMLParser(html).css("img")
    return [
        {name: value or "" for name, value in node.attributes.items() if name in KNOWN}
        for node in nodes
    ]


@settings(max_examples=400, deadline=None)  # the scanner is compiled when first used
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("<img src=a")
@example("<script><!-- </script><img src=a>")
def test_images_are_those_of_an_html5_parser(html):
    assert ours("<body>" + html) == lexbor("<body>" + html)


#: What tells whether text or tags, HTML or not, is read at the end of a page.
PROBES = [
    "<img src=z>", "<title><img src=q></title><img src=z>", "<![CDATA[<img src=c>]]><img src=z>",
    "<style/><img src=q></style><img src=z>",
]  # fmt: skip


# Always the same pages: about one in 20,000 has an end tag that a tree would show to be of no
# element, as the ones in the next test.
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(FOREIGN), max_size=9).map("".join), st.sampled_from(PROBES))
@example("<svg><title/>text</svg>", "<img src=z>")
@example("<svg><style>text</svg>", "<img src=z>")
@example("<div><svg></div>", "<title><img src=q></title><img src=z>")
@example("<template><template></template>", "<img src=q></template><img src=z>")
@example("<svg><template></svg>", "<img src=z>")
def test_images_in_and_behind_foreign_content_are_those_of_an_html5_parser(html, probe):
    assert ours("<body>" + html + probe) == lexbor("<body>" + html + probe)


@pytest.mark.parametrize(
    ("html", "of_ours", "of_lexbor"),
    [
        # Browsers show the template of a declarative shadow root; lexbor does not know of them.
        ("<template shadowrootmode=open><img src=a></template>", ["a"], []),
        # In HTML inside MathML or SVG only the number of open elements is known, not which.
        ("<math><mi><b></g></mi><script><img src=a>", ["a"], []),
        # The same of HTML elements around SVG: which are open is known, not how they are nested.
        ("<q><div><svg></q><style/><img src=a>", [], ["a"]),
        # No tree, so no frames: a page that is a set of frames has no images of its own.
        ("<frameset><img src=a></frameset>", ["a"], []),
    ],
)
def test_differences_from_an_html5_parser(html, of_ours, of_lexbor):
    assert [image["src"] for image in ours(html)] == of_ours
    assert [image["src"] for image in lexbor(html)] == of_lexbor


@pytest.mark.parametrize(
    "xhtml",
    [
        "<title/><script src='x'/><style/><textarea/><iframe/><img src='z'/>",
        "<title><img src='a'/></title><img src='z'></img>",
        "<p title='a>b'/><!-- > <img src='q'/> --><img src='z'/>",
        "<![CDATA[<img src='q'/>]]]><![CDATA[]]><img src='z'/>",
        "<?php > <img src='q'/> ?><img src='z'/>",
        "<IMG src='q'/><img SRC='q' src='z'/><image src='q'/>",
        "<template><img src='q'/><template/></template><img src='z'/>",
        "<svg xmlns='http://www.w3.org/2000/svg'><style/><title/></svg><img src='&#x7a;'/>",
    ],
)
def test_images_of_xhtml_are_those_of_an_xml_parser(xhtml):
    page = (
        "<?xml version='1.0'?><!DOCTYPE html [<!ENTITY q \"<img src='q'/>\">]>"
        f"<html xmlns='http://www.w3.org/1999/xhtml'>{xhtml}</html>"
    )
    name = "{http://www.w3.org/1999/xhtml}"
    images = [
        dict(image.attrib)
        for image in etree.XML(page).iter(name + "img")
        if not any(parent.tag == name + "template" for parent in image.iterancestors())
    ]
    assert ours(page, xml=True) == [
        {name: value for name, value in image.items() if name in KNOWN} for image in images
    ]
    assert images[-1]["src"] == "z"


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
        "<svg>" + "<g>" * 100_000 + "</x>" * 100_000 + "</svg>",
        "<svg><desc>" * 50_000 + "</div>" * 50_000 + "</p>" * 50_000,
        "<math><mi><b>" * 50_000 + "</q>" * 50_000,
        "<template></b>" * 50_000 + "</template>" * 50_000,
        "<script><!--" + "<script</script" * 100_000 + "--></script>",
        "<title>" + "</title" * 100_000 + "</title>",
        "<![CDATA[" * 100_000 + ">",
        "<!" * 300_000 + ">",
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
