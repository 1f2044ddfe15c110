from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.urls import UrlError, absolute_url, authority

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
        ("a%20b c", "http://example.org/dir/a%20b%20c"),
        ("a\nb\t", "http://example.org/dir/ab"),
    ],
)
def test_normal_form(reference, url):
    assert absolute_url(reference, BASE) == url


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
    ],
)
def test_refused(reference, reason):
    with pytest.raises(UrlError) as caught:
        absolute_url(reference, BASE)
    assert caught.value.reason == reason


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
