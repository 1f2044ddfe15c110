"""What the owner of a page or an image says may be done with it: every form of it, one parser.

Pure functions of what came over the wire: nothing is asked for here, and nothing is raised,
whatever it is; what is malformed says nothing. RULES has the forms and the version of each; of
robots.txt, whose groups ``workers.web.robots`` reads, the values of its lines are parsed here.

Several crawlers' names may count, ours and those through which data has come: ``agents`` are their
product tokens, as ``product_token`` gives them. What is said to one of them is said to us.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from workers.base.path_patterns import PathPattern, path_of
from workers.base.settings import product_token

#: The rules that are applied, and which version of each (docs/inputs.md); receipts have those that
#: were. Pairs are made anew when one changes, so it does with what is heard and not with a wording.
RULES: Mapping[str, str] = {
    "robots.txt": "RFC 9309",
    "X-Robots-Tag": "as Google, Bing and DeviantArt have published it, as met in 2026-11",
    "TDMRep": "W3C community group's final report of 2024-05-10",
    "tdmrep.json": "W3C community group's final report of 2024-05-10",
    "Content-Usage": "draft-ietf-aipref-attach-05, draft-ietf-aipref-vocab-07",
    "Content-Signal": "draft-romm-aipref-contentsignals-00, contentsignals.org in 2026-11",
}

#: Those that stand in a file of a host's, which is asked for before anything else of it is.
RULES_OF_HOSTS = frozenset({"robots.txt", "tdmrep.json"})

#: The headers in which something is said, for those who keep or pass on no others.
OPT_OUT_HEADERS = (
    "X-Robots-Tag",
    "TDM-Reservation",
    "TDM-Policy",
    "Content-Usage",
    "Content-Signal",
)

#: Bytes of a tdmrep.json that are taken, as many as of a robots.txt: a larger one says nothing.
MAX_TDMREP_BYTES = 500 * 1024

#: Names and values, of headers or of meta elements, as they came; a name may come several times.
Pairs = Iterable[tuple[str, str]]

#: Each of these says that a page or image is not for a use like ours.
OPT_OUTS = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex"})

#: "none" stands for these.
_NONE = frozenset({"noindex", "nofollow"})

#: Whom a directive for everybody is addressed to, if anybody is named.
_EVERYBODY = frozenset({"*", "all", "robots"})

#: What is no crawler's name, though a colon follows ("noindex: true").
_DIRECTIVES = OPT_OUTS.union(
    ("archive", "follow", "index", "indexifembedded", "noarchive", "nocache", "nofollow"),
    ("noimageclick", "none", "noodp", "nopagereadaloud", "nositelinkssearchbox", "nosnippet"),
    ("notranslate", "noydir"),
)

#: A word or a name, whatever parts it from the next one, and whether a colon follows; that of
#: "https://", in a user agent, is none. No character is looked at more than twice.
_TOKEN = re.compile(r"([\w./*-]++)([\s\"']*+[:=](?!//))?")
_WORD = re.compile(r"[\w-]+")

#: Directives with a value, which may hold colons and be called "none".
_VALUED = re.compile(r"max-[a-z-]+|unavailable_after")
_VALUE = re.compile(r"[\s\"']*+[^\s\"',;]*+")

#: How a crawler's name begins. A part of a date, "15" in "15:00:00 PST", is none.
_AGENT = re.compile(r"[a-z_*]")

#: How RFC 9651 writes a dictionary (section 4.2.2). No bare item is the beginning of another one
#: that could follow it, so what is malformed is left over, and the whole is malformed.
_KEY = r"[a-z*][a-z0-9_.*-]*+"
_BARE = (
    r"(?:-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}|@-?[0-9]{1,15}|\?[01]"  # numbers, date, boolean
    r"|[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*+|:[A-Za-z0-9+/=]*+:"  # token, bytes
    r'|"(?:[ !#-\[\]-~]|\\["\\])*+"|%"(?:[ !#$&-~]|%[0-9a-f]{2})*+")'  # strings
)
_PARAMETERS = rf"(?:; *+{_KEY}(?:={_BARE})?)*+"
_ITEM = _BARE + _PARAMETERS
_INNER_LIST = rf"\( *+(?:{_ITEM}(?: ++{_ITEM})*+)? *+\)"
_MEMBER = re.compile(rf"({_KEY})(?:=(?:({_BARE})|{_INNER_LIST}))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*+,[ \t]*+")

#: What the category of training is called in the vocabulary; then what people write for it: its
#: name in Content-Signal, and those that it or what it was a part of had in drafts 01 to 04.
_TRAINING = ("train-ai", "ai-train", "ai", "tdm", "bots", "all")

_SIGNAL = re.compile(r"(?i)(?<![\w-])ai[-_]train[\s\"']*+=[\s\"']*+(yes|no)\b")


def headers_opt_out(headers: Pairs, agents: Collection[str], reserved: bool | None = None) -> bool:
    """Whether the headers of an answer say that what it holds is not for a use like ours.

    ``reserved`` is what the host's tdmrep.json says of the URL (``TdmRep``), which a header of
    TDMRep overrules, as the report has it ("Processing priority").
    """
    return page_opts_out(headers, (), agents, reserved)


def page_opts_out(
    headers: Pairs, metas: Pairs, agents: Collection[str], reserved: bool | None = None
) -> bool:
    """The same of a page, with the names and contents of its meta elements.

    What they say of TDMRep overrules the header; all other forms are heard beside one another.
    """
    headers, metas = list(headers), list(metas)
    fields = _by_name(headers)
    for values in (fields["tdm-reservation"], _by_name(metas)["tdm-reservation"]):
        said = _reservation(values)
        reserved = reserved if said is None else said
    return bool(
        reserved
        or not OPT_OUTS.isdisjoint(directives_of(headers, metas, agents))
        or usage_opts_out(", ".join(filter(None, fields["content-usage"])))
        or signal_opts_out(", ".join(fields["content-signal"]))
    )


def directives_of(headers: Pairs, metas: Pairs, agents: Collection[str]) -> set[str]:
    """What X-Robots-Tag and robots meta elements say to everybody and to ``agents``.

    In lower case; of "none" what it means. A name before a colon ("googlebot: noindex, nofollow")
    addresses all that follows, up to the next name, in its header.
    """
    values = _by_name(headers)["x-robots-tag"]
    values += (content for name, content in metas if product_token(name) in ("robots", *agents))
    said = {word for value in values for word in _words(value.lower(), agents)}
    return said | _NONE if "none" in said else said


def usage_opts_out(statement: str) -> bool | None:
    """Whether a statement of the vocabulary disallows training; None where it says nothing of it.

    It is a dictionary of RFC 9651 ("train-ai=n, search=y"), the lines of a header being joined by
    commas. Malformed, it says nothing at all.
    """
    preferences = _dictionary(statement)
    for label in _TRAINING:
        if preferences.get(label) in ("y", "n"):
            return preferences[label] == "n"
    return None


def signal_opts_out(signals: str) -> bool | None:
    """Whether a Content-Signal ("search=yes, ai-train=no") says no to training; None: nothing."""
    said = {value.lower() for value in _SIGNAL.findall(signals)}
    return "no" in said if said else None


class TdmRep:
    """What a host's /.well-known/tdmrep.json reserves; a malformed one or a part of it nothing."""

    def __init__(self, body: bytes) -> None:
        self._rules = list(_tdm_rules(body))

    def reserves(self, url: str) -> bool | None:
        """Whether mining is reserved for a URL in normal form; None where no rule fits it.

        The first rule that fits counts, as the report says, however specific another one is.
        """
        path = path_of(url)
        return next((reserved for rule, reserved in self._rules if rule.matches(path)), None)


