"""The sample's web site, over real HTTP: what it plants is there, and its truth is true."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import lxml.html
import pyarrow.parquet as pq
import pytest
import requests
from PIL import Image

from examples.sample.images import NamedImage, load_images, natural_name
from examples.sample.noise import FAILING, Kind, NoiseShares, is_other_concept
from examples.sample.pages import OFF_SITE, Quirk
from examples.sample.server import Answer, listen, running
from examples.sample.site import Site, SiteSettings, serve
from workers.base.sampling import draw

IMAGES = 240
Pairs = set[tuple[str, str]]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serve(SiteSettings(port=0, images=IMAGES)) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as shared:
        yield shared


@pytest.fixture(scope="module")
def library() -> dict[str, NamedImage]:
    return {image.code: image for image in load_images()}


def rows_of(site: Site, *kinds: Kind) -> list[dict[str, Any]]:
    rows = [row for row in site.truth.to_pylist() if row["kind"] in kinds]
    assert rows, f"the site has no {kinds}"
    return rows


def get(session: requests.Session, url: str, **options: Any) -> requests.Response:
    return session.get(url, timeout=10, **options)


# A second, simple reading of the pages: what a perfect and polite extractor does.


def is_allowed(target: str) -> bool:
    return not (target.startswith(("/private/", "/calendar/")) or re.search(r"\?sort=", target))


def crawl(site: Site, session: requests.Session) -> dict[str, Any]:
    """Every allowed HTML page of the site's own hosts, by URL."""
    waiting = list(site.seeds)
    pages: dict[str, Any] = {}
    hosts = {urlsplit(url).netloc for url in site.seeds}
    while waiting:
        url = waiting.pop()
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        if url in pages or parts.netloc not in hosts or not is_allowed(target):
            continue
        answer = get(session, url)
        if answer.ok and answer.headers["Content-Type"].startswith("text/html"):
            pages[url] = parse(answer)
            base = pages[url].xpath("string(//base/@href)") or url
            links = (urljoin(base, href) for href in pages[url].xpath("//a/@href"))
            waiting += [link.partition("#")[0] for link in links if link.startswith("http:")]
    return pages


def parse(answer: requests.Response) -> Any:
    declared = re.search(r"charset=([\w-]+)", answer.headers["Content-Type"])
    meta = re.search(rb'<meta charset="([\w-]+)"', answer.content)
    encoding = declared[1] if declared else meta[1].decode() if meta else "utf-8"
    return lxml.html.document_fromstring(answer.content.decode(encoding))


def pairs_on(url: str, page: Any) -> Iterator[tuple[str, str]]:
    base = page.xpath("string(//base/@href)") or url
    for image in page.iter("img"):
        sources = image.xpath("ancestor::picture//source/@srcset")
        best = [*sources, *image.xpath("@data-src"), image.get("srcset", "").split(", ")[-1]]
        source = next((text.split()[0] for text in best if text), image.get("src"))
        caption = image.get("alt") or image.xpath("string(ancestor::figure//figcaption)")
        if not source.startswith("data:"):
            yield urljoin(base, source), " ".join(caption.split())


def test_the_truth_is_what_an_independent_reading_of_the_pages_finds(
    site: Site, session: requests.Session
) -> None:
    pages = crawl(site, session)
    found: Pairs = {pair for url, page in pages.items() for pair in pairs_on(url, page)}
    truth: Pairs = {
        (row["url"], row["caption"])
        for row in site.truth.to_pylist()
        if row["kind"] not in (Kind.DISALLOWED, Kind.DATA_URI)
    }
    assert found == truth
    assert {pair for pair in found if pair[1]} == {
        (row["url"], row["caption"]) for row in site.truth.to_pylist() if row["expected"]
    }


