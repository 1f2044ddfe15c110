"""Addresses of pages and images: made absolute and normal, or refused with a reason."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import ada_url
import pyarrow as pa
import pyarrow.compute as pc
import webencodings

DEFAULT_PORTS = {"http": 80, "https": 443}

#: The statuses of an answer that is to be had at another URL.
REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: A longer URL is refused: it is the length that RFC 9110 asks of all software, and servers
#: refuse longer ones.
MAX_URL_CHARS = 8_000

# Names that are hosts in normal form whatever their length: what could be a number to the standard
# (a last label that begins with a digit) or IDNA ("--") is left to the parser.
_LABEL = r"(?:-?[a-z0-9]){0,23}"
_HOST = rf"(?:[a-z0-9]{_LABEL}\.){{0,4}}[a-z]{_LABEL}"

# A part of a path: any but "." and "..", which mean another path, as "%2e" does.
_CHARS = r"A-Za-z0-9\-_~!$&'()*+,;=@"
_ESCAPE = "%(?:[013-9A-Fa-f][0-9A-Fa-f]|2[0-9A-DFa-df])"


def _part(chars: str) -> str:
    return rf"(?:\.{{0,2}}(?:[{chars}]|{_ESCAPE})|\.{{3}})[{chars}.]*(?:{_ESCAPE}[{chars}.]*)*"


_PART = _part(_CHARS + ":")
_QUERY = r"\?[A-Za-z0-9\-._~:/?\[\]@!$&()*+,;=%]"

#: A URL that matches (Python's syntax and RE2's) is one that ``absolute_url`` leaves as it is,
#: or refuses for its length.
NORMAL_URL = rf"^https?://{_HOST}(?:/(?:{_PART})?)+(?:{_QUERY}+)?$"

_NORMAL = re.compile(NORMAL_URL.removesuffix("$") + r"\Z")

#: References that only have to be put behind a base.
_SIMPLE_PATH = re.compile(rf"(?:/{_PART}|{_part(_CHARS)})(?:/(?:{_PART})?)*(?:{_QUERY}+)?")

#: Bases that such references can be put behind: the host and the folder are groups.
_SIMPLE_BASE = re.compile(rf"(https?://{_HOST}/)((?:(?:{_PART})?/)*)(?:{_PART})?(?:{_QUERY}*)?")

#: The host of what the parser gives, at most 63 octets a label, none of them empty but for the one
#: of the root of all names; and its port. There is no place for credentials.
_NAME = r"(?:[a-z0-9_\-]{1,63}\.)*[a-z0-9_\-]{1,63}"
_SITE = re.compile(rf"(https?://)({_NAME}|\[[0-9a-f:]+\])\.?((?::[0-9]+)?/)")
MAX_HOST_CHARS = 253

_SCHEME = re.compile(r"[\0- ]*([A-Za-z][A-Za-z0-9+.\-]*):")

#: Characters that the standard leaves in a URL, and RFC 3986 does not know.
_ODD = re.compile(r"[\\^`{|}]")

#: What stays of a query that is encoded in another encoding than UTF-8.
_QUERY_SAFE = "!$%&()*+,-./:;=?@[]_~"

#: Query parameters that tell where a visitor came from and never which image it is: names in
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
    """A reference that is no address of a page or image; ``reason`` is for the tally."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def absolute_url(reference: str, base: str = "", encoding: str = "utf-8") -> str:
    """The absolute http or https URL that ``reference`` means on a page at ``base``.

    It is what the WHATWG's URL standard makes of it, as browsers do, and more: no dot at the host's
    end, no fragment, no empty query, and every character outside RFC 3986's alphabet
    percent-encoded. So the scheme and the host are in lower case, the host in ASCII (IDNA, without
    transitional processing) or an address in its one form, without a default port, the path at
    least "/" and without dots. The characters of the query are encoded in the page's ``encoding``
    (a name of the Encoding Standard), as those of a form are.

    Raises UrlError (data_uri, not_http, bad_url, url_too_long). A host that cannot be one is bad; a
    URL with a user name or password, too, since it would send credentials that were found on a
    page.
    """
    reference = reference.strip()
    if reference[:5].lower() == "data:":
        raise UrlError("data_uri")
    if encoding != "utf-8" and not reference.isascii():
        reference = _with_query_in(encoding, reference)
    url = _parsed(reference, base)
    if not url.startswith(("http://", "https://")):
        raise UrlError("data_uri" if url.startswith("data:") else "not_http")
    site = _SITE.match(url)
    if not site or len(site[2]) > MAX_HOST_CHARS:
        raise UrlError("bad_url")
    rest = url[site.start(3) :].partition("#")[0]
    if rest.endswith("?") and rest.count("?") == 1:
        rest = rest[:-1]
    return _short(site[1] + site[2] + _ODD.sub(_escaped, rest))


