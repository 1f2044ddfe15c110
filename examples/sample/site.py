"""The sample's web site: three hosts on loopback that show Twemoji as the web would.

python -m examples.sample.site --port 8931 [--truth FILE.parquet] [--images N]
python -m examples.sample.site --describe
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import signal
import sys
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

import pyarrow as pa

from examples.sample.images import NamedImage, load_images
from examples.sample.markup import BLANK_DATA_URI, BLANK_GIF, DOUBLED_FORMS, double
from examples.sample.noise import FAILING, MEANING, TRUE_KINDS, Kind, NoiseShares, allot
from examples.sample.pages import (
    BULLET_ALT,
    LOGO,
    LOGO_ALT,
    PIXEL,
    ROBOTS,
    SPACER,
    Page,
    calendar_page,
    make_pages,
    write_page,
)
from examples.sample.placements import Placement, place
from examples.sample.server import Answer, BindError, listen, running
from workers.base.sampling import draw
from workers.base.storage import write_table

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8931
DEFAULT_HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
SLOW_SECONDS = 0.2
SHORT_BODY_BYTES = 100
LOGO_CODE = "1f5bc"  # a framed image
_PNG = "image/png"
_GIF = b64decode(BLANK_DATA_URI.partition(",")[2])

#: What the pages say, one row for each (url, caption) that stands on them.
TRUTH = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),  # "" where the image has none
        pa.field("name", pa.string()),  # true base name; null if the URL serves no good image
        pa.field("correct", pa.bool_(), nullable=False),  # the caption describes the image
        pa.field("kind", pa.string(), nullable=False),
        pa.field("expected", pa.bool_(), nullable=False),  # a polite, perfect extractor gives it
        pa.field("form", pa.string()),  # how the image is written; null outside the galleries
        pa.field("image", pa.string()),  # code points; the same for duplicates
    ]
)

#: Kinds that a polite extractor never meets, or that are no URL.
_UNEXPECTED = frozenset({Kind.DISALLOWED, Kind.DATA_URI})


@dataclass(frozen=True)
class SiteSettings:
    """What site to make; ``port`` 0 takes a free one, ``images`` None takes all."""

    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = DEFAULT_HOSTS
    images: int | None = None
    seed: int = 0
    shares: NoiseShares = field(default_factory=NoiseShares)


class Site:
    """All pages and files of the site, and the truth about them, for one port.

    With ``placements`` it shows these, and not all that ``placements_of`` its settings gives.
    """

    def __init__(
        self, settings: SiteSettings, port: int, placements: Sequence[Placement] | None = None
    ) -> None:
        self.settings = settings
        self.base_urls = [f"http://{host}:{port}" for host in settings.hosts]
        self.seeds = [f"{url}/" for url in self.base_urls]
        placements = placements_of(settings) if placements is None else placements
        self.pages = make_pages(placements, self.base_urls, settings.seed)
        self.answers = self._all_answers(placements)
        self.truth = self._truth(placements)

    def answer(self, host: str, target: str) -> Answer:
        """The answer to GET; a query that nothing knows of is ignored, as servers do."""
        number = self.settings.hosts.index(host)
        path = target.partition("?")[0]
        for known in ((number, target), (number, path)):
            if known in self.answers:
                return self.answers[known]
        page = calendar_page(number, path)
        return self._page_answer(page) if page else _NOT_FOUND

    def _all_answers(self, placements: Sequence[Placement]) -> dict[tuple[int, str], Answer]:
        answers: dict[tuple[int, str], Answer] = {}
        for page in self.pages:
            answers[page.host, page.target] = self._page_answer(page)
        for host in range(len(self.base_urls)):
            answers |= {(host, target): answer for target, answer in _static_answers().items()}
        for placement in placements:
            answers |= self._file_answers(placement)
        return answers

    def _page_answer(self, page: Page) -> Answer:
        body, content_type = write_page(page, self.base_urls)
        return Answer(body, content_type)

    def _file_answers(self, placement: Placement) -> dict[tuple[int, str], Answer]:
        """What an image's URL gives, and what the URLs that it redirects to give."""
        here = placement.file_host
        path = placement.target.partition("?")[0]
        if placement.kind == Kind.REDIRECT:
            code = placement.image.code
            there = int(draw(self.settings.seed, "moved to", code) * len(self.base_urls))
            moved = f"/moved/{code}.png"
            return {
                (here, path): _redirect(self.base_urls[there] + moved),
                (there, moved): Answer(placement.image.content, _PNG),
            }
        if placement.kind == Kind.REDIRECT_LOOP:
            loop = f"/loop/{placement.image.code}.png"
            return {(here, path): _redirect(loop), (here, loop): _redirect(path)}
        return {(here, path): file_answer(placement.kind, placement.image, self.settings.seed)}

    def _truth(self, placements: Sequence[Placement]) -> pa.Table:
        rows = [_row(placement, self.base_urls[placement.file_host]) for placement in placements]
        for url in self.base_urls:
            rows += _furniture_rows(url)
        rows.append(_furniture_row(BLANK_DATA_URI, BULLET_ALT, Kind.DATA_URI))
        rows.sort(key=lambda row: (row["url"], row["caption"]))
        return pa.Table.from_pylist(rows, schema=TRUTH)


