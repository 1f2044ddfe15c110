"""The embedded sample's site as it grows night after night, and what it is asked for.

Which page and image comes, changes and goes on which night is decided by hashes alone, so the
site of a night is always the same: galleries open and close, images are added to them and taken
out again, captions are corrected, and some images answer 503 on the night on which they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus

from examples.sample.captions import write_caption
from examples.sample.noise import Kind
from examples.sample.placements import Placement
from examples.sample.server import Answer, listen, running
from examples.sample.site import DEFAULT_HOSTS, Site, SiteSettings, placements_of
from workers.base.sampling import draw

#: Of the galleries: open from the first night on; close again before the last.
OLD_GALLERIES, CLOSING = 0.4, 0.1
#: Of the images: as old as their gallery; taken out again; caption corrected; 503 at first.
OLD_IMAGES, REMOVED, CORRECTED, LATE = 0.6, 0.05, 0.08, 0.08
#: How the targets of images begin; those of `MOVED` are reached by redirects alone.
#: Who images are asked for by, so that the crawl of pages is another.
AGENT = "nights-images"
MOVED = ("/moved/", "/loop/")
IMAGES = ("/pictures/", "/mirror/", "/copies/", *MOVED)

#: Monday, 5 January 2026; each night is a day later.
_FIRST_NIGHT, _DAY = 1_767_571_200, 86_400


@dataclass(frozen=True)
class Request:
    """What the server was asked for, and how it answered."""

    url: str
    status: int
    agent: str

    @property
    def target(self) -> str:
        return "/" + self.url.split("/", 3)[3]

    @property
    def is_download(self) -> bool:
        """Whether an image was asked for as one, and not by a crawler that follows its link."""
        return self.agent == AGENT and self.target != "/robots.txt"


@dataclass
class GrowingSite:
    """Three hosts on one port over so many nights, from 1; what is asked of them is noted.

    ``names`` are what the hosts are called in URLs. Of their pages those of the first host have an
    ETag, those of the second a Last-Modified, those of the third neither.
    """

    port: int
    nights: int
    images: int
    names: Sequence[str] = DEFAULT_HOSTS
    seed: int = 0
    _sites: dict[int, Site] = field(default_factory=dict)

    @contextmanager
    def serve(self, night: int, away: Sequence[int] = ()) -> Iterator[list[Request]]:
        """Answer as on that night; the hosts ``away`` refuse connections. Gives what is asked."""
        addresses = [ip for number, ip in enumerate(DEFAULT_HOSTS) if number not in away]
        seen: list[Request] = []

        def answer(address: str, target: str) -> Answer:
            return self._answer(night, DEFAULT_HOSTS.index(address), target)

        def note(address: str, target: str, fields: Message, status: int) -> None:
            name = self.names[DEFAULT_HOSTS.index(address)]
            agent = str(fields.get("User-Agent", ""))
            seen.append(Request(f"http://{name}:{self.port}{target}", status, agent))

        sockets = listen(addresses, self.port) if addresses else []
        with running(sockets, answer, note):
            yield seen

    def _answer(self, night: int, host: int, target: str) -> Answer:
        found = self.on(night).answer(self.names[host], target)
        if found.status != HTTPStatus.OK:
            return found
        if target.startswith(IMAGES):
            return _UNAVAILABLE if (host, target) in self._late[night] else found
        if found.content_type.startswith("text/html"):
            return replace(found, headers=(*found.headers, *self._validators(night, host, target)))
        return found

    def on(self, night: int) -> Site:
        """The site as it is on a night."""
        if night not in self._sites:
            shown = [p for life in self._lives if (p := life.on(night))]
            self._sites[night] = Site(self._settings, self.port, shown)
        return self._sites[night]

    @property
    def _settings(self) -> SiteSettings:
        return SiteSettings(self.port, tuple(self.names), self.images, self.seed)

    @cached_property
    def _lives(self) -> list[Life]:
        return [Life.of(p, self.nights, self.seed) for p in placements_of(self._settings)]

    @cached_property
    def _late(self) -> dict[int, set[tuple[int, str]]]:
        """The images that answer 503, by the night on which they come."""
        late: dict[int, set[tuple[int, str]]] = {n: set() for n in range(1, self.nights + 1)}
        for life in self._lives:
            placement, key = life.placement, life.placement.image.code
            if placement.kind == Kind.CLEAN and draw(self.seed, "late", key) < LATE:
                late[life.comes].add((placement.file_host, placement.target))
        return late

    def _validators(self, night: int, host: int, target: str) -> tuple[tuple[str, str], ...]:
        body = self._body(night, host, target)
        if host == 0:
            return (("ETag", f'"{hashlib.sha256(body).hexdigest()[:20]}"'),)
        if host == 1:
            while night > 1 and self._body(night - 1, host, target) == body:
                night -= 1
            changed = formatdate(_FIRST_NIGHT + night * _DAY, usegmt=True)
            return (("Last-Modified", changed),)
        return ()

    def _body(self, night: int, host: int, target: str) -> bytes:
        return self.on(night).answer(self.names[host], target).body


@dataclass(frozen=True)
class Life:
    """The nights on which an image comes, gets another caption, and goes."""

    placement: Placement
    comes: int
    corrected: int
    goes: int

    @classmethod
    def of(cls, placement: Placement, nights: int, seed: int) -> Life:
        gallery = f"{placement.page_host} {placement.image.group}"
        image = f"{placement.image.code} {placement.target}"
        never = nights + 1

        def chance(what: str, key: str) -> float:
            return draw(seed, what, key)

        def night(first: int, what: str, key: str) -> int:
            """One of the nights from ``first`` on."""
            return first + int(chance(what, key) * (never - first))

        opens = 1 if chance("old gallery", gallery) < OLD_GALLERIES else night(1, "opens", gallery)
        old = chance("old image", image) < OLD_IMAGES
        comes = opens if old else night(opens, "comes", image)
        ends = [never]
        if chance("closing", gallery) < CLOSING:
            ends.append(night(opens + 1, "closes", gallery))
        if chance("removed", image) < REMOVED:
            ends.append(night(comes + 1, "goes", image))
        is_corrected = placement.kind == Kind.CLEAN and chance("corrected", image) < CORRECTED
        corrected = night(comes + 1, "correction", image) if is_corrected else never
        return cls(placement, comes, corrected, min(ends))

    def on(self, night: int) -> Placement | None:
        """The image as it is shown on a night; None where it is not."""
        if not self.comes <= night < self.goes:
            return None
        name = self.placement.image.name
        if night < self.corrected or name is None:
            return self.placement
        key = f"{self.placement.image.code} corrected"
        return replace(self.placement, caption=write_caption(name, 0, key))


_UNAVAILABLE = Answer(b"<html><body>later</body></html>\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
