"""A host that is crawled night after night: what is asked for, what is kept, what is gone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.plain_crawl import use_plain_crawls
from tests.workers.web import HTML, Answer, Web, moved, page, robots, serving, tagged
from workers.base.settings import CrawlSettings
from workers.base.tally import Tally
from workers.crawl.host import KNOWN, HostFiles, crawl_host
from workers.crawl.visits import Before
from workers.crawl.warc_writer import StoredPages, content_hash
from workers.web.hosts import MAX_FAILURES

Site = Mapping[str, Answer]

AWAY = Answer(status=503)
MODIFIED = {"Content-Type": HTML, "Last-Modified": "Mon, 23 Nov 2026 08:00:00 GMT"}


@pytest.fixture
def _plain(monkeypatch):
    use_plain_crawls(monkeypatch)


pytestmark = pytest.mark.usefixtures("_plain")


@dataclass
class Nights:
    """Crawls of a server's present answers, each going on from the one before it."""

    web: Web
    folder: Path
    changes: dict[str, object] = field(default_factory=dict)
    number: int = 0
    pages: Tally = field(default_factory=Tally)  # of the last crawl
    known: Tally = field(default_factory=Tally)
    asked: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    @property
    def files(self) -> HostFiles:
        night = self.folder / str(self.number)
        return HostFiles.of(self.web.host, night, night / "_tables")

    def __call__(self, site: Site | None = None, *, is_rerun: bool = False) -> dict[str, str]:
        """Crawl once more; the paths of the pages with their texts."""
        if site is not None:
            self.web.answers = dict(site)
        before = self.files if self.number else None
        self._crawl(before, is_rerun)
        return self.texts()

    def from_nothing(self) -> None:
        self._crawl(None, False)

    def _crawl(self, before: HostFiles | None, is_rerun: bool) -> None:
        self.number += 1
        self.web.asked.clear()
        self.web.unchanged.clear()
        options = {"allow_private_hosts": (self.web.host,), "retries": 0} | self.changes
        tallies = crawl_host(
            self.web.host,
            [self.web.url("/")],
            self.folder / str(self.number),
            CrawlSettings.model_validate(options),
            before,
            is_rerun=is_rerun,
        )
        for tally in tallies.values():
            tally.check()
        self.pages, self.known = tallies["pages"], tallies.get(KNOWN, Tally())
        assert list(tallies)[-1] == "pages"
        self.asked = sorted(set(self.web.asked) - {"/robots.txt"})
        self.unchanged = sorted(self.web.unchanged)
        assert self.pages.kept == len(self.texts())

    def texts(self) -> dict[str, str]:
        pages = StoredPages(self.files.warc)
        texts = {}
        for url in pages:
            found = pages.get(url)
            assert found
            texts[url.removeprefix(self.web.url(""))] = re.sub(
                "<.*?>|link", "", found.body.decode()
            )
        return texts

    def content(self) -> str:
        return content_hash(self.files.warc)


@pytest.fixture
def nights(tmp_path):
    with serving({}) as web:
        yield Nights(web, tmp_path)


SITE = {
    "/": tagged(page("/tagged", "/dated", "/plain", "/changing", "/going", "/left")),
    "/tagged": tagged(page("/below", text="tagged")),
    "/below": page(text="below"),
    "/dated": Answer(b"dated", headers=MODIFIED),
    "/plain": page(text="plain"),
    "/changing": tagged(page(text="old")),
    "/going": tagged(page(text="going")),
    "/left": tagged(page("/left/below", text="left")),
    "/left/below": tagged(page(text="below what is left")),
}

LATER = SITE | {
    "/": tagged(page("/tagged", "/dated", "/plain", "/changing", "/going", "/new")),
    "/changing": tagged(page(text="new")),
    "/going": Answer(status=410),
    "/new": tagged(page(text="a new page")),
}


def test_what_has_not_changed_is_not_sent_again(nights):
    nights(SITE)
    assert (nights.unchanged, nights.known.rows_in) == ([], 0)
    first = nights.files
    nights(LATER)
    assert nights.unchanged == ["/dated", "/tagged"]
    assert nights.asked == [
        "/",
        "/below",
        "/changing",
        "/dated",
        "/going",
        "/new",
        "/plain",
        "/tagged",
    ]
    assert nights.known.counts() == {
        "in": 9,
        "kept": 4,  # two by a 304, two that came again as they were
        "rejected": {"changed": 2, "gone": 1, "not_linked": 2},
        "failed": {},
    }
    assert set(nights.known.samples["not_linked"]) == {
        nights.web.url("/left"),
        nights.web.url("/left/below"),
    }
    second = nights.files
    recrawled, pages = nights.content(), nights.pages
    nights.from_nothing()
    assert (nights.content(), nights.pages) == (recrawled, pages)

    for _ in range(2):  # from here on nothing changes
        nights()
        assert nights.content() == recrawled
        assert nights.known.counts() == {"in": 7, "kept": 7, "rejected": {}, "failed": {}}
        assert nights.unchanged == ["/", "/changing", "/dated", "/new", "/tagged"]
    url = nights.web.url("/tagged")
    copies = [StoredPages(files.warc).get(url) for files in (first, second)]
    assert copies[0]
    assert copies[0] == copies[1], "the date, too, is that of the visit that has brought it"


