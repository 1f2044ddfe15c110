"""Which network addresses may be fetched from: the public internet, and hosts named openly.

A page on the web must not be able to send a crawler to the machine or the network that it
runs in, so a name is resolved once, every address of it is checked, and the caller connects
to the address that was checked and to no other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from workers.base.failures import NeedsMendingError
from workers.base.settings import NO_CONTACT, has_contact
from workers.base.urls import normal_host
from workers.web.lookups import LOOKUPS

#: IPv6 prefixes whose last 32 bits are an IPv4 address that a gateway connects to (NAT64).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

#: All of IPv6 that is given out for the internet; what else is there is a network's own, or was.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

#: Seconds that a name server may take.
LOOKUP_SECONDS = 30.0


class PrivateAddressError(ConnectionError):
    """A host that is not on the public internet and was not allowed by name."""


class NoContactError(NeedsMendingError):
    """A host on the public internet would be asked by nobody who can be reached."""


def is_public(address: str) -> bool:
    """Whether an IP address is globally routable, looking through IPv4 inside IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def _as_in_urls(name: str) -> str:
    """HOST or HOST:PORT in lower case, what is not ASCII of it as it is looked up."""
    if name.isascii():
        return name.lower()
    host, colon, port = name.partition(":")
    return f"{normal_host(host)}{colon}{port}"


def permitted_addresses(
    host: str,
    port: int,
    allowed: Collection[str],
    known: str | None = None,
    seconds: float = LOOKUP_SECONDS,
) -> list[str]:
    """The IP addresses of ``host``, IPv4 first; of one whose address is ``known``, that one.

    ``seconds`` is how long a name server may take. Raises what ``check_addresses`` does,
    socket.gaierror when there is none, TimeoutError.
    """
    answer = LOOKUPS.ask(known or host)
    try:
        addresses = answer.result(seconds)
    except TimeoutError as error:
        answer.cancel()
        raise silent(host, seconds) from error
    check_addresses(host, port, allowed, addresses)
    return addresses


def silent(host: str, seconds: float) -> TimeoutError:
    """What is raised where nobody says where a host is."""
    return TimeoutError(f"no name server has answered for {host} within {seconds:g} s")


def check_addresses(
    host: str, port: int, allowed: Collection[str], addresses: Iterable[str]
) -> None:
    """Raise PrivateAddressError when any of a host's addresses is private.

    ``allowed`` names hosts (HOST or HOST:PORT, an IPv6 address of the latter in brackets) that may
    have such an address.
    """
    if is_named(host, port, allowed):
        return
    for address in addresses:
        if not is_public(address):
            raise PrivateAddressError(f"{host} is at {address}, which is not public")


def check_contact(host: str, addresses: Iterable[str], user_agent: str, setting: str) -> None:
    """Raise NoContactError when any address is public and the user agent has no contact.

    ``setting`` is where the user agent comes from.
    """
    if not has_contact(user_agent) and any(map(is_public, addresses)):
        raise NoContactError(f"{host} is on the public internet; {setting}: {NO_CONTACT}")


def is_named(host: str, port: int, allowed: Collection[str]) -> bool:
    """Whether a host is among ``allowed``, with this port or with all."""
    in_url = f"[{host}]" if ":" in host else host
    names = {host, in_url, f"{in_url}:{port}"}
    return not names.isdisjoint(map(_as_in_urls, allowed))
