"""Addresses of pages and pictures: made absolute and normal, or refused with a reason."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc
from w3lib.url import safe_url_string

DEFAULT_PORTS = {"http": 80, "https": 443}

#: A longer URL is refused: it is the length that RFC 9110 asks of all software, and servers
#: refuse longer ones.
MAX_URL_CHARS = 8_000

#: URLs made of these characters alone need no percent-encoding.
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]*")

#: A URL that matches (Python's syntax and RE2's) is one that ``absolute_url`` leaves as it is,
#: or refuses for its length.
NORMAL_URL = (
    r"^https?://[a-z0-9.\-]*[a-z0-9\-]/[A-Za-z0-9\-._~:/@!$&'()*+,;=]*"
    r"(?:\?[A-Za-z0-9\-._~:/?@!$&'()*+,;=]+)?$"
)

_NORMAL = re.compile(NORMAL_URL.removesuffix("$") + r"\Z")

#: References that only have to be put behind a base: no dots or nothing between slashes.
_PART = r"[A-Za-z0-9\-_~!$&'()*+,=][A-Za-z0-9\-._~!$&'()*+,=]*+"
_SIMPLE_PATH = re.compile(rf"/?{_PART}(?:/{_PART})*+(?:\?[A-Za-z0-9\-._~:/?@!$&'()*+,;=]+)?")

#: Bases that such references can be put behind: the host and the folder are groups.
_SIMPLE_BASE = re.compile(
    rf"(https?://[a-z0-9.\-]*[a-z0-9\-]/)((?:{_PART}/)*+)(?:{_PART})?(?:\?[A-Za-z0-9\-._~:/?@!$&'()*+,;=]*)?"
)

#: Query parameters that tell where a visitor came from and never which picture it is: names in
#: lower case, and the beginnings of names. From what advertisers and mailers document.
TRACKING_PARAMETERS = frozenset(
    {
        "_ga", "_gl", "_hsenc", "_hsmi", "_openstat", "dclid", "fbclid", "gad_source", "gbraid",
        "gclid", "gclsrc", "hsctatracking", "igshid", "mc_cid", "mc_eid", "mkt_tok", "msclkid",
        "oly_anon_id", "oly_enc_id", "srsltid", "ttclid", "twclid", "vero_id", "wbraid", "wickedid",
        "yclid",
    }
)  # fmt: skip
TRACKING_PREFIXES = ("utm_", "pk_", "mtm_", "piwik_", "matomo_")

#: What a URL with a tracking parameter matches, and few others do (Python's syntax and RE2's).
MAYBE_TRACKING = "(?i)[?&](" + "|".join([*sorted(TRACKING_PARAMETERS), *TRACKING_PREFIXES]) + ")"


class UrlError(ValueError):
    """A reference that is no address of a page or picture; ``reason`` is for the tally."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def absolute_url(reference: str, base: str = "") -> str:
    """The absolute http or https URL that ``reference`` means on a page at ``base``.

    Normal form: lower-case scheme and host, the host in ASCII (IDNA) and without a dot at its
    end, no default port, a path of at least "/", no fragment and no empty query, every character
    outside the URL alphabet percent-encoded. Raises UrlError
    (data_uri, not_http, bad_url, url_too_long); a URL with a user name or password is a bad one,
    since it would send credentials that were found on a page.
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
        return _short(url if _PLAIN.fullmatch(url) else safe_url_string(url))
    except UrlError:
        raise
    except ValueError as error:  # of the port, the brackets of an IPv6 address, or IDNA
        raise UrlError("bad_url") from error


class Base:
    """What the references of one page are relative to; most are resolved without being parsed."""

    def __init__(self, url: str) -> None:
        self._url = url
        simple = _SIMPLE_BASE.fullmatch(url)
        self._root, self._folder = (simple[1], simple[1] + simple[2]) if simple else ("", "")

    def absolute_url(self, reference: str) -> str:
        """``absolute_url`` of a reference of the page."""
        if _NORMAL.match(reference):
            return _short(reference)
        if self._root and _SIMPLE_PATH.fullmatch(reference):
            rooted = reference[0] == "/"
            return _short(self._root + reference[1:] if rooted else self._folder + reference)
        return absolute_url(reference, self._url)


def _short(url: str) -> str:
    if len(url) > MAX_URL_CHARS:
        raise UrlError("url_too_long")
    return url


def _authority(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    host = host.removesuffix(".")  # of the root of all names
    if not host.strip(".") or parts.username is not None or any(map(str.isspace, host)):
        raise UrlError("bad_url")
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"


def authority(url: str) -> str:
    """The HOST or HOST:PORT of a normal URL."""
    return urlsplit(url).netloc


def origin(url: str) -> str:
    """The SCHEME://HOST or SCHEME://HOST:PORT of a normal URL."""
    return "/".join(url.split("/", 3)[:3])


def normal_host(host: str) -> str:
    """HOST or HOST:PORT as it stands in normal URLs: lower case, no default port.

    The ports of http and https are both default ones: they belong to one host.
    """
    return min(
        (authority(absolute_url(f"{scheme}://{host}/")) for scheme in DEFAULT_PORTS), key=len
    )


def without_tracking(url: str) -> str:
    """A normal URL without its tracking parameters: what it is recognised by.

    The other parameters stay as they are and in their order. The URL itself is the one to
    download from: some servers insist on the whole.
    """
    address, mark, query = url.partition("?")
    if not mark:
        return url
    kept = [part for part in query.split("&") if not _is_tracking(part)]
    if len(kept) == query.count("&") + 1:
        return url
    return f"{address}?{'&'.join(kept)}" if kept else address


def _is_tracking(parameter: str) -> bool:
    name = parameter.partition("=")[0].lower()
    return name in TRACKING_PARAMETERS or name.startswith(TRACKING_PREFIXES)


def url_keys(urls: Any) -> Any:
    """``without_tracking`` of an Arrow array of normal URLs; few of them have to be looked at."""
    maybe = pc.match_substring_regex(urls, MAYBE_TRACKING)
    keys = [without_tracking(url) for url in urls.filter(maybe).to_pylist()]
    return pc.replace_with_mask(urls, maybe, pa.array(keys, pa.string()))