@lru_cache(maxsize=1)
def _library() -> tuple[NamedImage, ...]:
    return tuple(load_images())


def placements_of(settings: SiteSettings) -> list[Placement]:
    """Every image of the site."""
    library = _library()
    count = len(library) if settings.images is None else settings.images
    chosen = set(allot((p.code for p in library), count, settings.seed, "picture"))
    images = [image for image in library if image.code in chosen]
    return place(images, settings.shares, settings.seed, len(settings.hosts))


def file_answer(kind: Kind, image: NamedImage, seed: int) -> Answer:
    """What the URL of an image gives, for every kind but the redirects."""
    content = image.content
    middle = len(content) // 2
    answers = {
        Kind.SLOW: Answer(content, _PNG, delay=SLOW_SECONDS),
        Kind.OPTED_OUT: Answer(content, _PNG, headers=(("X-Robots-Tag", "noai, noimageai"),)),
        Kind.NOT_FOUND: _NOT_FOUND,
        Kind.BROKEN_HTML: Answer(_ERROR_PAGE, _PNG),
        Kind.BROKEN_BYTES: Answer(_random_bytes(len(content), seed, image.code), _PNG),
        Kind.BROKEN_EMPTY: Answer(b"", _PNG),
        Kind.TRUNCATED: Answer(content[:middle], _PNG),
        Kind.SHORT_BODY: Answer(content[:-SHORT_BODY_BYTES], _PNG, missing_bytes=SHORT_BODY_BYTES),
    }
    return answers.get(kind, Answer(content, _PNG))


_ERROR_PAGE = b"<html><body><h1>Error</h1><p>This picture cannot be shown.</p></body></html>\n"
_NOT_FOUND = Answer(b"<html><body><h1>Not found</h1></body></html>\n", status=HTTPStatus.NOT_FOUND)


def _redirect(location: str, status: int = HTTPStatus.FOUND) -> Answer:
    return Answer(status=status, headers=(("Location", location),))


def _random_bytes(count: int, seed: int, code: str) -> bytes:
    return hashlib.shake_256(f"{seed} {code}".encode()).digest(count)


def _static_answers() -> dict[str, Answer]:
    """What every host has beside pages and images."""
    logo = next(image.content for image in _library() if image.code == LOGO_CODE)
    gif = Answer(_GIF, "image/gif")
    return {
        "/robots.txt": Answer(ROBOTS.encode(), "text/plain; charset=utf-8"),
        "/old/": _redirect("/", HTTPStatus.MOVED_PERMANENTLY),
        "/catalogue.pdf": Answer(b"%PDF-1.4\n%%EOF\n", "application/pdf"),
        LOGO: Answer(logo, _PNG),
        SPACER: gif,
        PIXEL: gif,
        BLANK_GIF: gif,
    }