def test_a_server_that_sends_the_same_under_another_name_has_changed_nothing(nights):
    site = {"/": replace(page(text="x"), headers={"Content-Type": HTML, "ETag": "W/1"})}
    nights(site)
    before = nights.content()
    nights({"/": replace(site["/"], headers={"Content-Type": HTML, "ETag": "W/2"})})
    assert (nights.unchanged, nights.known.kept, nights.content()) == ([], 1, before)
    nights()
    assert nights.unchanged == ["/"], "the last name is the one that is known"


def test_a_page_that_is_no_page_any_more_is_counted_by_what_it_is_now(nights):
    nights(SITE)
    nights(
        SITE
        | {
            "/robots.txt": robots("User-agent: *\nDisallow: /plain\n"),
            "/tagged": moved("/elsewhere"),
            "/elsewhere": page(text="moved"),
            "/dated": Answer(b"text", headers={"Content-Type": "text/plain"}),
        }
    )
    assert nights.known.rejected == {
        "not_html": 1,
        "redirect": 1,
        "robots_txt": 1,
        "not_linked": 1,
    }
    assert "/plain" not in nights.asked
    recrawled = nights.content(), nights.pages
    nights.from_nothing()
    assert (nights.content(), nights.pages) == recrawled


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Robots-Tag", "noai"), ("TDM-Reservation", "1"), ("Content-Usage", "train-ai=n")],
)
def test_what_a_304_says_of_the_use_of_a_page_counts(nights, header, value):
    nights({"/": tagged(page("/a")), "/a": tagged(page(text="a"))})
    said = {**nights.web.answers["/a"].headers, header: value}
    nights.web.answers["/a"] = replace(nights.web.answers["/a"], headers=said)
    nights()
    assert nights.unchanged == ["/", "/a"]
    assert nights.known.rejected == {"changed": 1}
    stored = StoredPages(nights.files.warc).get(nights.web.url("/a"))
    assert stored
    assert stored.headers[header] == value


def test_a_304_that_nobody_asked_for_is_no_page(nights):
    nights({"/": Answer(status=304)})
    assert nights.pages.failed == {"http_304": 1}


ENDLESS = moved("/robots.txt")
PACKED = Answer(b"\0\1\2", headers={"Content-Type": "text/plain", "Content-Encoding": "odd"})


@pytest.mark.parametrize(
    "broken",
    [
        *({"/robots.txt": answer} for answer in (AWAY, ENDLESS, PACKED)),
        dict.fromkeys(("/", "/tagged", "/going"), AWAY),
    ],
)
def test_the_pages_of_a_host_that_is_away_stay_and_do_not_age(nights, broken):
    nights.changes = {"gone_after": 1}
    texts, before = nights(SITE), nights.content()
    for _ in range(3):
        assert nights(SITE | broken) == texts
        assert nights.content() == before
        assert nights.known.failed
        assert nights.known.rows_in == nights.pages.kept == len(SITE)
    nights(LATER)
    assert nights.known.rejected == {"changed": 2, "gone": 1, "not_linked": 2}


def test_the_pages_of_a_host_without_an_address_stay(nights):
    texts = nights(SITE)
    nights.changes = {"allow_private_hosts": ()}
    assert nights() == texts
    assert (nights.asked, nights.known.failed) == ([], {"dns": len(SITE)})


def test_a_host_that_goes_away_is_soon_left_alone(nights):
    names = [f"/{n:02}" for n in range(3 * MAX_FAILURES)]
    site = {"/": page(*names)} | {name: page(text=name) for name in names}
    nights.changes = {"requests_per_host": 1}
    texts = nights(site)
    assert nights({**site, **dict.fromkeys(names, AWAY)}) == texts
    assert nights.asked == ["/", *names[:MAX_FAILURES]]
    assert nights.known.failed == {
        "http_503": MAX_FAILURES,
        "host_away": 2 * MAX_FAILURES,
    }
    assert nights(site, is_rerun=True) == texts
    assert nights.asked == names, "all but the page that was there"


def test_pages_that_always_fail_do_not_keep_the_others_from_being_asked_for(nights):
    names = [f"/{n:02}" for n in range(MAX_FAILURES + 2)]
    site = {"/": page(*names)} | dict.fromkeys(names[:-1], AWAY)
    nights.changes = {"requests_per_host": 1}
    nights(site | {names[-1]: page(text="last")})
    assert names[-1] not in nights.asked
    assert nights(is_rerun=True) == {"/": "", names[-1]: "last"}


