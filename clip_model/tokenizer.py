"""CLIP's tokenizer: lower-cased byte-pair encoding, the same ids as OpenAI's.

Text is cleaned, cut into words, each word's UTF-8 bytes are written as printable characters
(GPT-2's table), and the pairs that the merges table ranks first are joined until none is left.
The merges table is OpenAI's data (`vocabulary/README.md`); the code is not. A word of n bytes costs
n log n steps: Thai and Chinese write sentences without a space, and crawls have endless dashes.

Two short cuts make it several times faster than OpenAI's, and neither changes an id. A text of
printable ASCII without `&` is not given to ftfy, which could only hand it back. And no word
crosses a space, so the ids of what stands between two spaces are remembered.
"""

from __future__ import annotations

import functools
import gzip
import html
import itertools
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from importlib import resources

import numpy as np
import regex
import torch

from clip_model.config import CONTEXT_LENGTH, VOCAB_SIZE

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# Two bounds, so that a crawl's endless words don't fill the memory.
CHUNKS_CACHED = 1 << 16
LONGEST_CACHED = 32  # characters; longer chunks seldom come twice

WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
SPACES = regex.compile(r"\s+")
#: A character reference with more digits than Python converts: of no character.
_HUGE_NUMBER = re.compile(r"&#[0-9]{1000,};?")


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte: itself where Latin-1 prints it, else one from U+0100.

    The order is part of the vocabulary: printable bytes first.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    symbols = {byte: chr(byte) for byte in printable}
    symbols.update({byte: chr(0x100 + position) for position, byte in enumerate(others)})
    return symbols


def clean(text: str) -> str:
    """Repair mojibake and HTML entities, make white space single spaces, lower the case."""
    if text.isascii() and text.isprintable() and "&" not in text:
        # No entity, control character or line end, and ASCII reads the same in every encoding
        # that ftfy tries: nothing to repair, and the only white space is the space.
        return " ".join(text.split()).lower()
    import ftfy  # late: plain captions, and whoever needs images alone, can do without

    text = ftfy.fix_text(text)
    for _ in range(2):  # "&amp;amp;"
        text = html.unescape(_HUGE_NUMBER.sub("\ufffd", text))
    return " ".join(SPACES.split(text)).strip().lower()


