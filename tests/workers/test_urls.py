from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.urls import (
    MAX_URL_CHARS,
    Base,
    UrlError,
    absolute_url,
    authority,
    normal_host,
    url_keys,
    without_tracking,
)

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
        ("http://BÜCHER.example./", "http://xn--bcher-kva.example/"),
        ("http://other.example./a", "http://other.example/a"),
        ("http://other.example/?", "http://other.example/"),
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
