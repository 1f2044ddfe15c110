from __future__ import annotations

import socket

import pytest

from workers.base.settings import CrawlSettings
from workers.crawl.fetch import PinnedResolver
from workers.web.addresses import (
    NoContactError,
    PrivateAddressError,
    check_addresses,
    is_public,
    permitted_addresses,
)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "8.8.8.8",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::",
        ),
        "2001:0:7f00:1::f7f7:f7f7",  # 8.8.8.8 by way of Teredo, whatever its server is
    ],
)
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "fc00::1", "::"),
        "::ffff:127.0.0.1",  # IPv4 inside IPv6
        "64:ff9b::7f00:1",  # 127.0.0.1 behind a NAT64 gateway
        "2002:7f00:1::",  # 127.0.0.1 as 6to4
        "2001:0:808:808::80ff:fffe",  # 127.0.0.1 by way of Teredo
        *("ff02::1", "ff0e::1", "::ffff:224.0.0.1"),  # many
        *("fe80::1%eth0", "fe80::1%25eth0", "fec0::1", "2001:db8::1"),  # of a network
        *("::7f00:1", "::808:808", "::ffff:0:7f00:1"),  # IPv4 in forms that nobody routes
        *("64:ff9b:1::1", "64:ff9b:1::808:808"),  # a gateway of a network's own
    ],
)
def test_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("allowed", [("127.0.0.1",), ("127.0.0.1:8080",)])
def test_a_private_host_that_is_named(allowed):
    assert permitted_addresses("127.0.0.1", 8080, allowed) == ["127.0.0.1"]


@pytest.mark.parametrize("allowed", ["::1", "[::1]", "[::1]:8080"])
def test_an_ipv6_address_is_named_as_in_urls(allowed):
    assert permitted_addresses("::1", 8080, (allowed,)) == ["::1"]
    with pytest.raises(PrivateAddressError):
        permitted_addresses("::1", 8080, ("[::1]:80",))


@pytest.mark.parametrize("allowed", [(), ("127.0.0.1:80",), ("127.0.0.2",), ("localhost",)])
def test_a_private_host_that_is_not_named(allowed):
    with pytest.raises(PrivateAddressError):
        permitted_addresses("127.0.0.1", 8080, allowed)


def test_a_name_is_judged_by_its_addresses():
    with pytest.raises(PrivateAddressError):
        permitted_addresses("localhost", 80, ())
    for addresses in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]):  # each of them counts
        with pytest.raises(PrivateAddressError, match=r"is at 10\.0\.0\.1,"):
            check_addresses("a.invalid", 80, (), addresses)
    check_addresses("a.invalid", 80, (), ["8.8.8.8", "2001:4860:4860::8888"])
    assert "127.0.0.1" in permitted_addresses("localhost", 80, ("localhost",))


def test_a_name_keeps_the_address_that_it_was_first_found_at():
    """A port that is not named gets no private address by way of one that is."""
    assert permitted_addresses("a.invalid", 80, ("a.invalid",), "127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(PrivateAddressError):
        permitted_addresses("a.invalid", 81, ("a.invalid:80",), "127.0.0.1")


@pytest.mark.parametrize(
    "allowed", ["B\xfccher.invalid", "xn--BCHER-kva.invalid", "b\xfccher.invalid:80"]
)
def test_a_host_is_named_in_any_spelling(allowed):
    found = permitted_addresses("xn--bcher-kva.invalid", 80, (allowed,), "127.0.0.1")
    assert found == ["127.0.0.1"]


@pytest.mark.parametrize("disguise", ["2130706433", "0x7f.1", "127.1"])
def test_other_spellings_of_loopback(disguise):
    with pytest.raises((PrivateAddressError, socket.gaierror)):
        permitted_addresses(disguise, 80, ())


def test_a_crawl_by_somebody_who_cannot_be_reached_stays_off_the_public_internet(monkeypatch):
    monkeypatch.setattr(PinnedResolver, "addresses", {})
    nobody = CrawlSettings(allow_private_hosts=("93.184.215.14", "127.0.0.1"))
    PinnedResolver.pin("http://127.0.0.1/", nobody)
    with pytest.raises(NoContactError, match=r"public internet; pages\.user_agent: the owners"):
        PinnedResolver.pin("http://93.184.215.14/", nobody)
    assert PinnedResolver.addresses == {"127.0.0.1": "127.0.0.1"}
    somebody = CrawlSettings(user_agent="birds-research (bot@birds-research.org)")
    PinnedResolver.pin("http://93.184.215.14/", somebody)