@pytest.mark.parametrize(("status", "asked"), [(500, ["/left"]), (403, [])])
def test_a_page_that_fails_night_after_night_is_gone(nights, status, asked):
    texts, reason = nights(SITE), f"http_{status}"
    broken = SITE | {"/left": Answer(status=status)}
    for _ in range(2):
        assert nights(broken) == texts, "as it was, and what only it links to, too"
        assert (nights.known.failed, nights.pages.failed) == ({reason: 1}, {})
        assert nights(is_rerun=True) == texts, "a rerun is no further night"
        assert (nights.asked, nights.known.failed) == (asked, {reason: 1})
    assert sorted(texts.keys() - nights(broken).keys()) == ["/left"]
    assert (nights.known.rejected, nights.pages.failed) == ({"gone": 1}, {reason: 1})
    assert sorted(texts.keys() - nights(broken).keys()) == ["/left", "/left/below"]
    assert nights.known.rejected == {"not_linked": 1}
    assert nights(SITE) == texts


def test_a_page_that_was_there_in_between_begins_to_age_anew(nights):
    nights.changes = {"gone_after": 2}
    texts, broken = nights(SITE), SITE | {"/left": Answer(status=500)}
    for site in (broken, SITE, broken):
        assert nights(site) == texts
    assert "/left" not in nights(broken)


def test_where_a_redirect_led_is_looked_at_though_it_fails_for_a_night(nights):
    site = SITE | {"/plain": moved("/target"), "/target": tagged(page(text="target"))}
    texts = nights(site)
    assert nights(site | {"/plain": AWAY}) == texts
    assert nights.pages.failed == {"http_503": 1}
    assert nights(site) == texts


def test_a_rerun_asks_for_what_failed_and_for_nothing_else(nights):
    site = SITE | {
        "/plain": moved("/target"),
        "/target": AWAY,
        "/going": Answer(status=410),
        "/dated": Answer(b"text", headers={"Content-Type": "text/plain"}),
        "/changing": AWAY,
    }
    nights(site)
    mended = site | {"/changing": page("/found", text="mended"), "/found": page()}
    nights(mended, is_rerun=True)
    assert nights.asked == ["/changing", "/found", "/target"]
    recrawled = nights.content(), nights.pages
    nights.from_nothing()
    assert (nights.content(), nights.pages) == recrawled


def test_a_page_whose_copy_is_damaged_is_asked_for_as_if_it_were_new(nights):
    nights(SITE)
    warc = nights.files.warc
    warc.write_bytes(warc.read_bytes().replace(b">tagged<", b">tagGed<"))
    assert nights()["/tagged"] == "tagged"
    assert nights.unchanged == ["/", "/changing", "/dated", "/going", "/left", "/left/below"]


def test_a_crawl_of_an_older_version_without_a_table_is_gone_on_from(nights):
    texts = nights(SITE)
    nights.files.table.unlink()
    before = nights.content()
    assert nights() == texts
    assert (nights.content(), nights.unchanged, nights.known.kept) == (before, [], len(SITE))


@pytest.mark.parametrize("tag", ["x" * 501, "\xe9", ""])
def test_a_name_that_servers_may_refuse_is_not_sent_back(nights, tag):
    nights({"/": replace(page(), headers={"Content-Type": HTML, "ETag": tag})})
    visit = Before(nights.files).visit(nights.web.url("/"))
    assert (visit.reason, visit.conditions()) == (None, {})


NAMES = ["/", *"abcdefg"]


@st.composite
def sites(draw):
    """A site of a few pages: what each is, and what it links to."""
    site = {}
    for name in NAMES:
        links = draw(st.lists(st.sampled_from(NAMES), max_size=3))
        text = draw(st.sampled_from(["one", "two"]))
        kind = draw(st.sampled_from(["page", "page", "tagged", "tagged", "gone", "moved", "text"]))
        path = name if name == "/" else f"/{name}"
        found = page(*(link if link == "/" else f"/{link}" for link in links), text=text)
        site[path] = {
            "page": found,
            "tagged": tagged(found),
            "gone": Answer(status=404),
            "moved": moved(f"/{links[0]}" if links else "/"),
            "text": Answer(b"text", headers={"Content-Type": "text/plain"}),
        }[kind]
    return site | {"/": tagged(page(*site, text=text))}


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(sites(), min_size=2, max_size=3))
def test_a_host_is_what_a_crawl_from_nothing_gives_whatever_was_there_before(nights, history):
    nights.number = 0
    for site in history:
        nights(site)
    recrawled = nights.content(), nights.pages
    nights.from_nothing()
    assert (nights.content(), nights.pages) == recrawled
