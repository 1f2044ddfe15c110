"""Addresses of pages and pictures: made absolute and normal, or refused with a reason."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from w3lib.url import safe_url_string

DEFAULT_PORTS = {"http": 80, "https": 443}

#: URLs made of these characters alone need no percent-encoding.
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]*")


class UrlError(ValueError):
    """A reference that is no address of a page or picture; ``reason`` is for the tally."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def absolute_url(reference: str, base: str = "") -> str:
    """The absolute http or https URL that ``reference`` means on a page at ``base``.

    Normal form: lower-case scheme and host, no default port, a path of at least "/", no
    fragment, every character outside the URL alphabet percent-encoded. Raises UrlError
    (data_uri, not_http, bad_url); a URL with a user name or password is a bad one, since it
    would send credentials that were found on a page.
    """
    reference = reference.strip()
    if reference[:5].lower() == "data:":
        raise UrlError("data_uri")
    try:
        parts = urlsplit(urljoin(base, reference))
        if parts.scheme not in DEFAULT_PORTS:
            raise UrlError("not_http")
        path, query = parts.path or "/", parts.query
        url = urlunsplit((parts.scheme, _authority(parts), path, query, ""))
        return url if _PLAIN.fullmatch(url) else safe_url_string(url)
    except UrlError:
        raise
    except ValueError as error:  # of the port, the brackets of an IPv6 address, or IDNA
        raise UrlError("bad_url") from error


def _authority(parts: SplitResult) -> str:
    host = parts.hostname
    if not host or parts.username is not None or any(map(str.isspace, host)):
        raise UrlError("bad_url")
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"


def authority(url: str) -> str:
    """The HOST or HOST:PORT of a normal URL."""
    return urlsplit(url).netloc
