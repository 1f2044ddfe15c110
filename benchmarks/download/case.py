"""What is measured: how many pictures, at which hosts, and what the hosts do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What a host does with a request for a picture; robots.txt and the like are answered with 404 by
#: all. Those of `ENDLESS` go on until the other side leaves.
Conduct = Literal[
    "good",
    "slow",  # answers after `SLOW_SECONDS`
    "drip",  # a byte at a time, without end
    "endless",  # a body without end
    "silence",  # takes the request, and says nothing
    "busy",  # 503, and wants to be left alone for two minutes
    "circle",  # redirects to itself, another URL each time
    "cut",  # half a body, and the end of the connection
    "late",  # a good answer, shortly before the timeout
]
ENDLESS: tuple[Conduct, ...] = ("drip", "endless", "silence", "busy", "circle")
ENDING: tuple[Conduct, ...] = ("late", "cut", "silence", "busy", "circle")

SLOW_SECONDS = 0.2
#: Seconds without an answer, and further tries, of both contenders; the former is ten seconds for
#: most users, and made short here so that the command ends.
TIMEOUT, RETRIES = 2.0, 1
LATE_SECONDS = 0.8 * TIMEOUT
#: Ours alone: img2dataset knows no bound of a download's whole time, nor of its bytes.
MAX_SECONDS, MAX_BYTES = 4.0, 8 * 2**20
#: Requests at a time, threads of img2dataset or connections of ours.
CONNECTIONS = 64
#: Of the stored pictures, for both.
IMAGE_SIZE, JPEG_QUALITY, MAX_ASPECT_RATIO = 256, 95, 5.0
RESIZE_MODE: Literal["keep_ratio"] = "keep_ratio"


@dataclass(frozen=True)
class Case:
    """A site and a list of its pictures, the hosts of which take turns."""

    name: str
    images: int
    hosts: int = 50
    conduct: tuple[Conduct, ...] = ()  # of a tenth of the hosts, the first ones, by turns
    slow_images: int = 0  # of all, at one host more, which is slow
    round_trip: float = 0.0  # seconds
    is_small: bool = False  # pictures of some 10 kB

    def conducts(self) -> list[Conduct]:
        """What each of the hosts does."""
        ill = round(self.hosts / 10) if self.conduct else 0
        first = [self.conduct[number % len(self.conduct)] for number in range(ill)]
        more: list[Conduct] = ["slow"] if self.slow_images else []
        good: list[Conduct] = ["good"] * (self.hosts - ill)
        return [*first, *good, *more]

    def places(self) -> list[tuple[int, int]]:
        """Host and number of each picture, in the order of the list."""
        every = self.images // self.slow_images if self.slow_images else self.images + 1
        return [
            (self.hosts if number % every == every - 1 else number % self.hosts, number)
            for number in range(self.images)
        ]


def cases(images: int, shard: int, hosts: int) -> list[Case]:
    """The cases, of so many pictures, and of a whole shard of smaller ones."""
    return [
        Case("healthy hosts", images, hosts),
        Case("a tenth of the hosts misbehave", images, hosts, ENDLESS),
        Case("the same, but all they do has an end", images, hosts, ENDING),
        Case("50 ms of delay", images, hosts, round_trip=0.05),
        Case("one slow host beside fast ones", images, hosts, slow_images=max(1, images // 20)),
        Case("a whole shard", shard, hosts, is_small=True),
    ]


#: Run before all others: what it takes to have imported all, and to end.
START = Case("one picture", 1, 1)
