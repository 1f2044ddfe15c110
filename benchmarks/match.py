"""The matcher's speed, and that of pyahocorasick used as MetaCLIP matches, in one run.

``python -m benchmarks.match`` looks a million captions up among 500,000 queries both ways, the
sides taking turns over the same blocks of captions on one core, checks that they find the same
(caption, query) pairs, and prints captions a second of processor time, so that what else the
machine does counts less. It counts from captions as Python strings to their query ids; cutting,
spacing and lower case included. What one matcher adds to a process is measured in fresh ones.
Words, their Zipf frequencies, queries and captions come from a seeded generator. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import median

import ahocorasick
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from workers.base.arrays import Int64s
from workers.pairs.match import SPACED_PUNCTUATION, WHITE_SPACE, Matcher, Matches, space_out

Queries = list[tuple[int, str]]
#: Captions to their query ids.
Side = Callable[[Sequence[str]], Matches]

_SYLLABLES = [a + b + c for a in "bcdfghklmnprstvw" for b in "aeiou" for c in ("", *"nrstl")]
_ACCENTS = str.maketrans("aeiou", "áèîöū")
_BLOCK = 20_000


@dataclass(frozen=True)
class Text:
    """Words with Zipf frequencies, and what is made of them."""

    words: npt.NDArray[np.object_]
    rng: np.random.Generator

    @classmethod
    def of_seed(cls, seed: int, size: int) -> Text:
        rng = np.random.default_rng(seed)
        syllables = np.array(_SYLLABLES, object)
        lengths = rng.choice([1, 2, 3, 4], size * 2, p=[0.05, 0.4, 0.4, 0.15])
        parts = syllables[rng.integers(len(syllables), size=(size * 2, 4))]
        found = dict.fromkeys("".join(row[:n]) for row, n in zip(parts, lengths, strict=True))
        return cls(np.array(list(found)[:size], object), rng)

    def draw(self, lengths: Int64s) -> Iterator[list[str]]:
        """Runs of words, the k-th most frequent with a probability like 1 / (k + 2.7)."""
        weights = np.cumsum(1 / (np.arange(len(self.words)) + 2.7))
        ranks = np.searchsorted(weights, self.rng.random(lengths.sum()) * weights[-1])
        drawn = self.words[ranks].tolist()
        ends = np.cumsum(lengths)
        return (
            drawn[end - n : end] for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)
        )

    def queries(self, count: int) -> Queries:
        """Half the most frequent words, a fifth bigrams, the rest titles; a few with marks."""
        texts = dict.fromkeys(self.words[: count // 2].tolist())
        lengths = self.rng.choice([2, 3, 4, 5, 8], count * 2, p=[0.6, 0.22, 0.1, 0.06, 0.02])
        for number, run in enumerate(self.draw(lengths.astype(np.int64))):
            texts.setdefault(". ".join(run) if number % 50 == 0 else " ".join(run))
            if len(texts) == count:
                return list(enumerate(texts))
        raise ValueError(f"only {len(texts)} of {count} queries; --words is too small")

    def captions(self, count: int, queries: Queries) -> list[str]:
        """About ten words each; a third hold a query, a tenth letters or spaces beyond ASCII."""
        lengths = np.clip(self.rng.lognormal(2.2, 0.5, count), 1, 60).astype(np.int64)
        held = self.rng.integers(len(queries), size=count).tolist()
        return [
            _caption(run, number, queries[one][1])
            for number, (run, one) in enumerate(zip(self.draw(lengths), held, strict=True))
        ]


def _caption(run: list[str], number: int, query: str) -> str:
    if number % 3 == 0:
        run.insert(len(run) // 2, query)
    if number % 4 == 0:
        run[0] += ","
    run[0] = run[0].capitalize()
    run[-1] += ("", ".", "!", " 2019")[number % 4]
    if number % 10 == 0:
        run[0] = run[0].translate(_ACCENTS) + ("\u00a0", "\u3000", " – ", "’s ")[number // 10 % 4]
    return " ".join(run)


_OTHER_SPACE = "".join(set(WHITE_SPACE) - {" "})
_ANY_SPACE = re.compile(f"[{_OTHER_SPACE}]")


def _metaclip_spacing(text: str) -> str:
    """MetaCLIP's way to ``space_out``: replace after replace, of what is there."""
    for mark in SPACED_PUNCTUATION:
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    return _ANY_SPACE.sub(" ", text)