def test_what_a_client_has_already_is_not_sent_again(session: requests.Session) -> None:
    changed = "Mon, 05 Jan 2026 00:00:00 GMT"
    answers = {
        "/tag": Answer(b"page", headers=(("ETag", '"a"'),)),
        "/date": Answer(b"page", headers=(("Last-Modified", changed),)),
        "/none": Answer(b"page"),
        "/gone": Answer(b"no", status=404, headers=(("ETag", '"a"'),)),
    }
    seen: list[tuple[str, int]] = []
    sockets = listen(["127.0.0.1"], 0)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    def witness(_: str, target: str, fields: Message, status: int) -> None:
        seen.append((target, status))

    with running(sockets, lambda _, target: answers[target], witness):
        for target, field, status in (
            ("/tag", {"If-None-Match": '"b", W/"a"'}, 304),
            ("/tag", {"If-None-Match": '"b"', "If-Modified-Since": changed}, 200),
            ("/tag", {"If-Modified-Since": changed}, 200),
            ("/date", {"If-Modified-Since": changed}, 304),
            ("/date", {"If-Modified-Since": "Sun, 04 Jan 2026 23:59:59 GMT"}, 200),
            ("/date", {"If-Modified-Since": "yesterday"}, 200),
            ("/none", {"If-None-Match": '"a"', "If-Modified-Since": changed}, 200),
            ("/gone", {"If-None-Match": '"a"'}, 404),
            ("/none", {}, 200),
        ):
            answer = get(session, url + target, headers=field)
            assert answer.status_code == status, (target, field)
            assert answer.content == (b"" if status == 304 else answers[target].body)
            assert seen.pop() == (target, status)
    assert not seen


def test_each_pair_is_in_the_truth_once(site: Site) -> None:
    pairs = Counter((row["url"], row["caption"]) for row in site.truth.to_pylist())
    assert max(pairs.values()) == 1


def test_every_answer_is_the_same_for_the_same_seed_and_port() -> None:
    first, second = (Site(SiteSettings(images=IMAGES), 8931) for _ in range(2))
    assert first.answers == second.answers
    assert first.truth.equals(second.truth)


def test_another_seed_makes_another_site() -> None:
    first, second = (Site(SiteSettings(images=60, seed=seed), 8931) for seed in (0, 1))
    assert first.truth != second.truth


def test_what_is_served_is_what_was_built(site: Site, session: requests.Session) -> None:
    for (host, target), answer in site.answers.items():
        if not answer.missing_bytes and not answer.delay:
            url = site.base_urls[host] + target
            served = get(session, url, allow_redirects=False)
            assert (served.status_code, served.content) == (answer.status, answer.body), url


def test_every_kind_of_noise_and_every_quirk_is_on_a_small_site(site: Site) -> None:
    assert {row["kind"] for row in site.truth.to_pylist()} == set(Kind)
    assert {page.quirk for page in site.pages} == set(Quirk)


def test_the_shares_of_noise_hold(site: Site) -> None:
    kinds = Counter(site.truth["kind"].to_pylist())
    shares = NoiseShares()
    assert kinds[Kind.WRONG_CAPTION] == round(shares.wrong_caption * IMAGES)
    assert kinds[Kind.DUPLICATE_URL] == round(shares.duplicate_url * IMAGES)
    assert kinds[Kind.CLEAN] > IMAGES / 2


def test_names_in_the_truth_are_those_of_the_image_that_is_served(
    site: Site, session: requests.Session, library: dict[str, NamedImage]
) -> None:
    named = [row for row in site.truth.to_pylist() if row["name"] and row["image"]]
    for row in named:
        image = library[row["image"]]
        assert row["name"] == image.base_name
        assert get(session, row["url"]).content == image.content


def test_a_true_caption_holds_a_name_of_its_image(
    site: Site, library: dict[str, NamedImage]
) -> None:
    for row in site.truth.to_pylist():
        if row["correct"]:
            image = library[row["image"]]
            names = (image.name or "", *image.aliases)
            assert any(name.lower() in row["caption"].lower() for name in names), row


def test_wrong_captions_name_another_concept(library: dict[str, NamedImage]) -> None:
    site = Site(SiteSettings(images=2_000), 8931)
    by_name: dict[str, list[NamedImage]] = {}
    for image in library.values():
        by_name.setdefault((image.name or "").lower(), []).append(image)
    for row in rows_of(site, Kind.WRONG_CAPTION):
        others = by_name[bare_name(row["caption"])]
        assert others, row
        assert any(is_other_concept(library[row["image"]], other) for other in others), row
        assert row["name"].lower() not in row["caption"].lower()


def bare_name(caption: str) -> str:
    """A caption without the words that its style adds."""
    for pattern in (
        r"^a small drawing of (.*) in flat colours$",
        r"^a picture of (.*)$",
        r"^Picture of (.*)$",
        r"^(.*) emoji$",
        r"^(.*) - small pictures$",
        r"^(.*) \| Free Picture Library$",
        r"^(.*), icon, 72 x 72 pixels$",
    ):
        caption = re.sub(pattern, r"\1", caption)
    return caption.lower()


