"""Encodings of pages: the standard's labels and order, and never one of Python's codecs."""

from __future__ import annotations

import encodings
import pkgutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webencodings.labels import LABELS

from workers.extract.page import PageError, base_of, links_of, metas_of, parse_page
from workers.extract.page_images import images_of

TEA = "<img src=a alt='čaj'>"
LATIN_2 = TEA.encode("iso-8859-2")
META = b"<meta charset=iso-8859-2>"
PYTHON_CODECS = sorted({module.name for module in pkgutil.iter_modules(encodings.__path__)})


def read(body: bytes, content_type: str = "text/html") -> tuple[str, list[str]]:
    document = parse_page(body, content_type)
    return document.encoding, [text for image in images_of(document) for text in image.texts()]


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        (TEA.encode(), "text/html; charset=UTF8", "utf-8"),
        (TEA.encode(), 'text/html; x=1; Charset = "utf-8" ; y', "utf-8"),
        (LATIN_2, "text/html;charset=latin2", "iso-8859-2"),
        (META + LATIN_2, "text/html", "iso-8859-2"),
        (META + LATIN_2, "text/html; charset=no-such-thing", "iso-8859-2"),
        (META + LATIN_2, "text/html; charset=unicode_escape", "iso-8859-2"),
        (META + LATIN_2, "text/html; charset=čaj", "iso-8859-2"),
        (META + LATIN_2, "text/html; charset=\udce9", "iso-8859-2"),
        (META + TEA.encode(), "text/html; charset=utf-8", "utf-8"),
        (b"<meta charset=undefined>" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<META Http-Equiv=CONTENT-TYPE Content='text/html; Charset=iso-8859-2'>" + LATIN_2,
         "text/html", "iso-8859-2"),
        (b"<meta name=content-type content='text/html; charset=koi8-r'>" + TEA.encode(),
         "text/html", "utf-8"),
        (b"<script>" + b"var a = 1;" * 600 + b"</script>" + META + LATIN_2,
         "text/html", "iso-8859-2"),
        (b"<!-- <meta charset=koi8-r> -->" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<script>'<meta charset=koi8-r>'</script>" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<title><meta charset=koi8-r></title>" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<p title='<meta charset=koi8-r>'>" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<meta charset=utf-16>" + TEA.encode(), "text/html", "utf-8"),
        (b"<meta charset=utf-16be>" + TEA.encode(), "text/html", "utf-8"),
        (("\ufeff" + TEA).encode("utf-16-le"), "text/html; charset=utf-8", "utf-16le"),
        (("\ufeff" + TEA).encode("utf-16-be"), "text/html", "utf-16be"),
        (TEA.encode("utf-16-be"), "text/html; charset=utf-16be", "utf-16be"),
        (b"\xef\xbb\xbf" + META + TEA.encode(), "text/html; charset=latin2", "utf-8"),
        (b"<?xml version='1.0' encoding='iso-8859-2'?>" + LATIN_2, "text/html", "iso-8859-2"),
        (b"<?xml version='1.0' encoding='koi8-r'?>" + META + LATIN_2, "text/html", "iso-8859-2"),
        (b"<?xml version='1.0' encoding='iso-8859-2'?><meta charset='koi8-r'/>" + LATIN_2,
         "application/xhtml+xml", "iso-8859-2"),
        (("<?xml version='1.0'?>" + TEA).encode("utf-16-le"), "application/xhtml+xml", "utf-16le"),
        (TEA.encode(), "", "utf-8"),
    ],
)  # fmt: skip
def test_the_encoding_of_a_page(body, content_type, encoding):
    assert read(body, content_type) == (encoding, ["čaj"])


@pytest.mark.parametrize(
    ("declared", "text", "codec", "encoding"),
    [
        ("iso-8859-1", "\u201ccaf\xe9\u201d", "cp1252", "windows-1252"),
        ("x-user-defined", "“café”", "cp1252", "windows-1252"),
        ("gb2312", "朱镕基 \u9fb4", "gb18030", "gbk"),
        ("shift_jis", "①髙", "cp932", "shift_jis"),
        ("euc-kr", "똠방각하", "cp949", "euc-kr"),
        ("big5", "臺灣", "big5hkscs", "big5"),
        ("iso-2022-jp", "日本", "iso2022_jp", "iso-2022-jp"),
    ],
)
def test_a_label_means_what_it_means_on_the_web(declared, text, codec, encoding):
    body = f"<meta charset={declared}><img src=a alt='{text}'>".encode(codec)
    assert read(body) == (encoding, [text])


@pytest.mark.parametrize("label", ["iso-2022-kr", "hz-gb-2312", "iso-2022-cn", "replacement"])
def test_what_browsers_refuse_to_decode_is_no_page(label):
    with pytest.raises(PageError):
        parse_page(TEA.encode(), f"text/html; charset={label}")


def test_no_codec_of_python_is_an_encoding_of_the_web():
    labels = {*PYTHON_CODECS, *(name.replace("_", "-") for name in PYTHON_CODECS)} - set(LABELS)
    assert {"unicode_escape", "undefined", "idna", "rot_13", "utf-7", "cp037"} <= labels
    for label in labels:
        body = f"<meta charset={label}>{TEA}".encode()
        assert read(body, f"text/html; charset={label}") == ("utf-8", ["čaj"])


LABEL = st.sampled_from(sorted(LABELS) + PYTHON_CODECS) | st.text(max_size=8)


@settings(max_examples=300, deadline=None)
@given(LABEL, LABEL, st.binary(max_size=60), st.booleans())
@example("", "", b"<img alt='&#" + b"0" * 5000 + b"65;'>", False)
@example("", "", b"<a href='&#x" + b"f" * 5000 + b"'>", False)
def test_no_page_raises_anything_but_page_error(sent, declared, rest, xml):
    kind = "application/xhtml+xml" if xml else "text/html"
    body = f"<meta charset='{declared}'><img src=a alt='a".encode("utf-8", "replace") + rest
    try:
        document = parse_page(body, f"{kind}; charset={sent}")
    except PageError:
        return
    base_of(document, "http://a.example/")
    list(links_of(document))
    metas_of(document)
    for image in images_of(document):
        image.reference()
        image.texts()
