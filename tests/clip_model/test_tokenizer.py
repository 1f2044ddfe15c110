"""The tokenizer gives OpenAI's ids and errors."""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import itertools
import random
from importlib import resources

import ftfy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_model import decode, encode, tokenize
from clip_model.tokenizer import (
    CHUNKS_CACHED,
    END_OF_WORD,
    LONGEST_CACHED,
    MERGES_FILE,
    SPACES,
    WORD,
    Tokenizer,
    byte_symbols,
    clean,
    default_tokenizer,
)

# Computed with openai/CLIP's own simple_tokenizer.py.
GOLDEN = [
    ("a diagram", [320, 22697]),
    ("Hello, World!", [3306, 267, 1002, 256]),
    ("  a\t photo\n of   a CAT ", [320, 1125, 539, 320, 2368]),
    ("it's 2021: don't", [585, 568, 273, 271, 273, 272, 281, 847, 713]),
    (
        "&lt;b&gt;fish &amp;amp; chips&lt;/b&gt;",
        [283, 321, 285, 2759, 261, 8855, 34308, 321, 285],
    ),
    ("naïve café", [1097, 35689, 563, 15304]),
    ("waving hand: medium skin tone", [26545, 2463, 281, 8675, 3575, 8408]),
    ("👋🏽", [19351, 6114]),
    ("日本語", [39121, 44353, 34002, 508]),
    ("<|endoftext|> inside", [49407, 2912]),
    ("âœ” check", [13749, 1217]),  # mojibake of a check mark
    ("", []),
    (
        "supercalifragilisticexpialidocious",
        [1642, 2857, 13093, 2076, 5868, 26850, 835, 639, 38466],
    ),
    ("x\u00a0y\u2003z", [343, 344, 345]),
]


@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_ids_are_openais(text: str, ids: list[int]) -> None:
    assert encode(text) == ids


def test_merges_file_is_openais() -> None:
    packed = resources.files("clip_model").joinpath("vocabulary", MERGES_FILE).read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def test_decode_separates_words_by_spaces() -> None:
    assert decode(encode("Naïve café, 2021")) == "naïve café , 2 0 2 1 "
    assert decode([49407]) == "<|endoftext|>"


def test_decode_replaces_broken_utf8() -> None:
    lead_byte = default_tokenizer()._ids["æ"]  # the symbol of byte 0xE6, which needs two more
    assert decode([lead_byte]) == "\ufffd"


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_cleaned_text_but_for_spaces(text: str) -> None:
    try:
        ids = encode(text)
    except UnicodeEncodeError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in text)  # lone surrogates are no text
        return
    squeezed = "".join(clean(text).split())
    assert "".join(decode(ids).split()) == squeezed
    assert all(0 <= i < 49408 for i in ids)


def test_tokenize_pads_with_zeros_between_start_and_end() -> None:
    tokens = tokenize("a diagram")
    assert tokens.shape == (1, 77)
    assert tokens.dtype == torch.int32
    assert tokens[0, :4].tolist() == [49406, 320, 22697, 49407]
    assert not tokens[0, 4:].any()
    assert tokenize(["a", "b", "c"], context_length=8).shape == (3, 8)


def test_text_that_just_fits() -> None:
    words = " ".join(["cat"] * 75)
    assert tokenize(words)[0, -1] == 49407


def test_too_long_text_is_refused_in_openais_words() -> None:
    words = " ".join(["cat"] * 76)
    with pytest.raises(RuntimeError, match=rf"^Input {words} is too long for context length 77$"):
        tokenize(["short", words])


def test_truncation_keeps_the_end_token() -> None:
    words = " ".join(["cat"] * 100)
    tokens = tokenize(words, truncate=True)[0].tolist()
    assert tokens == [49406] + [2368] * 75 + [49407]


def test_cache_is_bounded() -> None:
    tokenizer = Tokenizer([("a", "b</w>")])
    cache = tokenizer._chunk_ids
    for number in range(CHUNKS_CACHED + 10):
        tokenizer.encode(str(number))
    assert len(cache) == 10
    tokenizer.encode("a" * LONGEST_CACHED + " " + "b" * (LONGEST_CACHED + 1))
    assert len(cache) == 11
    assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba "


@given(st.text(st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=300, deadline=None)
def test_short_cut_of_cleaning_changes_nothing(text: str) -> None:
    fixed = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean(text) == SPACES.sub(" ", fixed.strip()).strip().lower()


def test_no_texts_give_no_rows() -> None:
    assert tokenize([]).shape == (0, 77)


def test_vocabulary_is_complete() -> None:
    tokenizer = default_tokenizer()
    assert (tokenizer.start_id, tokenizer.end_id) == (49406, 49407)
    assert len(tokenizer.symbols) == len(set(tokenizer.symbols)) == 49408


@functools.cache
def ranks() -> dict[tuple[str, str], int]:
    packed = resources.files("clip_model").joinpath("vocabulary", MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : 49408 - 2 * 256 - 2 + 1]
    pairs = (line.split() for line in lines)
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


def plainly_merged(word: str) -> list[int]:
    """The definition, as a loop: join the best pair of all, the leftmost first. Quadratic."""
    symbols = [byte_symbols()[byte] for byte in word.encode()]
    symbols[-1] += END_OF_WORD
    while True:
        pairs = list(itertools.pairwise(symbols))
        best = min(pairs, key=lambda pair: ranks().get(pair, 99999), default=None)
        if best not in ranks():
            return [default_tokenizer()._ids[symbol] for symbol in symbols]
        at = pairs.index(best)
        symbols[at : at + 2] = ["".join(best)]


def test_merging_is_the_plain_loops() -> None:
    """Long words above all: `test_tokenizer_parity` has 200,000 ordinary strings."""
    rng = random.Random(0)
    alphabets = ["ab", "aeinorst", "สวัดีครับ", "日本語中文", "-", "-=_", "éßøñ", "😀😁🏽", "ha"]
    for _ in range(350):
        alphabet = rng.choice(alphabets)
        run = "".join(rng.choices(alphabet, k=rng.choice([1, 2, 3, 5, 8, 20, 50])))
        words = WORD.findall(clean(run * rng.choice([1, 1, 1, 2])))
        assert encode("".join(words)) == [i for word in words for i in plainly_merged(word)], words


@pytest.mark.parametrize("unit", ["สวัสดีครับ", "ก", "日本語", "-", "=-", "a", "ab", "é", "😀", "<|"])
def test_a_word_of_100_000_characters(unit) -> None:
    """Less than a second; a loop over all pairs for each join would take ten minutes."""
    text = (unit * 100_000)[:100_000]
    ids = encode(text)
    assert "".join(decode(ids).split()) == text
    assert tokenize(text, truncate=True)[0].tolist() == [49406, *ids[:75], 49407]


@pytest.mark.parametrize("amp", ["&", "&amp;"])
def test_a_reference_of_5_000_digits_is_no_character(amp: str) -> None:
    wanted = tokenize("a \ufffd cat")
    assert torch.equal(tokenize(f"a {amp}#{'9' * 5_000}; cat"), wanted)