def test_other_concepts_are_neither_related_nor_both_people(library: dict[str, NamedImage]) -> None:
    by_name = {image.name: image for image in library.values()}
    assert is_other_concept(by_name["tiger"], by_name["rose"])
    assert not is_other_concept(by_name["mouse"], by_name["mouse face"])
    assert not is_other_concept(by_name["red heart"], by_name["heart suit"])
    assert not is_other_concept(by_name["person"], by_name["woman dancing"])
    assert not is_other_concept(by_name["flag: Norway"], by_name["flag: Svalbard & Jan Mayen"])


def test_redirects_lead_to_the_image(site: Site, session: requests.Session) -> None:
    for row in rows_of(site, Kind.REDIRECT):
        answer = get(session, row["url"])
        assert [step.status_code for step in answer.history] == [302]
        assert Image.open(io.BytesIO(answer.content)).size == (72, 72)


def test_a_redirect_loop_never_ends(site: Site, session: requests.Session) -> None:
    for row in rows_of(site, Kind.REDIRECT_LOOP):
        with pytest.raises(requests.TooManyRedirects):
            get(session, row["url"])


def test_missing_images_and_pages_are_404(site: Site, session: requests.Session) -> None:
    urls = [row["url"] for row in rows_of(site, Kind.NOT_FOUND)]
    for url in [*urls, site.seeds[0] + "gone.html", site.seeds[1] + "no/such?page=1"]:
        assert get(session, url).status_code == 404


@pytest.mark.parametrize(
    "kind", [Kind.BROKEN_HTML, Kind.BROKEN_BYTES, Kind.BROKEN_EMPTY, Kind.TRUNCATED]
)
def test_broken_images_arrive_whole_as_png_and_do_not_decode(
    site: Site, session: requests.Session, kind: Kind
) -> None:
    for row in rows_of(site, kind):
        answer = get(session, row["url"])
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "image/png"
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        with pytest.raises(OSError, match=r"truncated|cannot identify"):
            Image.open(io.BytesIO(answer.content)).load()


def test_a_short_body_ends_before_its_promised_length(
    site: Site, session: requests.Session
) -> None:
    for row in rows_of(site, Kind.SHORT_BODY):
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            get(session, row["url"])


def test_failing_kinds_have_no_name_and_no_true_caption(site: Site) -> None:
    for row in rows_of(site, *FAILING):
        assert row["name"] is None
        assert not row["correct"]