class _ChunkCache(dict[str, tuple[int, ...]]):
    """Ids of chunks, computed when first asked for; emptied whenever it is full.

    A dictionary that fills itself answers three times as fast as `functools.lru_cache`.
    """

    def __init__(self, compute: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        ids = self._compute(chunk)
        if len(chunk) <= LONGEST_CACHED:
            if len(self) >= CHUNKS_CACHED:
                self.clear()
            self[chunk] = ids
        return ids


class Tokenizer:
    """Text to ids and back.

    Args:
        merges: pairs of symbols, the most valuable first, each symbol made before it is used, and
            once.
    """

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        pairs = list(merges)
        symbol_of = byte_symbols()
        self._symbol_bytes = {symbol: byte for byte, symbol in symbol_of.items()}
        symbols = list(symbol_of.values())
        vocabulary = symbols + [symbol + END_OF_WORD for symbol in symbols]
        vocabulary += [first + second for first, second in pairs]
        vocabulary += [START_TOKEN, END_TOKEN]
        self.symbols = vocabulary
        self._ids = {symbol: position for position, symbol in enumerate(vocabulary)}
        self._byte_ids = [self._ids[symbol_of[byte]] for byte in range(256)]
        self._last_byte_ids = [self._ids[symbol_of[byte] + END_OF_WORD] for byte in range(256)]
        # What a pair becomes. Ids are in the merges' order, so the best pair has the smallest.
        self._joined = {
            (self._ids[first], self._ids[second]): self._ids[first + second]
            for first, second in pairs
        }
        self._chunk_ids = _ChunkCache(self._encode_chunk)
        self.start_id = self._ids[START_TOKEN]
        self.end_id = self._ids[END_TOKEN]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        chunks = map(self._chunk_ids.__getitem__, clean(text).split(" "))
        return list(itertools.chain.from_iterable(chunks))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, a space after each word; bytes that are no UTF-8 become U+FFFD.

        Raises:
            KeyError: a character of a symbol stands for no byte.
            IndexError: an id outside the vocabulary.
        """
        text = "".join(self.symbols[int(i)] for i in ids)
        raw = bytes(self._symbol_bytes[character] for character in text)
        return raw.decode("utf-8", errors="replace").replace(END_OF_WORD, " ")

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        return tuple(i for word in WORD.findall(chunk) for i in self._encode_word(word))

    def _encode_word(self, word: str) -> list[int]:
        if word in (START_TOKEN, END_TOKEN):
            return [self._ids[word]]
        raw = word.encode("utf-8")
        ids = [self._byte_ids[byte] for byte in raw]
        ids[-1] = self._last_byte_ids[raw[-1]]
        return self._merge(ids)

    def _merge(self, ids: list[int]) -> list[int]:
        """Join the best pair, the leftmost of equals first, until no pair can be joined.

        One at a time gives what joining all its occurrences at once does: a pair with the new
        symbol in it comes after the pair that the symbol was made of.

        The pairs wait in a heap, each as one number of what it becomes and where it begins. A
        pair that has changed since is passed over: `joins` says what each position waits for.
        """
        count, none, joined = len(ids), len(self.symbols), self._joined.get
        joins = [joined(pair, none) for pair in itertools.pairwise(ids)] + [none]
        heap = [new * count + at for at, new in enumerate(joins) if new != none]
        heapify(heap)
        after, before = list(range(1, count + 1)), list(range(-1, count - 1))  # neighbours

        def wait(at: int, pair: tuple[int, int]) -> None:
            joins[at] = new = joined(pair, none)
            if new != none:
                heappush(heap, new * count + at)

        while heap:
            new, at = divmod(heappop(heap), count)
            if joins[at] != new:
                continue
            gone, joins[at] = after[at], none
            ids[at], ids[gone], joins[gone] = new, none, none
            right, left = after[gone], before[at]
            after[at] = right
            if right < count:
                before[right] = at
                wait(at, (new, ids[right]))
            if left >= 0:
                wait(left, (ids[left], new))
        return [i for i in ids if i != none]


@functools.cache
def default_tokenizer() -> Tokenizer:
    """CLIP's own tokenizer, read once."""
    packed = resources.files("clip_model").joinpath("vocabulary", MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    count = VOCAB_SIZE - 2 * 256 - 2  # the file's first line is a title, and it holds more merges
    pairs = (line.split() for line in lines[1 : 1 + count])
    return Tokenizer((first, second) for first, second in pairs)


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> torch.Tensor:
    """Token ids between start and end tokens, padded with 0: int32 [N, context_length].

    Args:
        texts: one text, or several.
        context_length: length of each row; every CLIP model has 77.
        truncate: cut what is too long, the end token last, instead of refusing it.

    Raises:
        RuntimeError: a text is too long and `truncate` is false.
    """
    texts = [texts] if isinstance(texts, str) else texts
    padding = array("i", bytes(4 * context_length))
    flat = array("i")
    for text in texts:
        ids = _row_ids(text, context_length, truncate)
        flat.extend(ids)
        flat.extend(padding[len(ids) :])
    # One copy for all rows: a tensor a row would cost more than the tokens.
    return torch.from_numpy(np.array(flat, dtype=np.int32)).view(len(texts), context_length)


def _row_ids(text: str, context_length: int, truncate: bool) -> list[int]:
    tokenizer = default_tokenizer()
    ids = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id]
    if len(ids) <= context_length:
        return ids
    if not truncate:
        raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return [*ids[: context_length - 1], tokenizer.end_id]


def encode(text: str) -> list[int]:
    """`Tokenizer.encode` with CLIP's vocabulary."""
    return default_tokenizer().encode(text)


def decode(ids: Sequence[int]) -> str:
    """`Tokenizer.decode` with CLIP's vocabulary."""
    return default_tokenizer().decode(ids)
