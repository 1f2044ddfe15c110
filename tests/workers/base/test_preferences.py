"""Which words of owners mean that a page or image is not for us; each case says whose it is.

GOOGLE: its documentation of X-Robots-Tag. MET: written so in public repositories of web sites and
servers' configurations, looked at in 2026-11. OWN: a mistake that is easily made. TDMREP: the W3C
community group's final report of 2024-05-10. ATTACH, VOCAB: the IETF's drafts, as RULES has them.
RFC 9651: structured fields. SIGNALS: contentsignals.org.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.base.preferences import (
    MAX_TDMREP_BYTES,
    OPT_OUT_HEADERS,
    OPT_OUTS,
    RULES,
    RULES_OF_HOSTS,
    TdmRep,
    directives_of,
    headers_opt_out,
    page_opts_out,
    signal_opts_out,
    usage_opts_out,
)

US = ("birds-research",)


def is_opted_out(values, agents=US):
    return headers_opt_out([("X-Robots-Tag", value) for value in values], agents)


AGAINST = [
    *((value, "GOOGLE, MET") for value in sorted(OPT_OUTS)),
    ("none", "GOOGLE"),
    ("NoAI, NoImageAI", "MET"),
    ("index,noimageai", "MET"),
    ("noindex nofollow", "MET"),
    ("noindex;nofollow", "MET"),
    ("*: noai", "MET"),
    ("robots: noai", "OWN"),
    ("all: noindex", "OWN"),
    ("birds-research: noindex", "GOOGLE"),
    ("birds-research:noindex", "GOOGLE"),
    ("Birds-Research/2.1: none", "OWN"),
    ("birds-research: max-image-preview:large, noindex", "GOOGLE"),
    ("googlebot: nofollow, birds-research: noai", "GOOGLE"),
    ("googlebot: noindex; birds-research: noai", "OWN"),
    ("googlebot: nofollow birds-research: noai", "OWN"),
    ("googlebot: nofollow; *: noai", "OWN"),
    ("max-image-preview:large, noindex", "GOOGLE"),
    ("noai, max-snippet: 3", "GOOGLE"),
    ("max-image-preview: none, none", "OWN"),
    ("max-image-preview:none; noai", "OWN"),
    ("max-snippet:-1;noai", "OWN"),
    ("max-image-preview:, noai", "OWN"),
    ("unavailable_after: 25 Jun 2026 15:00:00 PST, noai", "GOOGLE"),
    ("unavailable_after: Thursday, 25-Jun-26 15:00:00 GMT, noindex", "GOOGLE"),
    ("unavailable_after: 2026-06-25T15:00:00Z,noindex", "GOOGLE"),
    ("noindex; unavailable_after: 25 Jun 2026 15:00:00 PST; noai", "OWN"),
    ("noindex, unavailable_after: 25 Jun 2026 15:00:00 PST", "GOOGLE"),
    ("noindex: true", "OWN"),
    ("nofollow: true, noindex", "OWN"),
    ("nosnippet:, noindex", "OWN"),
    ("noai=1", "OWN"),
    ('"noai, noimageai"', "OWN: quoted twice in a server's configuration"),
    ("'noai'", "OWN"),
    ("noai|noimageai", "OWN"),
    ("nofollow/noindex", "OWN"),
    ("all. noai.", "OWN"),
    ("noarchive，noai", "OWN: a comma of another script"),
    ("birds-research/1.0 (+https://birds.example/bot): noai", "OWN"),
    ("noindex, nofollow, noarchive, nosnippet, noai, noimageai", "MET"),
]

NOT_AGAINST = [
    ("", "OWN"),
    ("all", "GOOGLE"),
    ("index, follow, nofollow, noarchive, nosnippet", "GOOGLE"),
    ("max-image-preview:none", "GOOGLE"),
    ("max-image-preview: none", "GOOGLE"),
    ("max-image-preview = none", "OWN"),
    ('max-image-preview: "none"', "OWN"),
    ("max-snippet:-1, max-image-preview:none, max-video-preview:-1", "GOOGLE"),
    ("unavailable_after: 25 Jun 2026 15:00:00 PST", "GOOGLE"),
    ("unavailable_after: Thursday, 25-Jun-26 15:00:00 GMT", "GOOGLE"),
    ("unavailable_after: 2026-06-25T15:00:00+00:00", "GOOGLE"),
    ("unavailable_after: 2026-06-25T15:00:00Z; max-image-preview: none", "OWN"),
    ("googlebot: noindex", "GOOGLE"),
    ("googlebot: noindex; nofollow", "OWN"),
    ("Googlebot-Image: noindex, noimageindex", "GOOGLE"),
    ("googlebot: max-image-preview: none", "GOOGLE"),
    ("googlebot: unavailable_after: 25 Jun 2026 15:00:00 PST, noindex", "GOOGLE"),
    ("nofollow googlebot: noindex", "OWN"),
    ("birds: noai", "OWN"),
    ("birds-research-2: noai", "OWN"),
    ("birds-researcher: noai", "OWN"),
    ("noindexing, nonesuch", "OWN"),
    (":, ::, ,", "OWN"),
]


@pytest.mark.parametrize(("value", "source"), AGAINST)
def test_directives_against_us(value, source):
    assert is_opted_out([value]), source
    assert is_opted_out(["all", value, "max-snippet:-1"]), source


@pytest.mark.parametrize(("value", "source"), NOT_AGAINST)
def test_directives_not_against_us(value, source):
    assert not is_opted_out([value]), source


def test_a_name_holds_for_its_own_line_alone():
    assert is_opted_out(["googlebot: nofollow", "noai"])
    assert not is_opted_out(["googlebot: nofollow", "all"])


def test_none_means_that_links_are_not_followed_either():
    assert {"noindex", "nofollow"} <= directives_of([("x-robots-tag", "None")], [], US)


def test_whose_rules_count():
    to_others = ["googlebot: noindex, CCBot/2.0: noai"]
    assert not is_opted_out(["birds-research: noai"], ())
    assert is_opted_out(["birds-research: noai", "*: noai"], ())
    assert not is_opted_out(to_others)
    assert is_opted_out(to_others, (*US, "ccbot"))
    metas = [("CCBot", "noindex"), ("googlebot", "none")]
    assert not page_opts_out([], metas, US)
    assert page_opts_out([], metas, (*US, "ccbot"))


@pytest.mark.parametrize(
    ("headers", "metas", "file", "opts_out", "source"),
    [
        ([("tdm-reservation", "1")], [], None, True, "TDMREP, TDM Header Field"),
        ([("TDM-Reservation", " 1 ")], [], None, True, "MET"),
        ([("tdm-reservation", '"1"')], [], None, True, "OWN"),
        ([("tdm-reservation", "0")], [], None, False, "TDMREP"),
        ([("tdm-reservation", "2")], [], None, False, "TDMREP: other values are errors"),
        ([("tdm-reservation", "")], [], None, False, "OWN"),
        ([("tdm-policy", "https://a.example/p.json")], [], None, False, "TDMREP: no reservation"),
        ([("tdm-reservation", "0"), ("tdm-reservation", "1")], [], None, True, "OWN"),
        ([], [("tdm-reservation", "1")], None, True, "TDMREP, TDM Metadata in HTML; MET"),
        ([], [("TDM-Reservation", "1"), ("tdm-policy", "p")], None, True, "OWN"),
        ([], [("tdm-reservation", "0")], None, False, "TDMREP"),
        ([], [("tdm-reservation", "yes")], None, False, "TDMREP: other values are errors"),
        ([], [], True, True, "TDMREP, TDM File on the Origin Server"),
        ([], [], False, False, "TDMREP"),
        ([("tdm-reservation", "0")], [], True, False, "TDMREP, Processing priority"),
        ([("tdm-reservation", "1")], [], False, True, "TDMREP, Processing priority"),
        ([("tdm-reservation", "x")], [], True, True, "TDMREP, Processing priority"),
        ([("tdm-reservation", "1")], [("tdm-reservation", "0")], None, False, "TDMREP, priority"),
        ([("tdm-reservation", "0")], [("tdm-reservation", "1")], None, True, "TDMREP, priority"),
        ([("tdm-reservation", "0"), ("X-Robots-Tag", "noai")], [], None, True, "OWN"),
        ([("Content-Usage", "train-ai=n")], [], None, True, "ATTACH, section 1.2"),
        ([("content-usage", "search=y"), ("content-usage", "train-ai=n")], [], None, True, "9651"),
        ([("content-usage", "train-ai=n"), ("content-usage", "")], [], None, True, "OWN"),
        ([("content-usage", "train-ai=n"), ("content-usage", "=")], [], None, False, "RFC 9651"),
        ([("content-usage", "train-ai=y")], [("robots", "noai")], None, True, "VOCAB, combining"),
        ([("content-signal", "ai-train=no, search=yes")], [], None, True, "MET, in answers"),
        ([("content-signal", "ai-train=yes")], [("tdm-reservation", "1")], None, True, "OWN"),
        ([("content-type", "train-ai=n"), ("x", "noai")], [("x", "noai")], None, False, "OWN"),
    ],
)  # fmt: skip
def test_what_a_page_says(headers, metas, file, opts_out, source):
    assert page_opts_out(headers, metas, US, file) is opts_out, source
    if not metas:
        assert headers_opt_out(iter(headers), US, file) is opts_out, source


@pytest.mark.parametrize(
    ("statement", "opts_out", "source"),
    [
        ("train-ai=n", True, "VOCAB, section 6.2"),
        ("train-ai=y, search=n", False, "VOCAB, section 6"),
        ("search=n", None, "VOCAB: unknown"),
        ("train-ai=n,search=y", True, "MET"),
        ("train-ai=n;x=1", True, "VOCAB: parameters are passed over"),
        ("train-ai;allow=n, train-ai=y", False, "VOCAB, section 6.5.2"),
        ('train-ai;has;parameters="?";', None, "VOCAB, section 6.5.2; malformed by RFC 9651"),
        ('train-ai=n;has;parameters="?, train-ai=y"', True, "RFC 9651"),
        ('train-ai=y, train-ai, search=n, search="n"', None, "VOCAB, section 6.5.1"),
        ("train-ai=y, train-ai=n", True, "RFC 9651: the last one counts"),
        ("train-ai=n, train-ai=y", False, "RFC 9651: the last one counts"),
        ("Train-AI=n", None, "VOCAB: tokens are case sensitive"),
        ("train-ai=N", None, "VOCAB"),
        ("train-ai=no", None, "VOCAB: values are y and n"),
        ('train-ai="n"', None, "VOCAB: a string is no token"),
        ("train-ai=?0", None, "VOCAB: a boolean is no token"),
        ("train-ai=(n)", None, "VOCAB: a list is no token"),
        ("train-ai=n,", None, "RFC 9651: a comma at the end"),
        ("train-ai=n search=y", None, "RFC 9651"),
        ("train-ai = n", None, "RFC 9651: no spaces within a member"),
        ("train-ai=n; search=y", True, "RFC 9651: a parameter"),
        ("train-ai=n\t,\ta", True, "RFC 9651: tabs around a comma"),
        ("  train-ai=n  ", True, "RFC 9651"),
        ("train-ai=n, a=1.5, b=-2, c=\"x\\\"y\", d=:aGk=:, e=?1, f=@1, g=%\"%c3%a4\", h=tok:en/*",
         True, "RFC 9651: every type"),
        ('train-ai=n, a=("b" c;d=2  3 );e', True, "RFC 9651: an inner list"),
        ("train-ai=n, a=()", True, "RFC 9651: an empty one"),
        ("train-ai=n, a=(b", None, "RFC 9651"),
        ("train-ai=n, a=1.2345", None, "RFC 9651: three digits at most"),
        ("train-ai=n, a=1234567890123456", None, "RFC 9651: fifteen digits at most"),
        ('train-ai=n, a="', None, "RFC 9651"),
        ("train-ai=n, a=", None, "RFC 9651"),
        ("train-ai=n, \u00e4", None, "RFC 9651"),
        ("ai=n", True, "MET; VOCAB until draft 01"),
        ("bots=n", True, "VOCAB, drafts 03 and 04"),
        ("bots=n, train-ai=y", False, "VOCAB, draft 04: the more specific category counts"),
        ("ai-train=n", True, "MET: the name that Content-Signal has for it"),
        ("ai-train=n, train-ai=y", False, "OWN: the name of the vocabulary before all others"),
        ("ai-train=y, train-ai=n", True, "OWN"),
        ("", None, "OWN"),
    ],
)  # fmt: skip
def test_statements_of_content_usage(statement, opts_out, source):
    assert usage_opts_out(statement) is opts_out, source


@pytest.mark.parametrize(
    ("signals", "opts_out", "source"),
    [
        ("ai-train=no, search=yes, ai-input=yes", True, "SIGNALS"),
        ("search=yes,ai-train=no", True, "MET: Cloudflare's own"),
        ("search=yes, ai-train=no, use=reference", True, "MET"),
        ("ai-train=yes, search=yes, ai-input=yes", False, "SIGNALS"),
        ("search=no, ai-input=no", None, "SIGNALS: neither granted nor restricted"),
        ("AI-Train = No", True, "OWN"),
        ("ai_train=no", True, "MET, as a mistake"),
        ("ai-train=no; ai-train=yes", True, "OWN"),
        ("non-ai-train=no, ai-train=none, ai-trained=no", None, "OWN"),
        ("", None, "OWN"),
    ],
)
def test_content_signals(signals, opts_out, source):
    assert signal_opts_out(signals) is opts_out, source


#: The second example of the report.
THREE_GROUPS = [
    {"location": "/directory-a/", "tdm-reservation": 1},
    {
        "location": "/directory-b/html/",
        "tdm-reservation": 1,
        "tdm-policy": "https://provider.com/policies/policy.json",
    },
    {"location": "/directory-b/images/*.jpg", "tdm-reservation": 0},
]


def rule(location, reservation=1):
    return {"location": location, "tdm-reservation": reservation}


@pytest.mark.parametrize(
    ("rules", "path", "reserved", "source"),
    [
        ([rule("/")], "/any?thing", True, "TDMREP, first example"),
        (THREE_GROUPS, "/directory-a/b.pdf", True, "TDMREP, second example"),
        (THREE_GROUPS, "/directory-b/html/a.html", True, "TDMREP, second example"),
        (THREE_GROUPS, "/directory-b/images/a/b.jpg", False, "TDMREP, second example"),
        (THREE_GROUPS, "/directory-b/images/b.png", None, "TDMREP: no match is unset"),
        (THREE_GROUPS, "/Directory-A/b.pdf", None, "TDMREP: case counts"),
        ([rule("/", 0), rule("/a/")], "/a/b", False, "TDMREP: the first in sequence counts"),
        ([rule("/a/"), rule("/", 0)], "/a/b", True, "TDMREP: the first in sequence counts"),
        ([rule("/this/path/exactly$")], "/this/path/exactly", True, "TDMREP, special characters"),
        ([rule("/this/path/exactly$")], "/this/path/exactly/", None, "TDMREP"),
        ([rule("/this/*/then")], "/this/is/then", True, "TDMREP, special characters"),
        ([rule("/path/foo-%24")], "/path/foo-$", True, "TDMREP, special characters"),
        ([rule("/%62")], "/b", True, "TDMREP: percent-encoding"),
        ([rule("/\u30c4")], "/%E3%83%84", True, "RFC 9309"),
        ([rule("/", "1")], "/", True, "MET: a string"),
        ([rule("/", True)], "/", True, "OWN: the report calls it a boolean"),
        ([rule("/", 2), rule("/", 1)], "/", True, "TDMREP: other values are errors"),
        ([rule("/", [1]), rule("/", None), rule("/", {})], "/", None, "OWN"),
        ([rule(1), rule(None), {}, [], 1, None, "x", rule("/")], "/", True, "OWN"),
        ([{"location": "/"}], "/", None, "TDMREP: both are mandatory"),
        (rule("/"), "/", None, "TDMREP: the brackets are mandatory"),
        ([], "/", None, "OWN"),
        (None, "/", None, "OWN"),
    ],
)
def test_rules_of_tdmrep_json(rules, path, reserved, source):
    for body in (json.dumps(rules).encode(), b"\xef\xbb\xbf" + json.dumps(rules).encode()):
        assert TdmRep(body).reserves(f"https://a.example{path}") is reserved, source


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><title>404</title>",
        b'[{"location": "/", "tdm-reservation": 1},]',
        b'[{"location": "/", "tdm-reservation": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'[{"location": "\xff", "tdm-reservation": 1}]',
        b'[{"location": "\\ud800", "tdm-reservation": 1}]',
        b'[{"location": "/", "tdm-reservation": 1' + b"0" * 5000 + b"}]",
        json.dumps([rule("/")]).encode("utf-16"),
        json.dumps([rule("/")]).encode() + b" " * MAX_TDMREP_BYTES,
    ],
)
def test_a_malformed_tdmrep_json_says_nothing(body):
    assert TdmRep(body).reserves("https://a.example/") is None


def test_as_long_a_tdmrep_json_as_is_taken():
    body = json.dumps([rule("/")]).encode()
    assert TdmRep(body.rjust(MAX_TDMREP_BYTES)).reserves("https://a.example/") is True


def test_each_rule_has_its_version():
    assert {"TDMRep", *RULES_OF_HOSTS, *OPT_OUT_HEADERS} - {"TDM-Reservation", "TDM-Policy"} == {
        *RULES
    }
    assert all(RULES.values())


WORDS = st.sampled_from(
    ["noai", "train-ai", "ai-train", "n", "no", "=", ":", ",", ";", " ", "(", ")", '"', "1", "*",
     "max-a", "http://", "tdm-reservation", "\\", "%", "?", "@", "\t", "\n", "\xe9", "\ud800"]
)  # fmt: skip
VALUES = st.lists(WORDS | st.characters(codec=None), max_size=30).map("".join)
NAMES = st.sampled_from([*OPT_OUT_HEADERS, "robots", *US]) | st.text(max_size=5)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@given(PAIRS, PAIRS, st.sampled_from([None, True, False]))
def test_whatever_is_said_is_parsed(headers, metas, file):
    assert page_opts_out(headers, metas, US, file) in (True, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["location", "tdm-reservation", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.text())
def test_whatever_a_tdmrep_json_holds_is_parsed(body, path):
    url = "https://a.example/" + path.encode().decode("latin-1")
    assert TdmRep(body).reserves(url) in (None, True, False)
