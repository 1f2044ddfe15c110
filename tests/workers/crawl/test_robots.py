from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego
from scrapy import Request
from scrapy.http import Response

from workers.base.settings import CrawlSettings
from workers.crawl.fetch import Fetcher
from workers.web.robots import MAX_ROBOTS_BYTES, Robots, RobotsTxt, read_robots

US = "birds-research (+https://birds.example/bot)"


def allows(text: str | bytes, path: str, agent: str = US) -> bool:
    body = text if isinstance(text, bytes) else text.encode()
    return RobotsTxt(body, agent).allows(f"http://a.example:8080{path}")


#: RFC 9309, section 5.1.
SIMPLE = """User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "allowed", "refused"),
    [
        ("other", ["/", "/publications/a", "/a.gif?x"], ["/a.gif", "/example/x", "/b/c.gif"]),
        ("foobot", ["/example/page.html", "/example/allowed.gif"], ["/", "/publications/"]),
        ("barbot", ["/", "/a.gif"], ["/example/page.html"]),
        ("BazBot", ["/", "/a.gif"], ["/example/page.html"]),
        ("quxbot", ["/", "/a.gif", "/example/page.html"], []),
    ],
)
def test_the_simple_example_of_the_rfc(agent, allowed, refused):
    for path in allowed:
        assert allows(SIMPLE, path, agent), path
    for path in refused:
        assert not allows(SIMPLE, path, agent), path


def test_the_longest_match_of_the_rfc():
    rules = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"
    assert not allows(rules, "/example/page/disallowed.gif", "foobot")
    assert allows(rules, "/example/page/allowed.gif", "foobot")


def test_groups_of_one_agent_are_one_group():
    rules = (
        "user-agent: ExampleBot\ndisallow: /foo\ndisallow: /bar\n\n"
        "user-agent: *\ndisallow: /all\n\nuser-agent: ExampleBot\ndisallow: /baz\n"
    )
    assert [allows(rules, path, "ExampleBot") for path in ("/foo", "/bar", "/baz")] == [False] * 3
    assert allows(rules, "/all", "ExampleBot"), "the general group is for those without their own"


@pytest.mark.parametrize(
    ("pattern", "path"),  # figures 4 and 6 of the RFC, and their like
    [
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar?baz=https%3a%2F%2ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%e3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7a"),
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html"),
        ("/path/foo-%24", "/path/foo-$"),
        ("/a$b", "/a%24b"),
        ("/private[1]", "/private%5B1%5D"),
        ("/~joe", "/%7Ejoe/index.html"),
        ("/a b", "/a%20b"),
        ("/*/c?d=/e", "/a/b/c?d=%2Fe"),
    ],
)
def test_encoded_and_plain_characters_are_the_same(pattern, path):
    assert not allows(f"User-agent: *\nDisallow: {pattern}\n", path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a/b", "/a%2Fb"),
        ("/a%3Fb", "/a?b"),
        ("/a%2541", "/aA"),
        ("/a%2A", "/ab"),
        ("/a%24", "/a"),
        ("/a$", "/a$"),
        ("/A", "/a"),
        ("a", "/a"),
        ("/*.php$", "/a.php?b"),
        ("/a*a$", "/a"),
        ("", "/"),
    ],
)
def test_other_paths_are_allowed(pattern, path):
    assert allows(f"User-agent: *\nDisallow: {pattern}\n", path)


@pytest.mark.parametrize(
    "name",
    [
        "birds-research",
        "Birds-Research",
        "birds-research/1.0",
        "birds-research *",
        US,
        "Mozilla/5.0 (compatible; birds-research/2.1; +https://birds.example/bot)",
    ],
)
def test_a_group_that_is_for_us(name):
    rules = f"User-agent: *\nDisallow: /all\n\nUser-agent: {name}\nDisallow: /ours\n"
    assert not allows(rules, "/ours")
    assert allows(rules, "/all")


@pytest.mark.parametrize(
    "name",
    ["bot", "bird", "birds", "research", "birds-research2", "birds-research-b", "example", ""],
)
def test_a_group_for_a_part_of_our_name_or_for_a_longer_one_is_for_others(name):
    rules = f"User-agent: {name}\nDisallow: /theirs\n\nUser-agent: *\nDisallow: /all\n"
    assert allows(rules, "/theirs")
    assert not allows(rules, "/all")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_byte_order_marks(end, encoding):
    lines = ["User-agent: *", "Disallow: /a\u2028b", "# no\x0brule", "Disallow : /c # for now"]
    body = end.join(lines).encode(encoding)
    assert not allows(body, "/a%E2%80%A8b")
    assert allows(body, "/a")
    assert not allows(body, "/c")


def test_bytes_that_are_no_utf8_are_compared_as_they_are():
    assert not allows("User-agent: *\nDisallow: /caf\xe9\n".encode("latin-1"), "/caf%E9")


@pytest.mark.parametrize(
    "rules",
    [
        "useragent: *\ndisallow /a",
        "User agent: *\nDissallow: /a",
        "USER-AGENT\t*\n\tDISALLOW\t:\t/a",
        "User-agent: *\nCrawl-delay: 2\nUser-agent: x\nDisallow: /a",
        "User-agent: *\nSitemap: http://a.example/s.xml\nHost: a\n\nDisallow: /a",
        "<html>\nUser-agent: *\nDisallow: /a",
    ],
)
def test_what_people_write_is_understood(rules):
    assert not allows(rules, "/a")


@pytest.mark.parametrize(
    "rules",
    [
        "Disallow: /a",
        "User-agent: *\nDisallow to enter /a",
        "User-agent:\nDisallow: /a",
        "User-agent: *\nDisallow:\nUser-agent: x\nDisallow: /a",
        "User-agent: *\nDisallow: /a\nAllow: /a",
        "",
    ],
)
def test_what_is_no_rule_for_us_disallows_nothing(rules):
    assert allows(rules, "/a")


def test_robots_txt_itself_is_always_allowed():
    assert allows("User-agent: *\nDisallow: /", "/robots.txt")
    assert not allows("User-agent: *\nDisallow: /", "/robots.txt?x")


@pytest.mark.parametrize(("room", "is_read"), [(0, True), (-1, False)])
def test_the_first_500_kib_are_read_and_no_half_line(room, is_read):
    head, last = "User-agent: *\n#", "\nDisallow: /b/c"
    body = head + "x" * (MAX_ROBOTS_BYTES - len(head) - len(last) - room) + last
    assert allows(body, "/b/c") is not is_read
    assert allows(body, "/b/")


@pytest.mark.parametrize(
    ("value", "seconds"), [("2.5", 2.5), ("soon", 0), ("-1", 0), ("inf", 0), ("nan", 0), ("", 0)]
)
def test_crawl_delay(value, seconds):
    rules = f"User-agent: a\nCrawl-delay: 9\nAllow: /\nUser-agent: *\nCrawl-delay: {value}\n"
    assert RobotsTxt(rules.encode(), US).delay == seconds


def opts_out(text: str, path: str, *agents: str) -> bool:
    return RobotsTxt(text.encode(), *(agents or (US,))).opts_out(f"http://a.example:8080{path}")


#: draft-ietf-aipref-attach-05, section 3.5.
USES = """User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: train-ai=y
"""


def test_the_example_of_content_usage():
    assert opts_out(USES, "/test")
    assert not opts_out(USES, "/ai-ok/test")
    assert not allows(USES, "/never/test")
    assert not opts_out(USES, "/test", "ExampleBot")


ALL = "User-agent: *\n"


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Usage: train-ai=n",
        "content-usage\t:\ttrain-ai=n # for now",
        "Content-Usage: / train-ai=n",
        "Content-Usage: /a/\t train-ai=n",
        "Content-Usage: /*/b$ train-ai=n, search=y",
        "Content-Usage: /%61/ train-ai=n",
        "Content-Usage: train-ai=y\nContent-Usage: /a train-ai=n",
        "Content-Usage: /a train-ai=n\nContent-Usage: train-ai=y",
        # Conflicts of one path: the stricter one (VOCAB, section 5.1).
        "Content-Usage: /a train-ai=n\nContent-Usage: /a train-ai=y",
        # What says nothing of training leaves it to what is said of more.
        "Content-Usage: train-ai=n\nContent-Usage: /a search=n",
        "Content-Usage: train-ai=n\nContent-Usage: /a TRAIN-AI=Y",
        "Disallow: /x\nContent-Usage: train-ai=n\nAllow: /a",
        "Content-Signal: search=yes,ai-train=no\nAllow: /",  # Cloudflare's own
        "content-signal: ai-train=no",
        "Content-Signals: ai-train=no",
        "Content-Signal: /a/ ai-train=no, search=yes, ai-input=no",  # contentsignals.org
        "Content-Signal: ai-train=yes\nContent-Signal: /a ai-train=no",
        "Sitemap: http://a.example/s.xml\n\nContent-Signal: ai-train=no",
        "Content-Signal: ai-train=yes\nContent-Usage: train-ai=n",
        "Content-Signal: ai-train=no\nContent-Usage: train-ai=y",
    ],
)
def test_lines_that_say_that_we_may_not_train(lines):
    assert opts_out(ALL + lines, "/a/b")
    assert allows(ALL + lines, "/a/b")


@pytest.mark.parametrize(
    "text",
    [
        f"{ALL}Content-Usage: train-ai=y",
        f"{ALL}Content-Usage: search=n",
        f"{ALL}Content-Usage: train-ai=n;\n",
        f"{ALL}Content-Usage: /b train-ai=n",
        f"{ALL}Content-Usage: /A/ train-ai=n",
        f"{ALL}Content-Usage: /a/",
        f"{ALL}Content-Usage: a/ train-ai=n",
        f"{ALL}Content-Usage: train-ai=n\nContent-Usage: /a/ train-ai=y",
        f"{ALL}Content-Signal: search=no, ai-input=no",
        f"{ALL}Content-Signal: ai-train=no\nContent-Signal: /a/ ai-train=yes",
        f"{ALL}# Content-Signal: ai-train=no",
        "Content-Usage: train-ai=n\nContent-Signal: ai-train=no",
        "User-agent: googlebot\nContent-Usage: train-ai=n\nContent-Signal: ai-train=no",
        f"{ALL}Content-Signal: ai-train=no\nAllow: /\n\nUser-agent: birds-research\nAllow: /",
        "",
    ],
)
def test_lines_that_say_nothing_against_training(text):
    assert not opts_out(text, "/a/b")


def test_content_usage_is_a_rule_of_a_group_and_content_signal_is_none():
    """A user agent after a rule begins another group; what is no rule may not end one."""
    text = "User-agent: a\n{}\nUser-agent: b\nDisallow: /\n"
    assert allows(text.format("Content-Usage: train-ai=n"), "/", "a")
    assert not allows(text.format("Content-Signal: ai-train=no"), "/", "a")
    assert not opts_out(text.format("Content-Usage: train-ai=n"), "/", "b")
    assert opts_out(text.format("Content-Signal: ai-train=no"), "/", "b")


def test_a_path_of_a_use_may_hold_any_byte():
    body = ALL.encode() + "Content-Usage: /à/ train-ai=n\n".encode()
    assert RobotsTxt(body, US).opts_out("http://a.example/%C3%A0/")


def test_the_rules_of_several_crawlers_are_obeyed_together():
    text = (
        "User-agent: *\nDisallow: /all\nCrawl-delay: 1\n\nUser-agent: CCBot\nDisallow: /theirs\n"
        "Crawl-delay: 3\nContent-Signal: ai-train=no\n"
    )
    ours, both = RobotsTxt(text.encode(), US), RobotsTxt(text.encode(), US, "ccbot")
    urls = [f"http://a.example{path}" for path in ("/all", "/theirs", "/")]
    assert [ours.allows(url) for url in urls] == [False, True, True]
    assert [both.allows(url) for url in urls] == [False, False, True]
    assert [ours.opts_out(urls[2]), both.opts_out(urls[2])] == [False, True]
    assert [ours.delay, both.delay] == [1, 3]


FIRST = "http://127.0.0.1:1"


def read(answers: dict[str, bytes | int | str], *allowed: str) -> Robots:
    """What is read of a host whose answers are bodies, statuses, or where they lead to."""

    async def download(request: Request) -> Response:
        answer = answers.get(request.url, 404)
        if isinstance(answer, str):
            return Response(request.url, status=301, headers={"Location": answer})
        if isinstance(answer, int):
            return Response(request.url, status=answer)
        return Response(request.url, body=answer)

    settings = CrawlSettings(retries=0, allow_private_hosts=allowed)
    return asyncio.run(read_robots(FIRST, Fetcher(download, settings), US))


RULES = b"User-agent: *\nDisallow: /secret"


@pytest.mark.parametrize(
    ("answers", "allowed"),
    [
        ({"/robots.txt": RULES}, ()),
        ({"/robots.txt": "/there", "/there": RULES}, ()),
        ({"/robots.txt": "http://127.0.0.2/a", "http://127.0.0.2/a": RULES}, ("127.0.0.2",)),
        ({"/robots.txt": "//127.0.0.1:2/", "http://127.0.0.1:2/": RULES}, ("127.0.0.1:2",)),
        ({"/robots.txt": "1", **{f"/{n}": f"{n + 1}" for n in range(1, 5)}, "/5": RULES}, ()),
    ],
)
def test_redirects_of_robots_txt_are_followed_and_the_rules_are_for_the_first_host(
    answers, allowed
):
    robots = read({FIRST + at if at[0] == "/" else at: it for at, it in answers.items()}, *allowed)
    assert robots.unreachable is None
    assert not robots.txt.allows(f"{FIRST}/secret")


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1:2/there",  # another port of the crawled host's, which is not named
        "http://127.0.0.2/there",
        "http://localhost/there",
        "http://0x7f.1/there",
        "http://[::ffff:127.0.0.1]/there",
        "http://nowhere.invalid/there",
        "ftp://127.0.0.1/there",
        "http://[/",
        "/robots.txt",  # for ever
        "1",  # and six more
    ],
)
def test_a_robots_txt_where_we_may_not_go_is_none_that_can_be_had(to):
    hops: dict[str, bytes | int | str] = {f"{FIRST}/{n}": str(n + 1) for n in range(1, 6)}
    there = {to.replace("0x7f.1", "127.0.0.1"): RULES, f"{FIRST}/6": RULES}
    answers = there | hops | {f"{FIRST}/robots.txt": to}
    assert read(answers, "127.0.0.1:1").unreachable == "robots_unreachable"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, None), (403, None), (429, "robots_unreachable"), (500, "robots_unreachable")],
)
def test_a_status_of_robots_txt(status, reason):
    robots = read({f"{FIRST}/robots.txt": status})
    assert robots.unreachable == reason
    assert robots.txt.allows(f"{FIRST}/secret")


AGENTS = st.sampled_from(["*", "a", "B", "b", "a-b", "ab", "c"])
PATTERNS = st.text(st.sampled_from("ab/*?"), max_size=5).map(lambda text: f"/{text}")
RULE = st.tuples(st.sampled_from(["Allow", "Disallow"]), PATTERNS)
GROUPS = st.tuples(st.lists(AGENTS, min_size=1, max_size=2), st.lists(RULE, min_size=1, max_size=3))
PATHS = st.text(st.sampled_from("ab/?"), max_size=7).map(lambda text: f"/{text}")


def written(groups):
    return "\n".join(
        line
        for names, rules in groups
        for line in (
            *(f"User-agent: {name}" for name in names),
            *(f"{kind}: {pattern}" for kind, pattern in rules),
        )
    )


def naive(groups, path, agent):
    """What section 2.2 says, word by word."""
    by_name = {
        name: [rule for names, rules in groups if name in map(str.lower, names) for rule in rules]
        for name in {name.lower() for names, _ in groups for name in names}
    }
    rules = by_name.get(agent, by_name.get("*", []))
    fitting = [(len(pattern), kind) for kind, pattern in rules if fits(pattern, path)]
    longest = max((length for length, _ in fitting), default=0)
    return not fitting or (longest, "Allow") in fitting


def fits(pattern, path):
    whole = pattern.endswith("$")
    body = ".*".join(map(re.escape, pattern.removesuffix("$").split("*")))
    return re.match(body + (r"\Z" if whole else ""), path) is not None


@given(st.lists(GROUPS, max_size=4), PATHS, st.sampled_from(["a", "b", "a-b", "ab", "x"]))
def test_the_rfc_by_the_letter(groups, path, agent):
    assert allows(written(groups), path, agent) == naive(groups, path, agent)
    whole = [(names, [(kind, f"{it}$") for kind, it in rules]) for names, rules in groups]
    assert allows(written(whole), path, agent) == naive(whole, path, agent)


OURS_OR_ALL = st.tuples(st.sampled_from([["*"], ["bb"]]), st.lists(RULE, min_size=1))


@given(st.lists(OURS_OR_ALL, max_size=4), PATHS)
def test_protego_where_it_follows_the_rfc(groups, path):
    """Not of names of one letter, which weigh as much as "*", nor of "?", which weighs three."""
    text = written(groups).replace("?", "-")
    theirs = Protego.parse(text).can_fetch(f"http://a.example{path.replace('?', '-')}", "bb")
    assert allows(text, path.replace("?", "-"), "bb") == theirs


BEFORE = ["User-agent: *", "Allow: /", "Disallow: /%", "User-agent: *\nContent-Usage: /%", ""]


@given(st.binary(max_size=200), st.sampled_from(BEFORE))
def test_any_body_is_read(body, before):
    robots = RobotsTxt(before.encode() + body, US)
    for url in ("http://a.example/%?%zz", "http://a.example/"):
        assert isinstance(robots.allows(url), bool)
        assert isinstance(robots.opts_out(url), bool)
    assert robots.delay >= 0