def _by_name(pairs: Pairs) -> defaultdict[str, list[str]]:
    values = defaultdict[str, list[str]](list)
    for name, value in pairs:
        values[name.strip().lower()].append(value)
    return values


def _words(value: str, agents: Collection[str]) -> Iterator[str]:
    """The words that are said to everybody or to one of ``agents``."""
    is_for_us, at = True, 0
    while match := _TOKEN.search(value, at):
        at = match.end()
        name, has_colon = match[1], match[2] is not None
        if not has_colon or product_token(name) in _DIRECTIVES:
            yield from _WORD.findall(name) if is_for_us else ()
        elif _VALUED.fullmatch(name):
            at = _end_of_value(value, at)
        elif name in _EVERYBODY or _AGENT.match(name):
            is_for_us = name in _EVERYBODY or product_token(name) in agents


def _end_of_value(text: str, at: int) -> int:
    match = _VALUE.match(text, at)
    return match.end() if match else at


def _reservation(values: Iterable[str]) -> bool | None:
    """What tdm-reservation says; values other than 1 and 0 are errors, which say nothing."""
    said = {part.strip(" \t\"'") for value in values for part in value.split(",")}
    return True if "1" in said else False if "0" in said else None


def _dictionary(text: str) -> dict[str, str | None]:
    """The bare items of a dictionary by key; None for an inner list and a key alone."""
    members: dict[str, str | None] = {}
    text = text.strip(" \t")
    at = 0
    while match := _MEMBER.match(text, at):
        members[match[1]] = match[2]
        comma = _COMMA.match(text, match.end())
        if comma is None:
            return members if match.end() == len(text) else {}
        at = comma.end()
    return {}


def _tdm_rules(body: bytes) -> Iterator[tuple[PathPattern, bool]]:
    """The rules of a tdmrep.json, in its order; people write a reservation as 1, "1" and true."""
    if len(body) > MAX_TDMREP_BYTES:
        return
    try:
        rules = msgspec.json.decode(body.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for rule in rules if isinstance(rules, list) else ():
        if not isinstance(rule, dict):
            continue
        location, value = rule.get("location"), rule.get("tdm-reservation")
        if isinstance(location, str) and value in (0, 1, "0", "1"):
            octets = location.strip().encode().decode("latin-1")
            yield PathPattern.of(octets), value in (1, "1")
