from __future__ import annotations

import re

import ada_url
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.base.urls import (
    MAX_HOST_CHARS,
    MAX_URL_CHARS,
    NORMAL_URL,
    Base,
    UrlError,
    absolute_url,
    authority,
    base_url,
    normal_host,
    normal_urls,
    origin,
    url_keys,
    without_tracking,
)

BASE = "http://example.org/dir/page?query"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("", "http://example.org/dir/page?query"),
        ("#part", "http://example.org/dir/page?query"),
        ("?x", "http://example.org/dir/page?x"),
        ("a/../b", "http://example.org/dir/b"),
        ("//other.example", "http://other.example/"),
        ("HTTPS://Other.Example:443/A", "https://other.example/A"),
        ("http://other.example:443/", "http://other.example:443/"),
        ("http://other.example:80", "http://other.example/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://münchen.example/ü?ä=ö", "http://xn--mnchen-3ya.example/%C3%BC?%C3%A4=%C3%B6"),
        ("http://BÜCHER.example./", "http://xn--bcher-kva.example/"),
        ("http://other.example./a", "http://other.example/a"),
        ("http://other.example/?", "http://other.example/"),
        ("a%20b c", "http://example.org/dir/a%20b%20c"),
        ("a\nb\t", "http://example.org/dir/ab"),
        ("ht\ntps://Other.\texample/", "https://other.example/"),
        ("http:x", "http://example.org/dir/x"),
        ("http:/x", "http://example.org/x"),
        ("https:x.example", "https://x.example/"),
        ("http:///x.example", "http://x.example/"),
        ("///x.example/y", "http://x.example/y"),
        (r"\\x.example\y", "http://x.example/y"),
        (r"a\b?c\d", "http://example.org/dir/a/b?c%5Cd"),
        ("http://a.example/b/../c/./d/%2E%2e/e/..", "http://a.example/c/"),
        ("http://a.example/...//.b/..c/%2f", "http://a.example/...//.b/..c/%2f"),
        ("http://a.example:/", "http://a.example/"),
        ("http://a.example:0080/", "http://a.example/"),
        ("http://@a.example/", "http://a.example/"),
        ("http://a.example?b", "http://a.example/?b"),
        ("http://a.example/??", "http://a.example/??"),
        ("?#", "http://example.org/dir/page"),
        ("%zz%4", "http://example.org/dir/%zz%4"),
        (
            "{a|b}^`<>\"'?{a|b}^`<>\"'",
            "http://example.org/dir/%7Ba%7Cb%7D%5E%60%3C%3E%22'?%7Ba%7Cb%7D%5E%60%3C%3E%22%27",
        ),
        ("a[1]?b[]=(c)*!$&+,;:@~", "http://example.org/dir/a[1]?b[]=(c)*!$&+,;:@~"),
        ("\ufdd0\U0001f426", "http://example.org/dir/%EF%B7%90%F0%9F%90%A6"),
    ],
)
def test_normal_form(reference, url):
    assert absolute_url(reference, BASE) == url


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("straße.example", "xn--strae-oqa.example"),  # as registered today: IDNA 2008
        ("STRASSE.example", "strasse.example"),
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("نامه‌ای.example", "xn--mgba3gch31f060k.example"),  # with U+200C
        ("☕.example", "xn--53h.example"),
        ("ex\u00adample.com", "example.com"),
        ("ex%61mple%2Ecom", "example.com"),
        ("Ｅｘａｍｐｌｅ。com", "example.com"),
        ("a_b.-c.example", "a_b.-c.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
        ("0x7f.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("１２７。０。０。１", "127.0.0.1"),
        ("0xa9.254.0xa9fe", "169.254.169.254"),
        ("10.0.0.1.", "10.0.0.1"),
        ("1.2.3.0x", "1.2.3.0"),
        ("[0:0::1]", "[::1]"),
        ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    ],
)
def test_a_host_is_what_browsers_make_of_it(host, normal):
    assert absolute_url(f"http://{host}/") == f"http://{normal}/"
    assert absolute_url(f"http://{host}:81/a") == f"http://{normal}:81/a"
    assert Base(BASE).absolute_url(f"//{host}") == f"http://{normal}/"
    assert Base(BASE).absolute_url(f"http://{host}/a") == f"http://{normal}/a"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "a b",
            "a%20b",
            "a%00b",
            "a<b",
            "a|b",
            "a%b",
            "a^b",
            "a\x7fb",
            "a%2Fb",
            "a*b",
            "a'b",
            "{a}",
        ),
        *("256.0.0.1", "1.2.3.4.5", "0x100000000", "09.1", "a.1", "a.0x1"),
        *(
            "a..example",
            ".example",
            "a.example..",
            "..",
            ".",
            f"{'a' * 64}.example",
            "a." * 127 + "a",
        ),
        *("xn--\u200d", "\u200d.example", "\ud800.example", "�.example"),
        *(
            "[::1",
            "[::1]a",
            "[::1%25eth0]",
            "[v1.a]",
            "[1]",
            "a:b",
            "a:65536",
            "u@a",
            "u:p@a",
            ":p@a",
        ),
    ],
)
def test_a_host_that_cannot_be_one_is_a_bad_url(host):
    for reference in (f"http://{host}/", f"https://{host}", f"//{host}/a"):
        for resolve in (Base(BASE).absolute_url, lambda it: absolute_url(it, BASE)):
            with pytest.raises(UrlError, match="bad_url"):
                resolve(reference)


