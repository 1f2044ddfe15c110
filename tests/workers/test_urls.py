from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.urls import Base, UrlError, absolute_url, authority, url_keys, without_tracking

BASE = "http://example.org/dir/page?query"
WHOLE = ["http://a.example/b", "https://A.example/b/../c", "http://a.example/é"]


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


@pytest.mark.parametrize(
    "base", [BASE, "http://a.example", "https://b.example/x/y/", "http://b.example/x//y/../z", ""]
)
@settings(deadline=None)
@given(reference=st.text(st.sampled_from("ab./?;:#-% é&=~"), max_size=8) | st.sampled_from(WHOLE))
def test_the_fast_way_to_absolute_urls_gives_what_the_slow_way_gives(base, reference):
    def result(resolve):
        try:
            return resolve()
        except UrlError as error:
            return error.reason

    fast = result(lambda: Base(base).absolute_url(reference))
    assert fast == result(lambda: absolute_url(reference, base))
