"""OpenAI's ids for 200,000 strings, plain and hostile, against their own file."""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.baselines import openai_module
from clip_model.tokenizer import default_tokenizer

STRINGS = 200_000
PLAIN = """
    a the of cat dog's red photo don't street UNESCO e-mail rock'n'roll they'll I'm we've it'd
    2021 3.14 naïve café Zürich façade straße İstanbul ﬁne ½ № ™ … “quoted” ‘single’ — –
    日本語 中文 한국어 русский ελληνικά עברית العربية हिन्दी ไทย ქართული
"""
WORDS = PLAIN.split()
ENTITIES = """
    &amp; &amp;amp; &lt; &gt; &quot; &nbsp; &eacute; &#233; &#x1F600; &#128; &#0; &notit; &amp
"""
MOJIBAKE = ["Ã©", "â€™", "â€œ", "Â£", "Ã¼ber", "âœ”", "ðŸ˜€", "Ð¿Ñ€Ð¸", "Ã\xa0", "\x85", "schÃ¶n"]
SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|EndOfText|>", "<|endoftext", "</w>", "'S", "'ſ"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\x1c", "\x0b"]
RANGES = [  # code points that meet different rules of cleaning and cutting
    (0x00, 0x1F),
    (0x20, 0x7E),
    (0x7F, 0xFF),
    (0x100, 0x2AF),
    (0x300, 0x36F),
    (0x370, 0x5FF),
    (0x600, 0xDFF),
    (0x1E00, 0x20CF),
    (0x2100, 0x2BFF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xFFFF),
    (0x1D400, 0x1D7FF),
    (0x1F000, 0x1FAFF),
    (0x10000, 0x10FFFF),
]


def characters(rng: random.Random) -> str:
    """Up to nine characters of one or several ranges."""
    mixed = rng.random() < 0.5
    low, high = rng.choice(RANGES)
    text = ""
    for _ in range(rng.randint(1, 9)):
        low, high = rng.choice(RANGES) if mixed else (low, high)
        text += chr(rng.randint(low, high))
    return text


def emoji(rng: random.Random) -> str:
    """A face or a person, maybe with a skin tone, a joined second one, a variation selector."""
    tail = rng.choice(["", "\U0001f3fd", "\u200d\U0001f4bb", "\ufe0f", "\u20e3"])
    return chr(rng.randint(0x1F300, 0x1F9FF)) + tail


def long_word(rng: random.Random) -> str:
    alphabet = rng.choice(
        ["abcdefghijklmnopqrstuvwxyz", "ab", "éßøñ", "0123456789", "!?.-#", "字漢"]
    )
    return "".join(rng.choices(alphabet, k=rng.randint(10, 60)))


def caption(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))


PIECES: list[Callable[[random.Random], str]] = [
    caption,
    characters,
    emoji,
    long_word,
    lambda rng: rng.choice(ENTITIES.split()),
    lambda rng: rng.choice(MOJIBAKE),
    lambda rng: rng.choice(SPECIALS),
    lambda rng: rng.choice(WORDS).swapcase(),
    lambda rng: str(rng.randint(0, 99999)),
]
WEIGHTS = [4, 4, 1, 1, 1, 1, 1, 1, 1]


def varied_string(rng: random.Random) -> str:
    """A plain caption, or one to three pieces with any white space, or none, between them."""
    if rng.random() < 0.3:
        return caption(rng)
    pieces = rng.choices(PIECES, WEIGHTS, k=rng.randint(1, 3))
    return "".join(piece(rng) + rng.choice(["", *SPACES]) for piece in pieces)


def test_ids_are_openais_for_200_000_strings() -> None:
    ours = default_tokenizer()
    theirs = openai_module("simple_tokenizer").SimpleTokenizer()
    rng = random.Random(0)
    differing = []
    for _ in range(STRINGS):
        text = _without_surrogates(varied_string(rng))
        if ours.encode(text) != theirs.encode(text):
            differing.append(text)
    assert differing == []


def test_decoding_is_openais() -> None:
    ours = default_tokenizer()
    theirs = openai_module("simple_tokenizer").SimpleTokenizer()
    rng = random.Random(1)
    for _ in range(2_000):
        ids = [rng.randrange(49408) for _ in range(rng.randint(0, 8))]
        assert ours.decode(ids) == theirs.decode(ids)


def _without_surrogates(text: str) -> str:
    """Half a pair is no text: both tokenizers raise UnicodeEncodeError."""
    return "".join(character for character in text if not 0xD800 <= ord(character) <= 0xDFFF)