@pytest.mark.parametrize(
    ("encoding", "query", "encoded"),
    [
        ("utf-8", "é ‽", "%C3%A9%20%E2%80%BD"),
        ("windows-1252", "é", "%E9"),
        ("windows-1252", "a=‽&b=é", "a=%26%238253%3B&b=%E9"),  # as a form is sent
        ("shift_jis", "≡‽", "%81%DF%26%238253%3B"),
        ("shift_jis", "ソ", "%83%5C"),
        ("iso-2022-jp", "¥", "%1B(J%5C%1B(B"),
        ("gb18030", "鸟", "%C4%F1"),
        ("koi8-r", "птица?'", "%D0%D4%C9%C3%C1?%27"),
        ("utf-16le", "é", "%C3%A9"),
        ("no such", "é", "%C3%A9"),
    ],
)
def test_a_query_is_encoded_as_its_page_is(encoding, query, encoded):
    expected = f"http://example.org/%C3%A9?{encoded}"
    assert absolute_url(f"/é?{query}#é?é", BASE, encoding) == expected
    assert Base(BASE, encoding).absolute_url(f"/é?{query}") == expected
    assert absolute_url(expected, BASE, encoding) == expected


@pytest.mark.parametrize(
    ("href", "base"),
    [
        ("/other/", "http://example.org/other/"),
        ("//cdn.example/x", "http://cdn.example/x"),
        ("", BASE),
        ("data:text/html,x", BASE),
        ("javascript:void(0)", BASE),
        ("ftp://a.example/", BASE),
        ("http://[", BASE),
        ("http://u:p@a.example/", "http://u:p@a.example/"),  # what is relative to it, is refused
    ],
)
def test_a_base_element(href, base):
    assert base_url(href, BASE) == base


def test_a_page_whose_own_address_is_none_has_absolute_references_all_the_same():
    for url in ("http://a b/", "about:blank", "garbage"):
        assert absolute_url("http://a.example/b", url) == "http://a.example/b"
        with pytest.raises(UrlError):
            absolute_url("b", url)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("data:image/png;base64,AA", "data_uri"),
        (" DATA:,", "data_uri"),
        ("mailto:a@example.org", "not_http"),
        ("javascript:void(0)", "not_http"),
        ("file:///etc/passwd", "not_http"),
        ("https://", "bad_url"),
        ("http://[", "bad_url"),
        ("http://a.example:99999/", "bad_url"),
        ("http://name:word@a.example/", "bad_url"),
        ("http://a b.example/", "bad_url"),
        ("http://../", "bad_url"),
        ("http://\u200d.example/", "bad_url"),
        ("http://a.example/" + "a" * 8000, "url_too_long"),
        ("a" * 8000, "url_too_long"),
        ("é" * 2000, "url_too_long"),
    ],
)
def test_refused(reference, reason):
    for resolve in (
        lambda: absolute_url(reference, BASE),
        lambda: Base(BASE).absolute_url(reference),
    ):
        with pytest.raises(UrlError) as caught:
            resolve()
        assert caught.value.reason == reason


def test_the_longest_url():
    url = "http://a.example/".ljust(MAX_URL_CHARS, "a")
    assert absolute_url(url) == Base(BASE).absolute_url(url) == url


@pytest.mark.parametrize(
    "host", ["Example.com", "example.com:443", "example.com:80", "EXAMPLE.com.", "example.com.:443"]
)
def test_one_host_has_one_name(host):
    assert normal_host(host) == "example.com"
    assert normal_host("Bücher.example:8080") == "xn--bcher-kva.example:8080"


@given(st.text(max_size=60))
def test_any_reference_gives_a_stable_ascii_url_or_a_reason(reference):
    try:
        url = absolute_url(reference, BASE)
    except UrlError:
        return
    assert url.isascii()
    assert "\n" not in url
    assert absolute_url(url) == url
    assert authority(url)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://a/?utm_source=x&id=1&UTM_Medium=y", "http://a/?id=1"),
        ("http://a/b.png?fbclid=x", "http://a/b.png"),
        ("http://a/?mc_cid&gclid=1&b=&a=utm_source", "http://a/?b=&a=utm_source"),
        ("http://a/?b&&c", "http://a/?b&&c"),
        ("http://a/utm_source=1/?x=fbclid", "http://a/utm_source=1/?x=fbclid"),
        ("http://a/?", "http://a/?"),
    ],
)
def test_tracking_parameters(url, key):
    assert without_tracking(url) == key
    assert without_tracking(key) == key


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("?&=;autm_gclid"), max_size=20)))
def test_keys_of_an_array_are_those_of_its_urls(tails):
    urls = [f"http://a/{tail}" for tail in tails]
    keys = url_keys(pa.array(urls, pa.string())).to_pylist()
    assert keys == [without_tracking(url) for url in urls]


