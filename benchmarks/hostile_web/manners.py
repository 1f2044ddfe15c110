"""What its owner does not want: cases of robots.txt, and of opt-outs in all their forms."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.hostile_web.answers import (
    OK,
    Fields,
    answer,
    by_path,
    endless,
    held,
    late,
    moved,
    raw,
    robots,
)
from benchmarks.hostile_web.case import MAX_SECONDS, RETRIES, TIMEOUT, Case, Check, Doing
from benchmarks.hostile_web.codings import bomb_of_gzip
from benchmarks.hostile_web.files import HTML, LOOKS, PNG
from benchmarks.hostile_web.server import Seen

_PICTURE = answer(PNG)
_TEXT = b"Content-Type: text/plain\r\n"
#: Of a robots.txt that cannot be had: where it may be had later, and where RFC 9309 leaves it open
#: whether there is none. Why it could not be had may stand for the first of these.
_AWAY, _UNLESS = "robots_unreachable", ("kept", "robots_unreachable")


def _rules(
    name: str, expected: str | tuple[str, ...], does: Doing, within: float = TIMEOUT
) -> Case:
    """A good picture behind a robots.txt: asked for where it may be kept, and only there."""
    requests = (int(expected == "kept"), int("kept" in expected))
    return Case(name, expected, _PICTURE, requests, LOOKS, within, robots=does)


def _robots_tags(*values: str) -> Fields:
    return [("X-Robots-Tag", value) for value in values]


def _says(name: str, fields: Fields) -> Case:
    """A picture whose fields say no; nothing but its head is needed."""
    return Case(f"opt-out: {name}", "opted_out", answer(PNG, fields=fields))


def _says_not(name: str, fields: Fields) -> Case:
    return Case(f"no opt-out: {name}", "kept", answer(PNG, fields=fields), looks=LOOKS)


def _pauses(seconds: float) -> Check:
    def check(case: Case, seen: Seen) -> str:
        times = sorted(visit.began for visit in seen.of(case))
        gaps = [later - sooner for sooner, later in pairwise(times)]
        # Two requests may leave at the right times and arrive a little closer.
        return f"{min(gaps):.2f} s between two requests" if min(gaps) < seconds - 0.1 else ""

    return check


def _is_read_before(case: Case, seen: Seen) -> str:
    first = seen.at_host_of(case)[0].path
    return "" if first == "/robots.txt" else f"{first} was asked for before robots.txt"


_PADDING = "# " + "x" * 97 + "\n"
_LONG = _PADDING * (1_000_000 // len(_PADDING))
_DISALLOW = "User-agent: *\nDisallow: /\n"


def _text(content: str) -> Doing:
    return answer(content.encode(), fields={"Content-Type": "text/plain"})


ROBOTS = [
    Case("robots.txt that allows", "kept", _PICTURE, looks=LOOKS, check=_is_read_before,
         robots=robots("User-agent: *", "Disallow: /secret/")),
    _rules("robots.txt that is missing", "kept", answer(status=404)),
    _rules("robots.txt that is forbidden", "kept", answer(status=403)),
    _rules("robots.txt of 429", _UNLESS, answer(status=429)),
    _rules("robots.txt: disallow", "robots_txt", robots("User-agent: *", "Disallow: /")),
    _rules("robots.txt: disallow us", "robots_txt",
           robots("User-agent: *", "Allow: /", "", "User-agent: Hostile-Web", "Disallow: /")),
    _rules("robots.txt: disallow others", "kept",
           robots("User-agent: otherbot", "Disallow: /", "", "User-agent: *", "Disallow: /secret")),
    _rules("robots.txt: disallow us by half our name", "kept",
           robots("User-agent: hostile", "Disallow: /")),
    _rules("robots.txt: disallow by a pattern", "robots_txt",
           robots("User-agent: *", "Disallow: /*.png$")),
    _rules("robots.txt: allow what is longer", "kept",
           robots("User-agent: *", "Disallow: /", "Allow: /*.png$")),
    _rules("robots.txt with a byte order mark", "robots_txt", _text("\ufeff" + _DISALLOW)),
    _rules("robots.txt with CR alone", "robots_txt", _text(_DISALLOW.replace("\n", "\r"))),
    _rules("robots.txt of 1 MB, disallow first", "robots_txt", _text(_DISALLOW + _LONG)),
    _rules("robots.txt of 1 MB, disallow last", "kept", _text(_LONG + _DISALLOW)),
    _rules("robots.txt without end", _UNLESS,
           endless(OK + _TEXT + b"\r\n", _PADDING.encode() * 100)),
    _rules("robots.txt of one endless line", _UNLESS, endless(OK + _TEXT + b"\r\n", b"x" * 65_536)),
    _rules("robots.txt that drips", (_AWAY, "timeout"),
           endless(OK + _TEXT + b"\r\n", b"# \n", 0.2),
           MAX_SECONDS),
    _rules("robots.txt of bytes", "kept", answer(bytes(range(256)) * 40)),
    _rules("robots.txt that is a page", "kept", answer(HTML, fields={"Content-Type": "text/html"})),
    _rules("robots.txt that is a bomb", _UNLESS,
           answer(bomb_of_gzip(), fields={"Content-Encoding": "gzip"})),
    _rules("robots.txt of 500", _AWAY, answer(status=500)),
    _rules("robots.txt of 503", _AWAY, answer(status=503)),
    _rules("robots.txt without an answer", (_AWAY, "timeout"), held()),
    _rules("robots.txt that is closed", (_AWAY, "connection", "cut_off"), raw()),
    _rules("robots.txt of garbage", (_AWAY, "bad_answer"), raw(b"SSH-2.0-OpenSSH\r\n\r\n")),
    _rules("robots.txt in a redirect loop", _UNLESS, moved("/robots.txt")),
    _rules("robots.txt that leads inside", (*_UNLESS, "private_address"),
           moved("http://{inside}/{slug}/robots.txt")),
    _rules("robots.txt of another host, disallow", "robots_txt",
           moved("http://{hosts[disallowing]}/robots.txt")),
    Case("a host that disallows", "robots_txt", _PICTURE, (0, 0), host="disallowing",
         robots=robots("User-agent: *", "Disallow: /")),
    Case("redirect to a host that disallows", "robots_txt",
         by_path({"/0.png": moved("http://{hosts[disallowing]}/{slug}/1.png")}, _PICTURE)),
    Case("robots.txt: Crawl-delay", "kept", _PICTURE, (3, 3), LOOKS, urls=3,
         robots=robots("User-agent: *", "Crawl-delay: 1"), check=_pauses(1)),
    Case("robots.txt: a late one", "kept", _PICTURE, looks=LOOKS, check=_is_read_before,
         robots=late(1.0, robots("User-agent: *", "Disallow: /secret/"))),
]  # fmt: skip

OPT_OUTS = [
    *(
        _says(word, _robots_tags(word))
        for word in ("noai", "noimageai", "noml", "noindex", "noimageindex", "none")
    ),
    _says("in other letters", _robots_tags("NoAI")),
    _says("among others", _robots_tags("nofollow, noarchive, noai")),
    _says("behind a semicolon", _robots_tags("noarchive; noai")),
    _says("in a second header", _robots_tags("nofollow", "noai")),
    _says("in a header of another case", {"x-ROBOTS-tag": "noai"}),
    _says("to all", _robots_tags("*: noai")),
    _says("to us", _robots_tags("hostile-web: noai")),
    _says("to us and another", _robots_tags("otherbot: nofollow", "Hostile-Web: noindex, noai")),
    _says("behind a value with colons",
          _robots_tags("unavailable_after: 25 Jun 2099 15:00:00 PST, noai")),
    _says("behind a value called none", _robots_tags("max-image-preview:none, noai")),
    _says("tdm-reservation", {"tdm-reservation": "1"}),
    _says("tdm-reservation with a policy",
          {"TDM-Reservation": " 1 ", "tdm-policy": "https://a.example/policy.json"}),
    _says("Content-Usage", {"Content-Usage": "train-ai=n"}),
    _says("Content-Usage among others", {"Content-Usage": "search=y, train-ai=n;exp=1"}),
    _says("Content-Usage in two headers",
          [("Content-Usage", "search=y"), ("Content-Usage", "train-ai=n")]),
    _says("Content-Signal", {"Content-Signal": "search=yes, ai-train=no"}),
    Case("opt-out: of a redirect", "opted_out",
         moved("/{slug}/b.png", fields={"X-Robots-Tag": "noai"})),
    Case("opt-out: before an endless body", "opted_out",
         endless(OK + b"X-Robots-Tag: noai\r\n\r\n")),
    Case("opt-out: of an answer that is an error", ("http_503", "opted_out"),
         answer(status=503, fields={"X-Robots-Tag": "noai"}), (1, RETRIES + 1)),
    Case("opt-out: tdmrep.json", "opted_out", _PICTURE, (0, 1),
         tdm=answer(b'[{"location": "/*", "tdm-reservation": 1}]',
                    fields={"Content-Type": "application/json"})),
    Case("no opt-out: tdmrep.json of another folder", "kept", _PICTURE, looks=LOOKS,
         tdm=answer(b'[{"location": "/elsewhere/*", "tdm-reservation": 1}]',
                    fields={"Content-Type": "application/json"})),
    Case("no opt-out: tdmrep.json that is a page", "kept", _PICTURE, looks=LOOKS,
         tdm=answer(HTML)),
    Case("opt-out: Content-Usage in robots.txt", ("opted_out", "robots_txt"), _PICTURE, (0, 0),
         robots=robots("User-agent: *", "Allow: /", "Content-Usage: train-ai=n")),
    Case("opt-out: Content-Usage of a path in robots.txt", ("opted_out", "robots_txt"), _PICTURE,
         (0, 0), robots=robots("User-agent: *", "Content-Usage: /opt-out train-ai=n", "Allow: /")),
    Case("opt-out: Content-Signal in robots.txt", ("opted_out", "robots_txt"), _PICTURE, (0, 0),
         robots=robots("User-agent: *", "Content-Signal: search=yes, ai-train=no", "Allow: /")),
    _says_not("to another", _robots_tags("googlebot: noindex, noai")),
    _says_not("all", _robots_tags("all", "index, follow")),
    _says_not("a value called none", _robots_tags("max-image-preview:none")),
    _says_not("a value with colons", _robots_tags("unavailable_after: 25 Jun 2099 15:00:00 PST")),
    _says_not("a longer word", _robots_tags("noaiplease, nofollow")),
    _says_not("tdm-reservation of 0", {"tdm-reservation": "0"}),
    _says_not("Content-Usage that allows", {"Content-Usage": "train-ai=y, search=n"}),
    _says_not("Content-Usage that is damaged", {"Content-Usage": "train-ai=="}),
]  # fmt: skip