def _row(placement: Placement, base_url: str) -> dict[str, str | bool | None]:
    kind = placement.kind
    url = base_url + placement.target
    return {
        "url": double(url) if placement.form in DOUBLED_FORMS else url,
        "caption": placement.caption,
        "name": None if kind in FAILING else placement.image.base_name,
        "correct": kind in TRUE_KINDS,
        "kind": kind.value,
        "expected": kind not in _UNEXPECTED and placement.caption != "",
        "form": placement.form.value,
        "image": placement.image.code,
    }


def _furniture_rows(base_url: str) -> list[dict[str, str | bool | None]]:
    return [
        _furniture_row(base_url + LOGO, LOGO_ALT, Kind.LOGO, "framed picture"),
        _furniture_row(base_url + SPACER, "", Kind.SPACER),
        _furniture_row(base_url + PIXEL, "", Kind.SPACER),
    ]


def _furniture_row(
    url: str, caption: str, kind: Kind, name: str | None = None
) -> dict[str, str | bool | None]:
    """A row for an image that belongs to the site and not to its galleries."""
    return {
        "url": url,
        "caption": caption,
        "name": name,
        "correct": False,
        "kind": kind.value,
        "expected": kind not in _UNEXPECTED and caption != "",
        "form": None,
        "image": None,
    }


@contextmanager
def serve(settings: SiteSettings, truth: Path | None = None) -> Iterator[Site]:
    """Serve the site until the block ends; the truth is written before it answers.

    Raises BindError where an address cannot be listened on.
    """
    sockets = listen(settings.hosts, settings.port)
    try:
        site = Site(settings, port=sockets[0].getsockname()[1])
        if truth is not None:
            write_table(site.truth, truth)
        with running(sockets, site.answer):
            yield site
    finally:
        for listener in sockets:
            listener.close()


def describe(site: Site) -> str:
    """The noise of the site, counted: a Markdown table."""
    kinds = Counter(site.truth["kind"].to_pylist())
    images = sum(kinds.values())
    lines = ["| kind | images | share | what it is | a good pipeline |", "|---|---:|---:|---|---|"]
    for kind, (what, treatment) in MEANING.items():
        count = kinds[kind]
        lines.append(f"| {kind} | {count:,} | {count / images:.2%} | {what} | {treatment} |")
    lines.append(f"| all | {images:,} | | {len(site.pages):,} pages | |")
    forms = Counter(form for form in site.truth["form"].to_pylist() if form)
    lines += ["", "Forms: " + ", ".join(f"{form} {n:,}" for form, n in forms.most_common()) + "."]
    quirks = Counter(page.quirk.value for page in site.pages)
    lines += ["Quirks of pages: " + ", ".join(f"{q} {n}" for q, n in quirks.most_common()) + "."]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.sample.site", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="one port for all hosts")
    parser.add_argument(
        "--hosts", default=",".join(DEFAULT_HOSTS), help="loopback addresses, with commas between"
    )
    parser.add_argument("--images", type=int, help="fewer images, for a small site")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument(
        "--wrong-captions",
        type=float,
        default=NoiseShares.wrong_caption,
        metavar="SHARE",
        help="of the images with another image's name (default: %(default)s)",
    )
    parser.add_argument("--truth", type=Path, help="write what the pages say to this Parquet file")
    parser.add_argument(
        "--describe", action="store_true", help="print the counts of all noise and stop"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Exit status 2: the site cannot be served here."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    hosts = tuple(options.hosts.split(","))
    shares = NoiseShares(wrong_caption=options.wrong_captions)
    settings = SiteSettings(options.port, hosts, options.images, options.seed, shares)
    try:
        if options.describe:
            sys.stdout.write(describe(Site(settings, settings.port)))
        else:
            _serve_until_signal(settings, options.truth)
    except (BindError, FileNotFoundError) as error:
        logger.error("sample site: %s", error.args[-1])
        return 2
    return 0


def _serve_until_signal(settings: SiteSettings, truth: Path | None) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serve(settings, truth) as site:
        logger.info("sample site: %s", " ".join(site.seeds))
        stop.wait()


if __name__ == "__main__":
    sys.exit(main())