PIECES = st.sampled_from(
    [
        *(
            "a",
            "b.c",
            "B",
            "-",
            "--",
            ".",
            "..",
            "...",
            "/",
            "//",
            "?",
            "#",
            "%",
            "%2e",
            "%2F",
            "%41",
        ),
        *(
            "%zz",
            "0",
            "0x7f",
            ":",
            "@",
            ":81",
            "xn--",
            "_",
            "'",
            "~",
            "[x]",
            "{",
            "|",
            "\\",
            " ",
            "\t",
        ),
        *("é", "ß", "☕", "&c=", "+", "a" * 24, "http:", "https://", "//d.example"),
    ]
)
HEADS = st.sampled_from(["", "/", "//", "http://", "https://", "http://a.example/", "http://a?"])
REFERENCES = st.tuples(HEADS, st.lists(PIECES, max_size=6)).map(lambda it: it[0] + "".join(it[1]))
BASES = [
    BASE,
    "http://a.example",
    "https://b.example/x/y/",
    "http://b.example/x//y/../z%20/...a",
    "",
]


def by_the_standard(reference, base):
    """What the parser's own parts give; None for what is refused."""
    try:
        url = ada_url.URL(reference.strip(), base or None)
    except ValueError:
        return None
    name = url.hostname.removesuffix(".")
    sound = name[:1] == "[" or re.fullmatch(r"[a-z0-9_.\-]+", name)
    short = len(name) <= MAX_HOST_CHARS and all(0 < len(part) < 64 for part in name.split("."))
    if url.protocol not in ("http:", "https:") or url.username or url.password:
        return None
    if not (sound and short):
        return None
    rest = re.sub(r"[{|}\\^`]", lambda it: f"%{ord(it[0]):02X}", url.pathname + url.search)
    return f"{url.protocol}//{name}{url.port and ':'}{url.port}{rest}"


@pytest.mark.parametrize("base", BASES)
@settings(deadline=None)
@given(reference=REFERENCES)
def test_every_way_to_a_normal_url_gives_what_the_standard_says(base, reference):
    def result(resolve):
        try:
            return resolve()
        except UrlError:
            return None

    slow = result(lambda: absolute_url(reference, base))
    assert slow == by_the_standard(reference, base)
    assert result(lambda: Base(base).absolute_url(reference)) == slow
    assert slow is None or absolute_url(slow) == slow


@settings(deadline=None)
@given(st.lists(REFERENCES))
def test_a_url_that_looks_normal_is_normal(urls):
    matches = pc.match_substring_regex(pa.array(urls, pa.string()), NORMAL_URL).to_pylist()
    for url, looks_normal in zip(urls, matches, strict=True):
        assert bool(re.match(NORMAL_URL.removesuffix("$") + r"\Z", url)) == looks_normal
        assert not looks_normal or absolute_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://a/",
        "https://www.shop.example.co.uk/media/a-b_c.jpg?w=1&h=2",
        "https://bucket.s3.eu-west-1.amazonaws.com/a%20b(1)/c,d;e=f@2x.png",
        "https://a.example/x.jpg?url=https%3A%2F%2Fb.example%2F&a[]=1",
        "https://a.example/a/.well-known/..b/...",
    ],
)
def test_ordinary_urls_are_normal_without_being_parsed(url):
    assert re.match(NORMAL_URL, url)
    assert absolute_url(url) == url


@pytest.mark.parametrize("url", ["http://a.example/", "https://a.example:81/b//c?d"])
def test_origins(url):
    assert url.startswith(f"{origin(url)}/")
    assert origin(url).endswith(authority(url))


@settings(deadline=None)
@example(["http://a.example/?", "http://a.example/??", "http://a.example/a?b?"])
@given(st.lists(st.text(max_size=12).map(lambda tail: f"http://a.example/{tail}") | st.text()))
def test_the_fast_way_to_normal_urls_gives_what_the_slow_way_gives(urls):
    def slow(url):
        if not url.strip():
            return "", "no_url"
        try:
            return absolute_url(url), None
        except UrlError as error:
            return "", error.reason

    encodable = [url.encode("utf-8", "replace").decode() for url in urls]
    normal, reasons = normal_urls(pa.array(encodable, pa.string()))
    assert list(zip(normal.to_pylist(), reasons.to_pylist(), strict=True)) == [
        slow(url) for url in encodable
    ]