def _parsed(reference: str, base: str) -> str:
    """What the standard makes of a reference. Raises UrlError."""
    try:
        return ada_url.join_url(base, reference) if base else ada_url.normalize_url(reference)
    except ValueError:
        if base and not ada_url.check_url(base):  # what needs none is there all the same
            return _parsed(reference, "")
    scheme = _SCHEME.match(reference) or _SCHEME.match(base)
    raise UrlError("bad_url" if scheme and scheme[1].lower() in DEFAULT_PORTS else "not_http")


def _escaped(character: re.Match[str]) -> str:
    return f"%{ord(character[0]):02X}"


def _with_query_in(encoding: str, reference: str) -> str:
    """A reference whose query has its characters encoded, or as "&#NUMBER;" where it has none."""
    known = webencodings.lookup(encoding)
    if known is None or known.name.startswith("utf-16"):
        return reference
    encode = known.codec_info.encode

    def encoded(text: re.Match[str]) -> str:
        try:
            return quote_from_bytes(encode(text[0])[0], safe=_QUERY_SAFE)
        except UnicodeEncodeError:
            return "".join(map(one, text[0]))

    def one(character: str) -> str:
        try:
            return quote_from_bytes(encode(character)[0], safe=_QUERY_SAFE)
        except UnicodeEncodeError:
            return f"%26%23{ord(character)}%3B"

    address, hash_sign, fragment = reference.partition("#")
    path, mark, query = address.partition("?")
    return path + mark + re.sub(r"[^\0-\x7f]+", encoded, query) + hash_sign + fragment


def from_header(value: bytes) -> str:
    """The reference of a Location header. Bytes beyond ASCII go back as they came, escaped."""
    return re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), value).decode("ascii")


def base_url(reference: str, page_url: str) -> str:
    """The base that a <base> element asks for; the page's where that is none of the web's."""
    try:
        url = _parsed(reference, page_url)
    except UrlError:
        return page_url
    return url.partition("#")[0] if url.startswith(("http://", "https://")) else page_url


class Base:
    """What the references of one page are relative to; most are resolved without being parsed."""

    def __init__(self, url: str, encoding: str = "utf-8") -> None:
        self._url, self._encoding = url, encoding
        simple = _SIMPLE_BASE.fullmatch(url)
        self._root, self._folder = (simple[1], simple[1] + simple[2]) if simple else ("", "")

    def absolute_url(self, reference: str) -> str:
        """``absolute_url`` of a reference of the page."""
        if _NORMAL.match(reference):
            return _short(reference)
        if self._root and _SIMPLE_PATH.fullmatch(reference):
            rooted = reference[0] == "/"
            return _short(self._root + reference[1:] if rooted else self._folder + reference)
        return absolute_url(reference, self._url, self._encoding)


def _short(url: str) -> str:
    if len(url) > MAX_URL_CHARS:
        raise UrlError("url_too_long")
    return url


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


def normal_urls(urls: Any) -> tuple[Any, Any]:
    """Each URL as ``absolute_url`` gives it, and the reason why it refuses one, or null.

    Most URLs of a list are normal already: only the others are looked at one by one.
    """
    long = pc.greater(pc.binary_length(urls), MAX_URL_CHARS)
    odd = pc.or_(long, pc.invert(pc.match_substring_regex(urls, NORMAL_URL)))
    results = [_normal(url) for url in urls.filter(odd).to_pylist()]
    normal = pa.array([url for url, _ in results], pa.string())
    reasons = pa.array([reason for _, reason in results], pa.string())
    return (
        pc.replace_with_mask(urls, odd, normal),
        pc.replace_with_mask(pa.nulls(len(urls), pa.string()), odd, reasons),
    )


def _normal(url: str) -> tuple[str, str | None]:
    if not url.strip():
        return "", "no_url"
    try:
        return absolute_url(url), None
    except UrlError as error:
        return "", error.reason


def url_keys(urls: Any) -> Any:
    """``without_tracking`` of an Arrow array of normal URLs; few of them have to be looked at."""
    maybe = pc.match_substring_regex(urls, MAYBE_TRACKING)
    keys = [without_tracking(url) for url in urls.filter(maybe).to_pylist()]
    return pc.replace_with_mask(urls, maybe, pa.array(keys, pa.string()))
