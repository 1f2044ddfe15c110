"""What a server says of itself: cases of statuses, of when to come again, and of how many at a
time."""

from __future__ import annotations

from benchmarks.hostile_web.answers import answer, busy, first_then, late, raw, robots
from benchmarks.hostile_web.case import RETRIES, Case, Check
from benchmarks.hostile_web.files import LOOKS, PNG
from benchmarks.hostile_web.server import ROBOTS, Seen

_PICTURE = answer(PNG)
_EACH = RETRIES + 1
#: URLs of the slow host and of the fast one beside it, and seconds of each of the slow one's.
_MANY, _SLOW = 24, 0.5
#: URLs of a host in a row that cannot be had, after which the others are not asked for.
_AWAY_AFTER = 10


def _not_before(seconds: float) -> Check:
    """The second request comes so many seconds after the first was answered."""

    def check(case: Case, seen: Seen) -> str:
        first, *others = seen.of(case)
        gap = min((other.began - (first.ended or first.began) for other in others), default=None)
        if gap is None or gap >= seconds - 0.05:
            return ""
        return f"asked again after {gap:.1f} s, not {seconds:.1f} s"

    return check


def _is_done_before_the_slow_host(case: Case, seen: Seen) -> str:
    slow = [visit.began for visit in seen.visits if visit.path.startswith("/a-slow-host/")]
    if not slow or max(visit.began for visit in seen.of(case)) < max(slow):
        return ""
    return "it had to wait for the slow host"


def _is_frugal(case: Case, seen: Seen) -> str:
    """One host is asked for its robots.txt once, over connections that are used again."""
    asked = len(seen.for_path(case, ROBOTS))
    opened = seen.connections.count(seen.hosts[case.slug])
    if asked != 1:
        return f"robots.txt was asked for {asked} times"
    return f"{opened} connections were opened" if opened > _MANY // 4 else ""


def _is_left_alone(case: Case, seen: Seen) -> str:
    asked = len({visit.path for visit in seen.of(case)})
    return f"{asked} URLs of it were asked for" if asked > 2 * _AWAY_AFTER else ""


CASES = [
    Case("a slow host", "kept", late(_SLOW, _PICTURE), (_MANY, _MANY), LOOKS, urls=_MANY),
    Case("a fast host beside it", "kept", _PICTURE, (_MANY, _MANY), LOOKS, urls=_MANY,
         check=_is_done_before_the_slow_host),
    Case("many pictures of one host", "kept", _PICTURE, (_MANY, _MANY), LOOKS, urls=_MANY,
         robots=robots("User-agent: *", "Disallow: /secret/"), check=_is_frugal),
    Case("a host that is away", ("connection", "cut_off", "host_away"), raw(),
         (_AWAY_AFTER, 3 * 2 * _AWAY_AFTER), urls=3 * _AWAY_AFTER, check=_is_left_alone),
    Case("429 with seconds", "kept", first_then(busy(429, 1), _PICTURE), (2, 2), LOOKS,
         check=_not_before(1)),
    # A date has no parts of a second: one is lost.
    Case("429 with a date", "kept", first_then(busy(429, 3, as_date=True), _PICTURE), (2, 2), LOOKS,
         check=_not_before(2)),
    Case("503 with seconds", "kept", first_then(busy(503, 1), _PICTURE), (2, 2), LOOKS,
         check=_not_before(1)),
    Case("429 with a day", "http_429", busy(429, 86_400)),
    Case("429 with a date of last year", "kept",
         first_then(busy(429, -3e7, as_date=True), _PICTURE), (2, 2), LOOKS),
    Case("429 with nonsense", "kept",
         first_then(answer(status=429, fields={"Retry-After": "soon, -5"}), _PICTURE), (2, 2),
         LOOKS),
    Case("429 without end", "http_429", busy(429, 1), (_EACH, _EACH), check=_not_before(1)),
    Case("503 once", "kept", first_then(answer(b"", 503), _PICTURE), (2, 2), LOOKS),
    Case("500 without end", "http_500", answer(b"", 500), (_EACH, _EACH)),
    Case("502 without end", "http_502", answer(b"", 502), (_EACH, _EACH)),
    Case("599 without end", "http_599", answer(b"", 599), (_EACH, _EACH)),
    Case("408 without end", "http_408", answer(b"", 408), (_EACH, _EACH)),
    *(
        Case(f"{status}", f"http_{status}", answer(PNG, status))
        for status in (400, 401, 403, 404, 410, 418, 451)
    ),
    Case("204", ("http_204", "not_an_image"), raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
    Case("206 unasked, with a part", ("http_206", "not_an_image", "cut_off"),
         answer(PNG[:99], 206, {"Content-Range": f"bytes 0-98/{len(PNG)}"})),
    Case("304 unasked", "http_304", raw(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")),
    Case("a status of 999", ("http_999", "bad_answer"), answer(PNG, 999)),
    Case("a status of 42", ("http_42", "bad_answer"), raw(b"HTTP/1.1 42 What\r\n\r\n"), (1, _EACH)),
]  # fmt: skip