def test_slow_images_are_late_but_do_not_hold_up_others(
    site: Site, session: requests.Session
) -> None:
    slow = rows_of(site, Kind.SLOW)[0]["url"]
    clean = rows_of(site, Kind.CLEAN)[0]["url"]
    with socket.create_connection((urlsplit(slow).hostname, urlsplit(slow).port)) as waiting:
        waiting.sendall(f"GET {urlsplit(slow).path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert get(session, clean).elapsed.total_seconds() < 0.2
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
        waiting.settimeout(10)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_opted_out_images_say_so_in_a_header(site: Site, session: requests.Session) -> None:
    for row in rows_of(site, Kind.OPTED_OUT):
        assert "noai" in get(session, row["url"]).headers["X-Robots-Tag"]


def test_duplicates_serve_the_same_bytes_under_other_urls(
    site: Site, session: requests.Session
) -> None:
    own = {
        row["image"]: row["url"]
        for row in site.truth.to_pylist()
        if row["kind"] in (Kind.CLEAN, Kind.ALIAS)
    }
    for row in rows_of(site, Kind.DUPLICATE_URL):
        assert row["url"] != own[row["image"]]
        assert get(session, row["url"]).content == get(session, own[row["image"]]).content


def test_robots_txt_disallows_the_hidden_pages_and_not_the_images(
    site: Site, session: requests.Session
) -> None:
    shown: Counter[tuple[str, str]] = Counter()
    for base in site.base_urls:
        robots = get(session, f"{base}/robots.txt").text
        assert {"Disallow: /private/", "Disallow: /*?sort="} <= set(robots.splitlines())
        for target in ("/private/", "/gallery/?sort=newest"):
            page = lxml.html.document_fromstring(get(session, base + target).content)
            shown.update(pair for pair in pairs_on(base + target, page) if pair[1] != "logo")
    hidden = {(row["url"], row["caption"]) for row in rows_of(site, Kind.DISALLOWED)}
    assert hidden == {pair for pair in shown if pair[1]}
    assert all(get(session, url).ok and is_allowed(urlsplit(url).path) for url, _ in hidden)


def test_the_calendar_has_no_end(site: Site, session: requests.Session) -> None:
    url = site.seeds[0] + "calendar/2026/11.html"
    for expected in ("/calendar/2026/12.html", "/calendar/2027/01.html"):
        page = lxml.html.document_fromstring(get(session, url).content)
        url = urljoin(url, page.xpath("//a[.='Next month']/@href")[0])
        assert urlsplit(url).path == expected


def test_each_index_links_off_site_and_to_its_sisters(
    site: Site, session: requests.Session
) -> None:
    for seed in site.seeds:
        links = lxml.html.document_fromstring(get(session, seed).content).xpath("//a/@href")
        assert {OFF_SITE, *site.seeds} - {seed} <= set(links)


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(site: Site) -> None:
    host = urlsplit(site.seeds[0])
    request = b"%s HTTP/1.1\r\nHost: x\r\n%s\r\n"
    with socket.create_connection((host.hostname, host.port), timeout=10) as client:
        client.sendall(
            request % (b"HEAD /robots.txt", b"")
            + request % (b"GET /static/blank.gif", b"")
            + request % (b"POST /", b"Content-Length: 0\r\n")
        )
        received = b"".join(iter(lambda: client.recv(65536), b""))
    statuses = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert statuses == [b"200", b"200", b"405"]
    assert b"User-agent" not in received
    assert b"GIF89a" in received


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples.sample.site", *arguments]


def test_the_command_writes_the_truth_before_it_answers_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    truth = tmp_path / "truth.parquet"
    arguments = command("--port", str(port), "--images", "60", "--truth", str(truth))
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert f"http://127.0.0.3:{port}/" in process.stderr.readline()
        assert requests.get(f"http://127.0.0.2:{port}/", timeout=10).ok
        assert pq.read_table(truth).equals(Site(SiteSettings(images=60), port).truth)
        process.terminate()
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_port_in_use_is_exit_status_2_with_advice() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("--port", str(port)), capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.2:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_not_here_is_exit_status_2_with_advice() -> None:
    done = subprocess.run(
        command("--port", "0", "--hosts", "127.0.0.1,192.0.2.1"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "ifconfig lo0 alias 192.0.2.1" in done.stderr


def test_the_description_counts_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    from examples.sample.site import main

    assert main(["--describe", "--images", "60"]) == 0
    total = Site(SiteSettings(images=60), 8931).truth.num_rows
    assert f"| all | {total} |" in capsys.readouterr().out


def test_the_library_is_whole_and_named(library: dict[str, NamedImage]) -> None:
    assert len(library) == 4_009
    assert sum(image.name is not None for image in library.values()) == 3_965
    assert all(image.content.startswith(b"\x89PNG") for image in library.values())


@pytest.mark.parametrize(
    ("shortcode", "name", "base"),
    [
        (":waving_hand_medium_skin_tone:", "waving hand: medium skin tone", "waving hand"),
        (":man_dark_skin_tone_beard:", "man: dark skin tone, beard", "man"),
        (":kiss_woman_man:", "kiss: woman, man", "kiss: woman, man"),
        (":kiss_mark:", "kiss mark", "kiss mark"),
        (":keycap_6:", "keycap: 6", "keycap: 6"),
        (
            ":woman_in_manual_wheelchair:",
            "woman in manual wheelchair",
            "woman in manual wheelchair",
        ),
        (":red_hair:", "red hair", "red hair"),
    ],
)
def test_shortcodes_become_natural_names(shortcode: str, name: str, base: str) -> None:
    assert natural_name(shortcode) == (name, base)


def test_flags_are_called_flags(library: dict[str, NamedImage]) -> None:
    assert library["1f1e8-1f1ee"].name == "flag: Côte d’Ivoire"
    assert natural_name(":Guyana:", is_flag=True)[0] == "flag: Guyana"


def test_draws_pick_the_images_of_a_small_site(site: Site) -> None:
    shown = {code for code in site.truth["image"].to_pylist() if code}
    highest = max(draw(0, "picture", code) for code in shown)
    assert len(shown) == IMAGES
    assert highest < 1.5 * IMAGES / 4_009