def aho_corasick(queries: Queries) -> Side:
    """An automaton of " query " strings, run over each spaced and padded caption."""
    automaton = ahocorasick.Automaton()
    for query_id, query in queries:
        automaton.add_word(f" {space_out(query)} ", query_id)
    automaton.make_automaton()

    def match(captions: Sequence[str]) -> Matches:
        offsets, ids = [0], []
        for caption in captions:
            padded = f" {_metaclip_spacing(caption.lower())} "
            ids += sorted({query_id for _, query_id in automaton.iter(padded)})
            offsets.append(len(ids))
        return Matches(np.array(offsets, np.int64), np.array(ids, np.int32))

    return match


def ours(queries: Queries) -> Side:
    return Matcher(queries, lowercase=True).match


SIDES = {"pyahocorasick": aho_corasick, "Matcher": ours}


@dataclass(frozen=True)
class Result:
    name: str
    captions_per_s: float  # median over the rounds
    build_s: float
    build_mb: float  # resident memory that the built matcher added to a fresh process, 10^6
    start_s: float  # before the first build: loading or compiling machine code


def build(name: str, words: int, count: int, seed: int) -> tuple[float, float, float]:
    """In a fresh process: seconds and MB of a build, and seconds of a first, tiny one."""
    queries = Text.of_seed(seed, words).queries(count)
    started = time.perf_counter()
    SIDES[name]([(0, "a query")])(["A caption"])
    start_s, before = time.perf_counter() - started, psutil.Process().memory_info().rss
    started = time.perf_counter()
    side = SIDES[name](queries)
    seconds = time.perf_counter() - started
    grown = psutil.Process().memory_info().rss - before
    side(["keep it"])
    return seconds, grown / 1e6, start_s


def take_turns(sides: dict[str, Side], captions: list[str]) -> dict[str, float]:
    """Processor seconds of each side. Raises ValueError where their answers differ."""
    seconds = dict.fromkeys(sides, 0.0)
    for start in range(0, len(captions), _BLOCK):
        block, found = captions[start : start + _BLOCK], []
        for name, match in sides.items():
            started = time.process_time()
            found.append(match(block))
            seconds[name] += time.process_time() - started
        one, two = found
        if one.to_arrow() != two.to_arrow():
            raise ValueError(f"the sides differ in the captions from {start}")
    return seconds


def with_threads(match: Side, captions: list[str], threads: int) -> float:
    """Captions a second of one matcher that so many threads share, from Arrow columns."""
    starts = range(0, len(captions), _BLOCK)
    blocks = [pa.array(captions[start : start + _BLOCK]) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(match, blocks))
        return len(captions) / (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.match", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=400_000, help="in the captions' language")
    parser.add_argument("--rounds", type=int, default=1, help="of 50 turns; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="of the last rows")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    built = {}
    for name in SIDES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            work = pool.submit(build, name, options.words, options.queries, options.seed)
            built[name] = work.result()
    text = Text.of_seed(options.seed, options.words)
    queries = text.queries(options.queries)
    captions = text.captions(options.captions, queries)
    sides = {name: make(queries) for name, make in SIDES.items()}

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    rounds = [take_turns(sides, captions) for _ in range(options.rounds)]
    os.sched_setaffinity(0, cores)
    results = [
        Result(name, len(captions) / median(of_one[name] for of_one in rounds), *built[name])
        for name in SIDES
    ]
    pairs = len(sides["Matcher"](captions).query_ids)
    threads = {n: with_threads(sides["Matcher"], captions, n) for n in {1, options.threads}}
    show(results, pairs, threads, captions)
    return 0


def show(results: list[Result], pairs: int, threads: dict[int, float], captions: list[str]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    others = sum(not caption.isascii() for caption in captions)
    write(f"{len(captions):,} captions, {others:,} not ASCII; {pairs:,} pairs, the same ones\n")
    write(f"{'':32}{'captions/s':>12}{'build s':>10}{'MB':>8}{'start s':>9}\n")
    for one in results:
        write(f"{one.name:32}{one.captions_per_s:12,.0f}{one.build_s:10.2f}")
        write(f"{one.build_mb:8.0f}{one.start_s:9.2f}\n")
    slow, fast = results
    ratio = fast.captions_per_s / slow.captions_per_s
    write(f"{'ratio':32}{ratio:12.1f}\n")
    for count, speed in sorted(threads.items()):
        write(f"{f'Matcher, Arrow, {count} threads':32}{speed:12,.0f}\n")
    sides = [asdict(one) for one in results]
    write(json.dumps({"sides": sides, "ratio": ratio, "pairs": pairs, "threads": threads}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
